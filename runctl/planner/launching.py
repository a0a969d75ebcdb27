"""Phase 6: launch the next attempt, or say what it waits for."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

import msgspec

from runctl.manifest.job import Busy
from runctl.manifest.quantities import format_duration, format_money
from runctl.planner.actions import AskToStop, Launch, Rent, SendOrders
from runctl.planner.machines import replaced
from runctl.planner.money import (
    Room,
    affordable,
    allowance,
    duration_left,
    holder_of_the_rest,
    needs,
    rate_of,
    reservation,
    room,
)
from runctl.planner.observed import Absent, Holder, MachineSeen
from runctl.planner.ordering import give_orders, orders_for
from runctl.planner.passing import Pass
from runctl.planner.record import (
    Attempt,
    Limits,
    Orders,
    Outcome,
    OutcomeType,
    Record,
    Stopped,
    StopReason,
)
from runctl.planner.releasing import why_to_end
from runctl.planner.rental import Demise, MachineState, Offer, Release, Rental
from runctl.planner.renting import LOOK_AGAIN, LOOK_AGAIN_RENTED, NoOffer, choose, request, token_of
from runctl.planner.seeing import LATE_EFFECT
from runctl.planner.verdict import JITTER, LEAST_DURATION, LONGEST_RETRY, queues

# A launch that wasn't sent by then isn't sent any more; its effect is looked for a little longer.
LAUNCH_WINDOW = timedelta(seconds=60)

LOOK_AGAIN_FOREIGN = timedelta(seconds=10)

# Whatever changes in a group wakes those of it who wait; this is for what nobody has thought of.
LOOK_AGAIN_GROUP = timedelta(seconds=30)

# What a listing says of rented machines is good enough to rent another one for so long: a few sweeps.
LISTING_HOLDS = timedelta(seconds=60)

# A job that was asked to stop is asked again after this: the first request may have died with its sender.
ASK_AGAIN = timedelta(seconds=30)

# So many requests that were refused stay in the books.
MOST_REFUSED = 20

# No pause before an attempt is longer; a later instant was written by a clock that has been set back since.
LONGEST_PAUSE = LONGEST_RETRY * (1 + JITTER) + timedelta(seconds=10)


class Gate(StrEnum):
    """What a launch may wait for."""

    BACKOFF = "Backoff"
    SECRETS = "SecretsMissing"
    GROUP = "GroupQueue"
    BUDGET = "GroupBudget"
    MACHINE = "MachineBusy"
    LOOK = "MachineUnknown"
    CAPACITY = "NoCapacity"
    TURN = "RequestQueue"


class Waits(msgspec.Struct, frozen=True):
    gate: Gate
    message: str
    until: datetime | None


class Refused(msgspec.Struct, frozen=True):
    """The machine is busy and the policy says not to wait."""

    message: str


class Spent(msgspec.Struct, frozen=True):
    """What the cap or the duration limit leaves doesn't fit another attempt, or nothing that may be had is on offer."""

    outcome: OutcomeType
    message: str


class Go(msgspec.Struct, frozen=True):
    """`displaces`: the training that has to make room first; `offer`: what is to be rented for it."""

    displaces: Holder | None = None
    offer: Offer | None = None


Clearance = Waits | Refused | Spent | Go


def launch(step: Pass) -> Pass:
    """Send a pending launch again, or make the next attempt if the job may have one."""
    live = step.record.live
    if live is not None:
        rental = step.record.rental_of(live)
        if rental is None or rental.state is MachineState.RUNNING:
            return _resend(step, live)
        return _rent(step, live, rental)
    if step.record.outcome is not None or step.record.stopped is not None:
        return step
    clearance = clear(step.record, step)
    match clearance:
        case Waits(gate, _, until):
            step = _end_earlier(step if until is None else step.wake(until))
            return msgspec.structs.replace(step, yields=gate is Gate.SECRETS)
        case Refused(message):
            rest = Stopped(reason=StopReason.BUSY, message=message, at=step.now)
            return step.to(stopped=rest).say("Warning", "Busy", message)
        case Spent(kind, message):
            outcome = Outcome(type=kind, reason="DoesNotFit", message=message, at=step.now)
            return step.to(outcome=outcome, not_before=None).say("Warning", kind.value, message)
        case Go(displaces) if displaces is not None:
            return _displace(step, displaces).wake(step.now + LOOK_AGAIN)
        case Go():
            return _intend(step, clearance.offer)
        case _:  # pragma: no cover
            assert_never(clearance)


def _end_earlier(step: Pass) -> Pass:
    """An attempt that was taken for dead, as asked, and holds the machine after all, has never been told to end."""
    machine = step.observed.machine
    holder = machine.holder if machine is not None else None
    if holder is None or holder.uid != step.record.uid:
        return step
    for each in step.record.attempts:
        if each.orders.end == "assume_dead" and holder.run_id == f"{step.record.uid}-{each.number}":
            return step.do(SendOrders(attempt=each.number, orders=each.orders))
    return step


