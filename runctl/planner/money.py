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

# An attempt that neither agent nor guardian can end is ended this long before its money is over: a pass may have to
# wait for a disk before it looks, and to kill the attempt and to see it dead takes a busy machine seconds.
HELPLESS_MARGIN = timedelta(seconds=5)

# Under a group's cap the money's limit must not come before the duration's, which the agent tells apart.
DURATION_SLACK = timedelta(minutes=1)

# What money buys is cut here: a century is for ever, and an instant past the year 9999 isn't one.
LONGEST = timedelta(days=36_500)


class Rate(msgspec.Struct, frozen=True):
    """`hourly` micro-dollars, and where the figure comes from."""

    hourly: int
    source: str


def rate_of(job: Job) -> Rate | None:
    """The price of the job's own machine, None where nothing says what it costs."""
    match job.instance.platform:
        case Platform.LOCAL | Platform.SSH:
            rate = job.instance.hourly_rate
            return Rate(rate.micros, "instance.hourly_rate") if rate else None
        case Platform.AWS | Platform.SLURM:
            return None
        case _:  # pragma: no cover
            assert_never(job.instance.platform)


def rate_for(record: Record, attempt: Attempt) -> Rate | None:
    """What the machine of an attempt costs: that of the generation which it runs, whatever the newest spec says."""
    rental = record.rental_of(attempt)
    if rental is not None:
        return Rate(rental.offer.hourly, rental.offer.source)
    return rate_of(record.generation_of(attempt).job)


def rate_now(record: Record) -> Rate | None:
    """The price of the machine that the job has, or of the one that it would have; None if nothing tells."""
    return rate_of(record.job) if record.live is None else rate_for(record, record.live)


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
    return cost_of(interval.hourly, max(end - interval.started_at, timedelta(seconds=interval.minimum)))


def closed(ledger: tuple[Interval, ...], machine: str, at: datetime) -> tuple[Interval, ...]:
    """The ledger with the open line of `machine`, if it has one, ended at `at`, or at its start if that is later."""
    return tuple(
        msgspec.structs.replace(line, ended_at=max(at, line.started_at))
        if line.machine == machine and line.ended_at is None
        else line
        for line in ledger
    )


def spent(record: Record, now: datetime) -> int:
    """What all attempts have cost until `now`."""
    return sum(interval_cost(interval, now) for interval in record.ledger)


def committed(record: Record, now: datetime) -> int:
    """Spent, or reserved by a live attempt and by rentals that may still be billed: what nothing else can have."""
    live = record.live
    if live is None:
        return _taken(record, now)
    others = _taken(record, now, but=live)
    return others + max(live.reserved, _taken(record, now) - others)


def _taken(record: Record, now: datetime, but: Attempt | None = None) -> int:
    """Spent, or held by rentals until their release is seen. `but`: without what its own machine costs and holds."""
    current = record.rental_of(but) if but is not None else None
    lines, held = record.ledger, record.unreleased
    if current is not None:
        lines = tuple(each for each in lines if each.machine != current.instance)
        held = tuple(each for each in held if each != current)
    elif but is not None:
        lines = tuple(each for each in lines if each.attempt != but.number)
    costs = {each.machine: interval_cost(each, now) for each in lines}
    rest = sum(max(0, each.reserved - costs.get(each.instance or "", 0)) for each in held)
    return sum(interval_cost(each, now) for each in lines) + rest


def allowance(record: Record, committed_by_group: int, now: datetime, attempt: Attempt | None = None) -> int | None:
    """Micro-dollars that one attempt may cost in all, or None for no limit.

    For a live attempt (`attempt`) its own spending is part of what it may cost.
    """
    job = record.job
    before = _taken(record, now, but=attempt)
    limits = []
    if job.cost.cap is not None:
        limits.append(job.cost.cap.micros - before)
    if job.group.cap is not None:
        limits.append(job.group.cap.micros - committed_by_group - before)
    return min(limits) if limits else None


def affordable(
    record: Record, committed_by_group: int, now: datetime, attempt: Attempt | None = None, rate: Rate | None = None
) -> timedelta | None:
    """How long one attempt may run in all, its final save included, until a cap is reached; None: no cap or price.

    `rate`: of the machine that the next attempt would have, where that isn't the user's own.
    """
    rate = rate or (rate_of(record.job) if attempt is None else rate_for(record, attempt))
    micros = allowance(record, committed_by_group, now, attempt)
    if rate is None or micros is None or rate.hourly == 0:
        return None
    return time_for(rate.hourly, micros)


class Room(StrEnum):
    """Whether the caps leave enough for another attempt. `LATER`: others of the group, or machines of this job that
    aren't seen to be gone, hold it, and may not need it."""

    ENOUGH = "enough"
    LATER = "later"
    NONE = "none"


def room(record: Record, group: GroupSeen, now: datetime) -> Room:
    """Is another attempt worth its launch?"""
    least = least_useful(record.job)
    time = affordable(record, group.committed, now)
    if time is None or time > least:
        return Room.ENOUGH
    later = affordable(unheld(record), group.spent, now)
    return Room.LATER if later is None or later > least else Room.NONE


def unheld(record: Record) -> Record:
    """The job as it will be when its machines are seen to be gone, if they cost no more than they have."""
    rentals = tuple(msgspec.structs.replace(each, reserved=0) for each in record.rentals)
    return msgspec.structs.replace(record, rentals=rentals)


def holder_of_the_rest(record: Record, group: GroupSeen) -> str:
    """Who holds what the caps leave, in words, where somebody does."""
    if record.group is not None and group.committed > group.spent:
        return "the others of the group hold what is left of group.cap; some of it may come back"
    return "an earlier machine of this job isn't seen to be gone yet, and holds money that will come back"


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
    rate = rate_of(record.job) if attempt is None else rate_for(record, attempt)
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
    if old is None or old.number != live.number or live.reserved > old.reserved:
        return True
    held = {each.token: each.reserved for each in before.rentals if not each.stray}
    return any(each.reserved > held.get(each.token, -1) for each in after.rentals if not each.stray)
