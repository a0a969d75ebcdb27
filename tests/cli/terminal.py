"""A terminal for one command: what it shows, and keys to press."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from types import TracebackType

from acceptance.machine import PATIENCE, RUNCTL, Machine

SIZE = (30, 110)


class Terminal:
    """Runs a command in a pseudo terminal of its own."""

    def __init__(self, machine: Machine, *args: str, **environ: str) -> None:
        self.shown = b""
        self._code: int | None = None
        env = {**machine.environ, "TERM": "xterm", **environ}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:  # pragma: no cover
            os.chdir(machine.project)
            os.execvpe(RUNCTL[0], [*RUNCTL, *args], env)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.hang_up()
        if self._code is None:
            try:
                os.kill(self.pid, 9)
            except ProcessLookupError:
                pass
            self._wait()

    @property
    def text(self) -> str:
        """What was shown, without colours and cursor movements."""
        plain = re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", self.shown)
        return plain.decode(errors="replace").replace("\r", "")

    def until(self, text: str, seconds: float = PATIENCE) -> None:
        """Read until the text was shown."""
        end = time.monotonic() + seconds
        while text not in self.text:
            if not self._read(end):
                raise AssertionError(f"`{text}` wasn't shown:\n{self.text}")

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def hang_up(self) -> None:
        """Close the terminal, as closing its window does."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def end(self, seconds: float = PATIENCE) -> int:
        """Read to the end of the command; returns its exit code."""
        end = time.monotonic() + seconds
        while self._read(end):
            pass
        return self._wait(end)

    def _read(self, end: float) -> bool:
        """False at the end of the command, or when the time is over."""
        while self._fd >= 0 and time.monotonic() < end:
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    data = os.read(self._fd, 65536)
                except OSError:  # Linux says so at the end
                    return False
                self.shown += data
                return bool(data)
        return False

    def _wait(self, end: float | None = None) -> int:
        while self._code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self._code = os.waitstatus_to_exitcode(status)
            elif end is not None and time.monotonic() > end:
                raise AssertionError(f"the command didn't end:\n{self.text}")
            else:
                time.sleep(0.02)
        return self._code