def clear(record: Record, step: Pass) -> Clearance:
    """May the job launch now? The first thing that stands in the way, in the order in which a user would ask."""
    observed, now = step.observed, step.now
    if record.not_before is not None and now < record.not_before <= now + LONGEST_PAUSE:
        return Waits(Gate.BACKOFF, "waiting before the next attempt", record.not_before)
    if missing := observed.lacks(record.job):
        names = ", ".join(f"`{name}`" for name in missing)
        return Waits(Gate.SECRETS, f"apply again from a shell that has {names}", None)
    clearance = _limits_clear(record, step) or _group_clear(record, step)
    if clearance is not None:
        return clearance
    return _offer_clear(record, step) if record.rented else machine_clear(record, observed.machine, now)


def _limits_clear(record: Record, step: Pass) -> Clearance | None:
    left = duration_left(record)
    if left is not None and left <= LEAST_DURATION:
        message = f"the attempts so far have used up limits.duration ({record.job.limits.duration})"
        return Spent(OutcomeType.DURATION_REACHED, message)
    found = room(record, step.observed.group, step.now)
    match found:
        case Room.ENOUGH:
            return None
        case Room.LATER:
            return Waits(Gate.BUDGET, holder_of_the_rest(record, step.observed.group), step.now + LOOK_AGAIN_GROUP)
        case Room.NONE:
            committed = step.observed.group.committed
            money = format_money(max(0, allowance(record, committed, step.now) or 0))
            time = affordable(record, committed, step.now) or timedelta(0)
            lasts = f"the {money} that the cap leaves last {format_duration(time)}"
            return Spent(OutcomeType.CAP_REACHED, f"{lasts}, and {needs(record.job)}")
        case _:  # pragma: no cover
            assert_never(found)


def _group_clear(record: Record, step: Pass) -> Clearance | None:
    group, job = step.observed.group, record.job
    most = job.group.max_parallel
    if most is not None and len(group.live) >= most:
        return Waits(Gate.GROUP, f"{most} of the group run already (group.max_parallel)", step.now + LOOK_AGAIN_GROUP)
    if job.instance.busy is not Busy.SHARE and not record.rented:
        before = (*group.live, *group.ahead)
        if before:
            return Waits(Gate.GROUP, f"`{before[0]}` of the group has the machine first", step.now + LOOK_AGAIN_GROUP)
    return None


def machine_clear(record: Record, machine: MachineSeen | None, now: datetime) -> Clearance:
    """May the job launch on the user's own machine, by who trains there?"""
    if machine is None:
        return Waits(Gate.LOOK, "the machine hasn't been looked at yet", now)
    if machine.unready:
        return Waits(Gate.LOOK, machine.unready, now + LOOK_AGAIN)
    busy = record.job.instance.busy
    holder = machine.holder
    if holder is not None and holder.uid == record.uid:
        return Waits(Gate.MACHINE, "an earlier attempt of this job is still on its way out", now + LOOK_AGAIN / 2)
    if busy is Busy.SHARE:
        return Go()
    if holder is not None:
        who = f"job `{holder.job}` (pid {holder.pid}) is training on {machine.name}"
        if busy is Busy.REPLACE and holder.ours:
            return Go(displaces=holder)
        if busy is Busy.REPLACE:
            return Refused(f"{who} and belongs to another home or user, so it can't be replaced from here")
        if queues(record):
            return Waits(Gate.MACHINE, who, now + LOOK_AGAIN)
        return Refused(who)
    if machine.foreign:
        first = machine.foreign[0]
        who = f"`{first.command}` (pid {first.pid}, {first.evidence}) is training on {machine.name}"
        if busy is Busy.WAIT:
            return Waits(Gate.MACHINE, who, now + LOOK_AGAIN_FOREIGN)
        if busy is Busy.REPLACE:
            return Refused(f"{who} and was started without runctl, so it can't be replaced from here")
        return Refused(who)
    return Go()


def _offer_clear(record: Record, step: Pass) -> Clearance:
    observed, now = step.observed, step.now
    if observed.rent_from is not None:
        return Waits(Gate.TURN, "others are first: EC2 takes few requests for machines at once", observed.rent_from)
    if observed.offers is None or observed.listing is None or observed.listing.as_of < now - LISTING_HOLDS:
        unseen = "what is rented and what that costs hasn't been looked at just now"
        return Waits(Gate.LOOK, unseen, now + LOOK_AGAIN_RENTED)
    chosen = choose(record, observed, now)
    if isinstance(chosen, Offer):
        return Go(offer=chosen)
    if chosen.until is not None:
        return Waits(Gate.BUDGET if chosen.held else Gate.CAPACITY, chosen.message, chosen.until)
    return Spent(chosen.outcome, chosen.message)


