"""The three clocks of an attempt, sampled together.

`wall` is what people and prices read and may be wrong; `boot` counts suspended time (money is billed through it) and
`active` doesn't (a laptop that slept has not trained).
"""

from __future__ import annotations

import time

# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC goes on during sleep, which is what is wanted here.
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


class Now:
    """One instant: UTC seconds since the epoch, boot-time seconds, active seconds."""

    __slots__ = ("active", "boot", "wall")

    def __init__(self, wall: float, boot: float, active: float) -> None:
        self.wall = wall
        self.boot = boot
        self.active = active

    def wall_of(self, active: float) -> float:
        """The wall-clock instant of an earlier instant of the active clock, as today's wall clock would call it."""
        return self.wall - (self.active - active)


def now() -> Now:
    boot = time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)
    return Now(time.time(), boot, time.monotonic())
