"""A disk that loses its power: what wasn't synced may be there afterwards or not, in any order, or in part.

Of such a write each sector may hold what was written, what was there before, zeros or anything else; of the names made
or dropped since the directory was synced, those up to any moment count. What was synced is there, and so is what lies
in a sector beside a write (SQLite's `powersafe overwrite`, which it takes for granted of a disk).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from random import Random
from typing import NamedTuple, assert_never

from .vfs import (
    CANTOPEN,
    FULL,
    IOERR_DELETE,
    IOERR_FSYNC,
    IOERR_READ,
    IOERR_TRUNCATE,
    IOERR_WRITE,
    OK,
    watched,
)

SECTOR = 512


class Make(NamedTuple):
    name: str


class Drop(NamedTuple):
    name: str


class Write(NamedTuple):
    name: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    name: str
    size: int


class Sync(NamedTuple):
    """Of a file; where `names`, of the directory as well."""

    name: str
    names: bool


class SyncNames(NamedTuple):
    pass


class FailedSync(NamedTuple):
    """Of a file. The kernel has told of it once, and forgets: what was to be synced is never written by a later one."""

    name: str


class Told(NamedTuple):
    """Something that the program under test has begun, or has answered for."""

    what: str


Operation = Make | Drop | Write | Truncate | Sync | FailedSync | SyncNames | Told
Image = dict[str, bytes]


class Recorder:
    """What is done to the files of one directory, in its order. Nothing is refused."""

    def __init__(self, directory: Path) -> None:
        self.operations: list[Operation] = []
        self._directory = directory
        self._names = set(os.listdir(directory))
        self._unsynced: set[str] = set()

    def tell(self, what: str) -> None:
        self.operations.append(Told(what))

    def opens(self, name: str, may_create: bool) -> int:
        if may_create:
            self._unsynced.add(name)
            self._make(name)
        return OK

    def reads(self, name: str) -> int:
        return OK

    def writes(self, name: str, offset: int, data: bytes) -> int:
        self.operations.append(Write(name, offset, data))
        return OK

    def truncates(self, name: str, size: int) -> int:
        self.operations.append(Truncate(name, size))
        return OK

    def syncs(self, name: str) -> int:
        # SQLite syncs the directory with the first sync of a log or journal that it may have created.
        self.operations.append(Sync(name, names=name in self._unsynced and "-" in name))
        self._unsynced.discard(name)
        return OK

    def deletes(self, name: str) -> int:
        if name in self._names:
            self._names.discard(name)
            self.operations.append(Drop(name))
        return OK

    def synced(self, descriptor: int) -> None:
        """The program itself syncs what it has opened."""
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            for name in sorted(os.listdir(self._directory)):
                self._make(name)
            self.operations.append(SyncNames())

    def _make(self, name: str) -> None:
        if name not in self._names:
            self._names.add(name)
            self.operations.append(Make(name))


class Failing(Recorder):
    """A disk that refuses now and then what is asked of it. `refuses` is asked of each kind of operation."""

    def __init__(self, directory: Path, refuses: Callable[[str], bool]) -> None:
        super().__init__(directory)
        self._refuses = refuses

    def opens(self, name: str, may_create: bool) -> int:
        return CANTOPEN if self._refuses("open") else super().opens(name, may_create)

    def reads(self, name: str) -> int:
        return IOERR_READ if self._refuses("read") else super().reads(name)

    def writes(self, name: str, offset: int, data: bytes) -> int:
        if self._refuses("write"):
            return IOERR_WRITE
        return FULL if self._refuses("no space") else super().writes(name, offset, data)

    def truncates(self, name: str, size: int) -> int:
        return IOERR_TRUNCATE if self._refuses("truncate") else super().truncates(name, size)

    def syncs(self, name: str) -> int:
        if self._refuses("sync"):
            self.operations.append(FailedSync(name))
            return IOERR_FSYNC
        return super().syncs(name)

    def deletes(self, name: str) -> int:
        return IOERR_DELETE if self._refuses("delete") else super().deletes(name)


@contextmanager
def recorded(recorder: Recorder) -> Iterator[None]:
    """What is opened within this is recorded, and so is the program's own syncing of a directory."""
    fsync = os.fsync
    os.fsync = recorder.synced  # type: ignore[assignment]
    try:
        with watched(recorder):
            yield
    finally:
        os.fsync = fsync


