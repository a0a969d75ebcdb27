"""A machine whose every move is scripted, and a clock that stands still until it is moved.

It keeps the truth about each attempt; what the controller believes is compared with that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio
import msgspec
from planner.kit import T0

from runctl.manifest.job import Platform
from runctl.planner.actions import Launch
from runctl.planner.observed import Absent, AttemptSeen, Dead, Ended, Holder, Live, MachineSeen, Starting
from runctl.planner.record import Attempt, AttemptEnd, CheckpointRef, EndReason, Orders, Record
from runctl.providers.interface import ProviderError, Sight
from runctl.reconciler.controller import Controller
from runctl.store.interface import ControllerId, Receipt, Store, StoreUnavailable, Write
from runctl.store.sqlite import SqliteStore

PATIENCE = 20.0
TICK = timedelta(milliseconds=2)


class Clock:
    def __init__(self) -> None:
        self.at = T0

    def __call__(self) -> datetime:
        return self.at

    def move(self, **span: float) -> None:
        self.at += timedelta(**span)


class Agent(msgspec.Struct):
    """What really goes on with one attempt."""

    run_id: str
    orders: Orders
    epoch: int
    started_at: datetime
    state: str = "training"
    end: AttemptEnd | None = None
    ended_at: datetime | None = None
    newest: CheckpointRef | None = None
    starts: int = 1


class Machine:
    """The provider. `trouble` is raised by the next launch: before its effect, or (`after`) when it has had it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.agents: dict[tuple[str, int], Agent] = {}
        self.names: dict[str, str] = {}
        self.moves = 0
        self.trouble: list[tuple[str, BaseException]] = []
        self.order_trouble: list[ProviderError] = []
        self.forget_trouble: list[ProviderError] = []
        self.secrets: dict[str, Mapping[str, str]] = {}
        self.forgotten: list[tuple[str, bool]] = []
        self.most_at_once = 0
        self.looks = 0
        self.obedient = True
        self.gate: anyio.Event | None = None

    # What happens on the machine.

    @property
    def alive(self) -> list[Agent]:
        return [agent for agent in self.agents.values() if agent.state in ("starting", "training")]

    def agent(self, uid: str, attempt: int = 1) -> Agent:
        return self.agents[uid, attempt]

    def end(self, uid: str, attempt: int = 1, reason: str = "exited", code: int | None = 0) -> None:
        agent = self.agents[uid, attempt]
        agent.state, agent.ended_at = "ended", self.clock()
        agent.end = AttemptEnd(reason=EndReason(reason), detail="", exit_code=code, training_started=True)
        self.moves += 1

    def die(self, uid: str, attempt: int = 1) -> None:
        self.agents[uid, attempt].state = "dead"
        self.agents[uid, attempt].ended_at = self.clock()
        self.moves += 1

    # The protocol.

    async def machine(self, record: Record) -> MachineSeen:
        self.looks += 1
        holder = None
        for agent in self.alive:
            uid = agent.run_id.rpartition("-")[0]
            holder = Holder(job=self.names[uid], uid=uid, run_id=agent.run_id, pid=1, since=T0, ours=True)
        return MachineSeen(as_of=self.clock(), name="this machine", holder=holder)

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        await anyio.sleep(0)
        self.looks += 1
        return Sight(self._seen(record.uid, attempt.number))

    def _seen(self, uid: str, number: int) -> AttemptSeen:
        now, agent = self.clock(), self.agents.get((uid, number))
        if agent is None:
            return Absent(as_of=now)
        active = ((agent.ended_at or now) - agent.started_at).total_seconds()
        match agent.state:
            case "starting":
                return Starting(as_of=now)
            case "ended":
                assert agent.end is not None
                assert agent.ended_at is not None
                return Ended(
                    as_of=now, end=agent.end, started_at=agent.started_at, ended_at=agent.ended_at, active=active,
                    durable=0, newest=agent.newest,
                )  # fmt: skip
            case "dead":
                return Dead(
                    as_of=now, started_at=agent.started_at, last_seen=agent.ended_at, active=active, durable=0,
                    newest=agent.newest,
                )  # fmt: skip
        return Live(
            as_of=now, phase="training", step=None, started_at=agent.started_at, training_at=agent.started_at,
            drain=None, active=active, durable=0, newest=agent.newest, serial=agent.orders.serial, heartbeat=now,
        )  # fmt: skip

    def glance(self, record: Record, attempt: Attempt) -> object:
        return self.moves

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await anyio.sleep(0)
        when, error = self.trouble.pop(0) if self.trouble else ("", None)
        if error is not None and when == "before":
            raise error
        self._start(record, launch, epoch)
        self.secrets[record.uid] = dict(secrets)
        if error is not None:
            raise error

    def _start(self, record: Record, launch: Launch, epoch: int) -> None:
        key = (record.uid, launch.attempt.number)
        self.names[record.uid] = record.name
        if key in self.agents:
            self.agents[key].starts += 1
            return
        newer = [number for uid, number in self.agents if uid == record.uid and number > launch.attempt.number]
        agent = Agent(f"{record.uid}-{launch.attempt.number}", launch.attempt.orders, epoch, self.clock())
        share = launch.generation.job.instance.busy == "share"
        if newer or (self.alive and not share):
            agent.state, agent.ended_at = "ended", self.clock()
            agent.end = AttemptEnd(reason=EndReason.REFUSED, detail="held")
        self.agents[key] = agent
        self.most_at_once = max(self.most_at_once, len(self.alive))
        self._obey(agent)
        self.moves += 1

    async def order(self, record: Record, attempt: int, orders: Orders, epoch: int) -> None:
        if self.order_trouble:
            raise self.order_trouble.pop(0)
        agent = self.agents[record.uid, attempt]
        if epoch >= agent.epoch and orders.serial > agent.orders.serial:
            agent.orders, agent.epoch = orders, epoch
            self._obey(agent)

    def _obey(self, agent: Agent) -> None:
        if self.obedient and agent.state == "training" and agent.orders.end is not None:
            uid, _, number = agent.run_id.rpartition("-")
            self.end(uid, int(number), agent.orders.end)

    async def forget(self, record: Record, *, checkpoints: bool, vouched: bool = False) -> None:
        if self.forget_trouble:
            raise self.forget_trouble.pop(0)
        self.forgotten.append((record.uid, checkpoints))
        for key in [key for key in self.agents if key[0] == record.uid]:
            assert self.agents[key].state not in ("starting", "training")
            del self.agents[key]


