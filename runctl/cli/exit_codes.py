"""What each exit code of the program means, and which one a job or a group of jobs comes to."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from runctl.planner.record import Outcome, Record, StopReason


class ExitCode(IntEnum):
    OK = 0
    TRAINING_FAILED = 1
    INVALID = 2
    LIMIT_WITH_CHECKPOINT = 3
    LIMIT_WITHOUT_CHECKPOINT = 4
    CHECKPOINT_OVERDUE = 5
    CANCELLED_OR_STOPPED = 6
    NO_CAPACITY = 7
    WAIT_TIMED_OUT = 8
    LOST = 9
    PERMISSION = 10
    BUSY = 11
    CHANGES = 12
    DEFECT = 70
    INTERRUPTED = 130
    READER_GONE = 141


# The worst comes first: what needs a person's look outweighs what a later `apply` mends.
PRECEDENCE = tuple(ExitCode(code) for code in (70, 9, 10, 7, 4, 3, 5, 1, 11, 6, 8))


def of_group(codes: Iterable[ExitCode]) -> ExitCode:
    """0 if all members have it, else the first of `PRECEDENCE` that one has."""
    found = set(codes)
    return next((code for code in PRECEDENCE if code in found), max(found, default=ExitCode.OK))


def of_record(record: Record) -> ExitCode:
    """The code of a job that is finished or rests; a live one has none yet and counts as a wait that timed out."""
    if record.outcome is not None:
        return of_outcome(record.outcome, saved=record.checkpoint is not None)
    if record.stopped is not None:
        return of_stop(record.stopped.reason)
    return ExitCode.WAIT_TIMED_OUT


def of_outcome(outcome: Outcome, *, saved: bool) -> ExitCode:
    from runctl.planner.record import OutcomeType

    match outcome.type:
        case OutcomeType.SUCCEEDED:
            return ExitCode.OK
        case OutcomeType.FAILED:
            return ExitCode.TRAINING_FAILED
        case OutcomeType.CAP_REACHED | OutcomeType.DURATION_REACHED:
            return ExitCode.LIMIT_WITH_CHECKPOINT if saved else ExitCode.LIMIT_WITHOUT_CHECKPOINT
        case OutcomeType.CHECKPOINT_OVERDUE:
            return ExitCode.CHECKPOINT_OVERDUE
        case OutcomeType.CANCELLED:
            return ExitCode.CANCELLED_OR_STOPPED
        case OutcomeType.NO_CAPACITY:
            return ExitCode.NO_CAPACITY
        case OutcomeType.LOST:
            return ExitCode.LOST
        case _:  # pragma: no cover
            assert_never(outcome.type)


def of_stop(reason: StopReason) -> ExitCode:
    from runctl.planner.record import StopReason

    match reason:
        case StopReason.USER:
            return ExitCode.CANCELLED_OR_STOPPED
        case StopReason.BUSY:
            return ExitCode.BUSY
        case StopReason.LAUNCH_FAILED:
            return ExitCode.NO_CAPACITY
        case _:  # pragma: no cover
            assert_never(reason)
