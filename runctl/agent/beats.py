"""Signs of life from the agent to its guardian: a byte in a pipe, which needs no disk."""

from __future__ import annotations

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from runctl.agent.clocks import Now

BEAT_SECONDS = 5.0
# Before the money's end a beat comes with each turn of the agent.
CLOSE_SECONDS = 30.0
# An agent that is silent for so long hangs, or is held by a signal or a debugger: it watches over nothing.
SILENT_SECONDS = 60.0
# The same once the money is over, when nobody else ends the training: an agent at its limit takes ten turns a second.
SILENT_PAST_MONEY_SECONDS = 0.75
# A guardian that isn't told anything looks by itself so often, and so often near the money's end.
LOOK_SECONDS = 5.0
CLOSE_LOOK_SECONDS = 0.25


class Beats:
    """The agent's end of the pipe."""

    def __init__(self, writer: int) -> None:
        os.set_blocking(writer, False)
        self._writer = writer
        self._at: Optional[float] = None

    def beat(self, now: Now, money_left: Optional[float]) -> None:
        close = money_left is not None and money_left < CLOSE_SECONDS
        if self._at is not None and now.active - self._at < BEAT_SECONDS and not close:
            return
        self._at = now.active
        try:
            os.write(self._writer, b".")
        except OSError:
            pass  # full of beats that nobody has read yet


class Listener:
    """The guardian's end: waits for beats and for the end of children, and knows how long it has been silent."""

    def __init__(self, reader: int, now: Now) -> None:
        self._beats = reader
        self._exits, writer = os.pipe()
        self._poller = select.poll()
        for descriptor in (reader, self._exits, writer):
            os.set_blocking(descriptor, False)
        for descriptor in (reader, self._exits):
            self._poller.register(descriptor, select.POLLIN)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._heard = now.active
        self._closed = False

    def wait(self, money_left: Optional[float]) -> bool:
        """Until there is news, or it is time to look by oneself; whether a beat was in it."""
        close = money_left is not None and money_left < LOOK_SECONDS
        self._poller.poll(int((CLOSE_LOOK_SECONDS if close else LOOK_SECONDS) * 1000))
        _drain(self._exits)
        if self._closed:
            return False
        beaten = _drain(self._beats)
        if beaten is None:  # the agent has closed its end: its exit is what is to come
            self._poller.unregister(self._beats)
            self._closed = True
        return bool(beaten)

    def heard(self, now: Now) -> None:
        self._heard = now.active

    def is_dead(self, now: Now, money_left: Optional[float]) -> bool:
        """Whether the agent has been silent for too long. Time in which the machine slept doesn't count."""
        silent = now.active - self._heard
        return silent > SILENT_SECONDS or (
            money_left is not None and money_left < 0 and silent > SILENT_PAST_MONEY_SECONDS
        )


def _drain(descriptor: int) -> Optional[bool]:
    """Whether there was something to read; None at the end."""
    found = False
    while True:
        try:
            data = os.read(descriptor, 512)
        except BlockingIOError:
            return found
        if not data:
            return None
        found = True
