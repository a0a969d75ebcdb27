"""Signals as a fresh process has them, whatever was blocked or ignored where this one was started."""

from __future__ import annotations

import signal


def reset_signals() -> None:
    """Every signal as before an exec: default, and none blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # SIGKILL, SIGSTOP, and those that the C library keeps


def reset_signals_for_python() -> None:
    """The same in a program of Python that stays: what the interpreter arranges for when it starts, it goes on to have.
    A terminal that goes away is no reason to end.
    """
    reset_signals()
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
