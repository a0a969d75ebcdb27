"""Rented machines: from the offer to the release, and every way in which one comes, doesn't come, or goes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from runctl.manifest.job import Platform
from runctl.planner.actions import EndMachine, Launch, Rent
from runctl.planner.launching import MOST_REFUSED
from runctl.planner.machines import ABSENCES, LATE_RENTAL, LISTING_LAG, MISSING_FOR, SHUNNED, VANISHING
from runctl.planner.money import cost_of, reserves_more, spent
from runctl.planner.observed import Absent, InstanceSeen, Listing
from runctl.planner.record import EndReason, OutcomeType, Phase, StopReason
from runctl.planner.releasing import BEFORE_CEILING
from runctl.planner.rental import Demise, Ending, MachineState, Refusal, Release
from runctl.planner.renting import OFF_MARGIN
from runctl.planner.verdict import MOST_ROUNDS

from .kit import RENTED, T0, RentedLife, job, offer, ref

Golden = Callable[[str], None]
SPOT = RENTED.replace("region: us-east-1", "region: us-east-1, capacity: spot")
EITHER = RENTED.replace("region: us-east-1", "region: us-east-1, capacity: spot-then-on-demand")


def asked_for(life: RentedLife) -> list[str]:
    """What the last plan asks for, and whether it was asked for before."""
    assert life.plan is not None
    return [
        f"{each.rental.offer.name}{' again' if each.again else ''}" for each in life.plan.actions
        if isinstance(each, Rent)
    ]  # fmt: skip


def ended(life: RentedLife) -> list[str]:
    assert life.plan is not None
    return [each.instance for each in life.plan.actions if isinstance(each, EndMachine)]


def test_a_rented_success(golden: Golden) -> None:
    """Asked for, granted, up, trained, ended, and finished only when the machine is seen to be gone."""
    life = RentedLife()
    life.comes_up()
    life.after(minutes=10)
    life.see(life.live(newest=ref(1, 1, life.now)))
    life.see(life.ended(code=0, newest=ref(1, 2, life.now)))
    assert life.job.phase is Phase.RELEASING
    life.after(seconds=10)
    life.lists(life.instance("shutting-down"))
    life.see()
    life.goes(demise=Demise.ASKED)
    life.see()
    golden(life.told())
    assert life.job.phase is Phase.FINISHED
    assert life.job.outcome is not None
    assert (life.job.outcome.type, life.job.outcome.exit_code) == (OutcomeType.SUCCEEDED, 0)


def test_nothing_is_rented_unlooked() -> None:
    """Without prices, or without a listing that says what is there already, a job waits."""
    for known in ("offers", "listing"):
        life = RentedLife()
        life.offers = life.offers if known == "offers" else None
        life.listing = life.listing if known == "listing" else None
        made = life.see()
        assert (made.actions, life.job.phase) == ((), Phase.QUEUED)
        assert made.wake_at is not None


def test_nothing_is_rented_by_an_old_listing() -> None:
    """Whoever slept for an hour knows what was rented an hour ago, and looks again first."""
    life = RentedLife()
    life.after(minutes=2)
    life.see()
    assert (life.job.rentals, life.job.phase) == ((), Phase.QUEUED)
    life.lists()
    life.see()
    assert [rental.asked_at for rental in life.job.rentals] == [life.now]


def test_a_job_waits_for_its_turn_to_ask() -> None:
    """For its first machine as for the next one after a refusal, until the provider takes its request."""
    life = RentedLife()
    life.rent_from = life.now + timedelta(seconds=3)
    made = life.see()
    assert (asked_for(life), life.job.phase, made.wake_at) == ([], Phase.QUEUED, life.rent_from)
    life.rent_from = None
    life.see()
    assert len(asked_for(life)) == 1
    life.rent_from = life.now + timedelta(seconds=7)
    life.refused()
    assert life.plan is not None
    assert (asked_for(life), life.plan.wake_at) == ([], life.rent_from)
    life.rent_from = None
    life.see(life.unreachable())
    assert len(asked_for(life)) == 1


def test_an_answer_that_was_lost() -> None:
    """The identical request is sent again, as long as a listing after it doesn't show its effect, and the window is
    open; the machine that shows up is the attempt's."""
    life = RentedLife()
    life.see()
    first = life.rental
    life.see(life.unreachable())
    assert asked_for(life) == []  # no listing is newer than the request
    life.after(seconds=15)
    life.lists()
    life.see(life.unreachable())
    assert asked_for(life) == [f"{first.offer.name} again"]
    assert (life.rental.token, life.rental.launch_before) == (first.token, first.launch_before)
    life.refused(again=True)
    assert life.rental.released_at is None  # it speaks for that sending alone
    life.after(minutes=1)
    life.lists()
    life.see(life.unreachable())
    assert asked_for(life) == []
    life.after(seconds=15)
    life.lists(life.instance("pending"))
    life.see(life.unreachable())
    assert (life.rental.instance, len(life.job.rentals)) == ("i-1", 1)


