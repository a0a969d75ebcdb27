"""A short history of a store, with all that one is asked to do; told to whoever watches the disk meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from planner.kit import T0, job, record

from runctl.planner.record import Record
from runctl.planner.requests import CancelJob, StopJob
from runctl.store.interface import Acquire, Ask, Create, Put, Receipt, Release, Remove, StoreUnavailable, Write
from runctl.store.sqlite import SqliteStore

from .books import Books, read
from .conformance import ME, OTHER, change, event

BEGUN, DONE = "begun", "done"
LONG = "x" * 5000  # more than a page


class History:
    """Opens the store at `path` and writes to it. `held` is what must be in it after each batch, the empty store first.

    A batch that the store can't write is tried again, as a controller would: `trouble` is told of each refusal, and
    raises what it won't hear again.
    """

    def __init__(
        self, path: Path, tell: Callable[[str], None], trouble: Callable[[StoreUnavailable], None] | None = None
    ) -> None:
        self._path = path
        self._tell = tell
        self._trouble = trouble or _raise
        self.held = [Books({}, {})]
        self._store = self._open()

    @property
    def books(self) -> Books:
        return self.held[-1]

    def _open(self) -> SqliteStore:
        while True:
            try:
                return SqliteStore(self._path, lambda holder: holder != OTHER)
            except StoreUnavailable as error:
                self._trouble(error)

    def write(self, *writes: Write, store: SqliteStore | None = None) -> list[Receipt]:
        self._tell(BEGUN)
        while True:
            try:
                receipts = (store or self._store).apply(writes)
            except StoreUnavailable as error:
                self._trouble(error)
            else:
                break
        self.held.append(self.books.after(writes, receipts))
        self._tell(DONE)
        return receipts

    def put(self, uid: str, *reasons: str, answered: int = 0, group: str | None = None, more: str = "") -> Put:
        """The next record of a job, as its controller writes it."""
        was = self.books.jobs[uid]
        new = change(was.record, durable=was.record.durable + 1, answered=max(answered, was.record.answered))
        events = tuple(change(event(reason), message=more) for reason in reasons)
        seen = None if group is None else (group, self.books.groups.get(group, 0))
        return Put(uid, was.version, was.epoch, new, events, seen)

    def checkpoint(self, how: str) -> None:
        """Whoever opens the file may have the log written back; a refusal of that loses nothing."""
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as db,
        ):
            db.execute(f"PRAGMA wal_checkpoint({how})")

    def read(self, uids: set[str], groups: set[str]) -> Books:
        """What the store says is in it."""
        return read(self._store, uids, groups)

    def reopen(self) -> None:
        self._store.close()
        self._store = self._open()

    def live(self) -> None:
        """All of it, from the first job to the last page of the log."""
        self.begin()
        self.checkpoint("PASSIVE")
        self.go_on()
        self.checkpoint("RESTART")
        self.change_hands()
        self.reopen()
        self.write(self.put("a2", "LaterStill", more=LONG))
        self.checkpoint("TRUNCATE")
        self.write(self.put("a2", "Last"), Ask("a2", CancelJob(at=T0, why="")))

    def close(self) -> None:
        self._store.close()

    def begin(self) -> None:
        self.write(Create(_record("a"), (event("Created"),)))
        self.write(Acquire("a", ME, T0))
        self.write(Create(_record("b"), (event("Created"), event("Queued"))), Acquire("b", ME, T0))
        self.write(self.put("a", "Launching", "Launched", group="g", more=LONG))
        self.write(Ask("a", StopJob(at=T0, why=LONG)), Ask("b", StopJob(at=T0, why="")))

    def go_on(self) -> None:
        refused = self.put("b", "No", group="g")
        self.write(self.put("a", "Answered", answered=1, group="g"), refused)
        for n in range(3):
            self.write(self.put("a", f"Step{n}", more="y" * 900), self.put("b", "Answered", answered=1))

    def change_hands(self) -> None:
        """The controller lets one job go, and another process takes that one and dies with it."""
        self.write(Release("a", self.books.jobs["a"].epoch))
        with contextlib.closing(self._open()) as other:
            self.write(Acquire("a", OTHER, T0), store=other)
            self.write(self.put("a", "Theirs"), store=other)
        self.write(Acquire("a", ME, T0), self.put("b", "Mine"))
        self.write(self.put("a", "MineAgain", "Ended"), Create(_record("a", "a2"), (event("Created"),), supersedes="a"))
        self.write(Acquire("a2", ME, T0), Remove("b", self.books.jobs["b"].version, self.books.jobs["b"].epoch))


def _record(name: str, uid: str | None = None) -> Record:
    return record(job(name=name), uid=uid or name, group="g")


def _raise(error: StoreUnavailable) -> None:
    raise error
