"""The machines that train, and what a controller sees of them.

What is written down here is the world's truth: who lived from when to when, what was saved, which code was returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runctl.agent.clocks import Now
from runctl.agent.guardian import LATE_SECONDS
from runctl.agent.orders import parse_orders
from runctl.agent.spec import Spec
from runctl.planner.actions import Launch
from runctl.planner.observed import Absent, Dead, Live, MachineSeen, Starting, Unreachable
from runctl.planner.record import Attempt, Orders, Record
from runctl.providers.hosts.deaths import Deaths
from runctl.providers.hosts.spec import orders_json
from runctl.providers.interface import LaunchRefused, LaunchUnknown, ProviderError, Sight

from . import oracles
from .node import Node
from .oracles import MOST_SKEW
from .run import Run
from .strangers import Stranger

if TYPE_CHECKING:
    from .life import Life

# A launcher that hangs may have its effect as late as this; what comes then is up to the guardian.
LATEST_LAUNCH = 150.0
EPOCH = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


class Timer:
    """A process's timer: it doesn't run while its machine sleeps."""

    def __init__(self, host: Host, seconds: float, what: Callable[[], None]) -> None:
        self._host, self._what = host, what
        self._due = host.active() + seconds
        self._handle = host.life.later(seconds, self._fire)

    def _fire(self) -> None:
        left = self._due - self._host.active()
        if left > 1e-6:
            self._handle = self._host.life.later(left + self._host.sleeps_for(), self._fire)
        elif self._host.sleeps_for() > 0:
            self._handle = self._host.life.later(self._host.sleeps_for(), self._fire)
        else:
            self._what()

    def cancel(self) -> None:
        self._handle.cancel()


class Host:
    """A machine with an agent's run directories. What is billed for it, if anything is, its landlord knows.

    Its wall clock is off by a bounded offset, which a step now and then changes; its boot clock runs while it sleeps,
    its active clock doesn't.
    """

    def __init__(self, life: Life, name: str = "this machine") -> None:
        self.life = life
        self.name = name
        self.offset = life.dice.between("host skew", -MOST_SKEW / 2, MOST_SKEW / 2)
        self.boots = 1
        # When it slept, as (from, to).
        self.slept: list[tuple[float, float]] = []
        self.runs: dict[tuple[str, int], Run] = {}
        # Attempts whose directories somebody has removed.
        self.removed: set[tuple[str, int]] = set()
        # Who has the host's lock or one of those for sharing it, in the order in which they came.
        self.holders: list[Run | Stranger] = []
        self._specs: dict[object, Spec] = {}
        # Until when what is on its disk can't be read.
        self._unreadable_until = -1.0
        self._away: tuple[Run, float] | None = None

    def unreadable_for(self, seconds: float) -> None:
        self._unreadable_until = self.life.loop.time() + seconds

    def is_unreadable(self) -> bool:
        return not self.life.weather.calm and self.life.loop.time() < self._unreadable_until

    def is_away(self) -> bool:
        """Nobody reaches it: what runs there goes on."""
        if self.life.weather.calm or self._away is None:
            return False
        run, until = self._away
        return run.alive and self.life.loop.time() < until

    def goes_away(self, run: Run, seconds: float) -> None:
        """Until this run is over, at most: what befalls the next one must not go unseen."""
        if run.alive and run.exit is None:
            self.life.count("host away")
            self._away = run, self.life.loop.time() + seconds
            self.life.users.sees_it_away(run)

    @property
    def holder(self) -> Run | Stranger | None:
        return next((each for each in self.holders if isinstance(each, Run) or each.alive), None)

    def now(self) -> Now:
        true = self.life.loop.time()
        return Now(EPOCH + true + self.offset, true, self.active())

    def active(self) -> float:
        """Seconds of its active clock."""
        true = self.life.loop.time()
        return true - sum(min(true, end) - start for start, end in self.slept if start < true)

    def awake(self, since: float, until: float) -> float:
        """Seconds between two true instants that it didn't sleep through."""
        return until - since - sum(max(0.0, min(until, end) - max(since, start)) for start, end in self.slept)

    def sleeps_for(self) -> float:
        """Seconds until it wakes; 0 if it is awake."""
        true = self.life.loop.time()
        return max((end - true for start, end in self.slept if start <= true < end), default=0.0)

    def later(self, seconds: float, what: Callable[[], None]) -> Timer:
        return Timer(self, seconds, what)

    def step_clock(self) -> None:
        """Its wall clock is set, inside the bound."""
        self.life.count("clock step")
        self.offset = self.life.dice.between("clock stepped to", -MOST_SKEW / 2, MOST_SKEW / 2)

    def spec(self, grace: float, every: int, to: str) -> Spec:
        key = (grace, every, to)
        if key not in self._specs:
            checkpoint = {"dir": "/work/checkpoints", "every": {"unit": "epochs", "n": every}, "grace": grace}
            value = {
                "version": 1, "run_id": "u-1", "job": "j", "uid": "u", "attempt": 1, "cwd": "/work",
                "argv": ["train"], "checkpoint": checkpoint, "stop": {"to": to},
            }  # fmt: skip
            self._specs[key] = Spec(value, "/run")
        return self._specs[key]

    def launch(self, record: Record, launch: Launch, epoch: int) -> None:
        """Starting twice is the same as once: the claim is made by whoever comes first."""
        key = (record.uid, launch.attempt.number)
        if key in self.runs or not self.up:
            return
        if self.now().wall > launch.attempt.launch_before.timestamp() + LATE_SECONDS:
            self.life.count("launch too late")
            return
        newest = max((number for uid, number in self.runs if uid == record.uid), default=0)
        if launch.attempt.number < newest:
            self.life.count("fenced")
            return
        run = Run(self, record, launch, epoch)
        self.life.runs.append(run)
        self.life.say("attempt", *key, "is claimed")
        run.begin()

    def launch_late(self, record: Record, launch: Launch, epoch: int) -> None:
        """What a launcher that hung has prepared may have been removed meanwhile."""
        if (record.uid, launch.attempt.number) not in self.removed:
            self.launch(record, launch, epoch)

    @property
    def up(self) -> bool:
        """Whether processes run on it."""
        return not self.life.controllers.is_dark()

    def cut(self) -> None:
        """The power is off. Of what was saved and not yet copied some is there when it is back: its name was synced."""
        self.boots += 1
        for run in self.runs.values():
            if run.alive and run.exit is None:
                saves = [each for each in (*run.waiting, run.copying) if each is not None]
                run.cut()
                run.waiting = [each for each in saves if self.life.dice.between("outlasts a cut", 0, 1) < 0.5]
                run.copying = None

    def emptied(self, run: Run) -> None:
        """An attempt has come to its end here, by itself."""


