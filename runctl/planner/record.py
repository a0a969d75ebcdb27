"""What is remembered of a job: everything that must survive the controller.

All instants are aware UTC datetimes; all money is whole micro-dollars.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from runctl.manifest.job import Job, Platform
from runctl.planner.rental import Rental, Shunned

RECORD_VERSION = 1


class _Value(msgspec.Struct, frozen=True):
    pass


class Desired(StrEnum):
    """What the user wants of the job."""

    RUN = "run"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    DELETED = "deleted"


class Phase(StrEnum):
    PENDING = "Pending"
    QUEUED = "Queued"
    PROVISIONING = "Provisioning"
    PREPARING = "Preparing"
    TRAINING = "Training"
    DRAINING = "Draining"
    STOPPED = "Stopped"
    RELEASING = "Releasing"
    FINISHED = "Finished"


class OutcomeType(StrEnum):
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CAP_REACHED = "CapReached"
    DURATION_REACHED = "DurationReached"
    CHECKPOINT_OVERDUE = "CheckpointOverdue"
    CANCELLED = "Cancelled"
    NO_CAPACITY = "NoCapacity"
    LOST = "Lost"


class StopReason(StrEnum):
    """Why a job rests without being finished: `apply` goes on with it."""

    USER = "User"
    BUSY = "Busy"
    LAUNCH_FAILED = "LaunchFailed"


class Stopped(_Value, frozen=True, kw_only=True):
    reason: StopReason
    message: str
    at: datetime


class Outcome(_Value, frozen=True, kw_only=True):
    """How the job ended. `exit_code` is the training's own, as its parent saw it, or None."""

    type: OutcomeType
    reason: str
    message: str
    at: datetime
    exit_code: int | None = None
    signal: int | None = None


class ConditionType(StrEnum):
    LAUNCHED = "Launched"
    REACHABLE = "Reachable"
    SYNCED = "Synced"
    SECRETS_PRESENT = "SecretsPresent"
    TRAINING = "Training"
    CHECKPOINT_FRESH = "CheckpointFresh"
    WITHIN_BUDGET = "WithinBudget"
    RELEASED = "Released"


class Condition(_Value, frozen=True, kw_only=True):
    """`last_transition_time` moves only when `status` does; it is cut to whole seconds."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int


class Source(_Value, frozen=True, kw_only=True):
    """The frozen code of a generation and how it is started.

    `workdir` is the training's directory inside the snapshot (posix, `.` for its root); `python` (None: there was
    none) and `path` are the interpreter and the PATH of the shell that applied the manifest; `imports` are the modules
    that the environment must have.
    """

    code_hash: str
    files: int
    bytes: int
    root: str
    workdir: str
    python: str | None
    python_version: str
    path: str
    uv: str | None = None
    imports: tuple[str, ...] = ()


class Generation(_Value, frozen=True, kw_only=True):
    number: int
    job: Job
    source: Source
    applied_at: datetime


class CheckpointRef(_Value, frozen=True, kw_only=True):
    """A durable checkpoint: `path` is the directory of its copy."""

    attempt: int
    seq: int
    name: str
    path: str
    at: datetime
    bytes: int
    step: int | None = None
    epoch: int | None = None


class MoneyGrant(_Value, frozen=True, kw_only=True):
    """The attempt is over before `until` by the wall clock and within `seconds` of the host's boot-time clock."""

    until: datetime
    seconds: float


class Limits(_Value, frozen=True, kw_only=True):
    """What the agent enforces by itself; None is no limit. All but money count active (unsuspended) seconds."""

    money: MoneyGrant | None
    duration: float | None
    idle: float | None
    hang: float | None
    deadline: float
    on_deadline: Literal["warn", "save", "stop", "fail"]
    keep: int


EndOrder = Literal["stop", "cancel", "replace", "assume_dead"]


class Orders(_Value, frozen=True, kw_only=True):
    """The newest orders to the agent; `serial` grows with every change."""

    serial: int
    limits: Limits
    end: EndOrder | None = None


class EndReason(StrEnum):
    """Why an attempt ended, as its agent wrote it (the last three: as the controller found out).

    `interruption`: the host told the agent to go (a shutdown, an operator), and it saved first.
    """

    EXITED = "exited"
    STOP = "stop"
    CANCEL = "cancel"
    REPLACE = "replace"
    CAP = "cap"
    DURATION = "duration"
    DEADLINE = "deadline"
    HANG = "hang"
    IDLE = "idle"
    SETUP_FAILED = "setup_failed"
    START_FAILED = "start_failed"
    REFUSED = "refused"
    INTERRUPTION = "interruption"
    ASSUME_DEAD = "assume_dead"
    LOST = "lost"
    LAUNCH_FAILED = "launch_failed"
    NOT_STARTED = "not_started"
    NO_CAPACITY = "no_capacity"


