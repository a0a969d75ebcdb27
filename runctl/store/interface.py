"""The protocol that every store keeps, and the errors that it raises.

Writes are values, done in batches: a batch is one transaction, in which each write succeeds or is refused by itself.
When `apply` returns, what succeeded survives a power cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from runctl.planner.record import Event, Record
from runctl.planner.requests import Asked, Request


class StoreError(Exception):
    """Base of all below. `hint` says what to do; nothing that was acknowledged is lost by any of them."""

    hint: str | None = None


class StoreUnavailable(StoreError):
    """The store can't be read or written now: no permission, read-only, a failing disk, or one of the kinds below."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class StoreFull(StoreUnavailable):
    """The disk, or what of it the user may have, has no room for what is to be written."""


class StoreLocked(StoreUnavailable):
    """Another process has held the store for too long."""


class StoreDamaged(StoreUnavailable):
    """The file is not what was written. Opening and reading it leaves it untouched, its log included."""


class StoreTooNew(StoreUnavailable):
    """Written by a newer version of the program."""


class Conflict(StoreError):
    """Somebody else wrote first: the version or the lease's epoch is not the one expected. Read again."""


class NameTaken(StoreError):
    """A current job has this name."""


class NotFound(StoreError):
    """No such job."""


class LeaseHeld(StoreError):
    """Another live controller has the job."""

    def __init__(self, holder: ControllerId) -> None:
        super().__init__(f"held by {holder.what} (pid {holder.pid})")
        self.holder = holder


class ControllerId(msgspec.Struct, frozen=True):
    """A controlling process, known by pid, start time and boot id; `what` is for people."""

    pid: int
    start: str
    boot_id: str
    what: str


class Versioned(msgspec.Struct, frozen=True):
    """A record as it was read; `epoch` is that of the newest lease on the job."""

    record: Record
    version: int
    epoch: int


class GroupHead(msgspec.Struct, frozen=True):
    """`version`: how many writes against the group there have been; `spent`: what removed members have cost, in
    micro-dollars."""

    version: int = 0
    spent: int = 0


class Create(msgspec.Struct, frozen=True):
    """A new job under a name that no current job has; the finished run `supersedes` (a uid) gives the name up."""

    record: Record
    events: tuple[Event, ...] = ()
    supersedes: str | None = None


class Put(msgspec.Struct, frozen=True):
    """The next record of a job whose lease (`epoch`) the writer holds; answered requests are dropped.

    `group` is a group with the version at which the writer saw its members: refused with `Conflict` if another write
    against that group came in between, so that two members never reserve the same money or place.
    """

    uid: str
    version: int
    epoch: int
    record: Record
    events: tuple[Event, ...] = ()
    group: tuple[str, int] | None = None


class Remove(msgspec.Struct, frozen=True):
    """Forget the job with its events and requests.

    What it has `spent`, in micro-dollars, still counts against the cap of its `group`, for as long as that has members.
    """

    uid: str
    version: int
    epoch: int
    group: str | None = None
    spent: int = 0


class Acquire(msgspec.Struct, frozen=True):
    """Take the job's lease: its epoch grows. Refused with `LeaseHeld` while another holder is alive."""

    uid: str
    holder: ControllerId
    now: datetime


class Release(msgspec.Struct, frozen=True):
    uid: str
    epoch: int


class Ask(msgspec.Struct, frozen=True):
    """Put a request to whoever controls the job.

    A controller asks for the sake of a job that it holds, as it knows that one (uid, version, epoch): refused with
    `Conflict` if that has changed, with `NotFound` if it has gone. Who slept meanwhile stops nothing for nobody.
    """

    uid: str
    request: Request
    sake: tuple[str, int, int] | None = None


Write = Create | Put | Remove | Acquire | Release | Ask

# What a write gives back: the new version for Create and Put, the epoch for Acquire, the serial for Ask, else 0.
Receipt = int | StoreError


class Store(Protocol):
    """Synchronous; every method may block on the disk. Safe to call from several threads."""

    def apply(self, writes: Sequence[Write]) -> list[Receipt]:
        """Do all of `writes` in one durable transaction; refusals (`Conflict`, `NameTaken`, `LeaseHeld`, `NotFound`)
        come back in their place. Raises `StoreUnavailable` when nothing was done. Where that was a sync which failed,
        all of it may be there once every process that has the store open has died before the next write."""

    def get(self, uid: str) -> Versioned:
        """Raises `NotFound`."""

    def current(self, name: str) -> Versioned:
        """The newest run under `name`. Raises `NotFound`."""

    def jobs(self) -> list[Versioned]:
        """The current run of every name, by creation."""

    def runs(self, name: str) -> list[Versioned]:
        """Every run under `name`, by creation: those that were superseded, then the current one."""

    def group(self, name: str) -> GroupHead:
        """What is known of a group beside its members. Read it before them."""

    def requests(self, uid: str) -> tuple[Asked, ...]:
        """Those not answered yet, by serial."""

    def pending(self) -> set[str]:
        """The uids of jobs with unanswered requests."""

    def events(self, uid: str, after: int = 0) -> list[tuple[int, Event]]:
        """Events with a sequence number above `after`, in order."""

    def lease(self, uid: str) -> ControllerId | None:
        """Who holds the job, if the holder is alive."""

    def change_token(self) -> int:
        """Differs from the last one when another connection has written meanwhile. Cheap: meant to be polled."""

    def close(self) -> None: ...


def done(receipt: Receipt) -> int:
    """The receipt's number; raises the refusal that it is."""
    if isinstance(receipt, StoreError):
        raise receipt
    return receipt
