"""Processes started from nothing, and the CPU time that each took by the kernel's account."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

RUNCTL = Path(sys.executable).parent / "runctl"


class Failed(Exception):
    """A command that was to be measured failed: its time would mean nothing."""


def cpu_seconds(argv: Sequence[str], cwd: Path | None = None) -> float:
    """User and system time of one run, children that it waited for included. Raises `Failed`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"`{' '.join(argv)}` ended with exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def interleaved(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """CPU times of each command, one of each a round, so that a slow minute of the machine meets all alike.

    A first round is thrown away: it fills the page cache and writes the byte code.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, argv in commands.items():
            spent = cpu_seconds(argv)
            if number:
                times[name].append(spent)
    return times


def paired_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios within each round."""
    return median(one / other for one, other in zip(times, base, strict=True))
