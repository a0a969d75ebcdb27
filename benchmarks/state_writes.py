"""How near state writes come to the disk's own limit: each record is on the disk before the next step is taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from statistics import median

from benchmarks.disk import syncs_per_second
from benchmarks.sample import START, training
from benchmarks.table import Row, Settings
from runctl.store.interface import Acquire, ControllerId, Create, Put, Store, done
from runctl.store.sqlite import SqliteStore

SECONDS = 0.5
BATCH = 50


def measure(settings: Settings) -> Iterator[Row]:
    limits, alone, together = [], [], []
    for number in range(max(3, settings.rounds // 3)):
        limits.append(syncs_per_second(settings.directory, SECONDS))
        store = SqliteStore(settings.directory / f"{number}.sqlite", alive=lambda _: True)
        try:
            alone.append(_puts_per_second(store, 1))
            together.append(_puts_per_second(store, BATCH))
        finally:
            store.close()
    limit = f"{median(limits):,.0f} appends of a page with `fsync` a second"
    ratio = median(one / other for one, other in zip(limits, alone, strict=True))
    yield Row(
        "state writes, one a transaction", f"{median(alone):,.0f}/s, limit ÷ {ratio:.2f}", "limit ÷ 2 or better", limit
    )
    yield Row(f"state writes, {BATCH} a transaction", f"{median(together):,.0f}/s", "none set", limit)


def _puts_per_second(store: Store, batch: int) -> float:
    """Durable writes of jobs' records, `batch` of them in each transaction."""
    me = ControllerId(pid=1, start="0", boot_id="benchmark", what="benchmark")
    jobs = [training(1000 * batch + job, timedelta(hours=1))[0] for job in range(batch)]
    versions = [done(receipt) for receipt in store.apply([Create(job) for job in jobs])]
    epochs = [done(receipt) for receipt in store.apply([Acquire(job.uid, me, START) for job in jobs])]
    started = time.perf_counter()
    count = 0
    while (spent := time.perf_counter() - started) < SECONDS:
        writes = [Put(job.uid, v, e, job) for job, v, e in zip(jobs, versions, epochs, strict=True)]
        versions = [done(receipt) for receipt in store.apply(writes)]
        count += batch
    return count / spent
