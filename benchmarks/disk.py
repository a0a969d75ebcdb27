"""The limit that every durable write meets: how often this disk can make an append survive a power cut."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

PAGE = os.urandom(4096)


def syncs_per_second(directory: Path, seconds: float) -> float:
    """Appends of one page to one file, each followed by `fsync`, one after the other."""
    with tempfile.TemporaryFile(dir=directory) as file:
        started = time.perf_counter()
        count = 0
        while (spent := time.perf_counter() - started) < seconds:
            os.write(file.fileno(), PAGE)
            os.fsync(file.fileno())
            count += 1
    return count / spent