def test_a_listing_of_the_future() -> None:
    """The clock was set back: what was listed before is newer than every request, and says nothing of this one."""
    life = RentedLife()
    life.see()
    life.after(seconds=1)
    life.listing = Listing(as_of=life.now + timedelta(hours=1), instances=())
    life.see(life.unreachable())
    assert len(asked_for(life)) == 1
    life.after(seconds=1)
    life.see(life.unreachable())
    assert asked_for(life) == []


def test_a_request_without_effect_and_its_late_effect(golden: Golden) -> None:
    """After many empty listings the next machine is asked for; what comes then all the same is ended."""
    life = RentedLife()
    life.see()
    life.now = life.rental.launch_before + LATE_RENTAL
    for _ in range(ABSENCES):
        life.after(seconds=15)
        life.lists()
        life.see(life.unreachable())
        life.see(life.unreachable())  # the same listing isn't another absence
    assert [each.released for each in life.job.rentals] == [Release.NO_EFFECT, None]
    late, life.answer = life.job.rentals[0], None
    life.accepted("i-2")
    life.after(seconds=15)
    life.lists(life.instance("running", "i-1", rental=late), life.instance("pending", "i-2"))
    life.see(life.unreachable())
    assert ended(life) == ["i-1"]
    assert life.rental.ends is Ending.STRAY
    life.after(seconds=90)
    life.lists(life.instance("terminated", "i-1", rental=late), life.instance("running", "i-2"))
    life.see(life.unreachable())
    golden(life.told())
    assert [line.machine for line in life.job.ledger] == ["i-1", "i-2"]


@pytest.mark.parametrize("why", [Refusal.CAPACITY, Refusal.QUOTA])
def test_a_refusal_is_of_the_offer(why: Refusal) -> None:
    """The next offer is asked for, under a token of its own; when none is left, the job waits until one may be had."""
    life = RentedLife()
    life.see()
    tokens = {life.rental.token}
    life.refused(why)
    assert asked_for(life) == ["g5.xlarge (on-demand) in b"]
    tokens.add(life.rental.token)
    life.refused(why)
    assert len(tokens) == 2
    assert life.job.attempts[0].end is not None
    assert life.job.attempts[0].end.reason is EndReason.NO_CAPACITY
    life.after(seconds=10)
    life.lists()
    made = life.see()
    assert (made.actions, life.job.phase) == ((), Phase.QUEUED)
    assert made.wake_at == T0 + SHUNNED
    life.now, life.listing = T0 + SHUNNED, None
    life.see()
    assert asked_for(life) == []
    life.lists()
    life.see()
    assert asked_for(life) == ["g5.xlarge (on-demand) in a"]


def test_prices_that_are_not_known_after_a_refusal() -> None:
    """The next choice waits for them."""
    life = RentedLife()
    life.see()
    life.offers = None
    life.refused()
    assert (asked_for(life), life.job.live is not None) == ([], True)
    life.offers = (offer("b"),)
    life.see(life.unreachable())
    assert asked_for(life) == ["g5.xlarge (on-demand) in b"]


def test_no_capacity_at_all() -> None:
    """A job that never trained gives up after some rounds; one that has goes on asking."""
    for trained in (False, True):
        life = RentedLife("cost: {cap: 9 USD}", offer("a"))
        if trained:
            life.comes_up()
            life.goes(demise=Demise.FAULT)
            life.see(life.unreachable())
            life.see(life.dead())
            life.now = life.job.not_before or life.now
        for _ in range(MOST_ROUNDS):
            life.lists()
            life.see()
            assert life.job.outcome is None
            life.refused()
            life.now += SHUNNED * 2
        outcome = life.job.outcome
        assert (outcome is None) == trained
        if outcome is not None:
            assert (outcome.type, outcome.message) == (
                OutcomeType.NO_CAPACITY, "no capacity: no capacity: no capacity; no durable checkpoint"
            )  # fmt: skip


