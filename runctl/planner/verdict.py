"""Phase 4: when no attempt is live, what its end means for the job: finished, resting, or another attempt."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import blake2b
from typing import assert_never

import msgspec

from runctl.manifest.job import Busy
from runctl.planner.money import Room, duration_left, room
from runctl.planner.passing import Pass
from runctl.planner.record import (
    Attempt,
    Desired,
    EndReason,
    Outcome,
    OutcomeType,
    Record,
    Stopped,
    StopReason,
)  # fmt: skip
from runctl.planner.seeing import end_text

FIRST_RETRY = timedelta(seconds=1)
LONGEST_RETRY = timedelta(seconds=120)
# The share of a pause that its jitter may add or take.
JITTER = 0.2
MOST_UNSTARTED = 5
# So often all that is on offer is asked for, before a job that never trained gives up.
MOST_ROUNDS = 5

# Less of a duration limit than this isn't worth an attempt: agents count it a little differently.
LEAST_DURATION = timedelta(seconds=1)


# An attempt that ended through no fault of its own.
INTERRUPTED = (EndReason.LOST, EndReason.INTERRUPTION, EndReason.ASSUME_DEAD)


class Finish(msgspec.Struct, frozen=True):
    type: OutcomeType
    reason: str


class Rest(msgspec.Struct, frozen=True):
    reason: StopReason
    message: str


class Again(msgspec.Struct, frozen=True):
    """Another attempt, not before `at` (None: at once)."""

    at: datetime | None


Verdict = Finish | Rest | Again


def conclude(step: Pass) -> Pass:
    """Give the job its outcome, put it to rest, or let it go on."""
    record = step.record
    if record.live is not None or record.outcome is not None:
        return step
    verdict = judge(record, step)
    match verdict:
        case Finish():
            attempt = record.attempt
            end = attempt.end if attempt else None
            outcome = Outcome(
                type=verdict.type, reason=verdict.reason, message=_message(record, verdict), at=step.now,
                exit_code=end.exit_code if end else None, signal=end.signal if end else None,
            )  # fmt: skip
            good = verdict.type in (OutcomeType.SUCCEEDED, OutcomeType.CANCELLED)
            step = step.to(outcome=outcome, stopped=None, not_before=None)
            return step.say("Normal" if good else "Warning", verdict.type.value, outcome.message)
        case Rest():
            if record.stopped is not None and record.stopped.reason is verdict.reason:
                return step
            rest = Stopped(reason=verdict.reason, message=verdict.message, at=step.now)
            user = verdict.reason is StopReason.USER
            return step.to(stopped=rest).say("Normal" if user else "Warning", "Stopped", verdict.message)
        case Again():
            return step if verdict.at == record.not_before else step.to(not_before=verdict.at)
        case _:  # pragma: no cover
            assert_never(verdict)


def judge(record: Record, step: Pass) -> Verdict:
    attempt = record.attempt
    if record.stopped is not None and record.desired is Desired.RUN:
        return Rest(record.stopped.reason, record.stopped.message)
    if attempt is None or attempt.end is None or attempt.number <= record.forgiven:
        return _as_desired(record, Again(None))
    end = attempt.end
    match end.reason:
        case EndReason.EXITED if end.exit_code == 0:
            return Finish(OutcomeType.SUCCEEDED, "ExitCode")
        case EndReason.EXITED:
            reason = "ExitCode" if end.exit_code is not None else ("OutOfMemory" if end.oom else "Signal")
            if _failures(record) <= record.job.retry.failures:
                return _as_desired(record, Again(_backoff(record, attempt)))
            return Finish(OutcomeType.FAILED, reason)
        case EndReason.STOP | EndReason.REPLACE:
            return _as_desired(record, Again(None))
        case EndReason.CANCEL:
            return Finish(OutcomeType.CANCELLED, "CancelRequested")
        case EndReason.CAP:
            # The cap may have been raised meanwhile, or others of the group need less than they held.
            if room(record, step.observed.group, step.now) is not Room.NONE:
                return _as_desired(record, Again(_backoff(record, attempt)))
            return Finish(OutcomeType.CAP_REACHED, "CapReached")
        case EndReason.DURATION:
            left = duration_left(record)
            if left is None or left > LEAST_DURATION:
                return _as_desired(record, Again(_backoff(record, attempt)))
            return Finish(OutcomeType.DURATION_REACHED, "DurationReached")
        case EndReason.DEADLINE:
            return Finish(OutcomeType.CHECKPOINT_OVERDUE, "CheckpointOverdue")
        case EndReason.HANG:
            return Finish(OutcomeType.FAILED, "Hung")
        case EndReason.IDLE:
            return Finish(OutcomeType.FAILED, "Idle")
        case EndReason.SETUP_FAILED:
            return Finish(OutcomeType.FAILED, "SetupFailed")
        case EndReason.START_FAILED:
            return Finish(OutcomeType.FAILED, "StartFailed")
        case EndReason.REFUSED:
            if queues(record):
                return _as_desired(record, Again(_backoff(record, attempt)))
            return _as_desired(record, Rest(StopReason.BUSY, end.detail))
        case EndReason.LAUNCH_FAILED:
            return _as_desired(record, Rest(StopReason.LAUNCH_FAILED, end.detail))
        case EndReason.NOT_STARTED:
            if _in_a_row(record, EndReason.NOT_STARTED) >= MOST_UNSTARTED:
                return _as_desired(
                    record, Rest(StopReason.LAUNCH_FAILED, f"{MOST_UNSTARTED} launches in a row had no effect")
                )
            return _as_desired(record, Again(_backoff(record, attempt)))
        case EndReason.NO_CAPACITY:
            trained = any(each.training_at is not None for each in record.attempts)
            if not trained and _in_a_row(record, EndReason.NO_CAPACITY) >= MOST_ROUNDS:
                return Finish(OutcomeType.NO_CAPACITY, "Capacity")
            return _as_desired(record, Again(_backoff(record, attempt)))
        case EndReason.LOST | EndReason.INTERRUPTION | EndReason.ASSUME_DEAD:
            allowed = record.job.retry.interruptions
            lost = sum(1 for a in _held(record) if a.end and a.end.reason in INTERRUPTED)
            if allowed is not None and lost > allowed:
                return _as_desired(record, Finish(OutcomeType.LOST, "RetriesExhausted"))
            return _as_desired(record, Again(_backoff(record, attempt)))
        case _:  # pragma: no cover
            assert_never(end.reason)


def queues(record: Record) -> bool:
    """True if the job waits for a busy machine: by its own policy, or since a group's members take turns."""
    return record.job.instance.busy in (Busy.WAIT, Busy.REPLACE) or record.group is not None


