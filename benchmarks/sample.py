"""A job in the middle of its training, made by the planner itself: what a controller handles most of the time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from benchmarks.validation import MANIFEST
from runctl.manifest.load import load
from runctl.planner.observed import Live, MachineSeen, Observed
from runctl.planner.plan import plan
from runctl.planner.record import CheckpointRef, Desired, Generation, Record, Source

START = datetime(2026, 1, 1, tzinfo=UTC)


def record(number: int) -> Record:
    """Job `number`, just created."""
    (sourced,) = load(MANIFEST.format(number=number).encode(), "job.yaml", ".").jobs
    source = Source(
        code_hash="0" * 64,
        files=10,
        bytes=10_000,
        root="/project",
        workdir=".",
        python="/usr/bin/python3",
        python_version="3.12.4",
        path="/usr/bin",
    )
    return Record(
        uid=f"{number:032x}",
        name=sourced.job.name,
        owner="benchmark",
        group=None,
        order=number,
        created_at=START,
        desired=Desired.RUN,
        generations=(Generation(number=1, job=sourced.job, source=source, applied_at=START),),
    )


def training(number: int, after: timedelta) -> tuple[Record, Observed]:
    """Job `number` as it is `after` so much training, and what is seen of it then."""
    launched = plan(record(number), Observed(machine=MachineSeen(as_of=START, name="local")), START).record
    assert launched is not None and launched.live is not None, "a free machine and a runnable job"
    now = START + after
    seen = Live(
        as_of=now,
        phase="training",
        step=None,
        started_at=START,
        training_at=START,
        drain=None,
        active=after.total_seconds(),
        durable=3,
        newest=CheckpointRef(
            attempt=1, seq=3, name="epoch-6.pt", path="/checkpoints/3", at=now, bytes=1000, step=600, epoch=6
        ),
        serial=launched.live.orders.serial,
        heartbeat=now,
    )
    return launched, Observed(attempt=seen)