@pytest.mark.parametrize("why", [Refusal.PERMISSION, Refusal.INVALID])
def test_a_refusal_of_whoever_asks(why: Refusal) -> None:
    """No other offer would be granted: the job rests, and says why."""
    life = RentedLife()
    life.see()
    life.refused(why)
    assert life.job.stopped is not None
    assert (life.job.stopped.reason, life.job.stopped.message) == (StopReason.LAUNCH_FAILED, f"no {why.value}")
    assert (life.job.phase, life.job.unreleased) == (Phase.STOPPED, ())


def test_markets() -> None:
    """What the manifest names and nothing else; of either market, every spot offer comes first."""
    offers = (offer("a"), offer("a", spot=True, hourly=1), offer("b", spot=True, hourly=2))
    for spec, zones in ((RENTED, ["a"]), (SPOT, ["a", "b"]), (EITHER, ["a", "b", "a"])):
        life = RentedLife("cost: {cap: 2 USD}", *offers, spec=spec)
        life.see()
        seen = [life.rental.offer]
        while life.job.live is not None:
            life.refused()
            seen = [each.offer for each in life.job.rentals]
        assert [each.zone for each in seen] == zones


def test_refusals_are_forgotten_in_the_end() -> None:
    """However often nothing is to be had, the books don't grow: the newest refusals are kept, and all machines."""
    zones = [f"zone-{number}" for number in range(2 * MOST_REFUSED)]
    life = RentedLife("cost: {cap: 2 USD}", *map(offer, zones))
    life.see()
    asked = [life.rental.offer.zone]
    while life.job.live is not None:
        life.refused()
        asked += [life.rental.offer.zone] if life.job.live is not None else []
        assert len(life.job.rentals) <= MOST_REFUSED + 1
    assert asked == zones


def test_what_is_too_dear() -> None:
    """An offer above `cost.max_hourly` isn't one; one that the cap pays too little of isn't asked for."""
    for more, outcome, told in (
        ("cost: {cap: 9 USD, max_hourly: 1 USD}", OutcomeType.NO_CAPACITY, "1 USD an hour or less (cost.max_hourly)"),
        ("cost: {cap: 0.20 USD}", OutcomeType.CAP_REACHED, "too little for a start on g5.xlarge (on-demand) in a"),
    ):
        life = RentedLife(more)
        life.see()
        assert life.job.outcome is not None
        assert (life.job.outcome.type, told in life.job.outcome.message) == (outcome, True)
        assert life.job.rentals == ()
    life = RentedLife(spec=SPOT)
    life.see()
    assert life.job.outcome is not None
    assert life.job.outcome.message == "nothing is on offer"


def test_reclaimed(golden: Golden) -> None:
    """The last word is read from the storage; without one the attempt is lost, and goes on from its checkpoint."""
    told = []
    for word in (True, False):
        life = RentedLife("cost: {cap: 2 USD}", offer(spot=True, hourly=1_000_000), spec=SPOT)
        life.comes_up()
        life.after(minutes=5)
        life.see(life.live(newest=ref(1, 1, life.now)))
        life.goes(demise=Demise.RECLAIMED)
        life.see(life.live(newest=ref(1, 1, life.now)))
        assert life.job.live is not None
        life.see(life.unreachable())  # the storage can't be read now: no verdict
        assert life.job.live is not None
        newest = ref(1, 2, life.now)
        life.see(life.ended(EndReason.INTERRUPTION, newest=newest) if word else life.dead(newest=newest))
        life.now = life.job.not_before or life.now
        life.see()
        told.append(life.told())
        assert life.job.live is not None
        assert life.job.live.resume == newest
    golden("\n".join(told))


def test_gone_before_its_agent_was_up() -> None:
    """No agent has written anything: an interruption, whoever ended the machine."""
    life = RentedLife()
    life.see()
    life.accepted()
    life.goes(demise=Demise.FAULT)
    life.see(life.unreachable())
    life.see(life.absent())
    assert life.job.attempts[0].end is not None
    assert life.job.attempts[0].end.reason is EndReason.LOST
    assert [line.machine for line in life.job.ledger] == ["i-1"]


