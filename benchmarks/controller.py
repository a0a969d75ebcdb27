"""What one background controller costs with a thousand live local jobs.

The jobs' agents are simulated: run directories as agents write them, each with a heartbeat in its turn, all of them
naming this process as the one that is alive.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import msgspec
import psutil

from benchmarks.sample import record
from benchmarks.table import Row, Settings
from runctl.home import Home
from runctl.planner.observed import MachineSeen, Observed
from runctl.planner.plan import plan
from runctl.planner.record import Record
from runctl.reconciler.background import identity, open_store
from runctl.store.interface import Create

JOBS = 1000
HEARTBEAT_SECONDS = 15.0
WARM_UP_SECONDS = 20.0


def measure(settings: Settings) -> Iterator[Row]:
    home = Home(settings.directory / "controller-home")
    me = identity("benchmark")
    alive = {"pid": me.pid, "start": int(me.start) if me.start.isdigit() else me.start, "boot_id": me.boot_id}
    records = [_launched(number) for number in range(JOBS)]
    store = open_store(home)
    store.apply([Create(one) for one in records])
    for one in records:
        _begin(home, one, alive)
    store.close()
    process = subprocess.Popen(
        [sys.executable, "-m", "runctl", "controller", "run"],
        env={**os.environ, "RUNCTL_HOME": str(home.root)},
        stdin=subprocess.DEVNULL,
    )
    try:
        _beat(home, records, alive, WARM_UP_SECONDS)
        watched = psutil.Process(process.pid)
        before, started = sum(watched.cpu_times()[:2]), time.monotonic()
        _beat(home, records, alive, max(30.0, min(60.0, settings.minutes * 60)))
        share = (sum(watched.cpu_times()[:2]) - before) / (time.monotonic() - started)
        memory = watched.memory_info().rss
    finally:
        process.terminate()
        process.wait(timeout=30)
    yield Row(
        f"controller with {JOBS:,} live local jobs, processor",
        f"{share:.1%} of a core",
        "≤ 25% at 10,000",
        f"a heartbeat of each job in {HEARTBEAT_SECONDS:g} s; agents are simulated",
    )
    yield Row(
        "the same, resident memory",
        f"{memory / 2**20:.0f} MiB",
        "none set at 1,000",
        f"{memory / 1024 / JOBS:.0f} KiB a job, the program itself included",
    )


def _launched(number: int) -> Record:
    """A job whose attempt has just been sent."""
    made = plan(record(number), Observed(machine=MachineSeen(as_of=datetime.now(UTC), name="here")), datetime.now(UTC))
    assert made.record is not None
    return made.record


def _begin(home: Home, one: Record, alive: Mapping[str, object]) -> None:
    run_dir = home.run_dir(one.uid, 1)
    run_dir.mkdir(parents=True)
    (run_dir / "claim.json").write_text(json.dumps({"guardian": alive, "claimed_at": time.time()}))
    live = one.live
    assert live is not None
    (run_dir / "orders.json").write_text(json.dumps({"serial": live.orders.serial}))
    _write_state(home, one, alive)


def _write_state(home: Home, one: Record, alive: Mapping[str, object]) -> None:
    now = time.time()
    started = msgspec.structs.asdict(one)["created_at"].timestamp()
    state = {
        "version": 1, "agent": alive, "guardian": alive, "phase": "training", "step": None, "started_at": started,
        "heartbeat": now, "active": now - started, "training": {"pid": 1, "started_at": started}, "drain": None,
        "checkpoints": {"seen": 0, "durable": 0, "invalid": 0, "newest": None, "newest_durable": None},
    }  # fmt: skip
    path = home.run_dir(one.uid, 1) / "state.json"
    path.with_suffix(".tmp").write_text(json.dumps(state))
    path.with_suffix(".tmp").rename(path)


def _beat(home: Home, records: list[Record], alive: Mapping[str, object], seconds: float) -> None:
    """Let each job give a heartbeat in its turn."""
    pause = HEARTBEAT_SECONDS / len(records)
    end, number, due = time.monotonic() + seconds, 0, time.monotonic()
    while due < end:
        _write_state(home, records[number % len(records)], alive)
        number += 1
        due += pause
        time.sleep(max(0.0, due - time.monotonic()))
