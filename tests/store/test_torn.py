"""The store when the power goes: what was acknowledged is there, nothing is there by halves, and no epoch goes back."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from planner.kit import T0

from runctl.planner.requests import StopJob
from runctl.store import sqlite
from runctl.store.interface import Acquire, Ask, StoreError, done
from runctl.store.sqlite import SqliteStore

from .books import Books, difference, read
from .conformance import ME
from .disk import Disk, Fate, Image, Operation, Told, recording
from .history import BEGUN, DONE, History
from .vfs import Nobody, watched

FILE = "state.sqlite"
UIDS, GROUPS = {"a", "a2", "b"}, {"g"}

Ablation = Callable[[pytest.MonkeyPatch], None]


class Cut(NamedTuple):
    """What a power cut left: after so many operations, with what became of the rest; `answered` batches were
    acknowledged by then, and one more may have been `begun`."""

    at: int
    fate: Fate
    image: Image
    answered: int
    begun: int


# After each operation all or nothing of what wasn't synced, and in turn one of the fates between.
PARTLY = (Fate.LAST, Fate.SHORT, Fate.SOME, Fate.TORN)


def cuts(operations: list[Operation], seed: int = 0) -> Iterator[Cut]:
    """Different disks that these operations may leave; with another seed others."""
    disk, answered, begun = Disk(), 0, 0
    seen: set[tuple[int, int, int]] = set()
    for at, operation in enumerate(operations, 1):
        disk.do(operation)
        answered += operation == Told(DONE)
        begun += operation == Told(BEGUN)
        for fate in (Fate.LOST, Fate.KEPT, PARTLY[(at + seed) % len(PARTLY)]):
            image = disk.after(fate, Random(f"{seed}/{at}/{fate}"))
            known = hash(tuple(image.items())), answered, begun
            if known not in seen:
                seen.add(known)
                yield Cut(at, fate, image, answered, begun)


class Survivors:
    """Opens the store anew on what was left, again and again, each time in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directories = (directory / str(n) for n in itertools.count())

    def fault(self, cut: Cut, held: list[Books]) -> str | None:
        """What a store on this disk has got wrong; None if nothing."""
        directory = next(self._directories)
        directory.mkdir()
        for name, content in cut.image.items():
            (directory / name).write_bytes(content)
        try:
            with watched(Nobody()):
                store = SqliteStore(directory / FILE, lambda holder: True)
                try:
                    wrong = _wrong(store, held[cut.answered], held[min(cut.begun, len(held) - 1)])
                finally:
                    store.close()
        except StoreError as error:
            wrong = f"{type(error).__name__}: {error}"
        return wrong and f"after operation {cut.at}, {cut.fate.value}: {wrong}"


def _wrong(store: SqliteStore, acknowledged: Books, begun: Books) -> str | None:
    found = read(store, UIDS, GROUPS)
    if found not in (acknowledged, begun):
        before, after = difference(acknowledged, found), difference(begun, found)
        return f"neither what was acknowledged ({before}) nor that and the next batch ({after})"
    for uid, was in found.jobs.items():
        asked = max((each.serial for each in was.requests), default=was.record.answered)
        epoch, serial = map(done, store.apply([Acquire(uid, was.holder or ME, T0), Ask(uid, StopJob(at=T0, why=""))]))
        if (epoch, serial) != (was.epoch + 1, asked + 1):
            return f"{uid} goes on with epoch {epoch} after {was.epoch}, request {serial} after {asked}"
    return None


def lived(home: Path, part: Callable[[History], None] = History.live) -> tuple[list[Operation], list[Books]]:
    """What a history in this directory did to its disk, and what had to be held after each batch."""
    home.mkdir()
    with recording(home) as recorder:
        history = History(home / FILE, recorder.tell)
        part(history)
    return recorder.operations, history.held


def test_power_cuts(tmp_path: Path) -> None:
    """Whatever a cut leaves after any of SQLite's operations: what was acknowledged, with the batch that was under way
    or without it, and a store that goes on from there."""
    operations, held = lived(tmp_path / "home")
    survivors = Survivors(tmp_path)
    found = [survivors.fault(cut, held) for cut in cuts(operations)]
    assert [each for each in found if each is not None] == []
    assert len(found) > 500


class Meddled:
    """A connection of the product that does something else for some of its statements."""

    def __init__(self, db: sqlite3.Connection, **instead: Callable[[sqlite3.Connection], object]) -> None:
        self._real = db
        self._instead = {name.replace("_", " "): do for name, do in instead.items()}

    def execute(self, statement: str, *values: object) -> object:
        instead = self._instead.get(statement)
        return self._real.execute(statement, *values) if instead is None else instead(self._real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _connections(patch: pytest.MonkeyPatch, change: Callable[[sqlite3.Connection], object]) -> None:
    connect = SqliteStore._connect
    patch.setattr(SqliteStore, "_connect", lambda self, path: change(connect(self, path)))


def _synchronous(level: str) -> Ablation:
    def weaker(db: sqlite3.Connection) -> sqlite3.Connection:
        db.execute(f"PRAGMA synchronous = {level}")
        return db

    return lambda patch: _connections(patch, weaker)


def _journal(mode: str) -> Ablation:
    def other(db: sqlite3.Connection) -> str:
        db.execute(f"PRAGMA journal_mode = {mode}")
        return "wal"

    return lambda patch: patch.setattr(sqlite, "_to_wal", other)


def _answered_before_it_is_done(patch: pytest.MonkeyPatch) -> None:
    """The commit is left for the next batch."""

    def late(db: sqlite3.Connection) -> None:
        if db.in_transaction:
            db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")

    _connections(patch, lambda db: Meddled(db, COMMIT=lambda db: None, BEGIN_IMMEDIATE=late))


def _each_write_by_itself(patch: pytest.MonkeyPatch) -> None:
    def split(db: sqlite3.Connection) -> None:
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")

    _connections(patch, lambda db: Meddled(db, RELEASE_one=split))


def _events_after_their_record(patch: pytest.MonkeyPatch) -> None:
    append = SqliteStore._append

    def later(self: SqliteStore, *what: Any) -> None:
        for statement in ("COMMIT", "BEGIN IMMEDIATE", "SAVEPOINT one"):
            self._db.execute(statement)
        append(self, *what)

    patch.setattr(SqliteStore, "_append", later)


ABLATIONS: dict[str, Ablation] = {
    "synchronous=OFF": _synchronous("OFF"),
    "synchronous=NORMAL": _synchronous("NORMAL"),
    "journal_mode=MEMORY": _journal("MEMORY"),
    # The deletion of its journal is what commits there, and nobody syncs it: it may come back.
    "journal_mode=DELETE": _journal("DELETE"),
    "answered before it is done": _answered_before_it_is_done,
    "each write of a batch by itself": _each_write_by_itself,
    "events after their record": _events_after_their_record,
}


@pytest.mark.parametrize("safeguard", ABLATIONS)
def test_a_safeguard_that_is_missing_is_missed(safeguard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken out from the test's side, it is found to be missing by what a power cut leaves."""
    with monkeypatch.context() as patch:
        ABLATIONS[safeguard](patch)
        operations, held = lived(tmp_path / "home", History.begin)
    survivors = Survivors(tmp_path)
    assert any(survivors.fault(cut, held) for cut in cuts(operations))
