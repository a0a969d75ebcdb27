"""What was seen of the world in one pass. `as_of` is the instant at which the look *started*."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from runctl.manifest.job import Job
from runctl.planner.record import AttemptEnd, CheckpointRef, Event
from runctl.planner.rental import Demise, MachineState, Offer, Refusal
from runctl.planner.requests import Asked


class _Value(msgspec.Struct, frozen=True):
    pass


class Absent(_Value, frozen=True, kw_only=True):
    """Nothing was ever started in the attempt's run directory."""

    as_of: datetime


class Starting(_Value, frozen=True, kw_only=True):
    """The attempt was claimed, and its agent hasn't written its state yet; or it is being ended, and what it saved is
    copied. `held`: as `Live`'s."""

    as_of: datetime
    held: bool = False


class Live(_Value, frozen=True, kw_only=True):
    """The agent is alive. `serial` is that of the orders which lie in the run directory; `held`: agent or guardian is
    stopped or dead, so that limits may not be kept. `resumed_instead` is the older checkpoint that it went on from,
    because the one that it was given is damaged.
    """

    as_of: datetime
    phase: Literal["preparing", "training", "draining", "ended"]
    step: str | None
    started_at: datetime
    training_at: datetime | None
    drain: str | None
    active: float
    durable: int
    newest: CheckpointRef | None
    serial: int
    heartbeat: datetime
    held: bool = False
    resumed_instead: CheckpointRef | None = None


class Ended(_Value, frozen=True, kw_only=True):
    """The attempt's last word. `started_at` is None when nothing was ever billed."""

    as_of: datetime
    end: AttemptEnd
    started_at: datetime | None
    ended_at: datetime
    active: float
    durable: int
    newest: CheckpointRef | None
    held_by: str | None = None


class Dead(_Value, frozen=True, kw_only=True):
    """Claimed, no last word, and neither agent nor guardian nor any process of the run is alive: proved.

    `last_seen` is the agent's last word, `died_at` when somebody saw it die (None: nobody did), `latest` the instant of
    the look. All three are of the clock by which the agent told its last word, however that was set since; `latest` is
    None where nothing says how long ago that was.
    """

    as_of: datetime
    started_at: datetime | None
    last_seen: datetime | None
    active: float
    durable: int
    newest: CheckpointRef | None
    died_at: datetime | None = None
    latest: datetime | None = None


class Unreachable(_Value, frozen=True, kw_only=True):
    """The host couldn't be asked: not a verdict on the attempt."""

    as_of: datetime
    why: str


AttemptSeen = Absent | Starting | Live | Ended | Dead | Unreachable


class Holder(_Value, frozen=True, kw_only=True):
    """The training that holds the machine. `uid` is the job's; `ours` says that the job is in this store."""

    job: str
    uid: str
    run_id: str
    pid: int
    since: datetime | None
    ours: bool


class Foreign(_Value, frozen=True, kw_only=True):
    """A training that no agent of ours watches."""

    pid: int
    command: str
    evidence: str


class MachineSeen(_Value, frozen=True, kw_only=True):
    """Who trains on a machine; `unready`: why nothing can be started there yet, whoever does."""

    as_of: datetime
    name: str
    unready: str = ""
    holder: Holder | None = None
    foreign: tuple[Foreign, ...] = ()


class GroupSeen(_Value, frozen=True, kw_only=True):
    """The other members of the job's group: micro-dollars that they have spent or reserved (`committed`) and that they
    have spent alone (`spent`: what can't come back), how many of them have a live attempt, and the names of those that
    come before this one in the queue for the machine. `version` is the group's in the store, read before any of its
    members: whoever reserves something writes against it."""

    version: int = 0
    committed: int = 0
    spent: int = 0
    live: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()


class LaunchFailed(_Value, frozen=True, kw_only=True):
    """The launch was sent for the first time in the last pass, and definitely had no effect."""

    attempt: int
    message: str


class InstanceSeen(_Value, frozen=True, kw_only=True):
    """An instance that carries the job's tags, as it was listed. `ended_at`: when it went, if the provider tells."""

    id: str
    token: str
    attempt: int
    state: MachineState
    launched_at: datetime
    ended_at: datetime | None = None
    demise: Demise | None = None


class Listing(_Value, frozen=True, kw_only=True):
    """The job's instances, of a sweep that started at `as_of`. That one is missing is no evidence that it is gone."""

    as_of: datetime
    instances: tuple[InstanceSeen, ...] = ()


class RentAnswer(_Value, frozen=True, kw_only=True):
    """What the request of the last pass was answered: an instance's id, or why it definitely had no effect.

    `again`: the request had been sent before, so that a refusal tells nothing about the earlier sending.
    """

    token: str
    instance: str | None = None
    refusal: Refusal | None = None
    message: str = ""
    again: bool = False


class Observed(_Value, frozen=True, kw_only=True):
    """`attempt` is of the live attempt, None when there is none; `machine` is None when nobody needed to look, as are
    `listing` and `offers`, which are of rented machines (offers in the order of the manifest's preference). Before
    `rent_from` others are to ask for machines first. `missing_secrets` are those that this controller hasn't got, of
    any spec of the job and of those that were applied to it just now. `not_forgotten`: why what the job left
    couldn't be removed when that was tried last."""

    attempt: AttemptSeen | None = None
    machine: MachineSeen | None = None
    group: GroupSeen = GroupSeen()
    requests: tuple[Asked, ...] = ()
    missing_secrets: tuple[str, ...] = ()
    launch_failed: LaunchFailed | None = None
    agent_events: tuple[tuple[int, Event], ...] = ()
    listing: Listing | None = None
    offers: tuple[Offer, ...] | None = None
    rent_from: datetime | None = None
    rent_answer: RentAnswer | None = None
    not_forgotten: str | None = None

    def lacks(self, job: Job) -> tuple[str, ...]:
        """The secrets of this spec without which it can't be launched from here."""
        return tuple(each.name for each in job.secrets if each.name in self.missing_secrets)
