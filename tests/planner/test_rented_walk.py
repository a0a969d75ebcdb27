"""Random lives on rented machines: any requests over any fate of requests, machines, listings, agents and controllers.

Beside the linter the world keeps books of its own: what is billed, what trains beside what, what nobody has in mind.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from runctl.manifest.job import Job
from runctl.planner.actions import Action, EndMachine, Launch, Plan, Rent, SendOrders
from runctl.planner.money import cost_of, interval_cost, spent
from runctl.planner.observed import (
    Absent,
    AttemptSeen,
    Dead,
    Ended,
    Listing,
    Live,
    Observed,
    RentAnswer,
    Unreachable,
)
from runctl.planner.record import EndReason, OutcomeType, Record
from runctl.planner.rental import Demise, MachineState, Offer, Refusal, Rental

from .agents import Agent
from .clouds import Cloud, Machine
from .kit import RENTED, job, offer, record
from .walking import JobWalk, finish_in_time, walk_settings

SPOT = RENTED.replace("region: us-east-1", "region: us-east-1, capacity: spot")
EITHER = RENTED.replace("region: us-east-1", "region: us-east-1, capacity: spot-then-on-demand")
TOLERANT = RENTED.replace("grace: 5s", "grace: 5s, deadline: 10m, on_deadline: fail")
SPECS = (
    job(RENTED + "cost: {cap: 2 USD}"),
    job(RENTED + "cost: {cap: 1 USD}\nlimits: {duration: 20m}\nretry: {failures: 2, interruptions: 1}"),
    job(SPOT + "cost: {cap: 2 USD, max_hourly: 4 USD}"),
    job(EITHER + "cost: {cap: 5 USD, warn_at: [10%, 90%]}\nretry: {failures: 1}"),
    job(RENTED + "cost: {cap: none}\nlimits: {duration: 1h}"),
    job(TOLERANT + "cost: {cap: none}"),
    job(RENTED + "cost: {cap: 3 USD}\ngroup: {cap: 4 USD, max_parallel: 2}"),
    job(EITHER + "cost: {cap: none}\ngroup: {cap: 2 USD}\nsecrets: [TOKEN]"),
)
SPANS = (1.0, 15.0, 0.05, 61.0, 200.0, 700.0, 4000.0)
SHELF = (offer("a", hourly=3_600_000), offer("b", hourly=3_600_000), offer("a", spot=True, hourly=1_800_000))
PRICES: dict[str, tuple[Offer, ...] | None] = {
    "usual": SHELF,
    "unknown": None,
    "only b": SHELF[1:2],
    "dearer": tuple(msgspec.structs.replace(each, hourly=3 * each.hourly) for each in SHELF),
    "none": (),
}
# What a start on the dearest of these may need: four minutes and a bit.
ENOUGH = 800_000
FATES = ("granted", "answer lost", "lost", "late", *Refusal)
# The clock of a controller's machine is at most this far from the true time.
SKEWS = (0.0, 0.0, 2.0, -2.0)
# How far a life has come when the walk begins.
STARTS = ("asked", "pending", "running", "training", "training")


class RentedWalk(JobWalk):
    def __init__(self) -> None:
        super().__init__()
        self.cloud = Cloud()
        self.listing: Listing | None = None
        self.answer: RentAnswer | None = None
        self.offers: tuple[Offer, ...] | None = SHELF
        self.trouble = "none"
        # What the next controller does before it dies; None: it lives.
        self.sends_before_death: int | None = None

    @initialize(
        spec=st.sampled_from(SPECS), group=st.sampled_from((None, "g")), start=st.sampled_from(STARTS),
        fates=st.lists(st.sampled_from(FATES), max_size=3),
    )  # fmt: skip
    def created(self, spec: Job, group: str | None, start: str, fates: list[str]) -> None:
        self.cloud.fates = list(fates)
        self.looks()
        self.begin(record(spec, group=group))
        if self.machine is None or start == "asked":
            return
        self.looks()
        self.reconcile()
        if start != "pending":
            self.machine_runs(boots=True, looks=True)
        if start == "training" and self.agent is not None:
            self.agent_advances("training")

    # What the world does.

    @property
    def machine(self) -> Machine | None:
        """The newest machine that is of a request, gone or not."""
        mine = [each for each in self.cloud.machines if not each.copied]
        return mine[-1] if mine else None

    @property
    def agent(self) -> Agent | None:
        return self.machine.agent if self.machine is not None and self.machine.up else None

    def agents(self) -> list[Agent]:
        return [each.agent for each in self.cloud.machines if each.agent is not None]

    def settle(self) -> None:
        self.cloud.settle(self.now)

    def looks(self) -> None:
        self.listing = self.cloud.sweep(self.now, timedelta(0), missing=False, clock=self.clock)

    @rule(span=st.sampled_from(SPANS), looks=st.booleans())
    def time_passes(self, span: float, looks: bool) -> None:
        self.pass_time(self.now + timedelta(seconds=span))
        if looks:
            self.looks()
        self.reconcile()

    @rule(stale=st.sampled_from((0.0, 5.0, 30.0)), missing=st.booleans())
    def sweep(self, stale: float, missing: bool) -> None:
        self.listing = self.cloud.sweep(self.now, timedelta(seconds=stale), missing=missing, clock=self.clock)
        self.reconcile()

    @rule(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=3))
    def requests_will_be(self, fates: list[str]) -> None:
        self.cloud.fates = list(fates)

    @rule(prices=st.sampled_from(list(PRICES)))
    def prices_change(self, prices: str) -> None:
        self.offers = PRICES[prices]
        self.reconcile()

    @precondition(lambda self: self.machine is not None and self.machine.state is MachineState.PENDING)
    @rule(boots=st.sampled_from((True, True, True, False)), looks=st.booleans())
    def machine_runs(self, boots: bool, looks: bool) -> None:
        assert self.machine is not None
        self.machine.to(MachineState.RUNNING, self.now)
        self.machine.boots = boots
        if looks:
            self.looks()
        self.reconcile()

    @precondition(lambda self: self.machine is not None and self.machine.billable)
    @rule(how=st.sampled_from(("fault", "capacity", "reclaimed", "stopping", "stopped")))
    def machine_goes(self, how: str) -> None:
        machine = self.machine
        assert machine is not None
        if how in ("stopping", "stopped"):
            machine.stop(MachineState(how), self.now)
        elif (how == "capacity") == (machine.state is MachineState.PENDING):
            machine.go(Demise(how), self.now)
        self.reconcile()

    @precondition(lambda self: self.machine is not None and self.machine.up)
    @rule(powers_off=st.booleans(), word_lost=st.booleans())
    def machine_is_bad(self, powers_off: bool, word_lost: bool) -> None:
        """It doesn't power itself off when its attempt is over, or what its agent writes last doesn't outlive it."""
        assert self.machine is not None
        self.machine.powers_off, self.machine.word_lost = powers_off, word_lost

    @precondition(lambda self: self.machine is not None and self.machine.billable)
    @rule()
    def somebody_copies_a_machine(self) -> None:
        assert self.machine is not None
        self.cloud.grant(self.machine.rental, self.now, copied=True).to(MachineState.RUNNING, self.now)
        self.reconcile()

    @rule(trouble=st.sampled_from(("none", "none", "network", "storage", "secrets", "ends", "loses")))
    def weather(self, trouble: str) -> None:
        """Hosts or storage that don't answer, no secrets, ends that are refused, launches and orders that are lost."""
        self.trouble = trouble
        self.missing = ("TOKEN",) if trouble == "secrets" else ()
        self.cloud.ends_refused = trouble == "ends"
        self.reconcile()

    @precondition(lambda self: self.lively is not None and self.lively.training_at is not None)
    @rule(
        span=st.sampled_from((60.0, 900.0, 4000.0, 90_000.0)),
        fate=st.sampled_from(("goes on", "succeeds", "fails", "reclaimed", "dies")),
    )
    def nobody_looks(self, span: float, fate: str) -> None:
        """The controller's computer sleeps, and wakes up to what has become of the training meanwhile."""
        assert self.machine is not None
        assert self.agent is not None
        self.pass_time(self.now + timedelta(seconds=span / 2))
        if self.agent is not None and self.agent.alive:
            match fate:
                case "succeeds" | "fails":
                    self.agent.finish(EndReason.EXITED, self.now, 0 if fate == "succeeds" else 1)
                case "reclaimed":
                    self.machine.go(Demise.RECLAIMED, self.now)
                case "dies":
                    self.agent.die(self.now)
        self.pass_time(self.now + timedelta(seconds=span / 2))
        self.reconcile()

    # What users do.

    @precondition(lambda self: self.record is not None)
    @rule(spec=st.sampled_from(SPECS), replace=st.booleans(), code=st.sampled_from("01"))
    def apply(self, spec: Job, replace: bool, code: str) -> None:
        self.ask_for(spec, replace=replace, code=code)

    # The controller.

    @rule(sends=st.sampled_from((0, 1)))
    def controller_will_die(self, sends: int) -> None:
        """When it next does something: after it has written, and has done so many things."""
        self.sends_before_death = sends

    @rule(skew=st.sampled_from(SKEWS), anew=st.sampled_from((True, True, False)))
    def controller_has_another_clock(self, skew: float, anew: bool) -> None:
        """Its clock is set; or another one takes over, which has seen nothing yet."""
        self.skew = timedelta(seconds=skew)
        if anew:
            self.listing = self.answer = None
        self.reconcile()

    def reaches(self, action: Action) -> bool:
        if self.sends_before_death is None:
            return True
        self.sends_before_death -= 1
        if self.sends_before_death >= 0:
            return True
        self.sends_before_death = self.listing = self.answer = None
        return False

    @property
    def unanswered(self) -> bool:
        return self.answer is not None

    def observe(self, before: Record) -> Observed:
        rental = before.rental_of(before.live) if before.live is not None else None
        has_one = before.live is not None and (rental is None or rental.released_at is None)
        nobody_asks = has_one or before.outcome is not None or before.stopped is not None
        answer, self.answer = self.answer, None
        machine = self.machine_of(rental)
        seen = self.look(rental, machine) if before.live is not None else None
        agent = machine.agent if machine is not None and isinstance(seen, Live | Ended | Dead) else None
        return Observed(
            attempt=seen,
            group=self.group,
            requests=tuple(self.asked),
            missing_secrets=self.missing,
            agent_events=agent.events if agent is not None else (),
            listing=self.listing,
            offers=None if nobody_asks else self.offers,
            rent_answer=answer,
        )

    def machine_of(self, rental: Rental | None) -> Machine | None:
        return self.cloud.named(rental.instance) if rental is not None and rental.instance is not None else None

    def look(self, rental: Rental | None, machine: Machine | None) -> AttemptSeen:
        """Its host, if that can be reached; what it has left in the storage, once its machine is seen to be gone."""
        gone = rental is not None and rental.released_at is not None
        cut = self.trouble == "network" or machine is None or not machine.reachable
        if self.trouble == "storage" if gone else cut:
            return Unreachable(as_of=self.clock, why="no route")
        agent = machine.agent if machine is not None else None
        if agent is None:
            return Absent(as_of=self.clock)
        if gone and machine is not None and machine.word_lost and agent.state == "ended":
            return agent.found_dead(self.clock)
        return agent.look(self.clock)

    def execute(self, action: Action) -> None:
        match action:
            case Rent(rental=rental, again=again):
                self.answer = self.cloud.rent(rental, again, self.now)
            case EndMachine(instance=instance):
                self.cloud.end(instance, self.now)
            case Launch(attempt=attempt) if self.trouble != "loses":
                self.alone(attempt.number)
                assert self.record is not None
                machine = self.machine_of(self.record.rental_of(attempt))
                assert machine is not None
                machine.take(Agent(attempt, self.now))
            case SendOrders(attempt=number, orders=orders) if self.trouble != "loses":
                agent = next(each for each in self.agents() if each.attempt.number == number)
                assert orders.serial > agent.orders.serial
                agent.orders = orders

    # What must hold.

    def judge(self, before: Record, made: Plan) -> None:
        if made.record is not None:
            self.granted_within_the_cap(before, made.record)
            self.nothing_is_forgotten(made.record, made)
            self.not_given_up_early(before, made.record)

    def granted_within_the_cap(self, before: Record, after: Record) -> None:
        """What an attempt's agent may use, together with what else is held or spent, is within the newest cap."""
        live, cap = after.live, after.job.cost.cap
        if live is None or cap is None or (before.live is not None and before.live.orders == live.orders):
            return
        rental, grant = after.rental_of(live), live.orders.limits.money
        assert rental is not None
        if grant is None or grant.seconds == 0 or rental.released_at is not None:
            return
        billed = {each.machine: interval_cost(each, self.clock) for each in after.ledger}
        held = {each.instance or each.token: each.reserved for each in after.unreleased if each is not rental}
        others = (billed.keys() | held.keys()) - {rental.instance}
        taken = sum(max(billed.get(key, 0), held.get(key, 0)) for key in others)
        granted = cost_of(rental.offer.hourly, grant.until - (rental.launched_at or rental.intended_at))
        assert granted + taken <= cap.micros, f"{granted} granted, {taken} taken, the cap is {cap}"

    def not_given_up_early(self, before: Record, after: Record) -> None:
        """What earlier machines hold, and haven't cost, doesn't end a job: it comes back."""
        outcome, cap = after.outcome, after.job.cost.cap
        if before.outcome is not None or outcome is None or outcome.type is not OutcomeType.CAP_REACHED:
            return
        enough = cap is not None and cap.micros - spent(after, self.clock) > ENOUGH
        assert not enough or after.job.group.cap is not None, f"{outcome.message}, and {cap} is the cap"

    def nothing_is_forgotten(self, after: Record, made: Plan) -> None:
        """Each machine that is listed alive is in the books, or is being ended; what has no attempt is to end."""
        held = {each.instance for each in after.unreleased}
        ending = {action.instance for action in made.actions if isinstance(action, EndMachine)}
        for seen in self.listing.instances if self.listing is not None else ():
            alive = seen.demise is None and self.cloud.named(seen.id).billable
            assert not alive or seen.id in held | ending, f"{seen.id} is billed, and nobody has it in mind"
        for rental in after.unreleased:
            mine = after.live is not None and after.rental_of(after.live) == rental
            assert mine or rental.ends is not None, f"{rental.instance} is of no live attempt, and isn't ended"

    def billed(self) -> int:
        for rental in self.record.rentals if self.record is not None else ():
            gone = (
                rental.instance is None or rental.released_at is None or not self.cloud.named(rental.instance).billable
            )
            assert gone, f"{rental.instance} is released, and billed"
        return sum(each.bill(self.now) for each in self.cloud.machines if not each.copied)

    # When nothing fails any more.

    def heal(self) -> None:
        self.sends_before_death = None
        self.cloud.fates, self.offers = [], SHELF
        self.weather("none")
        if self.record is not None and self.record.group is not None:
            self.group_changes(0, 0, 0, False)

    def go_on(self) -> None:
        for machine in self.cloud.machines:
            machine.powers_off = True
            if machine.state is MachineState.PENDING:
                machine.to(MachineState.RUNNING, self.now)
        if self.agent is not None:
            finish_in_time(self.agent, self.now)
        self.looks()

    def left_behind(self) -> bool:
        """A machine is billed, or may still be; of a job that is removed the sweep ends what it finds."""
        alive = any(each.billable for each in self.cloud.machines)
        return self.record is not None and (alive or bool(self.cloud.late))


RentedWalk.TestCase.settings = walk_settings(examples=60, steps=60)
TestRentedWalk = RentedWalk.TestCase
