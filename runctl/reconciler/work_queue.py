"""A queue of keys: each in one worker's hands at a time; one that is added while it is processed is processed again."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

import anyio


class WorkQueue:
    """Keys are handed out in the order of their first addition. Only for one event loop."""

    def __init__(self) -> None:
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._processing: set[str] = set()
        self._again: set[str] = set()
        self._delayed: dict[str, datetime] = {}
        self._changed = anyio.Event()

    def add(self, key: str) -> None:
        """Process `key` soon; its delay, if it has one, is over."""
        self._delayed.pop(key, None)
        if key in self._processing:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = None
            self._notify()

    def add_at(self, key: str, at: datetime) -> None:
        """Process `key` at `at`, or earlier if it is added meanwhile; the earliest of several instants counts."""
        known = self._delayed.get(key)
        if known is None or at < known:
            self._delayed[key] = at
            self._notify()

    def due(self, now: datetime) -> None:
        """Add every key whose instant has come."""
        for key in [key for key, at in self._delayed.items() if at <= now]:
            self.add(key)

    def next_due(self) -> datetime | None:
        return min(self._delayed.values(), default=None)

    def take(self) -> str | None:
        """The next key, which is then in the caller's hands until `finish`; None if none is ready."""
        if not self._ready:
            return None
        key, _ = self._ready.popitem(last=False)
        self._processing.add(key)
        return key

    def finish(self, key: str) -> None:
        self._processing.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        self._notify()

    def forget(self, key: str) -> None:
        """Drop the instant that `key` waits for. An addition stands: somebody has news of it."""
        self._delayed.pop(key, None)

    @property
    def idle(self) -> bool:
        """Nothing is ready or in anybody's hands; instants may still lie ahead."""
        return not self._ready and not self._processing

    async def changed(self) -> None:
        """Wait for the next addition, instant or finish."""
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