class Mortal:
    """A store as one process sees it: once the process is dead nothing of it reaches the disk. `full`: no writes;
    `refuses`: not these."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dead = False
        self.full = False
        self.refuses: Callable[[Sequence[Write]], bool] = lambda writes: False
        self.die_after: Callable[[Sequence[Write]], bool] | None = None
        self.batches = 0

    def apply(self, writes: Sequence[Write]) -> list[Receipt]:
        if self.dead or self.full or self.refuses(writes):
            raise StoreUnavailable("no space left on device")
        self.batches += 1
        receipts = self._store.apply(writes)
        if self.die_after is not None and self.die_after(writes):
            self.dead = True
        return receipts

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


class Hands:
    """What one process does to the machine: nothing any more once it is dead."""

    def __init__(self, machine: Machine, store: Mortal) -> None:
        self._machine = machine
        self._store = store

    async def _live(self) -> None:
        if self._store.dead:
            await anyio.sleep_forever()

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        await self._live()
        await self._machine.launch(record, launch, epoch, secrets)
        await self._live()

    async def order(self, record: Record, attempt: int, orders: Orders, epoch: int) -> None:
        await self._live()
        await self._machine.order(record, attempt, orders, epoch)

    async def forget(self, record: Record, *, checkpoints: bool, vouched: bool = False) -> None:
        await self._live()
        await self._machine.forget(record, checkpoints=checkpoints, vouched=vouched)

    def __getattr__(self, name: str) -> object:
        return getattr(self._machine, name)


class World:
    """A store on disk, one machine, one clock, and the controllers that live."""

    def __init__(self, store: SqliteStore, dead: set[int]) -> None:
        self.store = store
        self.dead = dead
        self.clock = Clock()
        self.machine = Machine(self.clock)
        self.troubles: list[str] = []
        self.born = 0

    @asynccontextmanager
    async def controller(
        self, *, environ: Mapping[str, str] | None = None, only: Collection[str] | None = None
    ) -> AsyncIterator[Running]:
        """A controller that reconciles until the block is left; leaving it is its death by kill -9."""
        self.born += 1
        me = ControllerId(pid=self.born, start="1", boot_id="b", what="controller")
        mortal = Mortal(self.store)
        controller = Controller(
            mortal,  # type: ignore[arg-type]
            {Platform.LOCAL: Hands(self.machine, mortal)},  # type: ignore[dict-item]
            me,
            environ or {},
            self.clock,
            only=only,
            glance=TICK,
            trouble=self.troubles.append,
        )
        running = Running(controller, mortal)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.serve)
            try:
                yield running
            finally:
                mortal.dead = True
                self.dead.add(me.pid)
                tasks.cancel_scope.cancel()

    def record(self, uid: str) -> Record:
        return self.store.get(uid).record


class Running:
    def __init__(self, controller: Controller, store: Mortal) -> None:
        self.controller = controller
        self.store = store
        self.ended = False

    async def serve(self) -> None:
        await self.controller.run()
        self.ended = True


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something in the world; not at all for what never comes."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.002)
