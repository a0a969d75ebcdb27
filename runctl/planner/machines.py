"""Phase 2: what was seen of rented machines becomes part of the record."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from runctl.planner.money import closed
from runctl.planner.observed import InstanceSeen, Listing, RentAnswer
from runctl.planner.passing import Pass
from runctl.planner.record import Interval
from runctl.planner.rental import (
    GOING,
    Demise,
    Ending,
    MachineState,
    Market,
    Offer,
    Refusal,
    Release,
    Rental,
    Shunned,
)

# A request that was sent in time may show its effect in a listing this much later: they lag by seconds to minutes.
LATE_RENTAL = timedelta(minutes=10)

# What a listing shows may be this old.
LISTING_LAG = timedelta(seconds=60)

# Listings that must agree before what is missing from them counts as gone.
ABSENCES = 3

# So long a machine must be missing from every listing before it counts as gone: some lack what is there all the same.
MISSING_FOR = timedelta(minutes=10)

# A terminated instance is listed for about an hour.
VANISHING = timedelta(minutes=70)

# What was refused for lack of capacity isn't asked for again within this.
SHUNNED = timedelta(minutes=3)

# How long a machine that runs has for its agent to come up.
BOOT_WINDOW = timedelta(minutes=10)

# States only move on; a listing may be older than the one before it.
_ORDER = tuple(MachineState)


def take_in_machines(step: Pass) -> Pass:
    """Fold the answer to the last request and the newest listing into the rentals, and bill what runs."""
    answer, listing = step.observed.rent_answer, step.observed.listing
    if answer is not None:
        step = _answered(step, answer)
    step = _forget_shunned(step)
    if listing is None:
        return step
    for seen in listing.instances:
        step = _listed(step, seen, listing.as_of)
    listed = {seen.id for seen in listing.instances}
    for rental in step.record.unreleased:
        if rental.instance not in listed:
            step = _absent(step, rental, listing)
    return step


def replaced(step: Pass, old: Rental, new: Rental) -> Pass:
    """With `new` in the place of `old`."""
    return step.to(rentals=tuple(new if each is old else each for each in step.record.rentals))


def _answered(step: Pass, answer: RentAnswer) -> Pass:
    rental = next((each for each in step.record.unreleased if each.token == answer.token and not each.stray), None)
    if rental is None or rental.instance is not None:
        return step
    if answer.instance is not None:
        step = step.say("Normal", "MachineRequested", f"{rental.offer.name}: {answer.instance}")
        return replaced(step, rental, msgspec.structs.replace(rental, instance=answer.instance))
    if answer.refusal is None or answer.again:
        return step
    step = step.say("Warning", "MachineRefused", f"{rental.offer.name}: {answer.refusal.value}: {answer.message}")
    if answer.refusal in (Refusal.CAPACITY, Refusal.QUOTA):
        step = _shun(step, rental, answer.refusal, answer.message)
    refused = msgspec.structs.replace(
        rental, reserved=0, released_at=step.now, released=Release.REFUSED, refusal=answer.refusal,
        detail=answer.message[:500],
    )  # fmt: skip
    return replaced(step, rental, refused)


def _shun(step: Pass, rental: Rental, why: Refusal, message: str) -> Pass:
    offer = rental.offer
    shunned = Shunned(
        type=offer.type, zone=offer.zone, market=offer.market, why=why, message=message[:200], at=step.now
    )
    return step.to(shunned=(*step.record.shunned, shunned))


def _forget_shunned(step: Pass) -> Pass:
    kept = tuple(each for each in step.record.shunned if each.at <= step.now < each.at + SHUNNED)
    return step if kept == step.record.shunned else step.to(shunned=kept)


def _listed(step: Pass, seen: InstanceSeen, as_of: datetime) -> Pass:
    rental = _rental_of(step, seen)
    if rental is None:
        rental = _stray(step, seen)
        step = step.to(rentals=(*step.record.rentals, rental))
        step = step.say("Warning", "StrayMachine", f"{seen.id} carries this job's tags, and no attempt expects it")
    elif rental.released_at is not None:
        return step  # what a late listing says of it changes nothing
    was, state = rental.state, seen.state
    if was is not None and _ORDER.index(was) > _ORDER.index(state):
        state = was
    known = msgspec.structs.replace(
        rental, instance=seen.id, state=state, launched_at=rental.launched_at or seen.launched_at, absences=0,
        absent_at=None, absent_since=None, demise=seen.demise or rental.demise,
    )  # fmt: skip
    if known != rental:
        step = replaced(step, rental, known)
    if state is not MachineState.PENDING and known.demise is not Demise.CAPACITY:
        step = _bill(step, known)
    live = step.record.live
    first = state is MachineState.RUNNING and was in (None, MachineState.PENDING)
    if first and live is not None and step.record.rental_of(live) is known and live.started_at is None:
        step = step.with_attempt(msgspec.structs.replace(live, launch_before=step.now + BOOT_WINDOW))
        step = step.say("Normal", "MachineRunning", f"{seen.id}: {known.offer.name}")
    if state is not MachineState.TERMINATED:
        return step
    if known.demise is Demise.CAPACITY:
        step = _shun(step, known, Refusal.CAPACITY, "it went without having run")
    return _release(step, known, Release.TERMINATED, _until(known, as_of, seen.ended_at))


def _rental_of(step: Pass, seen: InstanceSeen) -> Rental | None:
    """The rental whose machine this is: by its id, else by the token of one that has none yet."""
    by_id = (each for each in step.record.rentals if each.instance == seen.id)
    by_token = (each for each in step.record.unreleased if each.instance is None and each.token == seen.token)
    return next(by_id, None) or next(by_token, None)


def _stray(step: Pass, seen: InstanceSeen) -> Rental:
    """What nobody expects is billed at the price of what was asked for by its token, or last; where nothing ever was
    (books older than the machine, say), at the highest price that is known."""
    rentals = step.record.rentals
    like = next((each for each in rentals if each.token == seen.token), rentals[-1] if rentals else None)
    if like is None:
        dearest = max(step.observed.offers or (), key=lambda offer: offer.hourly, default=None)
        attempt, choice, token, not_after = max(1, seen.attempt), 0, seen.token, None
        offer, launch_before = dearest or _unknown_offer(step.now), step.now
    else:
        attempt, choice, token, not_after = like.attempt, like.choice, like.token, like.not_after
        offer, launch_before = like.offer, like.launch_before
    return Rental(
        attempt=attempt, choice=choice, offer=offer, token=token, intended_at=step.now, launch_before=launch_before,
        not_after=not_after, reserved=0, asked_at=step.now, ends=Ending.STRAY, ends_since=step.now,
    )  # fmt: skip


def _unknown_offer(now: datetime) -> Offer:
    return Offer(
        type="unknown", zone="unknown", market=Market.ON_DEMAND, hourly=0, minimum=0, source="not known", quoted_at=now
    )


def _until(rental: Rental, as_of: datetime, told: datetime | None) -> datetime:
    """When its bill ended: as the provider tells; else it can't have outlived what ends it, nor the look at it."""
    return min(instant for instant in (as_of, rental.not_after, told) if instant is not None)


