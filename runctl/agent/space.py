"""Whether a disk that an attempt writes to is filling up: said before a checkpoint is lost to it."""

from __future__ import annotations

import os

from runctl.checkpoints.places import S3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Set, Tuple

LOOK_SECONDS = 30.0
MIB = 1 << 20
# Less than this, or than what so many checkpoints of the newest one's size take, is little.
LEAST_BYTES = 256 * MIB
CHECKPOINTS = 2
# It is said again once so many times that much was free in between.
RELIEF = 2


class Space:
    """Looks at the disks of `places`, each disk once."""

    def __init__(self, *places: str) -> None:
        self._places = [each for each in places if not each.startswith(S3)]
        self._low: Set[int] = set()
        self._next_look = 0.0

    def look(self, now: float, checkpoint_bytes: int) -> Iterator[str]:
        """What there is to say of disks that have become short of room, each time once. `now` is in active seconds."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        little = max(LEAST_BYTES, CHECKPOINTS * checkpoint_bytes)
        for disk, place, free in self._disks():
            if free >= RELIEF * little:
                self._low.discard(disk)
            elif free < little and disk not in self._low:
                self._low.add(disk)
                text = f"{free / MIB:.0f} MiB are left on the disk of {place}"
                if checkpoint_bytes:
                    text += f"; the newest checkpoint has {checkpoint_bytes / MIB:.1f} MiB"
                yield text

    def _disks(self) -> Iterator[Tuple[int, str, int]]:
        """Device, the first place on it, and the bytes that this user may still write there."""
        seen = set()
        for place in self._places:
            try:
                device = os.stat(place).st_dev
                found = os.statvfs(place)
            except OSError:
                continue  # not made yet, or not to be looked at: what is written there says so itself
            if device not in seen:
                seen.add(device)
                yield device, place, found.f_bavail * found.f_frsize
