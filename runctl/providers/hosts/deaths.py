"""When attempts died whose end nobody recorded, by when they were last seen alive."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta

import msgspec

from runctl.planner.observed import Dead

# A controller looks at a live attempt at least so often, unless its machine slept.
LOOKS_APART = timedelta(seconds=20)


class Deaths:
    """What one controller knows of it: better than an attempt's last word does, while it looks.

    `at` is in seconds of the machine's clock that stands still while it sleeps: no setting of the wall clock makes a
    death cheaper.
    """

    def __init__(self) -> None:
        self._alive_at: dict[Hashable, float] = {}
        self._died_at: dict[Hashable, datetime] = {}

    def alive(self, attempt: Hashable, at: float) -> None:
        """It was seen alive; what is left of one that was seen dead isn't the attempt."""
        if attempt not in self._died_at:
            self._alive_at[attempt] = at

    def know(self, attempt: Hashable) -> bool:
        """Whether it was seen alive and then dead."""
        return attempt in self._died_at

    def dated(self, attempt: Hashable, seen: Dead, at: float) -> Dead:
        """With when it died, if it was seen alive before. To one that died since the last look is billed what was seen
        of it, and what nobody can tell from that.
        """
        alive_at = self._alive_at.pop(attempt, None)
        if alive_at is not None:
            unseen_for, latest = timedelta(seconds=at - alive_at), seen.latest or seen.as_of
            self._died_at[attempt] = latest if unseen_for <= LOOKS_APART else latest - unseen_for
        died_at = self._died_at.get(attempt)
        if died_at is None:
            return seen
        return msgspec.structs.replace(seen, died_at=max(died_at, seen.last_seen or died_at))