@pytest.mark.parametrize("billed", [False, True])
def test_granted_and_taken_back(billed: bool) -> None:
    """A machine that goes without having run is a refusal for lack of capacity, and is free."""
    life = RentedLife()
    life.see()
    life.accepted()
    life.after(seconds=20)
    life.lists(life.instance("pending"))
    life.see(life.unreachable())
    life.goes(demise=Demise.CAPACITY if not billed else Demise.FAULT)
    life.see(life.unreachable())
    assert asked_for(life) == ([] if billed else ["g5.xlarge (on-demand) in b"])
    assert bool(life.job.ledger) is billed


def test_no_agent_comes_up() -> None:
    """A machine that runs and can't be reached is ended, and only then the attempt counts as not started."""
    life = RentedLife("cost: {cap: none}\nlimits: {duration: 1h}")
    life.see()
    life.accepted()
    life.lists(life.instance("running"))
    life.see(life.unreachable())
    life.after(minutes=11)
    life.see(life.unreachable())
    assert (ended(life), life.rental.ends) == (["i-1"], Ending.UNREACHABLE)
    life.goes(demise=Demise.ASKED)
    life.see(life.unreachable())
    life.see(life.absent())
    assert life.job.attempts[0].end is not None
    assert life.job.attempts[0].end.reason is EndReason.NOT_STARTED


def test_pending_for_ever() -> None:
    """Not waited for longer than the largest machines take."""
    life = RentedLife("cost: {cap: none}")
    life.see()
    life.accepted()
    life.lists(life.instance("pending"))
    life.see(life.unreachable())
    assert life.rental.not_after is None
    life.now = life.rental.pending_until + timedelta(seconds=16)
    life.see(life.unreachable())
    assert (ended(life), life.rental.ends) == (["i-1"], Ending.UNREACHABLE)


def test_somebody_stopped_it() -> None:
    """A stopped machine goes on being billed for its disks, and trains nothing."""
    life = RentedLife()
    life.see()
    life.accepted()
    life.lists(life.instance("stopped"))
    life.see(life.unreachable())
    assert (ended(life), life.rental.ends) == (["i-1"], Ending.STOPPED)


def test_what_an_attempt_left_on_its_machine_is_gone() -> None:
    """Somebody removed it: the machine is ended, and what the attempt had saved is asked of its storage."""
    life = RentedLife()
    life.comes_up()
    life.see(life.live(newest=ref(1, 1, life.now)))
    life.see(life.absent())
    assert (ended(life), life.rental.ends) == (["i-1"], Ending.WIPED)
    assert life.job.live is not None
    life.goes(demise=Demise.ASKED)
    life.see(life.dead(newest=ref(1, 2, life.now)))
    (attempt, *_) = life.job.attempts
    assert attempt.end is not None
    assert attempt.end.reason is EndReason.LOST
    assert life.job.checkpoint == ref(1, 2, life.now)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("wish", ["stop", "cancel", "delete"])
def test_not_wanted_before_it_trains(wish: str, known: bool) -> None:
    """The request isn't repeated, its machine is ended when it is known, and the record stays until that is seen."""
    life = RentedLife()
    life.see()
    if known:
        life.accepted()
        life.lists(life.instance("running"))
        life.see(life.unreachable())
        life.see(life.absent())
    {"stop": life.stop, "cancel": life.cancel, "delete": life.delete}[wish]()
    life.see(life.absent() if known else life.unreachable())
    assert life.rental.ends is Ending.NOT_WANTED
    if not known:
        life.after(seconds=20)
        life.lists()
        life.see(life.unreachable())
        assert asked_for(life) == []
        life.lists(life.instance("pending"))
        life.see(life.unreachable())
    assert ended(life) == ["i-1"]
    life.goes(demise=Demise.ASKED)
    life.see(life.absent())
    if life.record is not None and life.record.live is not None:
        life.see(life.absent())
    if wish == "delete":
        assert life.record is None
        return
    phase = Phase.STOPPED if wish == "stop" else Phase.FINISHED
    assert (life.job.phase, life.job.attempts[0].end is not None) == (phase, True)


def test_not_wanted_and_refused() -> None:
    """A request that was refused needs no waiting for."""
    life = RentedLife()
    life.see()
    life.stop()
    life.refused()
    if life.job.live is not None:
        life.see(life.unreachable())
    assert (life.job.phase, life.job.unreleased) == (Phase.STOPPED, ())


