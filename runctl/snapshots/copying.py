"""Copies one file and says what was copied: size and hash are those of the bytes that arrived."""

from __future__ import annotations

import errno
import hashlib
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Tuple

_CHUNK = 1 << 20
_IN_KERNEL_FROM = 1 << 18
"""From this size on, letting the kernel copy (and share blocks where the file system can) pays for reading twice."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotAFile(OSError):
    """It was a regular file when it was listed, and isn't any more."""


def hash_file(source: bytes) -> Tuple[int, str]:
    """(size, sha256) of a regular file that isn't a symlink. Raises OSError."""
    handle = _open(source)
    try:
        return _pump(handle, lambda chunk: None)
    finally:
        os.close(handle)


def copy_file(source: bytes, target: bytes, mode: int) -> Tuple[int, str]:
    """Copy into a new file of this mode; (size, sha256) of what was written. Raises OSError."""
    reading = _open(source)
    try:
        writing = os.open(target, _NEW, mode)
        try:
            if os.fstat(reading).st_size >= _IN_KERNEL_FROM and _copy_in_kernel(reading, writing):
                os.lseek(writing, 0, os.SEEK_SET)
                return _pump(writing, lambda chunk: None)
            return _pump(reading, lambda chunk: _write_all(writing, chunk))
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _open(source: bytes) -> int:
    handle = os.open(source, _READ)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotAFile(errno.EINVAL, "not a regular file any more", source)
    return handle


def _pump(handle: int, sink: Callable[[bytes], None]) -> Tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := os.read(handle, _CHUNK):
        digest.update(chunk)
        sink(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _write_all(handle: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(handle, view) :]


def _copy_in_kernel(reading: int, writing: int) -> bool:
    """Copy all with copy_file_range; False, and nothing written, where kernel or file system doesn't do it."""
    if not hasattr(os, "copy_file_range"):
        return False
    copied = 0
    try:
        while count := os.copy_file_range(reading, writing, 1 << 30):
            copied += count
    except OSError as error:
        unsupported = error.errno in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
        if copied or not unsupported:
            raise
        return False
    return copied > 0
