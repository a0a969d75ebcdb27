"""What a live attempt says of itself beyond what decisions need: progress, its preparation's step, its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from runctl.planner.record import CheckpointRef
from runctl.providers.hosts.reading import checkpoint_ref, instant, mapping, number, whole


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the training is, as far as it told: None is unknown. `fraction` is from 0 to 1."""

    at: datetime
    fraction: float | None = None
    epoch: float | None = None
    epochs: float | None = None
    step: float | None = None
    steps: float | None = None
    loss: float | None = None
    metrics: dict[str, float] = {}
    eta: timedelta | None = None
    source: str = ""


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """`phase` and `step` as the agent has them; `unsaved` says that a newer checkpoint isn't durable (yet)."""

    phase: str
    step: str | None
    progress: Progress | None
    newest: CheckpointRef | None
    durable: int
    invalid: int
    unsaved: bool


def vitals(state: Mapping[str, Any]) -> Vitals:
    """What the agent's state tells."""
    checkpoints = mapping(state.get("checkpoints"))
    newest, seen = checkpoint_ref(checkpoints.get("newest_durable")), mapping(checkpoints.get("newest"))
    seen_seq = seen.get("seq")
    return Vitals(
        phase=str(state.get("phase", ""))[:32],
        step=str(state["step"])[:200] if isinstance(state.get("step"), str) else None,
        progress=_progress(state.get("progress")),
        newest=newest,
        durable=int(number(checkpoints.get("durable")) or 0),
        invalid=int(number(checkpoints.get("invalid")) or 0),
        unsaved=isinstance(seen_seq, int) and (newest is None or seen_seq > newest.seq),
    )


class CheckpointLine(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint as the agent noted it last; `status`: durable, invalid, pruned or copying."""

    attempt: int
    seq: int
    at: datetime | None
    name: str
    status: str
    detail: str
    step: float | None
    epoch: float | None
    bytes: int
    path: str
    durable_path: str | None
    sha256: str | None


def checkpoint_lines(journals: Iterable[tuple[int, Iterable[dict[str, Any]]]]) -> list[CheckpointLine]:
    """All checkpoints of these attempts (number and the agent's journal, in order), by attempt and number. A later line
    about one tells only what has changed, and may be in a later attempt's journal: the newest prunes those of all. The
    first `at` is when it was noticed."""
    merged: dict[tuple[int, int], dict[str, Any]] = {}
    for own, journal in journals:
        for line in journal:
            seq, attempt = whole(line.get("seq")), whole(line.get("attempt", own))
            if seq is None or attempt is None:
                continue
            before = merged.get((attempt, seq), {})
            if before or (attempt == own and line.get("status") != "pruned"):
                merged[attempt, seq] = {**before, **line, "at": before.get("at", line.get("at"))}
    return [
        _checkpoint_line(line, seq, attempt)
        for (attempt, seq), line in sorted(merged.items(), key=lambda item: item[0])
    ]


def _checkpoint_line(line: dict[str, Any], seq: int, attempt: int) -> CheckpointLine:
    durable_path, sha256 = line.get("durable_path"), line.get("sha256")
    return CheckpointLine(
        attempt=attempt,
        seq=seq,
        at=instant(line.get("at")),
        name=str(line.get("name", ""))[:500],
        status=str(line.get("status", ""))[:32],
        detail=str(line.get("detail") or "")[:500],
        step=number(line.get("step")),
        epoch=number(line.get("epoch")),
        bytes=int(number(line.get("bytes")) or 0),
        path=str(line.get("path", ""))[:4096],
        durable_path=durable_path if isinstance(durable_path, str) else None,
        sha256=sha256 if isinstance(sha256, str) else None,
    )


def _progress(value: object) -> Progress | None:
    told = mapping(value)
    at = instant(told.get("at"))
    if at is None:
        return None
    fraction, eta = number(told.get("fraction")), number(told.get("eta"))
    metrics = {str(k)[:64]: n for k, v in mapping(told.get("metrics")).items() if (n := number(v)) is not None}
    return Progress(
        at=at,
        fraction=min(1.0, max(0.0, fraction)) if fraction is not None else None,
        epoch=number(told.get("epoch")),
        epochs=number(told.get("epochs")),
        step=number(told.get("step")),
        steps=number(told.get("steps")),
        loss=number(told.get("loss")),
        metrics=metrics,
        eta=timedelta(seconds=min(eta, 1e8)) if eta is not None and eta >= 0 else None,
        source=str(told.get("source", ""))[:64],
    )
