"""The training's output: one pipe, read without waiting, written unaltered to `output.log` and its earlier segments.

The absolute offset of a byte is its place in the whole output. A segment that is full is renamed after the offset of
its first byte, so that a follower which knows its own offset finds its place again after any interruption.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

PIPE_BYTES = 1024 * 1024
READ_BYTES = 128 * 1024
# One call of `pump` reads no more than this, so that a flood can't keep the limits from being looked at.
PUMP_BYTES = 8 * 1024 * 1024
TAIL_BYTES = 8192
# Reads are coalesced: a script that prints each millisecond wakes the agent ten times a second.
COALESCE_SECONDS = 0.1
# More than this at once means that the pipe is filling: read on.
FILLING_BYTES = 64 * 1024
F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)


class Output:
    """Reads one pipe to its end. `end` counts the bytes in the log; `lost` those that a full disk had no place for."""

    def __init__(self, run_dir: str, segment_bytes: int) -> None:
        self._run_dir = run_dir
        self._path = os.path.join(run_dir, "output.log")
        self._segment_bytes = segment_bytes
        self._segment_start = 0
        self._buffer = bytearray(READ_BYTES)
        self._file = self._open()
        self.writer = -1
        self.reader = -1
        self.end = 0
        self.lost = 0
        self.error: Optional[str] = None
        self.fresh = False  # something came since `take_tail`
        self._tail = b""

    def open_pipe(self) -> int:
        """Make the pipe; returns the end that the training writes to, to be closed by `close_writer`."""
        self.reader, self.writer = os.pipe()
        try:
            fcntl.fcntl(self.writer, F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # not Linux, or over the user's allowance
        fcntl.fcntl(self.reader, fcntl.F_SETFL, os.O_NONBLOCK)
        return self.writer

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    @property
    def open(self) -> bool:
        return self.reader >= 0

    def pump(self) -> bool:
        """Move what is there into the log; whether the pipe was filling, so that reading on at once is wise."""
        moved = 0
        while self.reader >= 0 and moved < PUMP_BYTES:
            try:
                count = os.readv(self.reader, [self._buffer])
            except BlockingIOError:
                return False
            if count == 0:
                self.close()
                return False
            self._write(memoryview(self._buffer)[:count])
            moved += count
            if count < FILLING_BYTES:
                return False
        return self.reader >= 0

    def close(self) -> None:
        self.close_writer()
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def take_tail(self) -> bytes:
        """The last few KiB of the output, for a look at the progress."""
        self.fresh = False
        return self._tail

    def _write(self, data: memoryview) -> None:
        self.fresh = True
        self._tail = (self._tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        while data:
            if self.end - self._segment_start >= self._segment_bytes:
                self._rotate()
            room = max(1, self._segment_bytes - (self.end - self._segment_start))
            try:
                if self._file < 0:
                    self._file = self._open()
                count = os.write(self._file, data[:room])
            except OSError as error:
                # The training goes on: one that blocks on its output would look hung, and its checkpoints matter more.
                self.lost += len(data)
                self.error = error.strerror
                return
            self.end += count
            data = data[count:]

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    def _rotate(self) -> None:
        try:
            os.rename(self._path, os.path.join(self._run_dir, f"output.{self._segment_start:020d}.log"))
        except OSError as error:
            self.error = error.strerror
            return
        os.close(self._file)
        self._file = -1
        self._segment_start = self.end
