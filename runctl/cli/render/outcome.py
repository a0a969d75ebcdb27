"""How a job ended or why it rests, and what to do next."""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from runctl.cli.render.status import checkpoint_words, cost_words, progress_words
from runctl.cli.render.table import facts
from runctl.cli.render.words import count, span
from runctl.cli.sight import Sight
from runctl.manifest.job import Busy
from runctl.planner.money import cost_of, least_useful, rate_of, spent
from runctl.planner.record import OutcomeType, Record, StopReason


def ending(sight: Sight) -> str:
    """The last words about a job that is finished or rests."""
    record = sight.record
    newest = checkpoint_words(sight.checkpoint, sight)
    rows = [
        ("progress", progress_words(sight)),
        ("cost", cost_words(sight)),
        ("checkpoint", f"{newest}; {_in_all(sight)}" if newest else ""),
        ("time", f"{span(ended_at(record, sight.now) - record.created_at)}, {count(len(record.attempts), 'attempt')}"),
    ]
    told = facts(rows)
    return f"{record.name}: {verdict(record)}" + (f"\n{told}" if told else "")


def _in_all(sight: Sight) -> str:
    keep = sight.record.job.checkpoint.keep
    kept = f", the newest {keep} kept" if sight.durable > keep else ""
    return f"{count(sight.durable, 'durable checkpoint')} in all{kept}"


def ended_at(record: Record, now: datetime) -> datetime:
    """Since when nothing more happens to the job."""
    if record.outcome is not None:
        return record.outcome.at
    return record.stopped.at if record.stopped is not None else now


def verdict(record: Record) -> str:
    """`Succeeded: the training exited with 0`."""
    if record.outcome is not None:
        return f"{record.outcome.type}: {record.outcome.message}"
    if record.stopped is not None:
        return f"Stopped: {record.stopped.message}"
    return str(record.phase)


def good(record: Record) -> bool:
    return record.outcome is not None and record.outcome.type is OutcomeType.SUCCEEDED


def advice(record: Record) -> str:
    """What a user would do now."""
    name = record.name
    if record.outcome is not None:
        return _after(record, record.outcome.type)
    if record.stopped is None:
        return ""
    match record.stopped.reason:
        case StopReason.USER:
            return f"apply the manifest again to go on, or end it for good: `runctl cancel {name}`"
        case StopReason.BUSY:
            # That can't replace it has just been said to a job that wanted to.
            wanted = record.job.instance.busy is Busy.REPLACE
            replace = "" if wanted else ", `replace` (save and stop it, if it is a job of this home)"
            return (
                "apply again when the machine is free, or set `instance.busy` to `wait` (queue for it)"
                f"{replace} or `share` (run beside it)"
            )
        case StopReason.LAUNCH_FAILED:
            return "mend what it names and apply the manifest again"
        case _:  # pragma: no cover
            assert_never(record.stopped.reason)


def _group_binds(record: Record) -> bool:
    """Whether it is the group's cap that left too little, since the job's own leaves enough for another attempt."""
    own, rate = record.job.cost.cap, rate_of(record.job)
    if record.job.group.cap is None or rate is None or record.outcome is None:
        return False
    needed = cost_of(rate.hourly, least_useful(record.job))
    return own is None or own.micros - spent(record, record.outcome.at) > needed


def _after(record: Record, outcome: OutcomeType) -> str:
    name, reason = record.name, record.outcome.reason if record.outcome else ""
    match outcome:
        case OutcomeType.SUCCEEDED:
            return f"`runctl checkpoints {name}` says where its checkpoints are, `runctl logs {name}` prints its output"
        case OutcomeType.FAILED if reason == "StartFailed" and record.attempts[-1].resume is not None:
            return (
                f"`runctl checkpoints verify {name}` checks what it was to go on from; "
                "`checkpoint.resume: never` and `--rerun` begin anew"
            )
        case OutcomeType.FAILED if reason in ("SetupFailed", "StartFailed"):
            return f"`runctl logs {name} --setup` shows the preparation; then mend it and apply with `--rerun`"
        case OutcomeType.FAILED:
            return f"`runctl logs {name} --tail 50` shows its last words; then mend it and apply with `--rerun`"
        case OutcomeType.CAP_REACHED:
            how = "goes on from the checkpoint" if record.checkpoint is not None else "begins anew"
            if _group_binds(record):
                return f"raise `group.cap` in every member's manifest and apply them again: this one {how}"
            return f"raise `cost.cap` and apply again: it {how} with the same ledger"
        case OutcomeType.DURATION_REACHED:
            how = "goes on from the checkpoint" if record.checkpoint is not None else "begins anew"
            return f"raise `limits.duration` and apply again: it {how}"
        case OutcomeType.CHECKPOINT_OVERDUE:
            how = "goes on from the checkpoint" if record.checkpoint is not None else "begins anew"
            return f"see why it doesn't save, or raise `checkpoint.deadline`; apply {how}"
        case OutcomeType.CANCELLED:
            return "apply with `--rerun` to run it anew"
        case OutcomeType.NO_CAPACITY:
            return "apply again later, or allow another machine"
        case OutcomeType.LOST:
            return f"`runctl events {name}` shows what was seen of it; apply with `--rerun` to run it anew"
        case _:  # pragma: no cover
            assert_never(outcome)