def test_taken_for_dead() -> None:
    """The user's word ends a rented machine; it doesn't replace seeing it gone."""
    life = RentedLife()
    life.comes_up()
    life.after(minutes=1)
    life.assume_dead(1)
    life.see(life.unreachable())
    assert (ended(life), life.rental.ends, life.job.live is not None) == (["i-1"], Ending.VOUCHED, True)
    life.goes(demise=Demise.ASKED)
    life.see(life.unreachable())
    life.see(life.dead())
    assert life.job.attempts[0].end is not None


def test_the_ceiling(golden: Golden) -> None:
    """The agent is granted less than the machine, whose end is fixed; the controller ends it when nobody else has."""
    life = RentedLife("cost: {cap: 1 USD}")
    life.comes_up()
    rental, grant = life.rental, life.job.attempts[0].orders.limits.money
    assert rental.not_after is not None
    assert grant is not None
    assert grant.until == rental.not_after - OFF_MARGIN
    life.apply(job(RENTED + "cost: {cap: 5 USD}"))
    life.see(life.live())
    assert (life.rental.not_after, life.job.attempts[0].orders.limits.money) == (rental.not_after, grant)
    life.apply(job(RENTED + "cost: {cap: 0.50 USD}"))
    life.see(life.live())
    lower = life.job.attempts[0].orders.limits.money
    assert lower is not None
    assert lower.until < grant.until
    life.now = rental.not_after - timedelta(seconds=29)
    life.see(life.unreachable())
    assert (ended(life), life.rental.ends) == (["i-1"], Ending.CEILING)
    for pause in (10, 20, 40):  # asked again, with growing pauses
        life.after(seconds=pause - 1)
        life.see(life.unreachable())
        assert ended(life) == []
        life.after(seconds=1)
        life.see(life.unreachable())
        assert ended(life) == ["i-1"]
    golden(life.told())


@pytest.mark.parametrize("cap", ["none", "2 USD"])
def test_the_ceiling_of_a_cap_that_came_later(cap: str) -> None:
    """A cap that is set or lowered while the machine is there is held without its agent, too."""
    life = RentedLife(f"cost: {{cap: {cap}}}")
    life.comes_up()
    life.apply(job(RENTED + "cost: {cap: 1 USD}"))
    life.see(life.live())
    grant = life.job.attempts[0].orders.limits.money
    assert grant is not None
    life.now = grant.until
    life.see(life.unreachable())
    assert ended(life) == []
    life.now = grant.until + OFF_MARGIN - BEFORE_CEILING
    life.see(life.unreachable())
    assert (ended(life), life.rental.ends) == (["i-1"], Ending.CEILING)
    assert spent(life.job, life.now) < 1_000_000


def test_a_cap_below_what_is_spent_leaves_the_grace() -> None:
    """The agent is told to end at once, and has its grace to save before its machine goes."""
    life = RentedLife()
    life.comes_up()
    life.after(minutes=10)
    life.apply(job(RENTED + "cost: {cap: 0.10 USD}"))
    life.see(life.live())
    assert ended(life) == []
    life.after(seconds=5)  # the grace
    life.see(life.live(drain="cap"))
    assert ended(life) == []
    life.after(minutes=1)
    life.see(life.unreachable())
    assert ended(life) == ["i-1"]


def test_gone_from_the_listings() -> None:
    """A terminated machine is listed for an hour. Once it must be gone, ten minutes without it are enough."""
    for more, after in (("cost: {cap: 1 USD}", None), ("cost: {cap: none}", VANISHING)):
        life = RentedLife(more)
        life.comes_up()
        life.after(minutes=1)
        life.see(life.ended(code=0))
        asked = life.rental.asked_at
        life.after(minutes=1)
        life.lists()
        life.see()
        assert life.rental.absences == 0
        life.now = asked + after if after else life.rental.not_after or life.now
        for pause in (15, 15, 15, MISSING_FOR.total_seconds()):
            assert life.job.phase is Phase.RELEASING
            life.after(seconds=pause)
            life.lists()
            life.see()
        assert (life.rental.released, life.job.phase) == (Release.VANISHED, Phase.FINISHED)
        life.after(seconds=15)
        life.lists(life.instance("running"))
        life.see()
        assert ended(life) == ["i-1"]  # it isn't gone after all


