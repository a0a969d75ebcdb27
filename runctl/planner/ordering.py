"""Phase 5: what the live attempt's agent is to hold to, and whether it is to end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from runctl.planner.actions import SendOrders
from runctl.planner.money import CAP_MARGIN, affordable, duration_left, rate_for, time_for
from runctl.planner.observed import Live
from runctl.planner.passing import Pass
from runctl.planner.record import Attempt, Desired, EndOrder, Limits, MoneyGrant, Orders, Record
from runctl.planner.rental import Rental
from runctl.planner.renting import OFF_MARGIN


def give_orders(step: Pass) -> Pass:
    """Bring the live attempt's orders up to date, and see that they lie where its agent reads them."""
    live = step.record.live
    if live is None:
        return step
    rental, seen = step.record.rental_of(live), step.observed.attempt
    if rental is not None and rental.released_at is not None:
        return step  # nobody is there to hold to them
    orders = orders_for(step.record, live, step.observed.group.committed, step.now)
    if (orders.limits, orders.end) != (live.orders.limits, live.orders.end):
        # Whoever has slept may find orders there that he knows nothing of: his own are others.
        newest = max(live.orders.serial, seen.serial) if isinstance(seen, Live) else live.orders.serial
        orders = msgspec.structs.replace(orders, serial=newest + 1)
        granted = _longer(live.granted_until, orders)
        step = step.with_attempt(msgspec.structs.replace(live, orders=orders, granted_until=granted))
        if orders.end is not None and orders.end != live.orders.end:
            step = step.say("Normal", "EndOrdered", f"attempt {live.number} is to save and end: {orders.end}")
    live = step.record.live
    assert live is not None
    if isinstance(seen, Live) and seen.serial != live.orders.serial:
        return step.do(SendOrders(attempt=live.number, orders=live.orders))
    return step


def _longer(granted: datetime | None, orders: Orders) -> datetime | None:
    """To when these orders or earlier ones let the attempt go on."""
    money = orders.limits.money
    return max(granted, money.until) if granted is not None and money is not None else None


def orders_for(record: Record, attempt: Attempt, group_committed: int, now: datetime) -> Orders:
    """The orders that the newest spec and the user's wish give to `attempt`; its serial is the last one's."""
    job = record.job
    old = attempt.orders
    left = duration_left(record)
    limits = Limits(
        money=_money(record, attempt, group_committed, now),
        duration=max(0.0, left.total_seconds()) if left is not None else None,
        idle=job.limits.idle.seconds if job.limits.idle else None,
        hang=job.limits.hang.seconds if job.limits.hang else None,
        deadline=job.checkpoint.deadline.seconds,
        on_deadline=job.checkpoint.on_deadline.value,
        keep=job.checkpoint.keep,
    )
    return Orders(serial=old.serial, limits=limits, end=old.end or wished_end(record, attempt))


def _money(record: Record, attempt: Attempt, group_committed: int, now: datetime) -> MoneyGrant | None:
    """Counted from the attempt's start, or from its intent while the start isn't seen: then it ends a little early.

    Below a group's cap it is never for more than what is reserved: others have been granted the rest.
    """
    rental = record.rental_of(attempt)
    time = affordable(record, group_committed, now, attempt)
    rate = rate_for(record, attempt)
    if time is not None and record.job.group.cap is not None and rate is not None:
        held = attempt.reserved if rental is None else rental.reserved
        time = min(time, time_for(rate.hourly, held))
    if rental is not None:
        return _rented_money(attempt, rental, time)
    if time is None:
        return None
    time = max(time - CAP_MARGIN, timedelta(0))
    return MoneyGrant(until=(attempt.started_at or attempt.intended_at) + time, seconds=time.total_seconds())


def _rented_money(attempt: Attempt, rental: Rental, time: timedelta | None) -> MoneyGrant | None:
    """To the end that was fixed when the machine was asked for; earlier, if a cap has been lowered since."""
    ends = [] if time is None else [(rental.launched_at or rental.intended_at) + time]
    if rental.not_after is not None:
        ends.append(rental.not_after)
    if not ends:
        return None
    since = attempt.started_at or rental.launched_at or rental.intended_at
    until = max(since, min(ends) - OFF_MARGIN)
    return MoneyGrant(until=until, seconds=(until - since).total_seconds())


def wished_end(record: Record, attempt: Attempt) -> EndOrder | None:
    """How the attempt is to end by what the user wants now; None: not at all."""
    match record.desired:
        case Desired.RUN:
            return "replace" if attempt.generation < record.relaunch_from else None
        case Desired.STOPPED:
            return "stop"
        case Desired.CANCELLED | Desired.DELETED:
            return "cancel"
        case _:  # pragma: no cover
            assert_never(record.desired)
