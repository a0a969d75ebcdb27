"""The store when the power goes: what was acknowledged is there, nothing is there by halves, and no epoch goes back."""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from planner.kit import T0

from runctl.planner.requests import StopJob
from runctl.store import sqlite
from runctl.store.interface import Acquire, Ask, StoreError, StoreFull, StoreUnavailable, done
from runctl.store.sqlite import SqliteStore

from .books import Books, difference, read
from .conformance import ME
from .disk import Disk, Failing, Fate, Image, Operation, Recorder, Told, recorded
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


def cuts(operations: list[Operation], seed: int = 0, before: Image | None = None) -> Iterator[Cut]:
    """Different disks that these operations may leave, done on the disk `before`; with another seed others."""
    disk, answered, begun = Disk(before), 0, 0
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

    def laid(self, image: Image) -> Path:
        directory = next(self._directories)
        directory.mkdir()
        for name, content in image.items():
            (directory / name).write_bytes(content)
        return directory

    def fault(self, cut: Cut, held: list[Books]) -> str | None:
        """What a store on this disk has got wrong; None if nothing."""
        directory = self.laid(cut.image)
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
    recorder = Recorder(home)
    with recorded(recorder):
        history = History(home / FILE, recorder.tell)
        part(history)
        history.close()
    return recorder.operations, history.held


def test_power_cuts(tmp_path: Path) -> None:
    """Whatever a cut leaves after any of SQLite's operations: what was acknowledged, with the batch that was under way
    or without it, and a store that goes on from there."""
    operations, held = lived(tmp_path / "home")
    survivors = Survivors(tmp_path)
    found = [survivors.fault(cut, held) for cut in cuts(operations)]
    assert [each for each in found if each is not None] == []
    assert len(found) > 500


def test_power_cuts_while_the_last_one_is_recovered_from(tmp_path: Path) -> None:
    """What the store has told after a cut it tells again after the next one, wherever in its opening that comes."""
    operations, _ = lived(tmp_path / "home")
    survivors, found = Survivors(tmp_path), []
    for cut in itertools.islice(cuts(operations), 0, None, 80):
        home = survivors.laid(cut.image)
        recorder = Recorder(home)
        with recorded(recorder), closing(SqliteStore(home / FILE, lambda holder: True)) as store:
            told = read(store, UIDS, GROUPS)
        found += [survivors.fault(again, [told]) for again in cuts(recorder.operations, before=cut.image)]
    assert [each for each in found if each is not None] == []
    assert len(found) > 80


KINDS = ("open", "read", "write", "no space", "sync", "truncate", "delete")


def spells(chance: Random, met: Counter[str]) -> Callable[[str], bool]:
    """Which operations fail: now and then all of one kind, once or for a while."""
    bad, left = "", 0

    def refuses(kind: str) -> bool:
        nonlocal bad, left
        if left == 0 and chance.random() < 0.03:
            bad, left = chance.choice(KINDS), chance.choice((1, 3, 10, 40))
        refused = left > 0 and kind == bad
        left = max(0, left - 1)
        met[kind] += refused
        return refused

    return refuses


class Troubled(NamedTuple):
    """Of lives on disks that fail: which kinds of failures were met, what the store said to them, what was wrong."""

    met: Counter[str]
    refusals: list[StoreUnavailable]
    wrong: list[str]


# In these the first sync of the tables failed, and the next opening read them from a log that wasn't on the disk.
BROKE_ONCE = (160, 177)


def troubled(directory: Path, seeds: Iterable[int]) -> Troubled:
    found = Troubled(Counter(), [], [])
    survivors = Survivors(directory)
    for seed in seeds:
        home = directory / f"home {seed}"
        home.mkdir()
        recorder = Failing(home, spells(Random(seed), found.met))
        with recorded(recorder):
            history = History(home / FILE, recorder.tell, found.refusals.append)
            history.live()
            history.close()
        with closing(SqliteStore(home / FILE, lambda holder: True)) as store:
            if (left := read(store, UIDS, GROUPS)) != history.books:
                found.wrong.append(f"seed {seed}: {difference(history.books, left)}")
        sample = itertools.islice(cuts(recorder.operations, seed), seed, None, 16)
        found.wrong.extend(wrong for cut in sample if (wrong := survivors.fault(cut, history.held)))
    return found


def test_a_disk_that_fails_now_and_then(tmp_path: Path) -> None:
    """Each refusal is of the store's own kind and leaves nothing, also where a sync fails and what it was to write is
    lost: the next try succeeds, and the books are right then, after reopening, and after a power cut at any moment."""
    found = troubled(tmp_path, (*range(4), *BROKE_ONCE))
    assert found.wrong == []
    assert [kind for kind in KINDS if not found.met[kind]] == []
    assert {type(each) for each in found.refusals} == {StoreUnavailable, StoreFull}


def test_a_failure_that_is_not_told_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a commit answered for that has failed, the same would find it."""

    def commit(db: sqlite3.Connection) -> None:
        with suppress(sqlite3.OperationalError):
            db.execute("COMMIT")

    _connections(monkeypatch, lambda db: Meddled(db, COMMIT=commit))
    assert troubled(tmp_path, range(1)).wrong


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