def test_one_that_was_going_and_is_not_listed_any_more() -> None:
    """From shutting down there is only one way on: it is gone long before its money would have been over, and was
    billed until it was missing."""
    life = RentedLife("cost: {cap: 100 USD}")
    life.comes_up()
    life.see(life.ended(code=0))
    life.lists(life.instance("shutting-down"))
    life.see()
    missing_at = life.now + timedelta(seconds=15)
    for pause in (15, 15, 15, MISSING_FOR.total_seconds()):
        life.after(seconds=pause)
        life.lists()
        life.see()
    assert (life.rental.released, life.job.phase) == (Release.VANISHED, Phase.FINISHED)
    assert life.job.ledger[0].ended_at == missing_at


def test_one_that_runs_is_not_missed() -> None:
    """Without a bound on its money and without a wish to end it, no absence counts."""
    life = RentedLife("cost: {cap: none}")
    life.comes_up()
    for _ in range(2 * ABSENCES):
        life.after(hours=1)
        life.lists()
        life.see(life.live())
    assert (life.rental.absences, life.rental.released_at) == (0, None)


def test_listings_that_go_back_in_time() -> None:
    """A later listing may be the older one: what was seen stays seen."""
    life = RentedLife()
    life.comes_up()
    life.see(life.ended(code=0))
    life.after(seconds=10)
    life.lists(life.instance("shutting-down"))
    life.see()
    life.lists(life.instance("running"))
    life.see()
    assert (life.rental.state, ended(life)) == ("shutting-down", [])
    life.goes()
    life.see()
    released = life.rental
    life.lists(life.instance("shutting-down"))
    life.see()
    assert (life.rental, life.job.phase) == (released, Phase.FINISHED)


def test_two_under_one_token() -> None:
    """The token should keep that from happening. If it does, the one that nobody expects is ended, and billed."""
    life = RentedLife()
    life.see()
    life.accepted("i-1")
    life.after(seconds=15)
    life.lists(life.instance("running", "i-1"), life.instance("running", "i-2"))
    life.see(life.unreachable())
    assert ended(life) == ["i-2"]
    stray = msgspec.structs.replace(life.instance("pending", "i-3"), token="nobody's")
    life.lists(stray)
    life.see(life.unreachable())
    assert [each.instance for each in life.job.rentals] == ["i-1", "i-2", "i-3"]
    assert life.rental.stray


def test_a_machine_that_older_books_do_not_know() -> None:
    """Where nothing was ever asked for (the books are those of yesterday, say), what is there is ended, and billed at
    the highest price that is known."""
    for offers, hourly in (((offer(hourly=5), offer(hourly=7)), 7), (None, 0)):
        life = RentedLife()
        life.offers = offers
        shown = InstanceSeen(id="i-9", token="of yesterday", attempt=3, state=MachineState.RUNNING, launched_at=T0)
        life.lists(shown)
        life.see()
        assert ended(life) == ["i-9"]
        assert [(line.machine, line.attempt, line.hourly) for line in life.job.ledger] == [("i-9", 3, hourly)]
        life.cancel()
        life.after(minutes=1)
        life.lists(msgspec.structs.replace(shown, state=MachineState.TERMINATED))
        life.see()
        assert [each.released for each in life.job.rentals if each.instance == "i-9"] == [Release.TERMINATED]


def test_a_lowered_cap_and_a_machine_that_comes_late() -> None:
    """The grant counts from when the machine was there, however long before that it was asked for."""
    life = RentedLife("cost: {cap: 2 USD}")
    life.see()
    life.apply(job(RENTED + "cost: {cap: 1 USD}"))
    life.see(life.unreachable())
    life.after(minutes=5)
    life.lists(life.instance("pending", "i-1"))
    life.see(life.unreachable())
    assert life.job.live is not None
    grant = life.job.live.orders.limits.money
    assert grant is not None
    assert grant.seconds * 3_600_000 / 3600 <= 1_000_000
    assert grant.until == life.now + timedelta(seconds=grant.seconds)


def test_a_machine_that_never_ran_costs_what_it_may_have_run() -> None:
    """One that pended until its end was asked for can have run only after that."""
    life = RentedLife()
    life.see()
    life.accepted("i-1")
    for _ in range(20):
        life.after(minutes=1)
        life.lists(life.instance("pending", "i-1"))
        life.see(life.unreachable())
    life.goes(demise=Demise.ASKED)
    life.see(life.unreachable())
    assert spent(life.job, life.now) <= 2 * cost_of(life.rental.offer.hourly, LISTING_LAG)


