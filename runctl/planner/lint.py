"""What must hold of every plan, whatever led to it: the promises as far as one plan can break them.

`lint` is the planner's second opinion. It is written against the vocabulary alone and shares no policy with the
phases: tests and the simulation ask it about every plan that they come across.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec

from runctl.planner.actions import AskToStop, EndMachine, Forget, Launch, Plan, Rent, SendOrders
from runctl.planner.money import cost_of, interval_cost, rate_for, reserves_more
from runctl.planner.observed import Observed
from runctl.planner.plan import plan as replan
from runctl.planner.record import Attempt, ConditionType, Desired, Phase, Record
from runctl.planner.rental import Release
from runctl.planner.requests import Apply

# More than any job needs at a time: what is remembered for people must not grow with the job's age.
MOST_REMINDERS = 64

# An end may be known by the controller's clock only, the next start by the host's: so far they may differ.
CLOCKS_DIFFER = timedelta(seconds=5)

Finding = str

# What of a request must not change once it may have been sent.
FROZEN = ("attempt", "choice", "offer", "token", "intended_at", "launch_before", "not_after")


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    before: Record
    after: Record
    observed: Observed
    plan: Plan
    now: datetime

    @property
    def applied(self) -> bool:
        """The plan answers an `apply`."""
        return any(
            asked.serial > self.before.answered and isinstance(asked.request, Apply) for asked in self.observed.requests
        )


def lint(before: Record, observed: Observed, plan: Plan, now: datetime) -> list[Finding]:
    """What is wrong with `plan`, made from these three; empty if nothing is."""
    if plan.record is None:
        return list(_gone(before, plan))
    case = _Case(before=before, after=plan.record, observed=observed, plan=plan, now=now)
    return [finding for rule in RULES for finding in rule(case)]


def _gone(before: Record, plan: Plan) -> Iterator[Finding]:
    if not any(isinstance(action, Forget) for action in plan.actions):
        yield "the job is removed without forgetting what it left behind"
    if any(isinstance(action, Launch | SendOrders) for action in plan.actions):
        yield "the job is removed, and something is started or ordered for it"
    if before.desired is not Desired.DELETED:
        yield "the job is removed before the store knows that it is to be"


def _attempts(case: _Case) -> Iterator[Finding]:
    old, new = case.before.attempts, case.after.attempts
    if [attempt.number for attempt in new] != list(range(1, len(new) + 1)):
        yield "attempts are not numbered from 1 without gaps"
    if len({attempt.token for attempt in new}) != len(new):
        yield "two attempts share a token"
    if any(attempt.end is None for attempt in new[:-1]):
        yield "an attempt follows one that isn't over"
    if not len(old) <= len(new) <= len(old) + 1:
        yield f"{len(new) - len(old)} attempts were added in one plan"
    for was, attempt in zip(old, new, strict=False):
        if was.end is not None and was != attempt:
            yield f"attempt {was.number} was over, and has changed"
        if (was.intended_at, was.token, was.generation) != (attempt.intended_at, attempt.token, attempt.generation):
            yield f"the intent of attempt {was.number} has changed"
        if was.launch_before != attempt.launch_before and case.after.rental_of(attempt) is None:
            yield f"the launch window of attempt {was.number} has moved"
        if was.started_at is not None and was.started_at != attempt.started_at:
            yield f"the start of attempt {was.number} has moved"
    if case.after.live is not None and (case.after.outcome or case.after.stopped):
        yield "the job is finished or rests, and an attempt is live"


def _launches(case: _Case) -> Iterator[Finding]:
    for action in case.plan.actions:
        if not isinstance(action, Launch):
            continue
        if action.attempt != case.after.live:
            yield "a launch without a durable intent"
            continue
        if case.now > action.attempt.launch_before:
            yield "a launch is sent past its launch_before"
        if action.generation != case.after.generation_of(action.attempt):
            yield "a launch of another generation than the attempt's"
        if action.attempt.started_at is not None:
            yield "an attempt that has started is launched"


def _rentals(case: _Case) -> Iterator[Finding]:
    """A machine is asked for once, within what the cap leaves, and is in the books until it is seen to be gone."""
    new = case.after.rentals
    there = {each.token for each in new}
    # One that was refused may be dropped.
    old = [each for each in case.before.rentals if each.token in there or each.released is not Release.REFUSED]
    if len(new) < len(old):
        yield "a rental is forgotten"
    for was, rental in zip(old, new, strict=False):
        if was.released_at is not None and was != rental:
            yield f"the rental of {was.instance} was released, and has changed"
        if any(getattr(was, field) != getattr(rental, field) for field in FROZEN):
            yield f"the request with the token {was.token} has changed"
        if was.instance is not None and was.instance != rental.instance:
            yield f"the rental of {was.instance} is of {rental.instance} now"
        if rental.released_at is None and rental.reserved < was.reserved:
            yield f"the reservation of the rental {was.token} fell before it was released"
    asked = [rental for rental in new if not rental.stray]
    if len({rental.token for rental in asked}) != len(asked):
        yield "two requests share a token"
    open_ = [rental.attempt for rental in asked if rental.released_at is None]
    if len(open_) != len(set(open_)):
        yield "an attempt has two machines"
    yield from _reserved(case)
    for action in case.plan.actions:
        if isinstance(action, Rent) and action.rental not in case.after.unreleased:
            yield "a machine is asked for without a durable intent"
        if isinstance(action, Rent) and case.now > action.rental.launch_before:
            yield "a machine is asked for past its launch_before"
        if isinstance(action, Rent) and action.rental.instance is not None:
            yield "a machine that is known is asked for again"
        if isinstance(action, EndMachine) and action.instance not in {rental.instance for rental in new}:
            yield f"{action.instance} isn't of this job, and is to be ended"


def _reserved(case: _Case) -> Iterator[Finding]:
    """What is newly held for a machine is within the caps, beside what all others have cost or hold.

    A stray that is billed from the same pass on isn't among these: requests are answered before machines are looked at.
    The grant, which is given after that, is held to its cost, too.
    """
    before = {rental.token: rental.reserved for rental in case.before.rentals if not rental.stray}
    billed = {line.machine: interval_cost(line, case.now) for line in case.after.ledger}
    held = {rental.instance or rental.token: rental.reserved for rental in case.after.unreleased}
    known = {line.machine for line in case.before.ledger}
    new = {each.instance for each in case.after.rentals if each.stray and each.instance not in known}
    caps = (
        ("cap", case.after.job.cost.cap, 0),
        ("group's cap", case.after.job.group.cap, case.observed.group.committed),
    )
    for rental in case.after.unreleased:
        if rental.stray or rental.reserved <= before.get(rental.token, -1):
            continue
        rest = (billed.keys() | held.keys()) - {rental.instance or rental.token} - new
        total = rental.reserved + sum(max(billed.get(key, 0), held.get(key, 0)) for key in rest)
        for name, cap, others in caps:
            if cap is not None and total + others > cap.micros:
                yield f"{total} spent or reserved for machines, and {others} by others, are more than the {name}"


def _orders(case: _Case) -> Iterator[Finding]:
    for was, attempt in zip(case.before.attempts, case.after.attempts, strict=False):
        old, new = was.orders, attempt.orders
        if new.serial < old.serial:
            yield f"the orders' serial of attempt {was.number} went back"
        if (new.limits, new.end) != (old.limits, old.end) and new.serial <= old.serial:
            yield f"the orders of attempt {was.number} changed under one serial"
        if old.end is not None and new.end not in (old.end, "assume_dead"):
            yield f"attempt {was.number} was told to end, and is told otherwise"
    for action in case.plan.actions:
        if isinstance(action, SendOrders):
            attempt = case.after.attempts[action.attempt - 1]
            if attempt.orders != action.orders or (attempt.end is not None and action.orders.end != "assume_dead"):
                yield "orders are sent that the record doesn't hold"


def _money(case: _Case) -> Iterator[Finding]:
    live = case.after.live
    if live is None:
        if any(attempt.reserved for attempt in case.after.attempts):
            yield "money is reserved for an attempt that is over"
        return
    rate, job = rate_for(case.after, live), case.after.job
    if rate is None:
        return
    closed = sum(interval_cost(i, case.now) for i in case.after.ledger if i.attempt != live.number)
    others = case.observed.group.committed
    if reserves_more(case.before, case.after):
        for name, cap, used in (("cap", job.cost.cap, closed), ("group's cap", job.group.cap, closed + others)):
            if cap is not None and used + live.reserved > cap.micros:
                yield f"{used} spent or held and {live.reserved} reserved are more than the {name} of {cap.micros}"
    was = case.before.attempts[live.number - 1] if live.number <= len(case.before.attempts) else None
    if was is not None and live.reserved < was.reserved:
        yield f"the reservation of attempt {live.number} fell while it is live"
    if was is None or was.orders.serial != live.orders.serial:
        rental = case.after.rental_of(live)
        held, since = live.reserved, live.intended_at
        if rental is not None and rental.released_at is not None:
            return  # nobody is there to use it
        if rental is not None:
            held, since = rental.reserved, rental.launched_at or rental.intended_at
        left = job.cost.cap.micros - closed if job.cost.cap else None
        yield from _grant(live, since, held, rate.hourly, left, job.group.cap)


def _grant(
    live: Attempt, since: datetime, held: int, hourly: int, left: int | None, group_cap: object
) -> Iterator[Finding]:
    grant = live.orders.limits.money
    if grant is None:
        if hourly and (left is not None or group_cap is not None):
            yield "an attempt under a cap is granted time without end"
        return
    most = cost_of(hourly, timedelta(seconds=grant.seconds))
    if left is not None and most > max(0, left):
        yield f"{most} is granted of the {left} that the cap leaves"
    if group_cap is not None and most > held:
        yield f"{most} is granted of the {held} that is reserved"
    if grant.until > (live.started_at or since) + timedelta(seconds=grant.seconds):
        yield "the two clocks of a grant differ"


def _ledger(case: _Case) -> Iterator[Finding]:
    old, new = case.before.ledger, case.after.ledger
    if len(new) < len(old):
        yield "the ledger lost an interval"
    for was, line in zip(old, new, strict=False):
        if was.ended_at is not None and was != line:
            yield f"a closed interval of attempt {was.attempt} has changed"
        if msgspec.structs.replace(line, ended_at=was.ended_at) != was:
            yield f"an interval of attempt {was.attempt} has changed in more than its end"
    if len({(line.attempt, line.machine) for line in new}) != len(new):
        yield "an attempt is billed twice"
    rented = {each.instance for each in case.after.rentals}
    held = {each.instance for each in case.after.unreleased}
    for line in new:
        if line.machine in rented:
            if (line.ended_at is None) != (line.machine in held):
                yield f"the machine {line.machine} is billed, and it is released, or the other way round"
        elif line.ended_at is None and (case.after.live is None or case.after.live.number != line.attempt):
            yield f"attempt {line.attempt} is over and still billed"
        if line.ended_at is not None and line.ended_at < line.started_at:
            yield f"the interval of attempt {line.attempt} ends before it begins"
    vouched_for = {each.number for each in case.after.attempts if each.orders.end == "assume_dead"}
    for earlier, later in pairwise(new):
        vouched = earlier.attempt in vouched_for
        two = earlier.machine in rented or later.machine in rented
        begins = later.started_at + CLOCKS_DIFFER
        if earlier.ended_at is not None and begins < earlier.ended_at and not vouched and not two:
            yield f"the intervals of attempts {earlier.attempt} and {later.attempt} overlap"


def _memory(case: _Case) -> Iterator[Finding]:
    before, after = case.before, case.after
    if before.outcome is not None and after.outcome != before.outcome and not case.applied:
        yield "an outcome was rewritten"
    newest = max((asked.serial for asked in case.observed.requests), default=0)
    if after.answered != max(before.answered, newest):
        yield f"requests up to {newest} were seen, those up to {after.answered} count as answered"
    if after.generations[: len(before.generations)] != before.generations:
        yield "a generation was rewritten"
    if before.desired is Desired.DELETED and after.desired is not Desired.DELETED:
        yield "a deletion was taken back"
    old, new = before.checkpoint, after.checkpoint
    if old is not None and (new is None or (new.attempt, new.seq) < (old.attempt, old.seq)):
        yield "the newest durable checkpoint went back"
    if len(after.reminders) > MOST_REMINDERS:
        yield f"{len(after.reminders)} reminders are remembered"


def _conditions(case: _Case) -> Iterator[Finding]:
    old = {condition.type: condition for condition in case.before.conditions}
    if [condition.type for condition in case.after.conditions] != list(ConditionType):
        yield "not exactly one condition of each type"
    for condition in case.after.conditions:
        was = old.get(condition.type)
        moved = was is None or was.last_transition_time != condition.last_transition_time
        if moved and was is not None and was.status == condition.status:
            yield f"the transition time of {condition.type} moved without its status"
        if moved and condition.last_transition_time != case.now.replace(microsecond=0):
            yield f"the transition time of {condition.type} isn't now"
    finished, rests = case.after.phase is Phase.FINISHED, case.after.phase is Phase.STOPPED
    over = case.after.outcome is not None or case.after.stopped is not None
    releasing = over and bool(case.after.unreleased)
    if (case.after.phase is Phase.RELEASING) != releasing:
        yield f"phase {case.after.phase} doesn't fit the rentals"
    if not releasing and (
        finished != (case.after.outcome is not None) or rests != (case.after.stopped is not None and not finished)
    ):
        yield f"phase {case.after.phase} doesn't fit the outcome"


def _liveness(case: _Case) -> Iterator[Finding]:
    """Something will happen to a job that isn't finished, and not at every instant."""
    plan, after = case.plan, case.after
    resting = after.outcome is not None or after.stopped is not None
    changed = after != case.before
    if after.live is None and not resting and not changed and not plan.yields and plan.wake_at is None:
        yield "nothing will ever wake the job"
    looked = after.live is not None or case.observed.machine is not None
    if plan.wake_at is not None and plan.wake_at <= case.now and not changed and looked:
        yield "the job asks to be woken now, though nothing has changed"


def _idempotence(case: _Case) -> Iterator[Finding]:
    """The same look at the world again, its requests answered, leads to nothing new."""
    if case.after == case.before and not case.plan.events:
        return
    live, was = case.after.live, case.before.live
    same = live is not None and was is not None and live.number == was.number
    seen = msgspec.structs.replace(
        case.observed, requests=(), launch_failed=None, attempt=case.observed.attempt if same else None
    )
    again = replan(case.after, seen, case.now)
    first = case.before.desired is not Desired.DELETED or case.after.answered != case.before.answered
    if again.record is None and (first or seen.not_forgotten is not None):
        return  # what can't be taken back waits for the store, for what was asked, and for its failure to be said
    if again.record != case.after:
        yield "planning again changes the record again"
    if again.events:
        yield f"planning again says `{again.events[0].reason}` again"
    for action in again.actions:
        if action not in case.plan.actions:
            yield f"planning again asks for another {type(action).__name__}"
        if isinstance(action, AskToStop):
            yield "planning again asks another job to stop again"


Rule = Callable[[_Case], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    _attempts, _launches, _rentals, _orders, _money, _ledger, _memory, _conditions, _liveness, _idempotence,
)  # fmt: skip