def _as_desired(record: Record, wanted: Verdict) -> Verdict:
    """What would go on goes on only if that is still what the user wants."""
    match record.desired:
        case Desired.RUN:
            return wanted
        case Desired.STOPPED:
            if isinstance(wanted, Finish):
                return wanted
            start = (
                "goes on from the checkpoint" if record.checkpoint else "begins anew: there is no durable checkpoint"
            )
            return Rest(StopReason.USER, f"stopped as asked; apply {start}")
        case Desired.CANCELLED | Desired.DELETED:
            return Finish(OutcomeType.CANCELLED, "CancelRequested")
        case _:  # pragma: no cover
            assert_never(record.desired)


def _held(record: Record) -> tuple[Attempt, ...]:
    """The attempts that count against the retry policy."""
    return tuple(a for a in record.attempts if a.number > record.forgiven)


def _failures(record: Record) -> int:
    return sum(1 for a in _held(record) if a.end and a.end.reason is EndReason.EXITED and a.end.exit_code != 0)


def _in_a_row(record: Record, *reasons: EndReason) -> int:
    count = 0
    for attempt in reversed(_held(record)):
        if attempt.end is None or attempt.end.reason not in reasons:
            break
        count += 1
    return count


def _backoff(record: Record, attempt: Attempt) -> datetime:
    """1 s, 2 s, 4 s … 120 s after the end, moved by up to a fifth by a hash, so that many jobs don't retry in step."""
    count = _in_a_row(
        record, *INTERRUPTED, EndReason.REFUSED, EndReason.NOT_STARTED, EndReason.EXITED, EndReason.CAP,
        EndReason.DURATION, EndReason.NO_CAPACITY,
    )  # fmt: skip
    delay = min(LONGEST_RETRY, FIRST_RETRY * (1 << min(10, count - 1)))
    seed = blake2b(f"{record.uid}/{attempt.number}".encode(), digest_size=2).digest()
    spread = int.from_bytes(seed, "big") / 0xFFFF * 2 * JITTER - JITTER
    return (attempt.ended_at or attempt.intended_at) + delay * (1 + spread)


def _message(record: Record, verdict: Finish) -> str:
    attempt = record.attempt
    said = end_text(attempt.end) if attempt and attempt.end else "never started"
    where = f"checkpoint `{record.checkpoint.name}` is kept" if record.checkpoint else "no durable checkpoint"
    if verdict.type is OutcomeType.SUCCEEDED:
        return said
    return f"{said}; {where}"
