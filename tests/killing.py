"""Processes that die at one instant, before any of them can answer to the death of another."""

from __future__ import annotations

import os
import signal
from contextlib import suppress


def kill_at_once(*pids: int) -> None:
    """Stop them all, then kill them all; one that is gone already is dead, too."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
