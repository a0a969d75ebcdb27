"""How many whole lifetimes of jobs are simulated a second: through the reconciler, and through the planner alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.table import Row, Settings
from runctl.planner.actions import Plan
from runctl.planner.observed import Observed
from runctl.planner.plan import plan
from runctl.planner.record import Record

TARGET, TARGET_OF_PLANNER = 300, 2000
LIVES = 100


def measure(settings: Settings) -> Iterator[Row]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from simulation import life, worlds  # type: ignore[import-not-found]

    for world in worlds.WORLDS:
        worlds.live(world, range(5))
        found = worlds.live(world, range(LIVES))
        yield Row(
            f"simulated lifetimes of jobs, {world} machines, a second and core",
            f"{found.jobs / found.took:.0f}",
            f"≥ {TARGET}",
            f"{found.jobs} jobs in {found.lives} worlds of {found.median('reconciles')} reconciles (median), CPU time",
        )
        with _noted(life) as passes:
            jobs = worlds.live(world, range(LIVES // 2)).jobs
        started = time.process_time()
        for record, observed, now in passes:
            plan(record, observed, now)
        took = time.process_time() - started
        yield Row(
            f"the same, {world} machines, through the planner alone",
            f"{jobs / took:,.0f}",
            f"≥ {TARGET_OF_PLANNER:,}",
            f"{len(passes):,} passes of {jobs} of those jobs again, without their world, CPU time",
        )


@contextmanager
def _noted(life: Any) -> Iterator[list[tuple[Record, Observed, datetime]]]:
    """What the planner is asked in the lives within this."""
    passes: list[tuple[Record, Observed, datetime]] = []

    def noted(record: Record, observed: Observed, now: datetime) -> Plan:
        passes.append((record, observed, now))
        return plan(record, observed, now)

    original, life.plan = life.plan, noted
    try:
        yield passes
    finally:
        life.plan = original