class HostPort:
    """What one node sees of the machine, and does to it."""

    def __init__(self, life: Life, node: Node) -> None:
        self._life = life
        self._node = node
        self._deaths = Deaths()

    def _host(self, record: Record, attempt: Attempt) -> Host | None:
        """The machine of an attempt; None if it can't be reached."""
        return None if self._life.host.is_away() else self._life.host

    def _alive(self) -> None:
        if self._node.dead:
            from .node import PowerCut

            raise PowerCut

    async def machine(self, record: Record) -> MachineSeen:
        self._alive()
        return self._life.strangers.seen(self._node.clock())

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        self._alive()
        self._life.looks += 1
        now = self._node.clock()
        host = self._host(record, attempt)
        if host is None:
            return Sight(Unreachable(as_of=now, why="it doesn't answer"))
        if host is self._life.host and host.is_unreadable():
            return Sight(Unreachable(as_of=now, why="too many open files"))
        run = host.runs.get((record.uid, attempt.number))
        if run is None:
            return Sight(Absent(as_of=now))
        seen = run.look(now)
        if isinstance(seen, Live | Starting):
            self._deaths.alive(run.key, host.active())
        elif isinstance(seen, Dead):
            seen = self._deaths.dated(run.key, seen, host.active())
        return Sight(seen, run.told(attempt.events_seen))

    def glance(self, record: Record, attempt: Attempt) -> object:
        self._alive()
        host = self._host(record, attempt)
        run = None if host is None else host.runs.get((record.uid, attempt.number))
        return (host is None, None if run is None else run.stamp)

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        self._node.at("before a launch")
        host = self._host(record, launch.attempt)
        oracles.has_its_secrets(self._life, launch, secrets)
        if host is None:
            raise LaunchUnknown("it doesn't answer")
        if host is self._life.host and self._life.launcher_broken:
            raise LaunchUnknown("the launcher hangs, as always")
        if self._life.meets("launch refused"):
            raise LaunchRefused("no space left on the device")
        if self._life.meets("launch lost"):
            raise LaunchUnknown("the launcher hangs")
        if self._life.meets("launch late"):
            late = self._life.dice.between("launch late by", 1.0, LATEST_LAUNCH)
            self._life.later(late, lambda: host.launch_late(record, launch, epoch))
            raise LaunchUnknown("the launcher hangs")
        host.launch(record, launch, epoch)
        self._node.at("after a launch")
        if self._life.meets("launch answer lost"):
            raise LaunchUnknown("the launcher hangs")

    async def order(self, record: Record, attempt: int, orders: Orders, epoch: int) -> None:
        self._node.at("before orders")
        if self._life.meets("orders refused"):
            raise ProviderError("no space left on the device")
        host = self._host(record, record.attempts[attempt - 1])
        if host is None:
            raise ProviderError("it doesn't answer")
        run = host.runs.get((record.uid, attempt))
        if run is not None and run.exit is None:
            run.orders = parse_orders(orders_json(orders, epoch))
            run.later(self._life.dice.between("orders read", 0.0, 1.0), run.turn)
        self._node.at("after orders")

    async def forget(self, record: Record, *, checkpoints: bool, vouched: bool = False) -> None:
        self._node.at("before forgetting")
        if self._life.host.is_away() or self._life.meets("clean-up refused"):
            raise ProviderError("it doesn't answer")
        self._life.forgets(record, checkpoints)
        self._node.at("after forgetting")
