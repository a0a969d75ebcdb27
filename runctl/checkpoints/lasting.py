"""Names that a power cut doesn't take back: a file is there after one only if it was synced, and its name only if its
directory was.
"""

from __future__ import annotations

import errno
import os


def sync(path: str) -> None:
    """See to it that a file's content, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def make_directories(path: str, levels: int = 1) -> None:
    """Make a directory with the parents that it lacks, and sync the names of those that were made, and of the last
    `levels` in any case: one that is there may have been made by a process that was killed before it had synced.
    """
    path = os.path.abspath(path)
    existing = path
    while not os.path.isdir(existing):
        existing, levels = os.path.dirname(existing), levels - 1
    os.makedirs(path, mode=0o700, exist_ok=True)
    for _ in range(levels):
        existing = os.path.dirname(existing)
    while path != existing and path != os.path.dirname(path):
        path = os.path.dirname(path)
        try:
            sync(path)
        except PermissionError:
            pass  # not ours to read: whoever made what is in it has seen to its name