class AttemptEnd(_Value, frozen=True, kw_only=True):
    reason: EndReason
    detail: str
    exit_code: int | None = None
    signal: int | None = None
    oom: bool = False
    training_started: bool = False


class Attempt(_Value, frozen=True, kw_only=True):
    """One launch. It exists, durably, before the launch is sent (`intended_at`), and is over when `end` is set.

    `reserved` is the worst case in micro-dollars, held until the end is seen. Past `launch_before` one may look
    for the attempt, but not send it again. `delivered` is the serial of the orders that were last seen to lie where
    its agent reads them. `granted_until` is the latest instant to which any orders since those let it go on, since
    nobody knows which of them reached it; None if some let it go on for ever.
    """

    number: int
    generation: int
    token: str
    intended_at: datetime
    launch_before: datetime
    reserved: int
    orders: Orders
    resume: CheckpointRef | None = None
    started_at: datetime | None = None
    training_at: datetime | None = None
    draining: str | None = None
    ended_at: datetime | None = None
    end: AttemptEnd | None = None
    active: float = 0.0
    durable: int = 0
    events_seen: int = 0
    delivered: int = 0
    granted_until: datetime | None = None


class Interval(_Value, frozen=True, kw_only=True):
    """A line of the ledger: a machine billed from `started_at` to `ended_at` (None: still), for `minimum` seconds at
    least; `hourly`: micro-dollars."""

    attempt: int
    machine: str
    started_at: datetime
    ended_at: datetime | None
    hourly: int
    source: str
    quoted_at: datetime
    minimum: int = 0


class Record(_Value, frozen=True, kw_only=True):
    """All that is known of one run of a job.

    `answered` is the serial of the last user request that was consumed; attempts of a generation before
    `relaunch_from` run what is no longer wanted; the end of attempts up to `forgiven` is not held against the job.
    `rentals` are the machines that were asked for, `shunned` the offers that were refused lately.
    """

    version: int = RECORD_VERSION
    uid: str
    name: str
    owner: str
    group: str | None
    order: int
    created_at: datetime
    desired: Desired
    generations: tuple[Generation, ...]
    relaunch_from: int = 1
    attempts: tuple[Attempt, ...] = ()
    ledger: tuple[Interval, ...] = ()
    phase: Phase = Phase.PENDING
    outcome: Outcome | None = None
    stopped: Stopped | None = None
    forgiven: int = 0
    conditions: tuple[Condition, ...] = ()
    checkpoint: CheckpointRef | None = None
    durable: int = 0
    not_before: datetime | None = None
    reminders: dict[str, datetime] = {}
    answered: int = 0
    rentals: tuple[Rental, ...] = ()
    shunned: tuple[Shunned, ...] = ()

    @property
    def generation(self) -> Generation:
        return self.generations[-1]

    @property
    def job(self) -> Job:
        return self.generations[-1].job

    @property
    def attempt(self) -> Attempt | None:
        """The newest attempt, over or not."""
        return self.attempts[-1] if self.attempts else None

    @property
    def live(self) -> Attempt | None:
        """The attempt that isn't over, if there is one. There is never more than one."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].end is None else None

    @property
    def finished(self) -> bool:
        return self.outcome is not None

    @property
    def rented(self) -> bool:
        """The job's machines are rented for it."""
        return self.job.instance.platform is Platform.AWS

    @property
    def platforms(self) -> frozenset[Platform]:
        """Where the job runs or has run: an edit may have moved it."""
        return frozenset(each.job.instance.platform for each in self.generations)

    @property
    def unreleased(self) -> tuple[Rental, ...]:
        """The rentals that may still be billed."""
        return tuple(each for each in self.rentals if each.released_at is None)

    def rental_of(self, attempt: Attempt) -> Rental | None:
        """The last machine that was asked for on behalf of `attempt`; None where machines aren't rented."""
        mine = (each for each in reversed(self.rentals) if each.attempt == attempt.number and not each.stray)
        return next(mine, None)

    def generation_of(self, attempt: Attempt) -> Generation:
        return self.generations[attempt.generation - 1]

    def with_attempt(self, attempt: Attempt) -> Record:
        """This record with its newest attempt replaced by `attempt`."""
        return msgspec.structs.replace(self, attempts=(*self.attempts[:-1], attempt))


class Event(_Value, frozen=True, kw_only=True):
    """Something that happened, for people. `reason` is one CamelCase word, stable."""

    at: datetime
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    attempt: int | None = None
