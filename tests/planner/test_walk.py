"""Random lives: any requests over any fate of machine, agent and training. The linter sees every plan, and the world
keeps its own books: what ran beside what, for how long, and how it ended."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from runctl.manifest.job import Cost, Job
from runctl.planner.actions import AskToStop, Launch, SendOrders
from runctl.planner.lint import lint
from runctl.planner.money import cost_of
from runctl.planner.observed import (
    Absent,
    AttemptSeen,
    Foreign,
    GroupSeen,
    LaunchFailed,
    MachineSeen,
    Observed,
    Unreachable,
)
from runctl.planner.plan import plan
from runctl.planner.record import (
    EndReason,
    Orders,
    OutcomeType,
    Record,
)
from runctl.planner.requests import Apply, Asked, AssumeDead, CancelJob, DeleteJob, Request, StopJob

from .agents import Agent, walk_settings
from .kit import T0, holder, job, record, ref, source

RATE = "instance: {{hourly_rate: 2 USD, busy: {busy}}}"
SPECS = (
    job("retry: {interruptions: 2}"),
    job("instance: {hourly_rate: 9 USD}\ncost: {cap: 2 USD}"),
    *(
        job(f"{RATE.format(busy=busy)}\n{rest}")
        for busy, rest in (
            ("refuse", "cost: {cap: 1 USD}\nlimits: {duration: 20m}\nretry: {failures: 2, interruptions: 3}"),
            ("wait", "cost: {cap: 3 USD}\nretry: {failures: 1}"),
            ("replace", "cost: {cap: none}\nlimits: {duration: 2h}"),
            ("share", "cost: {cap: 50 USD}\ngroup: {cap: 4 USD, max_parallel: 2}"),
            ("wait", "cost: {cap: 0.04 USD}"),
            ("wait", "cost: {cap: none}\ngroup: {cap: 5 USD}\nsecrets: [TOKEN]"),
        )
    ),
)
CAPS = tuple(job(f"{RATE.format(busy='wait')}\ncost: {{cap: {cap} USD}}").cost for cap in (0.05, 1, 2.5, 10))
SPANS = (0.05, 1.0, 5.0, 16.0, 76.0, 400.0, 3700.0, 90_000.0)


class Walk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.record: Record | None = record(SPECS[0], group="g")
        self.agents: dict[int, Agent] = {}
        self.asked: list[Asked] = []
        self.serial = 0
        self.machine = MachineSeen(as_of=T0, name="this machine")
        self.group = GroupSeen()
        self.missing: tuple[str, ...] = ()
        self.reachable = True
        self.fails = False
        self.failed: LaunchFailed | None = None
        self.highest_cap: int | None = 0
        self.note_cap()

    @initialize(spec=st.sampled_from(SPECS), group=st.sampled_from(("g", None)))
    def created(self, spec: Job, group: str | None) -> None:
        self.record = record(spec, group=group)
        self.highest_cap = 0
        self.note_cap()
        self.reconcile()

    # What the world does.

    @property
    def agent(self) -> Agent | None:
        live = self.record.live if self.record else None
        return self.agents.get(live.number) if live else None

    def note_cap(self) -> None:
        caps = self.record.job.cost.cap if self.record else None
        if self.highest_cap is not None and self.record is not None:
            self.highest_cap = None if caps is None else max(self.highest_cap, caps.micros)

    @rule(span=st.sampled_from(SPANS))
    def time_passes(self, span: float) -> None:
        self.now += timedelta(seconds=span)
        for agent in self.agents.values():
            agent.enforce(self.now)
        self.reconcile()

    @precondition(lambda self: self.agent is not None)
    @rule(to=st.sampled_from(("training", "training", "training", "starting", "up")))
    def agent_advances(self, to: str) -> None:
        agent = self.agent
        assert agent is not None
        agent.advance(to, self.now)
        self.reconcile()

    @precondition(lambda self: self.agent is not None and self.agent.alive)
    @rule(code=st.sampled_from((0, 1, 137)))
    def training_exits(self, code: int) -> None:
        agent = self.agent
        if agent is not None and agent.training_at is not None:
            agent.finish(EndReason.EXITED, self.now, code)
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
            [EndReason.DEADLINE, EndReason.HANG, EndReason.IDLE, EndReason.SETUP_FAILED, EndReason.START_FAILED,
             EndReason.REFUSED, EndReason.LOST]
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

    @rule(
        kind=st.sampled_from(("free", "free", "free", "free", "ours", "theirs", "self", "foreign")),
        run=st.integers(1, 2),
    )
    def machine_changes(self, kind: str, run: int) -> None:
        held = {
            "ours": holder(run=run),
            "theirs": holder(ours=False, run=run),
            "self": holder(uid="u1", name="a", run=run),
        }.get(kind)
        foreign = (Foreign(pid=9, command="python x.py", evidence="uses the GPU"),) if kind == "foreign" else ()
        self.machine = MachineSeen(as_of=self.now, name="this machine", holder=held, foreign=foreign)
        self.reconcile()

    @precondition(lambda self: self.record is not None and self.record.group is not None)
    @rule(
        committed=st.sampled_from((0, 0, 1_000_000, 4_000_000)), live=st.sampled_from((0, 0, 1, 2)),
        ahead=st.sampled_from((False, False, True)),
    )  # fmt: skip
    def group_changes(self, committed: int, live: int, ahead: bool) -> None:
        names = tuple(f"m{n}" for n in range(live))
        held = self.record.live.reserved if self.record and self.record.live else 0
        # Others see what this one holds: together they stay within the cap.
        cap = self.record.job.group.cap if self.record else None
        most = cap.micros - held if cap else committed
        self.group = GroupSeen(committed=max(0, min(committed, most)), live=names, ahead=("x",) if ahead else ())
        self.reconcile()

    @rule(trouble=st.sampled_from(("none", "none", "none", "unreachable", "fails", "secrets")))
    def weather(self, trouble: str) -> None:
        self.reachable, self.fails = trouble != "unreachable", trouble == "fails"
        self.missing = ("TOKEN",) if trouble == "secrets" else ()
        self.reconcile()

    # What users do.

    def ask(self, request: Request) -> None:
        self.serial += 1
        self.asked.append(Asked(self.serial, request))

    @precondition(lambda self: self.record is not None)
    @rule()
    def apply_again(self) -> None:
        assert self.record is not None
        now = self.record.generation
        self.ask(Apply(at=self.now, job=now.job, source=now.source, generation=now.number))
        self.reconcile()

    @precondition(lambda self: self.record is not None and self.serial % 3 == 0)
    @rule(
        spec=st.sampled_from(SPECS), replace=st.booleans(), stale=st.sampled_from((False, False, True)),
        code=st.sampled_from("01"),
    )  # fmt: skip
    def apply(self, spec: Job, replace: bool, stale: bool, code: str) -> None:
        assert self.record is not None
        number = self.record.generation.number - (1 if stale else 0)
        self.ask(Apply(at=self.now, job=spec, source=source(code), generation=number, replace=replace))
        self.reconcile()

    @precondition(lambda self: self.record is not None)
    @rule(cap=st.sampled_from(CAPS))
    def change_cap(self, cap: Cost) -> None:
        """Only the cap: applies in place, and resumes what it ended."""
        assert self.record is not None
        spec = msgspec.structs.replace(self.record.job, cost=cap)
        self.ask(
            Apply(at=self.now, job=spec, source=self.record.generation.source, generation=self.record.generation.number)
        )
        self.reconcile()

    @precondition(lambda self: self.record is not None)
    @rule(what=st.sampled_from(("stop", "stop", "stop", "cancel", "dead", "dead")))
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

    @precondition(lambda self: self.record is not None and self.serial > 12)
    @rule(checkpoints=st.booleans())
    def delete(self, checkpoints: bool) -> None:
        self.ask(DeleteJob(at=self.now, checkpoints=checkpoints))
        self.reconcile()

    # The controller.

    def reconcile(self) -> None:
        for _ in range(3):
            if self.record is None:
                return
            self.one_pass()
            if self.record is None:
                return
            if self.failed is None and self.plan_changed is False:
                return

    def one_pass(self) -> None:
        assert self.record is not None
        before, live = self.record, self.record.live
        seen: AttemptSeen | None = None
        if live is not None:
            agent = self.agents.get(live.number)
            seen = agent.look(self.now) if agent else Absent(as_of=self.now)
            if not self.reachable:
                seen = Unreachable(as_of=self.now, why="no route")
        observed = Observed(
            attempt=seen,
            machine=self.machine if live is None else None,
            group=self.group,
            requests=tuple(self.asked),
            missing_secrets=self.missing,
            launch_failed=self.failed,
        )
        made = plan(before, observed, self.now)
        findings = lint(before, observed, made, self.now)
        assert findings == [], findings
        self.failed, self.asked = None, []
        self.record, self.plan_changed = made.record, made.record != before
        self.note_cap()
        for action in made.actions:
            self.execute(action)
        self.books()

    def execute(self, action: object) -> None:
        match action:
            case Launch(attempt=attempt):
                # Nothing else of this job runs, unless somebody vouched that it doesn't.
                for number, agent in self.agents.items():
                    vouched = agent.attempt.orders.end == "assume_dead" or agent.orders.end == "assume_dead"
                    assert number == attempt.number or not agent.alive or vouched or self.assumed(number)
                if attempt.number not in self.agents and self.fails:
                    self.failed = LaunchFailed(attempt=attempt.number, message="no space")
                elif attempt.number not in self.agents:
                    self.agents[attempt.number] = Agent(attempt, self.now)
                elif self.agents[attempt.number].state == "sent":
                    self.agents[attempt.number].orders = attempt.orders
            case SendOrders(attempt=number, orders=orders):
                assert isinstance(orders, Orders)
                agent = self.agents[number]
                assert orders.serial > agent.orders.serial
                agent.orders = orders
            case AskToStop(uid=uid):
                assert uid != "u1"

    def assumed(self, number: int) -> bool:
        assert self.record is not None
        return self.record.attempts[number - 1].orders.end == "assume_dead"

    def books(self) -> None:
        """What really ran cost no more than the highest cap that there ever was; success is an exit with 0."""
        if self.record is None:
            return
        total = 0
        for number, agent in self.agents.items():
            attempt = self.record.attempts[number - 1]
            rate = self.record.generation_of(attempt).job.instance.hourly_rate
            if rate is not None and agent.started_at is not None:
                total += cost_of(rate.micros, (agent.ended_at or self.now) - agent.started_at)
        assert self.highest_cap is None or total <= self.highest_cap
        outcome = self.record.outcome
        if outcome is not None and outcome.type is OutcomeType.SUCCEEDED:
            end = self.agents[len(self.record.attempts)].end
            assert end is not None
            assert (end.reason, end.exit_code) == (EndReason.EXITED, 0)


Walk.TestCase.settings = walk_settings(examples=60, steps=40)
TestWalk = Walk.TestCase
