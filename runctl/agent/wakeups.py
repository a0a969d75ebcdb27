"""What wakes the agent before its next turn is due: an exit, a request to end, output, the guardian's death."""

from __future__ import annotations

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


class WakeUps:
    """A poller over a pipe that signals write to, the guardian's pipe, and the training's output when it is given."""

    def __init__(self, guardian_pipe: int) -> None:
        self._poller = select.poll()
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        self._poller.register(self._reader, select.POLLIN)
        self._poller.register(guardian_pipe, 0)
        self._guardian_pipe = guardian_pipe
        self.guardian_is_gone = False  # it alone holds the other end of its pipe

    def catch_signals(self, on_interrupt: Callable[[], None]) -> None:
        """A hang-up is ignored; SIGTERM and SIGINT call `on_interrupt`; these and exits of children wake."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: on_interrupt())
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def sleep(self, seconds: float, output: int) -> bool:
        """Until something happens, or for so long; whether it was something other than output. `output` is a descriptor
        to read from, -1 for none.
        """
        if output >= 0:
            self._poller.register(output, select.POLLIN)
        ready = self._poller.poll(max(1, int(seconds * 1000) + 1) if seconds > 0 else 0)
        if output >= 0:
            self._poller.unregister(output)
        self.guardian_is_gone = self.guardian_is_gone or any(each == self._guardian_pipe for each, _ in ready)
        woken = any(descriptor != output for descriptor, _ in ready)
        try:
            while woken and os.read(self._reader, 512):
                pass
        except BlockingIOError:
            pass
        return woken
