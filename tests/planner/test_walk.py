"""Random lives on this computer: any requests over any fate of machine, agent and training."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from runctl.manifest.job import Job
from runctl.planner.actions import Action, AskToStop, Launch, SendOrders
from runctl.planner.money import cost_of
from runctl.planner.observed import (
    Absent,
    AttemptSeen,
    Foreign,
    LaunchFailed,
    MachineSeen,
    Observed,
    Unreachable,
)
from runctl.planner.record import Desired, Record

from .agents import Agent
from .kit import T0, holder, job, record
from .walking import JobWalk, finish_in_time, walk_settings

RATE = "instance: {{hourly_rate: 2 USD, busy: {busy}}}"
SPECS = (
    job("retry: {interruptions: 2}"),
    job("instance: {hourly_rate: 9 USD}\ncost: {cap: 2 USD}"),
    job("instance: {hourly_rate: 9 USD}\ncost: {cap: none}\ncheckpoint: {deadline: 5m, on_deadline: fail}"),
    *(
        job(f"{RATE.format(busy=busy)}\n{rest}")
        for busy, rest in (
            ("refuse", "cost: {cap: 1 USD}\nlimits: {duration: 20m}\nretry: {failures: 2, interruptions: 3}"),
            ("wait", "cost: {cap: 3 USD, warn_at: [1%, 10%]}\nretry: {failures: 1}"),
            ("replace", "cost: {cap: none}\nlimits: {duration: 2h}"),
            ("replace", "cost: {cap: 10 USD}\ncheckpoint: {resume: never}"),
            ("share", "cost: {cap: 50 USD}\ngroup: {cap: 4 USD, max_parallel: 2}"),
            ("wait", "cost: {cap: 0.04 USD}"),
            ("wait", "cost: {cap: none}\ngroup: {cap: 5 USD}\nsecrets: [TOKEN]"),
        )
    ),
)
SPANS = (0.05, 1.0, 5.0, 16.0, 76.0, 400.0, 3700.0, 90_000.0)


class Walk(JobWalk):
    def __init__(self) -> None:
        super().__init__()
        self.running: dict[int, Agent] = {}
        self.machine = MachineSeen(as_of=T0, name="this machine")
        self.trouble = "none"
        self.failed: LaunchFailed | None = None

    @initialize(
        spec=st.sampled_from(SPECS), group=st.sampled_from(("g", None)),
        state=st.sampled_from(("sent", "training", "training")),
    )  # fmt: skip
    def created(self, spec: Job, group: str | None, state: str) -> None:
        self.begin(record(spec, group=group))
        if self.agent is not None and state == "training":
            self.agent.advance(state, self.now)
        self.reconcile()

    # What the world does.

    @property
    def agent(self) -> Agent | None:
        live = self.record.live if self.record else None
        return self.running.get(live.number) if live else None

    def agents(self) -> list[Agent]:
        return list(self.running.values())

    def settle(self) -> None:
        for agent in self.agents():
            agent.enforce(self.now)

    @rule(span=st.sampled_from(SPANS))
    def time_passes(self, span: float) -> None:
        self.pass_time(self.now + timedelta(seconds=span))
        self.reconcile()

    @rule(
        kind=st.sampled_from(("free", "free", "free", "free", "ours", "theirs", "self", "foreign", "away")),
        run=st.integers(1, 2),
    )
    def machine_changes(self, kind: str, run: int) -> None:
        held = {
            "ours": holder(run=run),
            "theirs": holder(ours=False, run=run),
            "self": holder(uid="u1", name="a", run=run),
        }.get(kind)
        foreign = (Foreign(pid=9, command="python x.py", evidence="uses the GPU"),) if kind == "foreign" else ()
        away = "it doesn't answer" if kind == "away" else ""
        self.machine = MachineSeen(as_of=self.now, name="box", unready=away, holder=held, foreign=foreign)
        self.reconcile()

    @rule(trouble=st.sampled_from(("none", "none", "unreachable", "refuses", "loses", "secrets")))
    def weather(self, trouble: str) -> None:
        """Hosts that don't answer, launches that are refused, launches and orders that are lost, or no secrets."""
        self.trouble = trouble
        self.missing = ("TOKEN",) if trouble == "secrets" else ()
        self.reconcile()

    @precondition(lambda self: self.agent is not None and not self.agent.alive)
    @rule()
    def run_directory_is_swept(self) -> None:
        assert self.agent is not None
        self.agent.swept = self.agent.started_at is not None
        self.reconcile()

    # What users do.

    @precondition(lambda self: self.record is not None)
    @rule(
        spec=st.sampled_from(SPECS), replace=st.booleans(), stale=st.sampled_from((False, False, True)),
        code=st.sampled_from("01"),
    )  # fmt: skip
    def apply(self, spec: Job, replace: bool, stale: bool, code: str) -> None:
        self.ask_for(spec, replace=replace, stale=stale, code=code)

    # The controller.

    @property
    def unanswered(self) -> bool:
        return self.failed is not None

    def observe(self, before: Record) -> Observed:
        wants = before.live is None and before.outcome is None and before.stopped is None
        failed, self.failed = self.failed, None
        agent = self.running.get(before.live.number) if before.live is not None else None
        return Observed(
            attempt=self.look(before.live.number) if before.live is not None else None,
            machine=self.machine if wants and before.desired is Desired.RUN else None,
            group=self.group,
            requests=tuple(self.asked),
            missing_secrets=self.missing,
            launch_failed=failed,
            agent_events=agent.events if agent is not None and self.trouble != "unreachable" else (),
        )

    def look(self, number: int) -> AttemptSeen:
        if self.trouble == "unreachable":
            return Unreachable(as_of=self.now, why="no route")
        agent = self.running.get(number)
        return agent.look(self.now) if agent else Absent(as_of=self.now)

    def execute(self, action: Action) -> None:
        match action:
            case Launch(attempt=attempt, again=again):
                self.alone(attempt.number)
                if attempt.number in self.running:
                    agent = self.running[attempt.number]
                    if agent.state == "sent":
                        agent.orders = attempt.orders
                elif self.trouble == "refuses" and not again:
                    self.failed = LaunchFailed(attempt=attempt.number, message="no space")
                elif self.trouble not in ("refuses", "loses"):
                    self.running[attempt.number] = Agent(attempt, self.now)
            case SendOrders(attempt=number, orders=orders) if self.trouble != "loses":
                agent = self.running[number]
                assert orders.serial > agent.orders.serial
                agent.orders = orders
            case AskToStop(uid=uid):
                assert uid != "u1"

    # What must hold.

    def billed(self) -> int:
        total = 0
        for number, agent in self.running.items() if self.record is not None else ():
            rate = self.record.generation_of(self.record.attempts[number - 1]).job.instance.hourly_rate
            if rate is not None and agent.started_at is not None:
                total += cost_of(rate.micros, (agent.ended_at or self.now) - agent.started_at)
        return total

    def heal(self) -> None:
        self.weather("none")
        self.machine_changes("free", 1)
        if self.record is not None and self.record.group is not None:
            self.group_changes(0, 0, 0, False)

    def go_on(self) -> None:
        if self.agent is not None:
            finish_in_time(self.agent, self.now)


Walk.TestCase.settings = walk_settings(examples=60, steps=60)
TestWalk = Walk.TestCase
