"""Phase 7: end the rented machines that nothing needs any more, until each is seen to be gone."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from runctl.planner.actions import EndMachine
from runctl.planner.machines import VANISHING, replaced
from runctl.planner.observed import Absent, Dead, Ended, Live, Starting, Unreachable
from runctl.planner.passing import Pass
from runctl.planner.record import Record
from runctl.planner.rental import GOING, Ending, MachineState, Rental
from runctl.planner.renting import OFF_MARGIN
from runctl.planner.seeing import LATE_EFFECT

# An end that was asked for is asked for again after this, then after twice as long, up to the longest pause: what is
# refused costs a call, what is billed costs money.
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=1)

# The controller's own layer of the cap: it ends a machine that neither its agent nor its timer has ended by then.
BEFORE_CEILING = timedelta(seconds=30)


def release(step: Pass) -> Pass:
    """Ask for the end of each machine that is to go, again and again; ending one's own machine needs no fresh look."""
    for rental in step.record.unreleased:
        why = rental.ends or why_to_end(step, rental)
        if why is not None:
            step = _end(step, rental, why)
        elif (ceiling := _ceiling(step.record, rental)) is not None:
            step = step.wake(ceiling - BEFORE_CEILING)
    return _end_what_lives_on(step)


def why_to_end(step: Pass, rental: Rental) -> Ending | None:
    """Why the machine is to go, or is not to come, by what is known now; None: it is needed."""
    live, seen = step.record.live, step.observed.attempt
    if live is None or step.record.rental_of(live) is not rental:
        return Ending.ATTEMPT_OVER
    if live.orders.end == "assume_dead":
        return Ending.VOUCHED
    ceiling = _ceiling(step.record, rental)
    if ceiling is not None and step.now >= ceiling - BEFORE_CEILING:
        return Ending.CEILING
    up = live.started_at is not None or isinstance(seen, Live | Starting | Ended | Dead)
    if not up and live.orders.end is not None:
        return Ending.NOT_WANTED
    if rental.state in (MachineState.STOPPING, MachineState.STOPPED):
        return Ending.STOPPED
    if live.started_at is not None and isinstance(seen, Absent):
        return Ending.WIPED
    late = step.now > (
        live.launch_before + LATE_EFFECT if rental.state is MachineState.RUNNING else rental.pending_until
    )
    if late and not up and rental.instance is not None:
        return Ending.UNREACHABLE
    return Ending.MISSING if isinstance(seen, Unreachable) and _is_missed(step, rental) else None


def _is_missed(step: Pass, rental: Rental) -> bool:
    """Nothing bounds its money, and no listing has had it for longer than one has what is terminated: it went while
    nobody looked. Asking for its end harms nothing, and lets its absence count."""
    return rental.not_after is None and rental.absent_at is not None and step.now > rental.absent_at + VANISHING


def _ceiling(record: Record, rental: Rental) -> datetime | None:
    """When the money of the live attempt's machine is over: as its request says, or earlier if a cap was set or lowered
    since. Its agent, which is told of that at the same time, has its grace to save in any case.
    """
    grant = record.live.orders.limits.money if record.live is not None else None
    if grant is None:
        return rental.not_after
    saved = record.generation.applied_at + record.job.checkpoint.grace.delta
    changed = max(grant.until, saved) + OFF_MARGIN
    return changed if rental.not_after is None else min(changed, rental.not_after)


def _end(step: Pass, rental: Rental, why: Ending) -> Pass:
    if rental.ends is None:
        what = rental.instance or rental.offer.name
        step = step.say("Normal", "MachineEnding", f"{what}: {why.value}")
    wanted = msgspec.structs.replace(rental, ends=why, ends_since=rental.ends_since or step.now)
    if rental.instance is None or rental.state in GOING:
        # Not known yet, or on its way: only looking helps.
        step = step if wanted == rental else replaced(step, rental, wanted)
        return step.wake(step.now + FIRST_PAUSE)
    due = rental.asked_at + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(8, rental.ends_asked - 1))
    if rental.ends_asked and step.now < due:
        return step.wake(due)
    wanted = msgspec.structs.replace(
        wanted, asked_at=step.now, ends_asked=rental.ends_asked + 1, pending_at=_pending_at(step, rental)
    )
    return replaced(step, rental, wanted).do(EndMachine(instance=rental.instance)).wake(step.now + FIRST_PAUSE)


def _pending_at(step: Pass, rental: Rental) -> datetime | None:
    """When it was last seen not to be billed yet: the bill of one that never ran mustn't begin with its request."""
    listing = step.observed.listing
    if listing is None or rental.state is not MachineState.PENDING:
        return rental.pending_at
    listed = any(each.id == rental.instance for each in listing.instances)
    return listing.as_of if listed else rental.pending_at


def _end_what_lives_on(step: Pass) -> Pass:
    """A machine that counted as gone, and is listed alive all the same."""
    listing = step.observed.listing
    gone = {each.instance for each in step.record.rentals if each.released_at is not None}
    for seen in listing.instances if listing is not None else ():
        if seen.id in gone and seen.state not in GOING:
            step = step.do(EndMachine(instance=seen.id))
    return step
