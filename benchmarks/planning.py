"""How many jobs one core can decide about: passes of the planner over jobs that train and change a little."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from statistics import median

from benchmarks.sample import START, training
from benchmarks.table import Row, Settings
from runctl.planner.plan import plan

JOBS = 200
LOOK = timedelta(seconds=15)


def measure(settings: Settings) -> Iterator[Row]:
    rates = []
    for number in range(settings.rounds):
        after = LOOK * (number + 1)
        jobs = [training(job, after) for job in range(JOBS)]
        started = time.process_time()
        for record, observed in jobs:
            plan(record, observed, START + after)
        rates.append(JOBS / (time.process_time() - started))
    yield Row(
        "planner, passes a second and core",
        f"{median(rates):,.0f}",
        "none set",
        f"{JOBS} training jobs with fresh news, CPU time",
    )
