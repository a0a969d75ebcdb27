"""An instance as EC2 lists it, read into what the planner knows. Everything in an answer may be missing or odd."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from runctl.planner.observed import InstanceSeen
from runctl.planner.rental import GOING, Demise, MachineState
from runctl.providers.interface import Tagged

OWNER_TAG = "runctl:owner"
JOB_TAG = "runctl:job"
NAME_TAG = "runctl:name"
ATTEMPT_TAG = "runctl:attempt"
TOKEN_TAG = "runctl:token"
NOT_AFTER_TAG = "runctl:not-after"

# Source: the reason codes of EC2's state reasons.
_DEMISE = {
    "Server.InsufficientInstanceCapacity": Demise.CAPACITY,
    "Client.VolumeLimitExceeded": Demise.CAPACITY,
    "Server.SpotInstanceTermination": Demise.RECLAIMED,
    "Server.SpotInstanceShutdown": Demise.RECLAIMED,
    "Client.InstanceInitiatedShutdown": Demise.ITSELF,
    "Client.UserInitiatedShutdown": Demise.ASKED,
}

_GONE_AT = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) GMT\)")


def instances(answer: Mapping[str, Any]) -> Iterator[Tagged]:
    """Those of a DescribeInstances answer that carry a job's tags."""
    for reservation in answer.get("Reservations", ()):
        for instance in reservation.get("Instances", ()):
            tagged = _tagged(instance)
            if tagged is not None:
                yield tagged


def _tagged(instance: Mapping[str, Any]) -> Tagged | None:
    tags = {tag.get("Key"): tag.get("Value") for tag in instance.get("Tags", ())}
    uid, attempt = tags.get(JOB_TAG), tags.get(ATTEMPT_TAG, "")
    state = _state(instance)
    launched_at = instance.get("LaunchTime")
    if not uid or not str(attempt).isdecimal() or state is None or not isinstance(launched_at, datetime):
        return None
    going = state in GOING
    seen = InstanceSeen(
        id=str(instance["InstanceId"]),
        token=str(instance.get("ClientToken") or tags.get(TOKEN_TAG, "")),
        attempt=int(attempt),
        state=state,
        launched_at=launched_at,
        ended_at=_ended_at(instance) if going else None,
        demise=_DEMISE.get(instance.get("StateReason", {}).get("Code", ""), Demise.FAULT) if going else None,
    )
    return Tagged(uid, seen)


def _state(instance: Mapping[str, Any]) -> MachineState | None:
    try:
        return MachineState(instance.get("State", {}).get("Name", ""))
    except ValueError:
        return None


def _ended_at(instance: Mapping[str, Any]) -> datetime | None:
    """`User initiated (2026-01-31 12:00:00 GMT)`; not every end has an instant."""
    found = _GONE_AT.search(str(instance.get("StateTransitionReason", "")))
    try:
        return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None
