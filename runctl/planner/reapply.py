"""What applying a manifest to a job that exists would mean: field by field, and in all."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from runctl.manifest.job import Job
from runctl.manifest.quantities import Duration, Every, Money, Share, Size
from runctl.planner.record import Desired, OutcomeType, Record, Source

# These change on a live job; every other field needs a new attempt.
IN_PLACE = (
    "labels", "cost", "limits", "checkpoint.deadline", "checkpoint.on_deadline", "checkpoint.keep",
    "retry", "notify", "group", "wait",
)  # fmt: skip


class Effect(StrEnum):
    IN_PLACE = "in place"
    RELAUNCH = "needs a new attempt"


class Change(msgspec.Struct, frozen=True):
    """One field, with its values as text (None: unset)."""

    path: str
    before: str | None
    after: str | None
    effect: Effect


class Reapply(StrEnum):
    """What `apply` of this manifest does."""

    CREATE = "create"
    ATTACH = "attach"
    RESUME = "resume"
    CHANGE_IN_PLACE = "change in place"
    REPLACE = "replace"
    NEEDS_REPLACE = "needs --replace"
    REPORT = "report"
    NEEDS_RERUN = "needs --rerun"


class Decision(msgspec.Struct, frozen=True):
    kind: Reapply
    changes: tuple[Change, ...] = ()


def changes(old: Job, old_source: Source, new: Job, new_source: Source) -> tuple[Change, ...]:
    """The fields in which two specs differ, in the order of their paths; code counts as one field, `code`."""
    before, after = _flat(old), _flat(new)
    if old_source.code_hash != new_source.code_hash:
        before["code"], after["code"] = old_source.code_hash[:12], new_source.code_hash[:12]
    if old_source.workdir != new_source.workdir:
        before["workdir"], after["workdir"] = old_source.workdir, new_source.workdir
    return tuple(
        Change(path, _text(before.get(path)), _text(after.get(path)), _effect(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    )


def decide(record: Record | None, job: Job, source: Source, *, replace: bool = False) -> Decision:
    """What `apply` does with `job`, given what is remembered under its name."""
    if record is None or record.desired is Desired.DELETED:
        return Decision(Reapply.CREATE)
    found = changes(record.job, record.generation.source, job, source)
    relaunch = any(change.effect is Effect.RELAUNCH for change in found)
    if record.outcome is not None or record.desired is Desired.CANCELLED:
        if relaunch:
            return Decision(Reapply.NEEDS_RERUN, found)
        if found and record.outcome is not None and raises(record.outcome.type, record.job, job):
            return Decision(Reapply.RESUME, found)
        return Decision(Reapply.CHANGE_IN_PLACE if found else Reapply.REPORT, found)
    if relaunch:
        return Decision(Reapply.REPLACE if replace else Reapply.NEEDS_REPLACE, found)
    if record.desired is Desired.STOPPED or record.stopped is not None:
        return Decision(Reapply.RESUME, found)
    return Decision(Reapply.CHANGE_IN_PLACE if found else Reapply.ATTACH, found)


def raises(outcome: OutcomeType, old: Job, new: Job) -> bool:
    """True if `new` lifts the limit that ended the job, so that it may go on from its checkpoint."""
    match outcome:
        case OutcomeType.CAP_REACHED:
            return _more(_micros(old.cost.cap), _micros(new.cost.cap)) or _more(
                _micros(old.group.cap), _micros(new.group.cap)
            )
        case OutcomeType.DURATION_REACHED:
            return _more(_millis(old.limits.duration), _millis(new.limits.duration))
        case OutcomeType.CHECKPOINT_OVERDUE:
            lenient = new.checkpoint.on_deadline != old.checkpoint.on_deadline
            return lenient or new.checkpoint.deadline.millis > old.checkpoint.deadline.millis
        case _:
            return False


def _micros(money: Money | None) -> int | None:
    return None if money is None else money.micros


def _millis(duration: Duration | None) -> int | None:
    return None if duration is None else duration.millis


def _more(before: int | None, after: int | None) -> bool:
    """None is unlimited."""
    return before is not None and (after is None or after > before)


def _effect(path: str) -> Effect:
    in_place = any(path == p or path.startswith((p + ".", p + "[")) for p in IN_PLACE)
    return Effect.IN_PLACE if in_place else Effect.RELAUNCH


QUANTITIES = (Money, Duration, Size, Every, Share)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves by dotted path; a quantity is a leaf, and what is empty has none."""
    if isinstance(value, QUANTITIES):
        return {path: value}
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{path}.{key}" if path else key).items()}
    if isinstance(value, tuple) and any(isinstance(i, msgspec.Struct) and not isinstance(i, QUANTITIES) for i in value):
        return {k: v for i, inner in enumerate(value) for k, v in _flat(inner, f"{path}[{i}]").items()}
    return {} if value in (None, ()) else {path: value}


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(item) or "" for item in value) + "]"
    return str(value)