def test_an_answer_to_nothing() -> None:
    """One that comes after the machine was seen, or whose request is over, changes nothing."""
    life = RentedLife()
    life.see()
    token = life.rental.token
    life.accepted("i-1")
    before = life.job
    life.accepted("i-9")
    assert life.job == before
    life.goes(demise=Demise.CAPACITY)
    life.see(life.unreachable())
    life.answer = msgspec.structs.replace(life.answer, token=token) if life.answer else None
    life.accepted("i-2")
    assert life.job.rentals[0].instance == "i-1"


def test_others_hold_the_group_cap() -> None:
    """A reservation counts against the group's cap, and never is for more than others have left."""
    life = RentedLife("cost: {cap: none}\ngroup: {cap: 2 USD}", group="g")
    life.group = msgspec.structs.replace(life.group, committed=1_500_000)
    life.see()
    assert life.rental.reserved == 500_000


def test_what_others_have_spent_does_not_come_back() -> None:
    """Members that all wait for one another's money, of which nothing is held, would wait for ever."""
    life = RentedLife("cost: {cap: none}\ngroup: {cap: 2 USD}", group="g")
    life.see()
    life.group = msgspec.structs.replace(life.group, committed=1_900_000, spent=1_900_000, live=("b",))
    life.refused()
    assert life.job.live is None
    life.after(minutes=5)
    life.lists()
    life.see()
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.CAP_REACHED


def test_others_hold_all_of_the_group_cap() -> None:
    """A job waits for what may come back, before its first machine and before the next choice."""
    rich = RentedLife("cost: {cap: none}\ngroup: {cap: 2 USD}", group="g")
    held = msgspec.structs.replace(rich.group, committed=1_900_000, live=("b",))
    rich.group = held
    made = rich.see()
    assert (asked_for(rich), rich.job.phase) == ([], Phase.QUEUED)
    assert made.wake_at is not None
    rich.group = msgspec.structs.replace(held, committed=0)
    rich.see()
    rich.group = held
    rich.refused()
    assert (asked_for(rich), rich.job.live is not None) == ([], True)
    rich.group = msgspec.structs.replace(held, spent=1_900_000)
    rich.see(rich.unreachable())
    rich.after(minutes=5)
    rich.lists()
    rich.see()
    assert rich.job.outcome is not None
    assert rich.job.outcome.type is OutcomeType.CAP_REACHED


def test_the_launch_goes_to_the_machine() -> None:
    """The agent is started when its host answers, again until its window is over, and not for what isn't wanted."""
    life = RentedLife()
    life.see()
    life.accepted()
    life.lists(life.instance("running"))
    life.see(life.unreachable())
    made = life.see(life.absent())
    assert [each for each in made.actions if isinstance(each, Launch)] != []
    life.after(minutes=11)
    made = life.see(Absent(as_of=life.now))
    assert [each for each in made.actions if isinstance(each, Launch)] == []


@pytest.mark.parametrize("cap", ["cost: {cap: 2 USD}", "cost: {cap: none}\ngroup: {cap: 2 USD}"])
def test_a_cap_that_comes_later(cap: str) -> None:
    """What it grants to a machine that nothing bounded is held from then on, and others of the group see that; the
    grant is never for more, though others leave more."""
    life = RentedLife("cost: {cap: none}", group="g")
    life.comes_up()
    assert (life.rental.not_after, life.rental.reserved) == (None, 0)
    life.group = msgspec.structs.replace(life.group, committed=500_000)
    before = life.job
    life.apply(job(RENTED + cap))
    life.see(life.live())
    held = 1_500_000 if "group" in cap else 2_000_000
    assert (life.rental.reserved, reserves_more(before, life.job)) == (held, True)
    life.group = msgspec.structs.replace(life.group, committed=0)
    life.see(life.live())
    grant = life.job.attempts[0].orders.limits.money
    assert grant is not None
    assert life.rental.launched_at is not None
    assert grant.until == life.rental.launched_at + timedelta(hours=held / 3_600_000) - OFF_MARGIN
    life.goes()
    life.see(life.live())
    life.apply(job(RENTED + cap.replace("2 USD", "3 USD")))
    life.see(life.unreachable())
    assert life.rental.reserved == 0


