"""Random lives on rented machines: any requests over any fate of requests, machines, listings, agents and controllers.

The linter sees every plan; beside it the world keeps books of its own: what is billed, what trains beside what, what
nobody has in mind, and whether everything comes to an end once nothing fails any more.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from runctl.manifest.job import Cost, Job
from runctl.planner.actions import Action, EndMachine, Launch, Plan, Rent, SendOrders
from runctl.planner.lint import lint
from runctl.planner.money import committed, cost_of, interval_cost
from runctl.planner.observed import (
    Absent,
    AttemptSeen,
    GroupSeen,
    Listing,
    Observed,
    RentAnswer,
    Unreachable,
)
from runctl.planner.plan import plan
from runctl.planner.record import EndReason, OutcomeType, Record
from runctl.planner.rental import Demise, MachineState, Offer, Refusal, Rental
from runctl.planner.requests import Apply, Asked, AssumeDead, CancelJob, DeleteJob, Request, StopJob

from .agents import Agent, walk_settings
from .clouds import Cloud, Machine
from .kit import RENTED, T0, job, offer, record, ref, source

SPOT = RENTED.replace("region: us-east-1", "region: us-east-1, capacity: spot")
EITHER = RENTED.replace("region: us-east-1", "region: us-east-1, capacity: spot-then-on-demand")
SPECS = (
    job(RENTED + "cost: {cap: 2 USD}"),
    job(RENTED + "cost: {cap: 1 USD}\nlimits: {duration: 20m}\nretry: {failures: 2, interruptions: 3}"),
    job(SPOT + "cost: {cap: 2 USD, max_hourly: 4 USD}"),
    job(EITHER + "cost: {cap: 5 USD, warn_at: [10%, 90%]}\nretry: {failures: 1}"),
    job(RENTED + "cost: {cap: none}\nlimits: {duration: 1h}"),
    job(RENTED + "cost: {cap: none}"),
    job(RENTED + "cost: {cap: 3 USD}\ngroup: {cap: 4 USD, max_parallel: 2}"),
    job(EITHER + "cost: {cap: none}\ngroup: {cap: 2 USD}\nsecrets: [TOKEN]"),
)
CAPS = tuple(job(f"{RENTED}cost: {{cap: {cap}}}").cost for cap in ("2 USD", "0.40 USD", "1 USD", "6 USD", "none"))
SPANS = (1.0, 15.0, 0.05, 61.0, 200.0, 700.0, 4000.0)
SHELF = (offer("a", hourly=3_600_000), offer("b", hourly=3_600_000), offer("a", spot=True, hourly=1_800_000))
PRICES: dict[str, tuple[Offer, ...] | None] = {
    "usual": SHELF,
    "unknown": None,
    "only b": SHELF[1:2],
    "dearer": tuple(msgspec.structs.replace(each, hourly=3 * each.hourly) for each in SHELF),
    "none": (),
}
FATES = ("granted", "answer lost", "lost", "late", "late", *Refusal)

# So many passes at one instant come to rest, whatever has happened since the one before.
MOST_PASSES = 12


class RentedWalk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.record: Record | None = None
        self.made: Plan | None = None
        self.cloud = Cloud()
        self.listing: Listing | None = None
        self.answer: RentAnswer | None = None
        self.offers: tuple[Offer, ...] | None = SHELF
        self.partitioned = self.storage_fails = False
        self.sends_before_death: int | None = None
        self.group = GroupSeen()
        self.missing: tuple[str, ...] = ()
        self.asked: list[Asked] = []
        self.serial = 0
        self.highest_cap: int | None = 0

    @initialize(spec=st.sampled_from(SPECS), group=st.sampled_from((None, "g")))
    def created(self, spec: Job, group: str | None) -> None:
        self.record = record(spec, group=group)
        self.note_cap()
        self.listing = self.cloud.sweep(self.now, timedelta(0), False)
        self.reconcile()

    # What the world does.

    @property
    def machine(self) -> Machine | None:
        """The newest machine that is of a request, gone or not."""
        mine = [each for each in self.cloud.machines if not each.copied]
        return mine[-1] if mine else None

    @property
    def agent(self) -> Agent | None:
        return self.machine.agent if self.machine is not None and self.machine.up else None

    def pass_time(self, to: datetime) -> None:
        self.now = to
        self.cloud.settle(to)
        self.reconcile()

    @rule(span=st.sampled_from(SPANS), looks=st.booleans())
    def time_passes(self, span: float, looks: bool) -> None:
        self.now += timedelta(seconds=span)
        self.cloud.settle(self.now)
        if looks:
            self.listing = self.cloud.sweep(self.now, timedelta(0), False)
        self.reconcile()

    @rule()
    def sleeps_until_it_is_woken(self) -> None:
        wake = self.made.wake_at if self.made is not None else None
        if wake is not None:
            self.pass_time(max(self.now, wake))

    @rule(stale=st.sampled_from((0.0, 5.0, 30.0)), missing=st.booleans())
    def sweep(self, stale: float, missing: bool) -> None:
        self.listing = self.cloud.sweep(self.now, timedelta(seconds=stale), missing)
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
        machine = self.machine
        assert machine is not None
        machine.to(MachineState.RUNNING, self.now)
        machine.boots = boots
        if looks:
            self.listing = self.cloud.sweep(self.now, timedelta(0), False)
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

    @precondition(lambda self: self.machine is not None and self.machine.billable)
    @rule()
    def somebody_copies_a_machine(self) -> None:
        machine = self.machine
        assert machine is not None
        self.cloud.grant(machine.rental, self.now, copied=True).to(MachineState.RUNNING, self.now)
        self.reconcile()

    @rule(trouble=st.sampled_from(("none", "none", "none", "network", "storage", "secrets", "ends")))
    def weather(self, trouble: str) -> None:
        self.partitioned, self.storage_fails = trouble == "network", trouble == "storage"
        self.missing = ("TOKEN",) if trouble == "secrets" else ()
        self.cloud.ends_refused = trouble == "ends"
        self.reconcile()

    @precondition(lambda self: self.agent is not None)
    @rule(to=st.sampled_from(("training", "training", "training", "starting", "up")))
    def agent_advances(self, to: str) -> None:
        agent = self.agent
        assert agent is not None
        agent.advance(to, self.now)
        self.reconcile()

    @precondition(lambda self: self.agent is not None and self.agent.alive)
    @rule(code=st.sampled_from((0, 1, 137)), powers_off=st.booleans())
    def training_exits(self, code: int, powers_off: bool) -> None:
        if self.agent is not None and self.machine is not None and self.agent.training_at is not None:
            self.agent.finish(EndReason.EXITED, self.now, code)
            self.machine.powers_off = powers_off
        self.reconcile()

    @precondition(lambda self: self.agent is not None and self.agent.alive)
    @rule()
    def agent_dies(self) -> None:
        if self.agent is not None:
            self.agent.die(self.now)
        self.reconcile()

    @precondition(lambda self: self.agent is not None and self.agent.alive)
    @rule()
    def agent_obeys(self) -> None:
        agent = self.agent
        if agent is not None and agent.orders.end in ("stop", "cancel", "replace"):
            agent.started_at = agent.started_at or self.now
            agent.finish(EndReason(agent.orders.end), self.now)
        self.reconcile()

    @precondition(lambda self: self.agent is not None and self.agent.alive)
    @rule(
        reason=st.sampled_from(
            [EndReason.INTERRUPTION, EndReason.DEADLINE, EndReason.HANG, EndReason.IDLE, EndReason.SETUP_FAILED,
             EndReason.START_FAILED, EndReason.REFUSED]
        )
    )  # fmt: skip
    def agent_ends(self, reason: EndReason) -> None:
        if self.agent is not None:
            self.agent.finish(reason, self.now)
        self.reconcile()

    @precondition(lambda self: self.agent is not None and self.agent.training_at is not None)
    @rule()
    def checkpoint(self) -> None:
        agent = self.agent
        if agent is not None and agent.alive:
            agent.newest = ref(agent.attempt.number, (agent.newest.seq if agent.newest else 0) + 1, self.now)
        self.reconcile()

    @precondition(lambda self: self.record is not None and self.record.group is not None)
    @rule(others=st.sampled_from((0, 1_000_000, 4_000_000)), live=st.sampled_from((0, 1, 2)))
    def group_changes(self, others: int, live: int) -> None:
        """What others hold is within the group's cap, together with what this one does."""
        assert self.record is not None
        cap = self.record.job.group.cap
        left = others if cap is None else max(0, cap.micros - committed(self.record, self.now))
        self.group = GroupSeen(committed=min(others, left), live=tuple(f"m{n}" for n in range(live)))
        self.reconcile()

    # What users do.

    def ask(self, request: Request) -> None:
        self.serial += 1
        self.asked.append(Asked(self.serial, request))

    def apply_spec(self, spec: Job, *, generation: int | None = None, replace: bool = False, code: str = "0") -> None:
        assert self.record is not None
        now = self.record.generation.number
        self.ask(Apply(at=self.now, job=spec, source=source(code), generation=generation or now, replace=replace))
        self.reconcile()

    @precondition(lambda self: self.record is not None)
    @rule()
    def apply_again(self) -> None:
        assert self.record is not None
        self.apply_spec(self.record.job, code=self.record.generation.source.code_hash[0])

    @precondition(lambda self: self.record is not None)
    @rule(spec=st.sampled_from(SPECS), replace=st.booleans(), code=st.sampled_from("01"))
    def apply(self, spec: Job, replace: bool, code: str) -> None:
        self.apply_spec(spec, replace=replace, code=code)

    @precondition(lambda self: self.record is not None)
    @rule(cap=st.sampled_from(CAPS), code=st.sampled_from(("same", "same", "0", "1")))
    def change_cap(self, cap: Cost, code: str) -> None:
        """Only the cap: applies in place, and resumes what it ended; or with other code in the same edit."""
        assert self.record is not None
        now = self.record.generation
        code = now.source.code_hash[0] if code == "same" else code
        self.apply_spec(msgspec.structs.replace(now.job, cost=cap), code=code, replace=True)

    @precondition(lambda self: self.record is not None)
    @rule(what=st.sampled_from(("stop", "stop", "cancel", "dead")))
    def end(self, what: str) -> None:
        assert self.record is not None
        match what:
            case "stop":
                self.ask(StopJob(at=self.now, why="stop"))
            case "cancel":
                self.ask(CancelJob(at=self.now, why="cancel"))
            case _:
                self.ask(AssumeDead(at=self.now, attempt=len(self.record.attempts)))
        self.reconcile()

    @precondition(lambda self: self.record is not None and self.serial > 3)
    @rule()
    def delete(self) -> None:
        self.ask(DeleteJob(at=self.now, checkpoints=False))
        self.reconcile()

    # The controller.

    @rule(sends=st.sampled_from((0, 1)))
    def controller_will_die(self, sends: int) -> None:
        """In the next pass that does something: after it has written, and has done so many things."""
        self.sends_before_death = sends

    @rule()
    def controller_is_taken_over(self) -> None:
        self.listing = self.answer = None
        self.reconcile()

    def reconcile(self) -> None:
        for _ in range(MOST_PASSES):
            if self.record is None:
                return
            before = self.record
            self.one_pass()
            if self.record == before and self.answer is None:
                self.comes_to_rest()
                return
        raise AssertionError(f"no rest after {MOST_PASSES} passes at one instant")

    def one_pass(self) -> None:
        assert self.record is not None
        before = self.record
        observed = self.observe(before)
        made = self.made = plan(before, observed, self.now)
        findings = lint(before, observed, made, self.now)
        assert findings == [], findings
        self.answer, self.asked = None, []
        self.record = made.record
        self.note_cap()
        if made.record is not None:
            self.granted_within_the_cap(before, made.record)
            self.nothing_is_forgotten(made.record, made)
        for action in made.actions:
            if self.sends_before_death == 0:
                self.sends_before_death = None
                self.listing = self.answer = None
                break
            self.execute(action)
            if self.sends_before_death is not None:
                self.sends_before_death -= 1
        self.books()

    def observe(self, before: Record) -> Observed:
        rental = before.rental_of(before.live) if before.live is not None else None
        has_one = before.live is not None and (rental is None or rental.released_at is None)
        nobody_asks = has_one or before.outcome is not None or before.stopped is not None
        return Observed(
            attempt=self.look(rental) if before.live is not None else None,
            group=self.group,
            requests=tuple(self.asked),
            missing_secrets=self.missing,
            listing=self.listing,
            offers=None if nobody_asks else self.offers,
            rent_answer=self.answer,
        )

    def look(self, rental: Rental | None) -> AttemptSeen:
        """Its host, if that can be reached; what it has left in the storage, once its machine is seen to be gone."""
        machine = next((each for each in self.cloud.machines if rental and each.name == rental.instance), None)
        gone = rental is not None and rental.released_at is not None
        if self.storage_fails if gone else (self.partitioned or machine is None or not machine.reachable):
            return Unreachable(as_of=self.now, why="no route")
        agent = machine.agent if machine is not None else None
        return agent.look(self.now) if agent is not None else Absent(as_of=self.now)

    def execute(self, action: Action) -> None:
        match action:
            case Rent(rental=rental, again=again):
                self.answer = self.cloud.rent(rental, again, self.now)
            case EndMachine(instance=instance):
                self.cloud.end(instance, self.now)
            case Launch(attempt=attempt):
                self.launched(attempt.number, Agent(attempt, self.now))
            case SendOrders(attempt=number, orders=orders):
                agent = next(each for each in self.agents() if each.attempt.number == number)
                assert orders.serial > agent.orders.serial
                agent.orders = orders

    def agents(self) -> list[Agent]:
        return [each.agent for each in self.cloud.machines if each.agent is not None]

    def launched(self, number: int, agent: Agent) -> None:
        """On its machine, and nothing else of this job trains anywhere."""
        assert self.record is not None
        assert all(each.attempt.number == number or not each.alive for each in self.agents())
        machine = self.cloud.named(next(r.instance for r in self.record.rentals if r.attempt == number and r.instance))
        if machine.agent is None:
            machine.agent = agent
        elif machine.agent.state == "sent":
            machine.agent.orders = agent.orders

    # What must hold.

    def note_cap(self) -> None:
        if self.record is not None and self.highest_cap is not None:
            cap = self.record.job.cost.cap
            self.highest_cap = None if cap is None else max(self.highest_cap, cap.micros)

    def comes_to_rest(self) -> None:
        """Nothing is left to do at this instant: what comes next comes later, and there is something to come."""
        assert self.record is not None
        assert self.made is not None
        wake = self.made.wake_at
        assert wake is None or wake > self.now, "the next look is at this very instant, again and again"
        rests = self.record.outcome is not None or self.record.stopped is not None
        due = self.record.live is not None or self.made.yields or (rests and not self.record.unreleased)
        assert wake is not None or due, "nothing wakes the job again"

    def granted_within_the_cap(self, before: Record, after: Record) -> None:
        """What an attempt's agent may use, together with what else is held or spent, is within the newest cap."""
        live, cap = after.live, after.job.cost.cap
        if live is None or cap is None or (before.live is not None and before.live.orders == live.orders):
            return
        rental, grant = after.rental_of(live), live.orders.limits.money
        assert rental is not None
        if grant is None or grant.seconds == 0 or rental.released_at is not None:
            return
        billed = {each.machine: interval_cost(each, self.now) for each in after.ledger}
        held = {each.instance or each.token: each.reserved for each in after.unreleased if each is not rental}
        others = (billed.keys() | held.keys()) - {rental.instance}
        taken = sum(max(billed.get(key, 0), held.get(key, 0)) for key in others)
        granted = cost_of(rental.offer.hourly, grant.until - (rental.launched_at or rental.intended_at))
        assert granted == 0 or granted + taken <= cap.micros, f"{granted} granted, {taken} taken, the cap is {cap}"

    def nothing_is_forgotten(self, after: Record, made: Plan) -> None:
        """Each machine that is listed alive is in the books, or is being ended."""
        held = {each.instance for each in after.unreleased}
        ending = {action.instance for action in made.actions if isinstance(action, EndMachine)}
        shown = self.listing.instances if self.listing is not None else ()
        for seen in shown:
            if self.cloud.named(seen.id).listed(self.now) == seen and self.cloud.named(seen.id).billable:
                assert seen.id in held | ending, f"{seen.id} is billed, and nobody has it in mind"
        for rental in after.unreleased:
            mine = after.live is not None and after.rental_of(after.live) == rental
            assert mine or rental.ends is not None, f"{rental.instance} is of no live attempt, and isn't ended"

    def books(self) -> None:
        """What is billed is within the highest cap that there ever was; what counts as released is gone; success is an
        exit with 0."""
        total = sum(each.bill(self.now) for each in self.cloud.machines if not each.copied)
        assert self.highest_cap is None or total <= self.highest_cap, f"{total} billed, {self.highest_cap} at most"
        if self.record is None:
            return
        for rental in self.record.rentals:
            if rental.instance is not None and rental.released_at is not None:
                assert not self.cloud.named(rental.instance).billable, f"{rental.instance} is released, and billed"
        outcome = self.record.outcome
        if outcome is not None and outcome.type is OutcomeType.SUCCEEDED:
            end = next(each.end for each in self.agents() if each.attempt.number == len(self.record.attempts))
            assert end is not None
            assert (end.reason, end.exit_code) == (EndReason.EXITED, 0)


RentedWalk.TestCase.settings = walk_settings(examples=100, steps=40)
TestRentedWalk = RentedWalk.TestCase