def _bill(step: Pass, rental: Rental) -> Pass:
    """Open the ledger's interval of a machine that has run, once."""
    assert rental.instance is not None
    assert rental.launched_at is not None
    if any(line.machine == rental.instance for line in step.record.ledger):
        return step
    offer, started_at = rental.offer, rental.launched_at
    if rental.pending_at is not None:
        started_at = max(started_at, rental.pending_at - LISTING_LAG)
    line = Interval(
        attempt=rental.attempt, machine=rental.instance, started_at=started_at, ended_at=None,
        hourly=offer.hourly, source=offer.source, quoted_at=offer.quoted_at, minimum=offer.minimum,
    )  # fmt: skip
    return step.to(ledger=(*step.record.ledger, line))


def _release(step: Pass, rental: Rental, how: Release, ended_at: datetime) -> Pass:
    """Nothing of it is billed any more: its reservation falls, its interval closes."""
    released = msgspec.structs.replace(rental, reserved=0, released_at=step.now, released=how)
    ledger = closed(step.record.ledger, rental.instance or "", ended_at)
    step = replaced(step, rental, released).to(ledger=ledger)
    return step.say("Normal", "MachineReleased", f"{rental.instance or rental.offer.name}: {how.value}")


def _absent(step: Pass, rental: Rental, listing: Listing) -> Pass:
    """One absence is no evidence. Some, each in a listing of its own and long after the last that is known, are."""
    since = _absence_counts_from(rental)
    if since is None and rental.absent_at is None:
        return replaced(step, rental, msgspec.structs.replace(rental, absent_at=listing.as_of))
    if since is None or listing.as_of <= max(since, rental.absent_at or since):
        return step
    first = rental.absent_since or listing.as_of
    absent = msgspec.structs.replace(
        rental, absences=rental.absences + 1, absent_at=listing.as_of, absent_since=first
    )  # fmt: skip
    step = replaced(step, rental, absent)
    if absent.absences < ABSENCES:
        return step
    if rental.instance is None:
        return _release(step, absent, Release.NO_EFFECT, step.now)
    if listing.as_of < first + MISSING_FOR:
        return step
    ended = first if rental.state in GOING else since
    return _release(step, absent, Release.VANISHED, _until(rental, ended, None))


def _absence_counts_from(rental: Rental) -> datetime | None:
    if rental.instance is None:
        return rental.launch_before + LATE_RENTAL
    if rental.state in GOING:
        return rental.launched_at  # from there only one way leads on
    # Gone when its money is over, or so long after its end was asked for that no listing has it any more.
    vanished = rental.ends_since + VANISHING if rental.ends_since is not None else None
    return min((at for at in (rental.not_after, vanished) if at is not None), default=None)
