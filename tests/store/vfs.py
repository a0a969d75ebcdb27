"""What SQLite does to its files, told to Python in the order in which it happens: a VFS around the system's own.

A `Watch` sees each write, truncation, sync, opening and deletion before it is done, and may refuse it with one of
SQLite's codes. Syncs are told and not done: what survives a power cut is decided by who watches, and a test needn't
wait for a disk.
"""

from __future__ import annotations

import _sqlite3
import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p, string_at
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

OK = 0
FULL = 13
IOERR_READ, IOERR_WRITE, IOERR_FSYNC, IOERR_TRUNCATE, IOERR_DELETE = (10 | n << 8 for n in (1, 3, 4, 6, 10))
CANTOPEN = 14

_OPEN_CREATE = 0x4

# The very library that the module runs on: its symbols are found through it, whether it is linked in or beside it.
_library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))


class _Methods(Structure):
    """`sqlite3_io_methods`; those that nobody asks for are passed on as they are."""


class _Vfs(Structure):
    """`sqlite3_vfs`."""


# Files and paths are addresses here: SQLite goes on using the very string that it opened a file with.
_Close = CFUNCTYPE(c_int, c_void_p)
_Move = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)
_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)

_Methods._fields_ = (
    ("version", c_int), ("close", _Close), ("read", _Move), ("write", _Move), ("truncate", _Truncate),
    ("sync", _Sync), ("others", c_void_p * 13),
)  # fmt: skip
_Vfs._fields_ = (
    ("version", c_int), ("file_size", c_int), ("longest_path", c_int), ("next", c_void_p), ("name", c_char_p),
    ("data", c_void_p), ("open", _Open), ("delete", _Delete), ("others", c_void_p * 14),
)  # fmt: skip


class Watch(Protocol):
    """Each is called before the thing is done, with the file's name in its directory; what isn't `OK` refuses it."""

    def opens(self, name: str, may_create: bool) -> int: ...
    def reads(self, name: str) -> int: ...
    def writes(self, name: str, offset: int, data: bytes) -> int: ...
    def truncates(self, name: str, size: int) -> int: ...
    def syncs(self, name: str) -> int: ...
    def deletes(self, name: str) -> int: ...


class Nobody:
    """Sees everything, and refuses nothing."""

    def opens(self, name: str, may_create: bool) -> int:
        return OK

    def reads(self, name: str) -> int:
        return OK

    def writes(self, name: str, offset: int, data: bytes) -> int:
        return OK

    def truncates(self, name: str, size: int) -> int:
        return OK

    def syncs(self, name: str) -> int:
        return OK

    def deletes(self, name: str) -> int:
        return OK


class _Shim:
    """One for the process: connections that were opened through it may outlive the watch, and are then left alone."""

    def __init__(self) -> None:
        _library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        _library.sqlite3_vfs_find.argtypes = (c_char_p,)
        _library.sqlite3_vfs_register.argtypes = (POINTER(_Vfs), c_int)
        self.watch: Watch = Nobody()
        self._files: dict[int, tuple[str, _Methods]] = {}
        self._real = _library.sqlite3_vfs_find(None)
        self._tables: dict[int, tuple[_Methods, _Methods]] = {}
        self._vfs = _Vfs.from_buffer_copy(self._real.contents)
        self._vfs.name, self._vfs.next = b"watched", None
        self._vfs.open, self._vfs.delete = _Open(self._open), _Delete(self._delete)
        self._callbacks = (
            _Close(self._close), _Move(self._read), _Move(self._write), _Truncate(self._truncate), _Sync(self._sync),
        )  # fmt: skip

    @contextmanager
    def installed(self, watch: Watch) -> Iterator[None]:
        self.watch = watch
        _library.sqlite3_vfs_register(byref(self._vfs), 1)
        try:
            yield
        finally:
            self.watch = Nobody()
            _library.sqlite3_vfs_register(self._real, 1)

    def _open(self, _vfs: int, path: int | None, file: int, flags: int, out: int | None) -> int:
        name = Path(string_at(path).decode()).name if path else ""
        methods = c_void_p.from_address(file)  # the first field of a `sqlite3_file`
        if code := self.watch.opens(name, bool(flags & _OPEN_CREATE)):
            methods.value = None
            return code
        code = self._real.contents.open(self._real, path, file, flags, out)
        if code == OK and methods.value:
            # The file stays the system's own one in all but its table of methods.
            real, mine = self._table(methods.value)
            self._files[file] = name, real
            methods.value = ctypes.addressof(mine)
        return int(code)

    def _table(self, address: int) -> tuple[_Methods, _Methods]:
        if address not in self._tables:
            real = _Methods.from_address(address)
            mine = _Methods.from_buffer_copy(real)
            mine.close, mine.read, mine.write, mine.truncate, mine.sync = self._callbacks
            self._tables[address] = real, mine
        return self._tables[address]

    def _delete(self, _vfs: int, path: bytes, sync: int) -> int:
        return self.watch.deletes(Path(path.decode()).name) or self._real.contents.delete(self._real, path, sync)

    def _close(self, file: int) -> int:
        return int(self._files.pop(file)[1].close(file))

    def _read(self, file: int, into: int, size: int, offset: int) -> int:
        name, real = self._files[file]
        return self.watch.reads(name) or real.read(file, into, size, offset)

    def _write(self, file: int, data: int, size: int, offset: int) -> int:
        name, real = self._files[file]
        return self.watch.writes(name, offset, string_at(data, size)) or real.write(file, data, size, offset)

    def _truncate(self, file: int, size: int) -> int:
        name, real = self._files[file]
        return self.watch.truncates(name, size) or real.truncate(file, size)

    def _sync(self, file: int, _flags: int) -> int:
        return self.watch.syncs(self._files[file][0])


@cache
def _shim() -> _Shim:
    return _Shim()


def watched(watch: Watch) -> AbstractContextManager[None]:
    """Databases that are opened within this are watched. Skips the test where this Python hides its SQLite."""
    if not hasattr(_library, "sqlite3_vfs_register"):
        pytest.skip("SQLite is linked into this Python, and its functions aren't to be found")
    return _shim().installed(watch)
