"""The linter finds each breach that it knows: plans that are broken on purpose, one rule at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from runctl.planner.actions import EndMachine, Forget, Launch, Plan, Rent, SendOrders
from runctl.planner.lint import lint
from runctl.planner.observed import GroupSeen, MachineSeen, Observed
from runctl.planner.plan import plan
from runctl.planner.record import (
    Desired,
    MoneyGrant,
    Outcome,
    OutcomeType,
    Phase,
    Record,
    Stopped,
    StopReason,
)
from runctl.planner.requests import Asked, StopJob

from .kit import PRICED, T0, Life, RentedLife, job, ref

change = msgspec.structs.replace
GROUPED = PRICED + "\ngroup: {cap: 2 USD}"


def findings(before: Record, after: Record, observed: Observed | None = None, **more: Any) -> list[str]:
    """What the linter says of a plan with that record, without the rule that plans again."""
    made = Plan(record=after, wake_at=T0 + timedelta(days=99), **more)
    found = lint(before, observed or Observed(), made, now(before))
    return [each for each in found if not each.startswith("planning again")]


def now(record: Record) -> Any:
    return max([T0, *(a.intended_at for a in record.attempts)]) + timedelta(seconds=1)


def training(spec: str = PRICED) -> Life:
    life = Life(job(spec), group="g")
    life.run()
    life.see(life.live(newest=ref(1, 2, life.now)))
    return life


def over() -> Life:
    life = training()
    life.after(minutes=1)
    life.see(life.dead(newest=ref(1, 2, T0)))
    return life


def with_live(record: Record, **changes: Any) -> Record:
    assert record.live is not None
    return record.with_attempt(change(record.live, **changes))


def with_orders(record: Record, serial: int = 9, **changes: Any) -> Record:
    assert record.live is not None
    return with_live(record, orders=change(record.live.orders, serial=serial, **changes))


def with_money(record: Record, seconds: float, until: float | None = None) -> Record:
    assert record.live is not None
    grant = MoneyGrant(until=T0 + timedelta(seconds=until or seconds), seconds=seconds)
    return with_orders(record, limits=change(record.live.orders.limits, money=grant))


def second(record: Record, **changes: Any) -> Record:
    """With another live attempt behind the newest."""
    newest = record.attempts[-1]
    more = change(newest, number=newest.number + 1, token="t2", end=None, started_at=None, reserved=0)
    return change(record, attempts=(*record.attempts, change(more, **changes)))


LIVE, OVER = training().job, over().job
GROUP = training(GROUPED).job
LOST = Outcome(type=OutcomeType.LOST, reason="RetriesExhausted", message="", at=T0)

BREACHES: dict[str, tuple[Record, Record]] = {
    "attempts are not numbered": (LIVE, with_live(LIVE, number=2)),
    "two attempts share a token": (OVER, second(OVER, token=OVER.attempts[0].token)),
    "an attempt follows one that isn't over": (LIVE, second(LIVE)),
    "2 attempts were added": (OVER, second(second(OVER, end=OVER.attempts[0].end), number=3, token="t3")),
    "attempt 1 was over, and has changed": (OVER, OVER.with_attempt(change(OVER.attempts[0], active=9.0))),
    "the intent of attempt 1 has changed": (LIVE, with_live(LIVE, intended_at=T0 - timedelta(seconds=1))),
    "the launch window of attempt 1 has moved": (LIVE, with_live(LIVE, launch_before=T0)),
    "the start of attempt 1 has moved": (LIVE, with_live(LIVE, started_at=T0 + timedelta(seconds=1))),
    "the job is finished or rests, and an attempt is live": (
        LIVE, change(LIVE, stopped=Stopped(reason=StopReason.USER, message="", at=T0))
    ),
    "the orders' serial of attempt 1 went back": (LIVE, with_orders(LIVE, serial=0)),
    "the orders of attempt 1 changed under one serial": (LIVE, with_orders(LIVE, serial=1, end="stop")),
    "attempt 1 was told to end, and is told otherwise": (with_orders(LIVE, end="stop"), with_orders(LIVE, serial=10)),
    "money is reserved for an attempt that is over": (
        OVER, OVER.with_attempt(change(OVER.attempts[0], reserved=1))
    ),
    "more than the cap": (OVER, second(OVER, reserved=1_000_000)),
    "the reservation of attempt 1 fell": (LIVE, with_live(LIVE, reserved=1)),
    "granted time without end": (
        LIVE, with_orders(LIVE, limits=change(LIVE.attempts[0].orders.limits, money=None))
    ),
    "is granted of the 1000000 that the cap leaves": (LIVE, with_money(LIVE, 3700)),
    "the two clocks of a grant differ": (LIVE, with_money(LIVE, 60, until=61)),
    "that is reserved": (GROUP, with_live(with_money(GROUP, 60), reserved=100)),
    "the ledger lost an interval": (LIVE, change(LIVE, ledger=())),
    "a closed interval of attempt 1 has changed": (
        OVER, change(OVER, ledger=(change(OVER.ledger[0], ended_at=T0),))
    ),
    "in more than its end": (LIVE, change(LIVE, ledger=(change(LIVE.ledger[0], hourly=1),))),
    "an attempt is billed twice": (LIVE, change(LIVE, ledger=(*LIVE.ledger, *LIVE.ledger))),
    "attempt 1 is over and still billed": (OVER, change(OVER, ledger=(change(OVER.ledger[0], ended_at=None),))),
    "ends before it begins": (
        LIVE, change(LIVE, ledger=(change(LIVE.ledger[0], ended_at=T0 - timedelta(seconds=1)),))
    ),
    "the intervals of attempts 1 and 2 overlap": (
        OVER, change(second(OVER), ledger=(*OVER.ledger, change(OVER.ledger[0], attempt=2, ended_at=None)))
    ),
    "an outcome was rewritten": (change(OVER, outcome=LOST), change(OVER, outcome=None)),
    "those up to 3 count as answered": (OVER, change(OVER, answered=3)),
    "a generation was rewritten": (OVER, change(OVER, generations=(change(OVER.generation, number=7),))),
    "a deletion was taken back": (change(OVER, desired=Desired.DELETED), OVER),
    "the newest durable checkpoint went back": (OVER, change(OVER, checkpoint=ref(1, 1, T0))),
    "65 reminders are remembered": (OVER, change(OVER, reminders={str(n): T0 for n in range(65)})),
    "not exactly one condition of each type": (OVER, change(OVER, conditions=OVER.conditions[1:])),
    "doesn't fit the outcome": (OVER, change(OVER, phase=Phase.FINISHED)),
}  # fmt: skip


def test_the_group_cap_counts_what_others_hold() -> None:
    """A member's reservation and those of the others stay within the group's cap."""
    before = Life(job(GROUPED), group="g").job
    observed = Observed(group=GroupSeen(committed=1_500_000))
    after = plan(before, Observed(machine=MachineSeen(as_of=T0, name="m")), T0).record
    assert after is not None
    assert any("more than the group's cap" in each for each in findings(before, after, observed))
    assert not any("more than" in each for each in findings(before, after))


def rented() -> RentedLife:
    life = RentedLife()
    life.comes_up()
    return life


def with_rental(record: Record, **changes: Any) -> Record:
    return change(record, rentals=(*record.rentals[:-1], change(record.rentals[-1], **changes)))


RENTED = rented().job
RENTAL = RENTED.rentals[0]
RELEASED = change(
    with_rental(RENTED, released_at=T0, reserved=0),
    ledger=(change(RENTED.ledger[0], ended_at=RENTED.ledger[0].started_at),),
)
TWO = change(RENTAL, token="t", choice=1)

RENTAL_BREACHES: dict[str, tuple[Record, Record]] = {
    "a rental is forgotten": (RENTED, change(RENTED, rentals=())),
    "was released, and has changed": (RELEASED, with_rental(RELEASED, absences=1)),
    "the request with the token": (RENTED, with_rental(RENTED, not_after=T0)),
    "the rental of i-1 is of i-2 now": (RENTED, with_rental(RENTED, instance="i-2")),
    "fell before it was released": (RENTED, with_rental(RENTED, reserved=0)),
    "two requests share a token": (RELEASED, change(RELEASED, rentals=(RELEASED.rentals[0], change(RENTAL, choice=1)))),
    "an attempt has two machines": (RENTED, change(RENTED, rentals=(RENTAL, TWO))),
    "are more than the cap": (RENTED, change(RENTED, rentals=(RENTAL, change(TWO, instance=None)))),
    "is billed, and it is released, or the other way round": (RENTED, change(RELEASED, ledger=RENTED.ledger)),
    "doesn't fit the rentals": (RENTED, change(RENTED, phase=Phase.RELEASING)),
}  # fmt: skip


@pytest.mark.parametrize("name", [*BREACHES, *RENTAL_BREACHES])
def test_breach_of_the_record(name: str) -> None:
    """A record that no plan may lead to is named."""
    before, after = {**BREACHES, **RENTAL_BREACHES}[name]
    found = findings(before, after)
    assert any(name in each for each in found), found


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("a machine is asked for without a durable intent", Rent(rental=change(RENTAL, token="x"))),
        ("a machine is asked for past its launch_before", Rent(rental=change(RENTAL, launch_before=T0))),
        ("a machine that is known is asked for again", Rent(rental=RENTAL)),
        ("i-9 isn't of this job, and is to be ended", EndMachine(instance="i-9")),
    ],
)
def test_breach_of_a_rental_action(name: str, action: Rent | EndMachine) -> None:
    """What is asked of a cloud is what the books bear out."""
    assert name in findings(RENTED, RENTED, actions=(action,))


ACTIONS = {
    "a launch without a durable intent": Launch(
        attempt=change(LIVE.attempts[0], token="x"), generation=LIVE.generation
    ),
    "a launch of another generation than the attempt's": Launch(
        attempt=LIVE.attempts[0], generation=change(LIVE.generation, number=7)
    ),
    "an attempt that has started is launched": Launch(attempt=LIVE.attempts[0], generation=LIVE.generation),
    "orders are sent that the record doesn't hold": SendOrders(
        attempt=1, orders=change(LIVE.attempts[0].orders, serial=99)
    ),
}


@pytest.mark.parametrize("name", list(ACTIONS))
def test_breach_of_an_action(name: str) -> None:
    """An action that the record doesn't bear out is named."""
    assert name in findings(LIVE, LIVE, actions=(ACTIONS[name],))


