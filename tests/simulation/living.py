"""Within a `Simulation` lives can be lived: no threads, an order that a seed repeats, turns when something happens."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import anyio._backends._asyncio as anyio_asyncio
import anyio._core._eventloop as anyio_eventloop
import anyio.to_thread

from runctl.agent import policy
from runctl.planner.actions import Plan
from runctl.planner.lint import lint
from runctl.planner.observed import Observed
from runctl.planner.plan import plan
from runctl.planner.record import Record
from runctl.reconciler import controller

from .life import Life
from .loop import NODE, HotLoop, ordered
from .node import Node
from .oracles import Violation

# The model of the agent is told of all that happens, so it needs no turn each second, but for its heartbeat.
LONGEST_TURN = 14.0
# Another controller's job is tried again less often than in truth: each try is the same.
LEASE_RETRY = timedelta(seconds=10)


async def _inline(work: Callable[..., Any], *arguments: Any, **_options: Any) -> Any:
    """In place of a worker thread: others run before and after it, for a while where the disk is slow."""
    node = NODE.get()
    assert isinstance(node, Node)
    if node.life.weather.strikes("suspended in a write"):
        node.life.controllers.suspend(node)
    await anyio.sleep(node.life.io_seconds())
    result = work(*arguments)
    await anyio.sleep(node.life.io_seconds())
    return result


class Linted:
    """The real planner, and its linter's word on every plan."""

    def __init__(self) -> None:
        self.life: Life | None = None

    def __call__(self, record: Record, observed: Observed, now: datetime) -> Plan:
        made = plan(record, observed, now)
        assert self.life is not None
        self.life.plans += 1
        self.life.planned_in[self.life.minute] += 1
        found = lint(record, observed, made, now)
        if found:
            self.life.loop.fail(Violation(self.life, f"the plan of {record.uid} is not sound: {found}"))
        return made


class Simulation:
    """Within this, lives can be lived: no threads, an order that a seed repeats, turns when something happens."""

    def __enter__(self) -> Simulation:
        self._ordered = ordered()
        self._ordered.__enter__()
        self._longest_wait, policy.LONGEST_WAIT = policy.LONGEST_WAIT, LONGEST_TURN
        self._lease_retry, controller.LEASE_RETRY = controller.LEASE_RETRY, LEASE_RETRY
        # What a life leaves behind is collected when it is over. In the midst of the next one, the `finally` of what
        # was never ended would be taken for the doings of whatever task runs just then.
        gc.collect()
        gc.freeze()
        gc.disable()
        # Every port refuses those `finally` blocks.
        self._unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
        # What runs here is asyncio, and nothing has to find out.
        self._backends = [module for name, module in sys.modules.items() if name.startswith("anyio")]
        self._backends = [module for module in self._backends if hasattr(module, "get_async_backend")]
        self._get_backend = anyio_eventloop.get_async_backend
        for module in self._backends:
            module.get_async_backend = lambda name=None: anyio_asyncio.backend_class  # type: ignore[attr-defined]
        self._linted = Linted()
        self._plan, controller.plan = controller.plan, self._linted
        self._run_sync, anyio.to_thread.run_sync = anyio.to_thread.run_sync, _inline  # type: ignore[assignment]
        return self

    def __exit__(self, *_error: object) -> None:
        for module in self._backends:
            module.get_async_backend = self._get_backend  # type: ignore[attr-defined]
        self._linted.life = None
        gc.collect()
        sys.unraisablehook = self._unraisable
        gc.enable()
        gc.unfreeze()
        anyio.to_thread.run_sync = self._run_sync  # type: ignore[method-assign]
        policy.LONGEST_WAIT = self._longest_wait
        controller.plan, controller.LEASE_RETRY = self._plan, self._lease_retry
        self._ordered.__exit__(None, None, None)

    def life(
        self,
        seed: int,
        crash_at: frozenset[int] = frozenset(),
        silenced: frozenset[str] = frozenset(),
        kind: type[Life] = Life,
    ) -> Life:
        """Live it. Raises Violation."""
        life = self._linted.life = kind(seed, crash_at, silenced)
        try:
            life.live()
        except HotLoop as hot:
            raise Violation(life, str(hot)) from None
        finally:
            life.loop.close()
            life.store._db.close()
            # Tasks that never end are known here for ever: what is known of each refers to it.
            anyio_asyncio._task_states.clear()
            gc.collect()
        return life