def test_a_stray_holds_nothing() -> None:
    """What nobody asked for is billed and ended; the job holds no more money for it, and no other waits for that."""
    life = RentedLife(group="g")
    life.comes_up()
    before = life.job
    life.apply(job(RENTED + "cost: {cap: 0.10 USD}"))
    life.lists(life.instance("running"), life.instance("running", "i-2"))
    life.see(life.live())
    assert (len(life.job.rentals), reserves_more(before, life.job)) == (2, False)


def test_taken_for_dead_when_its_machine_is_gone() -> None:
    """Orders to nobody grant nothing: only the last word is waited for."""
    life = RentedLife()
    life.comes_up()
    life.goes(demise=Demise.FAULT)
    life.see(life.unreachable())
    life.apply(job(RENTED + "cost: {cap: 0.10 USD}"))
    life.assume_dead(1)
    life.see(life.unreachable())
    assert life.job.live is not None
    life.see(life.dead())
    assert life.job.live is None


def test_what_nothing_bounds_and_nobody_saw_go() -> None:
    """A machine that went while its controller slept, and that no listing shows any more, is asked to end after a
    while, so that its absence counts; then its last word is read."""
    life = RentedLife("cost: {cap: none}")
    life.comes_up()
    life.after(hours=9)
    for missing_for in (timedelta(0), VANISHING):
        life.now += missing_for
        life.lists()
        life.see(life.unreachable())
        assert life.rental.ends is None
    life.after(seconds=1)
    life.see(life.unreachable())
    assert (ended(life), life.rental.ends) == (["i-1"], Ending.MISSING)
    life.now += VANISHING
    for _ in range(ABSENCES):
        life.now += MISSING_FOR / 2
        life.lists()
        life.see(life.unreachable())
    assert life.rental.released is Release.VANISHED
    life.see(life.ended(code=0))
    assert life.job.phase is Phase.FINISHED


def test_one_that_is_listed_again_was_not_missed() -> None:
    """However long the listings lacked it, or whoever can reach it."""
    life = RentedLife("cost: {cap: none}")
    life.comes_up()
    life.after(hours=1)
    life.lists()
    life.see(life.unreachable())
    life.after(hours=1)
    life.lists(life.instance("running"))
    life.see(life.unreachable())
    assert (life.rental.absent_at, life.rental.ends) == (None, None)


def test_not_asked_for_again_when_its_money_is_over() -> None:
    """A cap that is lowered while a request is unanswered ends what comes of it; it isn't sent once more first."""
    life = RentedLife()
    life.see()
    life.apply(job(RENTED + "cost: {cap: 0.01 USD}"))
    life.see(life.unreachable())
    life.after(seconds=59)
    life.lists()
    life.see(life.unreachable())
    assert asked_for(life) == []
    life.after(seconds=10)
    life.lists()
    life.see(life.unreachable())
    assert (asked_for(life), life.rental.ends) == ([], Ending.CEILING)


def test_an_earlier_machine_holds_the_money() -> None:
    """The next attempt waits until the machine of the one before is seen to be gone, and its reservation falls; what
    that has cost in truth decides whether it may go on."""
    for ran, goes_on in ((timedelta(minutes=1), True), (timedelta(minutes=30), False)):
        life = RentedLife()
        life.comes_up()
        life.now += ran
        life.see(life.ended(EndReason.INTERRUPTION))
        life.after(seconds=3)
        life.lists(life.instance("shutting-down"))
        made = life.see()
        assert (life.job.outcome is None) == goes_on
        if goes_on:
            assert (life.job.phase, made.wake_at is not None, asked_for(life)) == (Phase.QUEUED, True, [])
            life.goes(demise=Demise.ASKED)
            life.see()
            assert asked_for(life) == ["g5.xlarge (on-demand) in a"]


def test_an_edit_moves_a_job() -> None:
    """Where it ran before is remembered: a machine may still be there."""
    life = RentedLife()
    life.see()
    life.apply(job("instance: {hourly_rate: 1 USD}\ncost: {cap: 2 USD}"), replace=True)
    life.see(life.unreachable())
    assert (life.job.rented, life.job.platforms) == (False, {Platform.AWS, Platform.LOCAL})