def test_a_late_launch() -> None:
    """Past `launch_before` one may look, but not send."""
    before = Life(job()).job
    made = plan(before, Observed(machine=MachineSeen(as_of=T0, name="m")), T0)
    assert made.record is not None
    late = made.record.attempts[0].launch_before + timedelta(seconds=1)
    again = Plan(record=made.record, actions=made.actions)
    assert "a launch is sent past its launch_before" in lint(made.record, Observed(), again, late)


def test_a_request_is_answered() -> None:
    """A request that was seen and isn't counted would be asked for ever; one that wasn't seen is lost."""
    asked = (Asked(1, StopJob(at=T0, why="")),)
    assert "requests up to 1 were seen, those up to 0 count as answered" in findings(
        OVER, OVER, Observed(requests=asked)
    )


def test_what_never_wakes_and_what_never_sleeps() -> None:
    """A waiting job has an instant to wake at, and that isn't now, again and again."""
    waiting = Life(job()).job
    looked = Observed(machine=MachineSeen(as_of=T0, name="m"))
    assert "nothing will ever wake the job" in lint(waiting, looked, Plan(record=waiting), T0)
    spins = lint(waiting, looked, Plan(record=waiting, wake_at=T0), T0)
    assert any("asks to be woken now" in each for each in spins)
    assert not any("woken" in each for each in lint(waiting, Observed(), Plan(record=waiting, wake_at=T0), T0))


