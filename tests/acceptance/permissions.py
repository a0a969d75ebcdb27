"""Permissions that bind root, too: a program that root starts without the right to pass over them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def bound() -> Callable[[], None] | None:
    """For `preexec_fn`: the program meets every permission of a file. Skips the test where root can't do that."""
    if os.geteuid() != 0:
        return None
    if sys.platform != "linux":
        pytest.skip("root reads and writes anything here")
    try:
        subprocess.run(["true"], preexec_fn=_give_up, check=True)
    except subprocess.SubprocessError:
        pytest.skip("root reads and writes anything here, and may not give that up")
    return _give_up


def _give_up() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
