"""What the walks have in common: a job, what its agent does, what its users ask, and a controller that plans.

After every step the controller plans until it comes to rest. The linter sees every plan, and so do the world's own
books. At the end of each life nothing fails any more, and the job has to come to its end.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from runctl.manifest.job import Cost, Job
from runctl.planner.actions import Action, Plan
from runctl.planner.intents import anticipate
from runctl.planner.lint import lint
from runctl.planner.money import committed
from runctl.planner.observed import GroupSeen, Observed
from runctl.planner.plan import plan
from runctl.planner.record import EndReason, Event, OutcomeType, Record
from runctl.planner.reminders import standing
from runctl.planner.requests import Apply, Asked, AssumeDead, CancelJob, DeleteJob, Request, StopJob

from .agents import Agent
from .kit import T0, job, ref, source

CAPS = tuple(
    job(f"instance: {{hourly_rate: 1 USD}}\ncost: {{cap: {cap}}}").cost
    for cap in ("2 USD", "0.05 USD", "0.40 USD", "1 USD", "2.50 USD", "10 USD", "none")
)

# So many passes at one instant come to rest, whatever has happened since the one before.
MOST_PASSES = 12

# When nothing fails any more, a job is looked at each minute, and each ten when it has had its time: a machine that
# went while nobody looked is waited for until its money would be over. It is over after so many looks.
PATIENCE, MOST_LOOKS = 60, 260
GLANCE, GLANCE_LATER = timedelta(minutes=1), timedelta(minutes=10)

# The orders that an agent obeys by saving and ending.
ENDS = ("stop", "cancel", "replace")


def walk_settings(*, examples: int, steps: int) -> settings:
    """The same examples each time. `RUNCTL_WALK=20000` in the environment: so many, and other ones each time."""
    more = os.environ.get("RUNCTL_WALK")
    if more is None:
        return settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    return settings(max_examples=int(more), stateful_step_count=steps, deadline=None, derandomize=False)


class JobWalk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # The true time, and how far the controller's clock is ahead of it.
        self.now, self.skew = T0, timedelta(0)
        self.record: Record | None = None
        self.made: Plan | None = None
        self.group = GroupSeen()
        self.missing: tuple[str, ...] = ()
        self.asked: list[Asked] = []
        self.serial = 0
        # The highest cap that there ever was; None if there was none.
        self.highest_cap: int | None = 0
        # False while a pass is under way, and after one that went wrong.
        self.sound = False

    @property
    def clock(self) -> datetime:
        """The controller's."""
        return self.now + self.skew

    def begin(self, record: Record) -> None:
        self.record = record
        self.note_cap()
        self.reconcile()

    # What each world tells.

    @property
    def agent(self) -> Agent | None:
        """That of the newest attempt whose host is there."""
        raise NotImplementedError

    def agents(self) -> list[Agent]:
        """All that ever were."""
        raise NotImplementedError

    @property
    def unanswered(self) -> bool:
        """What was sent in the last pass has been answered, and that isn't taken in yet."""
        raise NotImplementedError

    def observe(self, before: Record) -> Observed:
        raise NotImplementedError

    def execute(self, action: Action) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """What happens by itself until now."""
        raise NotImplementedError

    def billed(self) -> int:
        """Micro-dollars that the job has cost in truth."""
        raise NotImplementedError

    def heal(self) -> None:
        """From now on nothing fails."""
        raise NotImplementedError

    def go_on(self) -> None:
        """What the world does about what is asked of it, where nothing fails."""
        raise NotImplementedError

    # What agents do.

    @property
    def lively(self) -> Agent | None:
        agent = self.agent
        return agent if agent is not None and agent.alive and not agent.held else None

    @precondition(lambda self: self.agent is not None and self.agent.state in ("sent", "starting", "up", "training"))
    @rule(to=st.sampled_from(("training", "training", "training", "starting", "up", "draining")))
    def agent_advances(self, to: str) -> None:
        assert self.agent is not None
        self.agent.advance(to, self.now)
        self.reconcile()

    @precondition(lambda self: self.lively is not None and self.lively.training_at is not None)
    @rule(code=st.sampled_from((0, 1, 137, None)), oom=st.booleans())
    def training_exits(self, code: int | None, oom: bool) -> None:
        assert self.agent is not None
        killed = {"signal": 9, "oom": oom} if code is None else {}
        self.agent.finish(EndReason.EXITED, self.now, code, **killed)
        self.reconcile()

    @precondition(lambda self: self.agent is not None and self.agent.alive)
    @rule(seen=st.booleans())
    def agent_dies(self, seen: bool) -> None:
        assert self.agent is not None
        self.agent.die(self.now, seen=seen)
        self.reconcile()

    @precondition(lambda self: self.agent is not None and self.agent.started_at is not None and self.agent.alive)
    @rule()
    def agent_is_held_or_let_go(self) -> None:
        assert self.agent is not None
        self.agent.held = not self.agent.held
        self.reconcile()

    @precondition(lambda self: self.lively is not None and self.lively.orders.end is not None)
    @rule()
    def agent_obeys(self) -> None:
        assert self.agent is not None
        obey(self.agent, self.now)
        self.reconcile()

    @precondition(lambda self: self.lively is not None)
    @rule(
        reason=st.sampled_from(
            [EndReason.INTERRUPTION, EndReason.DEADLINE, EndReason.HANG, EndReason.IDLE, EndReason.SETUP_FAILED,
             EndReason.START_FAILED, EndReason.REFUSED]
        )
    )  # fmt: skip
    def agent_ends(self, reason: EndReason) -> None:
        assert self.agent is not None
        self.agent.finish(reason, self.now)
        self.reconcile()

    @precondition(lambda self: self.lively is not None and self.lively.training_at is not None)
    @rule(count=st.sampled_from((1, 1, 2, 3)))
    def checkpoint(self, count: int) -> None:
        agent = self.agent
        assert agent is not None
        agent.newest = ref(agent.attempt.number, agent.durable + count, self.now)
        self.reconcile()

    @precondition(lambda self: self.lively is not None and self.lively.started_at is not None)
    @rule(what=st.sampled_from(("says", "damaged")))
    def agent_tells(self, what: str) -> None:
        agent = self.agent
        assert agent is not None
        if what == "damaged":
            agent.finds_its_checkpoint_damaged()
        else:
            agent.says(Event(at=self.now, type="Warning", reason="DiskLow", message="1 GiB is left"))
        self.reconcile()

    # What the others of the group do.

    @precondition(lambda self: self.record is not None and self.record.group is not None)
    @rule(
        others=st.sampled_from((0, 0, 1_000_000, 4_000_000)), spent=st.sampled_from((0, 0, 900_000)),
        live=st.sampled_from((0, 0, 1, 2)), ahead=st.booleans(),
    )  # fmt: skip
    def group_changes(self, others: int, spent: int, live: int, ahead: bool) -> None:
        """What others hold is within the group's cap, together with what this one does."""
        assert self.record is not None
        cap = self.record.job.group.cap
        left = others if cap is None else max(0, cap.micros - committed(self.record, self.clock))
        held = min(others, left)
        names = tuple(f"m{n}" for n in range(live))
        self.group = GroupSeen(
            committed=held, spent=min(spent, held), live=names, ahead=("x",) if ahead and not live else ()
        )
        self.reconcile()

    # What users do.

    def ask(self, request: Request) -> None:
        self.serial += 1
        self.asked.append(Asked(self.serial, request))

    def ask_for(self, spec: Job, *, replace: bool = False, code: str | None = None, stale: bool = False) -> None:
        assert self.record is not None
        now = self.record.generation
        taken = now.source if code is None else source(code)
        number = now.number - (1 if stale else 0)
        self.ask(Apply(at=self.now, job=spec, source=taken, generation=number, replace=replace))
        self.reconcile()

    @precondition(lambda self: self.record is not None)
    @rule()
    def apply_again(self) -> None:
        assert self.record is not None
        self.ask_for(self.record.job)

    @precondition(lambda self: self.record is not None)
    @rule(cap=st.sampled_from(CAPS), code=st.sampled_from((None, None, "0", "1")))
    def change_cap(self, cap: Cost, code: str | None) -> None:
        """Only the cap: applies in place, and resumes what it ended; or with other code in the same edit."""
        assert self.record is not None
        self.ask_for(msgspec.structs.replace(self.record.job, cost=cap), code=code, replace=True)

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

    @precondition(lambda self: self.record is not None and self.serial > 5)
    @rule(checkpoints=st.booleans())
    def delete(self, checkpoints: bool) -> None:
        self.ask(DeleteJob(at=self.now, checkpoints=checkpoints))
        self.reconcile()

    # Time.

    def pass_time(self, to: datetime) -> None:
        self.now = max(self.now, to)
        self.settle()

    @rule()
    def sleeps_until_it_is_woken(self) -> None:
        wake = self.made.wake_at if self.made is not None else None
        self.pass_time(wake - self.skew if wake is not None else self.now)
        self.reconcile()

    # The controller.

    def reconcile(self) -> None:
        for _ in range(MOST_PASSES):
            if self.record is None:
                return
            before = self.record
            self.one_pass(before)
            if self.record == before and not self.unanswered:
                self.comes_to_rest()
                return
        self.sound = False
        raise AssertionError(f"no rest after {MOST_PASSES} passes at one instant")

    def one_pass(self, before: Record) -> None:
        self.sound = False
        observed = self.observe(before)
        made = self.made = plan(before, observed, self.clock)
        findings = lint(before, observed, made, self.clock)
        assert findings == [], findings
        self.asked = []
        self.record = made.record
        self.note_cap()
        self.judge(before, made)
        if made.record is not None:
            # What people are told of it, whenever they ask, is made from the record alone.
            standing(made.record, self.clock)
            assert anticipate(made.record, (), self.clock) == made.record
        for action in made.actions:
            if not self.reaches(action):
                break
            self.execute(action)
        self.books()
        self.sound = True

    def reaches(self, action: Action) -> bool:
        """The controller lives long enough to do this."""
        return True

    # What must hold.

    def judge(self, before: Record, made: Plan) -> None:
        """Of this plan, before anything of it is done."""

    def note_cap(self) -> None:
        if self.record is not None and self.highest_cap is not None:
            cap = self.record.job.cost.cap
            self.highest_cap = None if cap is None else max(self.highest_cap, cap.micros)

    def comes_to_rest(self) -> None:
        """Nothing is left to do at this instant: what comes next comes later, and there is something to come."""
        assert self.record is not None
        assert self.made is not None
        self.sound = False
        wake = self.made.wake_at
        assert wake is None or wake > self.clock, "the next look is at this very instant, again and again"
        due = self.record.live is not None or self.made.yields or self.rests
        assert wake is not None or due, "nothing wakes the job again"
        self.sound = True

    @property
    def rests(self) -> bool:
        record = self.record
        if record is None:
            return True
        over = record.outcome is not None or record.stopped is not None
        return record.live is None and over and not record.unreleased

    def books(self) -> None:
        """What really ran cost no more than the highest cap that there ever was; success is an exit with 0."""
        total = self.billed()
        assert self.highest_cap is None or total <= self.highest_cap, f"{total} billed, {self.highest_cap} at most"
        outcome = self.record.outcome if self.record is not None else None
        if self.record is not None and outcome is not None and outcome.type is OutcomeType.SUCCEEDED:
            end = next(each.end for each in self.agents() if each.attempt.number == len(self.record.attempts))
            assert end is not None
            assert (end.reason, end.exit_code) == (EndReason.EXITED, 0)

    def alone(self, number: int) -> None:
        """Nothing of another attempt runs, unless somebody vouched that it doesn't."""
        assert self.record is not None
        for agent in self.agents():
            other = agent.attempt.number
            vouched = self.record.attempts[other - 1].orders.end == "assume_dead"
            assert other == number or not agent.alive or vouched, f"attempts {other} and {number} run"

    def teardown(self) -> None:
        """Nothing fails any more: the job comes to its end, with nothing left behind."""
        if not self.sound:
            return
        self.heal()
        for looks in range(MOST_LOOKS):
            self.reconcile()
            if self.rests and not self.left_behind():
                return
            self.pass_time(self.now + (GLANCE if looks < PATIENCE else GLANCE_LATER))
            self.go_on()
        raise AssertionError(f"the job doesn't come to its end: {self.record}")

    def left_behind(self) -> bool:
        return False


def obey(agent: Agent, now: datetime) -> None:
    """Save and end, as ordered."""
    if agent.orders.end in ENDS:
        agent.started_at = agent.started_at or now
        agent.finish(EndReason(agent.orders.end), now)


def finish_in_time(agent: Agent, now: datetime) -> None:
    """A step on towards the end of a training that goes well."""
    agent.held = False
    if agent.alive and agent.orders.end in ENDS:
        obey(agent, now)
    elif agent.state in ("training", "draining"):
        agent.finish(EndReason.EXITED, now, 0)
    else:
        agent.advance("training" if agent.started_at is not None else "up", now)