def test_transition_times() -> None:
    """A condition's time moves with its status, to now."""
    at = (T0 + timedelta(seconds=1)).replace(microsecond=0)
    first, *rest = OVER.conditions
    moved = change(OVER, conditions=(change(first, last_transition_time=at + timedelta(minutes=9)), *rest))
    found = findings(OVER, moved)
    assert any("moved without its status" in each for each in found)
    assert any("isn't now" in each for each in found)


def test_a_removal() -> None:
    """A job that is removed leaves nothing behind and starts nothing."""
    action = SendOrders(attempt=1, orders=LIVE.attempts[0].orders)
    assert lint(LIVE, Observed(), Plan(record=None, actions=(action,)), T0) == [
        "the job is removed without forgetting what it left behind",
        "the job is removed, and something is started or ordered for it",
        "the job is removed before the store knows that it is to be",
    ]
    doomed = change(OVER, desired=Desired.DELETED)
    assert lint(doomed, Observed(), Plan(record=None, actions=(Forget(checkpoints=False),)), T0) == []


def test_planning_again() -> None:
    """A record that the planner would change again, say something of again or act on again isn't where it leads."""
    fresh = Life(job("instance: {busy: replace}")).job
    machine = MachineSeen(as_of=T0, name="m")
    found = lint(fresh, Observed(machine=machine), Plan(record=change(fresh, durable=1), wake_at=T0), T0)
    assert "planning again changes the record again" in found
    assert "planning again says `Launching` again" in found
    assert "planning again asks for another Launch" in found
    from .kit import holder

    held = MachineSeen(as_of=T0, name="m", holder=holder())
    found = lint(fresh, Observed(machine=held), Plan(record=change(fresh, durable=1), wake_at=T0), T0)
    assert "planning again asks another job to stop again" in found
