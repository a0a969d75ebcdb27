"""A host's wall clock, which may be wrong: namespaces shift only those that count from the boot.

Programs of a host read the time through `clock.c`, where this machine has a compiler for it. What is linked statically
or asks the kernel itself sees this machine's time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import struct
from datetime import timedelta
from pathlib import Path

from .commands import CommandFailed, run
from .places import cache

SOURCE = Path(__file__).parent / "clock.c"
# Where a host has them.
LIBRARY = "/usr/lib/bed-clock.so"
OFFSET = "/run/clock"


@functools.cache
def library() -> Path | None:
    """Compiled for this machine; None without a compiler that can."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    built = cache() / f"clock-{platform.machine()}-{digest}.so"
    if not built.exists():
        coming = built.with_suffix(f".{os.getpid()}")
        try:
            run("cc", "-shared", "-fPIC", "-O2", "-Wall", "-o", coming, SOURCE, "-ldl")
        except CommandFailed:
            return None
        coming.rename(built)
    return built


class Clock:
    """By how much a host's clock is ahead of this machine's; the file is mapped by whatever runs there."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_bytes(struct.pack("=q", 0))

    def set(self, ahead: timedelta) -> None:
        """At once, for what runs already too; whole seconds. It stays so over a reboot."""
        with self.file.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", int(ahead.total_seconds())))
