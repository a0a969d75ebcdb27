"""An asyncio loop on virtual time: `select` moves the clock, and each callback belongs to a node by its context.

A node that is dead runs nothing any more, not even a `finally`; a node that is suspended runs when it is resumed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import anyio._backends._asyncio as anyio_asyncio

# More steps than this without a move of the clock are a loop that nothing ends.
HOT_STEPS = 100_000


class HotLoop(AssertionError):
    """Callbacks follow each other, and time doesn't pass."""


class Scheduled:
    """What the loop knows of a node. Callbacks are kept while it is suspended, and buried when it is dead."""

    __slots__ = ("dead", "frozen", "suspended")

    def __init__(self) -> None:
        self.dead = False
        self.suspended = False
        self.frozen: list[asyncio.Handle] = []


NODE: ContextVar[Scheduled | None] = ContextVar("node", default=None)


class Loop(asyncio.BaseEventLoop):
    """`run_until(at)` runs everything that is due until then. Nothing here waits for the real world."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0
        self._steps = 0
        # A task that is never run again must not be collected while the life goes on: its `finally` would run.
        self.graveyard: list[Any] = []
        self._failure: BaseException | None = None
        self.set_exception_handler(self._on_failure)

    def time(self) -> float:
        return self._virtual

    def fail(self, error: BaseException) -> None:
        """The life ends with this, whoever would catch what is raised here and now."""
        self._failure = self._failure or error

    def resume(self, node: Scheduled) -> None:
        node.suspended = False
        self._ready.extend(node.frozen)  # type: ignore[attr-defined]
        node.frozen = []

    def run_until(self, at: float) -> bool:
        """Run until `at`, or until nothing is left to run (False)."""
        asyncio._set_running_loop(self)
        try:
            while True:
                ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
                if not ready:
                    while scheduled and scheduled[0]._cancelled:
                        heapq.heappop(scheduled)._scheduled = False
                        self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)
                    if not scheduled or scheduled[0]._when > at:
                        self._virtual = max(self._virtual, at)
                        return bool(scheduled)
                    if scheduled[0]._when > self._virtual:
                        self._virtual = scheduled[0]._when
                        self._steps = 0
                while scheduled and scheduled[0]._when <= self._virtual:
                    handle = heapq.heappop(scheduled)
                    handle._scheduled = False
                    ready.append(handle)
                for _ in range(len(ready)):
                    self._step(ready.popleft())
        finally:
            asyncio._set_running_loop(None)

    def _step(self, handle: Any) -> None:
        if handle._cancelled:
            return
        node = handle._context.get(NODE)
        if node is not None:
            if node.dead:
                self.graveyard.append(handle)
                return
            if node.suspended:
                node.frozen.append(handle)
                return
        self._steps += 1
        if self._steps > HOT_STEPS:
            raise HotLoop(f"{HOT_STEPS} steps at {self._virtual:.3f}: {handle}")
        handle._run()
        if self._failure is not None:
            raise self._failure

    def _on_failure(self, _loop: object, context: dict[str, Any]) -> None:
        """What a callback of the world raised, a broken promise among it. What is told of buried tasks is no matter."""
        if "handle" in context:
            self._failure = self._failure or context.get("exception")

    # The real world, which isn't there.

    def _process_events(self, event_list: object) -> None:
        raise NotImplementedError

    def _write_to_self(self) -> None:
        pass


class _OrderedSet(dict[Any, None]):
    """A set that is iterated in the order of insertion, and not of addresses."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)


@contextmanager
def ordered() -> Iterator[None]:
    """anyio's cancel scopes iterate sets of tasks; within this, in an order that a seed repeats."""
    anyio_asyncio.set = _OrderedSet  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del anyio_asyncio.set  # type: ignore[attr-defined]
