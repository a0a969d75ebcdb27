"""What a job has cost, what it may still cost, and for how long that lasts.

All amounts are whole micro-dollars and every rounding is against the job: costs up, time that money buys down.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

import msgspec

from runctl.manifest.job import Job, Platform
from runctl.manifest.quantities import format_duration
from runctl.planner.observed import GroupSeen
from runctl.planner.record import Attempt, Interval, Record

MILLIS_PER_HOUR = 3_600_000

# An attempt whose money buys less than its final save and this much training isn't worth its launch.
LEAST_TRAINING = timedelta(seconds=5)

# The last orders leave this much between the agent's last word and the cap, for writing it down.
CAP_MARGIN = timedelta(seconds=1)

# Under a group's cap the money's limit must not come before the duration's, which the agent tells apart.
DURATION_SLACK = timedelta(minutes=1)

# What money buys is cut here: a century is for ever, and an instant past the year 9999 isn't one.
LONGEST = timedelta(days=36_500)


class Rate(msgspec.Struct, frozen=True):
    """`hourly` micro-dollars, and where the figure comes from."""

    hourly: int
    source: str


def rate_of(job: Job) -> Rate | None:
    """The price of the job's machine, None where nothing says what it costs."""
    match job.instance.platform:
        case Platform.LOCAL | Platform.SSH:
            rate = job.instance.hourly_rate
            return Rate(rate.micros, "instance.hourly_rate") if rate else None
        case Platform.AWS | Platform.SLURM:
            return None
        case _:  # pragma: no cover
            assert_never(job.instance.platform)


def cost_of(hourly: int, span: timedelta) -> int:
    """The price of `span` at `hourly`, rounded up to a micro-dollar."""
    millis = -(-span // timedelta(milliseconds=1))
    return -(-hourly * max(0, millis) // MILLIS_PER_HOUR)


def time_for(hourly: int, micros: int) -> timedelta:
    """How long `micros` last at `hourly`, rounded down to a millisecond; at most `LONGEST`."""
    millis = max(0, micros) * MILLIS_PER_HOUR // hourly
    return LONGEST if millis >= LONGEST // timedelta(milliseconds=1) else timedelta(milliseconds=millis)


def interval_cost(interval: Interval, now: datetime) -> int:
    end = interval.ended_at if interval.ended_at is not None else now
    return cost_of(interval.hourly, end - interval.started_at)


def spent(record: Record, now: datetime) -> int:
    """What all attempts have cost until `now`."""
    return sum(interval_cost(interval, now) for interval in record.ledger)


def committed(record: Record, now: datetime) -> int:
    """Spent, or for a live attempt its whole reservation: what others of the group can't have."""
    live = record.live
    if live is None:
        return spent(record, now)
    closed = sum(interval_cost(i, now) for i in record.ledger if i.attempt != live.number)
    return closed + max(live.reserved, spent(record, now) - closed)


def allowance(record: Record, committed_by_group: int, now: datetime, attempt: int | None = None) -> int | None:
    """Micro-dollars that one attempt may cost in all, or None for no limit.

    For a live attempt (`attempt`, its number) its own spending is part of what it may cost.
    """
    job = record.job
    before = sum(interval_cost(i, now) for i in record.ledger if i.attempt != attempt)
    limits = []
    if job.cost.cap is not None:
        limits.append(job.cost.cap.micros - before)
    if job.group.cap is not None:
        limits.append(job.group.cap.micros - committed_by_group - before)
    return min(limits) if limits else None


def affordable(
    record: Record, committed_by_group: int, now: datetime, attempt: Attempt | None = None
) -> timedelta | None:
    """How long one attempt may run in all, its final save included, until a cap is reached; None: no cap or price.

    A live attempt is billed at the rate of the generation that it runs, whatever the newest spec says.
    """
    rate = rate_of(record.job if attempt is None else record.generation_of(attempt).job)
    micros = allowance(record, committed_by_group, now, attempt.number if attempt else None)
    if rate is None or micros is None or rate.hourly == 0:
        return None
    return time_for(rate.hourly, micros)


class Room(StrEnum):
    """Whether the caps leave enough for another attempt. `LATER`: others of the group hold it, and may not need it."""

    ENOUGH = "enough"
    LATER = "later"
    NONE = "none"


def room(record: Record, group: GroupSeen, now: datetime) -> Room:
    """Is another attempt worth its launch?"""
    least = least_useful(record.job)
    time = affordable(record, group.committed, now)
    if time is None or time > least:
        return Room.ENOUGH
    alone = affordable(record, 0, now)
    return Room.LATER if group.live and (alone is None or alone > least) else Room.NONE


def least_useful(job: Job) -> timedelta:
    """An attempt that can't last this long isn't launched: its final save alone would take the money."""
    return job.checkpoint.grace.delta + LEAST_TRAINING + CAP_MARGIN


def needs(job: Job) -> str:
    """What a start needs, in words."""
    return f"a start needs more than {format_duration(least_useful(job))} ({job.checkpoint.grace} for the final save)"


def duration_left(record: Record) -> timedelta | None:
    """Active time that `limits.duration` still allows, over all attempts."""
    limit = record.job.limits.duration
    if limit is None:
        return None
    return limit.delta - timedelta(seconds=sum(a.active for a in record.attempts if a.end is not None))


def reservation(record: Record, committed_by_group: int, now: datetime, attempt: Attempt | None = None) -> int | None:
    """The worst case of the next (or of the live) attempt in micro-dollars: to the cap, or to the duration limit if
    that is nearer. None: nothing bounds the cost.

    Suspended time isn't part of a duration, but may be billed. Below a group's cap the reservation therefore is the
    limit: the attempt's grant never is for more.
    """
    rate = rate_of(record.job if attempt is None else record.generation_of(attempt).job)
    if rate is None:
        return None
    spans = []
    if (time := affordable(record, committed_by_group, now, attempt)) is not None:
        spans.append(time)
    if (left := duration_left(record)) is not None:
        grace = record.job.checkpoint.grace.delta
        spans.append(left + (grace if record.job.group.cap is None else 2 * grace + DURATION_SLACK))
    return cost_of(rate.hourly, min(spans)) if spans else None


def reserves_more(before: Record, after: Record) -> bool:
    """True if `after` holds money or a place that `before` didn't: others of the group must not do so meanwhile."""
    live = after.live
    if live is None:
        return False
    old = before.live
    return old is None or old.number != live.number or live.reserved > old.reserved