def _displace(step: Pass, holder: Holder) -> Pass:
    """Ask the holder to stop; while the same attempt goes on, now and then again. Twice is the same as once."""
    key = f"displaced:{holder.run_id}"
    asked = step.record.reminders.get(key)
    if asked is not None and step.now < asked + ASK_AGAIN:
        return step
    why = f"job `{step.record.name}` replaces it on this machine (instance.busy: replace)"
    step = step.to(reminders={**step.record.reminders, key: step.now})
    return step.say("Normal", "Replacing", f"asking job `{holder.job}` to save and stop").do(
        AskToStop(uid=holder.uid, why=why)
    )


def _resend(step: Pass, live: Attempt) -> Pass:
    """The intent is durable; as long as nothing of it is seen, the launch may be sent: twice is the same as once.

    Whoever made it may have had secrets that this controller hasn't: without them it would start, and fail.
    """
    if isinstance(step.observed.attempt, Absent) and live.started_at is None:
        generation = step.record.generation_of(live)
        ended = live.orders.end and step.record.rental_of(live) is not None
        if step.now <= live.launch_before and not ended and not step.observed.lacks(generation.job):
            return step.do(Launch(attempt=live, generation=generation, again=True))
        return step.wake(max(step.now, live.launch_before + LATE_EFFECT) + LOOK_AGAIN)
    return step


def _rent(step: Pass, live: Attempt, rental: Rental) -> Pass:
    """Send the request for its machine again while nothing is known of it; after a refusal, ask for the next one."""
    if live.orders.end is not None:
        return step
    if rental.released_at is None:
        if rental.ends is not None or why_to_end(step, rental) is not None:
            return step
        listing = step.observed.listing
        over = rental.instance is not None or step.now > rental.launch_before
        if over or listing is None or listing.as_of <= rental.asked_at:
            return step.wake(step.now + LOOK_AGAIN_RENTED)
        # A listing of the future, by a clock that was set back since, tells nothing of this sending either.
        sent = msgspec.structs.replace(rental, asked_at=max(step.now, listing.as_of))
        return replaced(step, rental, sent).do(Rent(rental=sent, again=True)).wake(step.now + LOOK_AGAIN_RENTED)
    if rental.released is Release.TERMINATED and rental.demise is not Demise.CAPACITY:
        return step  # it ran: its last word is waited for
    if step.observed.offers is None:
        return step.wake(step.observed.rent_from or step.now + LOOK_AGAIN)
    chosen = choose(step.record, step.observed, step.now)
    if isinstance(chosen, NoOffer):
        assert chosen.until is not None, "an attempt for which nothing is on offer is over by now"
        return step.wake(chosen.until)
    # No agent has orders yet: those of the attempt are made anew for what its machine costs.
    return give_orders(_ask_for(step, live.number, rental.choice + 1, chosen))


def _ask_for(step: Pass, attempt: int, choice: int, offer: Offer) -> Pass:
    rental = request(step.record, attempt, choice, offer, step.observed.group, step.now)
    held = f", {format_money(rental.reserved)} reserved" if rental.reserved else ""
    step = step.to(rentals=(*_without_old_refusals(step.record.rentals), rental))
    return (
        step.say("Normal", "Renting", f"{offer.name} at {format_money(offer.hourly)} an hour{held}")
        .do(Rent(rental=rental))
        .wake(step.now + LOOK_AGAIN_RENTED)
    )


def _without_old_refusals(rentals: tuple[Rental, ...]) -> tuple[Rental, ...]:
    """A job may wait for capacity for days, refused each minute: what had no effect isn't remembered for ever."""
    refused = [each.token for each in rentals if each.released is Release.REFUSED]
    old = set(refused[:-MOST_REFUSED])
    return tuple(each for each in rentals if each.token not in old) if old else rentals


def _intend(step: Pass, offer: Offer | None) -> Pass:
    record, now = step.record, step.now
    number = len(record.attempts) + 1
    none = Limits(money=None, duration=None, idle=None, hang=None, deadline=0.0, on_deadline="warn", keep=1)
    attempt = Attempt(
        number=number,
        generation=record.generation.number,
        token=token_of(record, number, 0),
        intended_at=now,
        launch_before=now + LAUNCH_WINDOW,
        reserved=reservation(record, step.observed.group.committed, now) or 0,
        orders=Orders(serial=1, limits=none),
        resume=record.checkpoint if record.job.checkpoint.resume != "never" else None,
    )
    reminders = {key: at for key, at in record.reminders.items() if not key.startswith("displaced:")}
    step = step.to(attempts=(*record.attempts, attempt), not_before=None, reminders=reminders)
    if offer is not None:
        step = _ask_for(step, number, 0, offer)
    orders = orders_for(step.record, attempt, step.observed.group.committed, now)
    money = orders.limits.money
    attempt = msgspec.structs.replace(attempt, orders=orders, granted_until=money.until if money else None)
    step = step.with_attempt(attempt)
    resume = f", resuming from `{attempt.resume.name}`" if attempt.resume else ""
    rate = rate_of(record.job)
    held = f", {format_money(attempt.reserved)} reserved" if rate and attempt.reserved else ""
    step = step.say("Normal", "Launching", f"attempt {number}{resume}{held}")
    return step if offer is not None else step.do(Launch(attempt=attempt, generation=record.generation))
