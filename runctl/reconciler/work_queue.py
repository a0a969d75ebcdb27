"""A queue of keys: each in one worker's hands at a time; one that is added while it is processed is processed again."""

from __future__ import annotations

from collections import OrderedDict, deque
from datetime import UTC, datetime
from heapq import heappop, heappush

import anyio


class WorkQueue:
    """Keys are handed out in the order of their first addition. Only for one event loop."""

    def __init__(self) -> None:
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._processing: set[str] = set()
        self._again: set[str] = set()
        self._delayed: dict[str, datetime] = {}
        # Instants with their keys; what isn't in `_delayed` any more is skipped when its turn comes.
        self._instants: list[tuple[datetime, str]] = []
        self._workers: deque[anyio.Event] = deque()
        self._watcher: anyio.Event | None = None
        self._looks_at = datetime.max.replace(tzinfo=UTC)

    def add(self, key: str) -> None:
        """Process `key` soon; its delay, if it has one, is over."""
        self._delayed.pop(key, None)
        if key in self._processing:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = None
            self._wake_worker()

    def add_at(self, key: str, at: datetime) -> None:
        """Process `key` at `at`, or earlier if it is added meanwhile; the earliest of several instants counts."""
        known = self._delayed.get(key)
        if known is None or at < known:
            self._delayed[key] = at
            heappush(self._instants, (at, key))
            if at < self._looks_at:
                self._notify()

    def due(self, now: datetime) -> None:
        """Add every key whose instant has come."""
        while (at := self.next_due()) is not None and at <= now:
            self.add(self._instants[0][1])

    def next_due(self) -> datetime | None:
        while self._instants:
            at, key = self._instants[0]
            if self._delayed.get(key) == at:
                return at
            heappop(self._instants)
        return None

    def take(self) -> str | None:
        """The next key, which is then in the caller's hands until `finish`; None if none is ready."""
        if not self._ready:
            return None
        key, _ = self._ready.popitem(last=False)
        self._processing.add(key)
        return key

    async def next(self) -> str:
        """The next key, once there is one. An addition wakes one of those who wait."""
        while (key := self.take()) is None:
            mine = anyio.Event()
            self._workers.append(mine)
            try:
                await mine.wait()
            except BaseException:
                if mine.is_set() and self._ready:  # what woke it is another's
                    self._wake_worker()
                raise
            finally:
                if not mine.is_set():
                    self._workers.remove(mine)
        return key

    def finish(self, key: str) -> None:
        self._processing.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        if self.idle and self.next_due() is None:
            self._notify()

    def forget(self, key: str) -> None:
        """Drop the instant that `key` waits for. An addition stands: somebody has news of it."""
        self._delayed.pop(key, None)

    @property
    def idle(self) -> bool:
        """Nothing is ready or in anybody's hands; instants may still lie ahead."""
        return not self._ready and not self._processing

    async def changed(self, looks_at: datetime) -> None:
        """Wait until an instant lies before `looks_at`, when its caller looks again by itself, or until nothing is
        left to do and no instant lies ahead. For one at a time."""
        self._watcher, self._looks_at = anyio.Event(), looks_at
        await self._watcher.wait()

    def _notify(self) -> None:
        if self._watcher is not None:
            self._watcher.set()

    def _wake_worker(self) -> None:
        if self._workers:
            self._workers.popleft().set()