class Fate(Enum):
    """What becomes of all that wasn't synced."""

    LOST = "none of it is there"
    KEPT = "all of it is there"
    LAST = "the last write is there, those before it aren't"
    SHORT = "all of it, but half of the last write"
    SOME = "some writes are there, others aren't"
    TORN = "of each write some sectors are there, others are old, zero or anything"


class _File:
    def __init__(self, content: bytes = b"") -> None:
        self.safe = bytearray(content)
        self.pending: list[Write | Truncate] = []

    def sync(self) -> None:
        for each in self.pending:
            _do(self.safe, each)
        self.pending = []

    def after(self, fate: Fate, chance: Random) -> bytes:
        found = bytearray(self.safe)
        for number, each in enumerate(self.pending, 1):
            last = number == len(self.pending)
            match fate:
                case Fate.LOST:
                    pass
                case Fate.KEPT:
                    _do(found, each)
                case Fate.LAST:
                    if last:
                        _do(found, each)
                case Fate.SHORT:
                    _do(found, _half(each) if last else each)
                case Fate.SOME:
                    if chance.random() < 0.5:
                        _do(found, each)
                case Fate.TORN:
                    for part in _torn(each, chance):
                        _do(found, part)
                case _:
                    assert_never(fate)
        return bytes(found)


def _do(content: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del content[change.size :]
        return
    if len(content) < change.offset:
        content.extend(bytes(change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


def _half(change: Write | Truncate) -> Write | Truncate:
    return change._replace(data=change.data[: len(change.data) // 2]) if isinstance(change, Write) else change


def _torn(change: Write | Truncate, chance: Random) -> Iterator[Write | Truncate]:
    if isinstance(change, Truncate):
        if chance.random() < 0.5:
            yield change
        return
    at, end = change.offset, change.offset + len(change.data)
    while at < end:
        until = min(end, (at // SECTOR + 1) * SECTOR)
        part = change.data[at - change.offset : until - change.offset]
        luck = chance.random()
        if luck < 0.6:
            yield Write(change.name, at, part)
        elif luck < 0.7:
            yield Write(change.name, at, bytes(len(part)))
        elif luck < 0.8:
            yield Write(change.name, at, chance.randbytes(len(part)))
        at = until


class Disk:
    """The operations are done on it one by one; at any moment it says what a power cut would leave."""

    def __init__(self, image: Image | None = None) -> None:
        self._now = {name: _File(content) for name, content in (image or {}).items()}
        self._safe = dict(self._now)
        self._renamed: list[tuple[str, _File | None]] = []

    def do(self, operation: Operation) -> None:
        match operation:
            case Make(name):
                self._now[name] = _File()
                self._renamed.append((name, self._now[name]))
            case Drop(name):
                del self._now[name]
                self._renamed.append((name, None))
            case Write(name) | Truncate(name):
                self._now[name].pending.append(operation)
            case Sync(name, names):
                self._now[name].sync()
                if names:
                    self.do(SyncNames())
            case FailedSync(name):
                self._now[name].pending = []
            case SyncNames():
                self._safe, self._renamed = dict(self._now), []
            case Told():
                pass
            case _:
                assert_never(operation)

    def after(self, fate: Fate, chance: Random) -> Image:
        """What is on it when the power is back."""
        names = dict(self._safe)
        done = {Fate.LOST: 0, Fate.KEPT: len(self._renamed)}.get(fate, chance.randint(0, len(self._renamed)))
        for name, file in self._renamed[:done]:
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file
        return {name: file.after(fate, chance) for name, file in names.items()}
