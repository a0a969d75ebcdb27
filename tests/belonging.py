"""Which live processes belong to a test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil


def processes_with(variable: str, value: str, or_argument: str | None = None) -> list[psutil.Process]:
    """Every live process whose environment has the variable with this value, or which has the other text for an
    argument; this process isn't one of them."""
    found = []
    for pid in _candidates(variable, value, or_argument):
        try:
            process = psutil.Process(pid)
            if pid != os.getpid() and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile
    return found


def _candidates(variable: str, value: str, or_argument: str | None) -> Iterator[int]:
    if sys.platform == "linux":
        # psutil parses each environment whole: most of the time of a test that waits for an end.
        wanted = b"\0" + os.fsencode(f"{variable}={value}") + b"\0"
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                mine = wanted in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
                if mine or (or_argument and or_argument in _arguments(pid)):
                    yield int(pid)
            except OSError:
                continue  # gone meanwhile, or another user's
        return
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(variable) == value
            if mine or (or_argument and or_argument in process.cmdline()):
                yield process.pid
        except (psutil.Error, OSError):
            continue


def _arguments(pid: str) -> list[str]:
    return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
