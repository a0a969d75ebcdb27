"""A training's output as one stream of bytes, whatever segments it lies in.

The agent renames a full `output.log` after the absolute offset of its first byte (`agent/output.py`). A reader that
knows its own offset finds its place again after any rotation, so nothing is lost and nothing repeated.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Tuple

_SEGMENT = re.compile(r"output\.(\d{20})\.log")

READ_BYTES = 1024 * 1024


def read_output(run_dir: Path, offset: int, limit: int = READ_BYTES) -> bytes:
    """Up to `limit` bytes of the output from absolute `offset`; empty when there is nothing there (yet)."""
    for start, size, path in _segments(run_dir):
        if start <= offset < start + size:
            with _opened(path) as fd:
                return b"" if fd is None else os.pread(fd, min(limit, start + size - offset), offset - start)
    with _opened(run_dir / "output.log") as fd:
        if fd is None:
            return b""
        # Listed once more: if it was renamed since it was opened, its own number tells where it begins.
        start = _start_of(fd, run_dir)
        return b"" if offset < start else os.pread(fd, limit, offset - start)


def output_end(run_dir: Path) -> int:
    """The absolute offset behind the last byte."""
    with _opened(run_dir / "output.log") as fd:
        if fd is not None:
            return _start_of(fd, run_dir) + os.fstat(fd).st_size
    return _end_of_segments(run_dir)


def tail_offset(run_dir: Path, lines: int, most: Optional[int] = None) -> int:
    """The absolute offset at which the last `lines` lines begin, or of the last `most` bytes if that comes later."""
    end = position = output_end(run_dir)
    least = 0 if most is None else max(0, end - most)
    wanted = lines + 1  # line ends that lie before the place, counting the last line's own
    if lines <= 0:
        return end
    if end and read_output(run_dir, end - 1, 1) != b"\n":
        wanted -= 1
    while position > least:
        size = min(position - least, READ_BYTES)
        block = b""
        while len(block) < size and (more := read_output(run_dir, position - size + len(block), size - len(block))):
            block += more
        index = len(block)
        while (index := block.rfind(b"\n", 0, index)) >= 0:
            wanted -= 1
            if wanted == 0:
                return position - size + index + 1
        position -= size
    return least


def _segments(run_dir: Path) -> List[Tuple[int, int, Path]]:
    """First offset, size and path of the finished segments, in order."""
    found = []
    try:
        paths = list(run_dir.iterdir())
    except OSError:
        return []
    for path in paths:
        match = _SEGMENT.fullmatch(path.name)
        if match is None:
            continue
        try:
            status = path.lstat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            found.append((int(match[1]), status.st_size, path))
    return sorted(found)


def _start_of(fd: int, run_dir: Path) -> int:
    inode = os.fstat(fd).st_ino
    segments = _segments(run_dir)
    for start, _, path in segments:
        try:
            if path.lstat().st_ino == inode:
                return start
        except OSError:
            continue
    return segments[-1][0] + segments[-1][1] if segments else 0


def _end_of_segments(run_dir: Path) -> int:
    segments = _segments(run_dir)
    return segments[-1][0] + segments[-1][1] if segments else 0


@contextmanager
def _opened(path: Path) -> Iterator[Optional[int]]:
    """A plain file, opened without following a link; None for anything else. A training may write in this directory."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def read_setup(run_dir: Path, offset: int, limit: int = READ_BYTES) -> bytes:
    """As `read_output`, of what the preparation steps printed; that log is never rotated."""
    with _opened(run_dir / "setup.log") as fd:
        return b"" if fd is None else os.pread(fd, limit, offset)


def read_journal(run_dir: Path, offset: int, limit: int = READ_BYTES) -> bytes:
    """As `read_output`, whole lines of the journal of checkpoints, which only grows."""
    with _opened(run_dir / "checkpoints.jsonl") as fd:
        data = b"" if fd is None else os.pread(fd, limit, offset)
    return data[: data.rfind(b"\n") + 1]


def setup_end(run_dir: Path) -> int:
    with _opened(run_dir / "setup.log") as fd:
        return 0 if fd is None else os.fstat(fd).st_size
