"""A host behind the provider protocol, whichever way it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import anyio
import msgspec

from runctl.agent.hostside import Facts
from runctl.agent.leftovers import salvage_seconds
from runctl.agent.placement import Answer, Salvaged
from runctl.home import Home
from runctl.planner.actions import Launch
from runctl.planner.money import HELPLESS_MARGIN
from runctl.planner.observed import AttemptSeen, Dead, Foreign, Live, MachineSeen, Starting, Unreachable
from runctl.planner.record import Attempt, Orders, Record, Source
from runctl.providers.hosts import reading, spec
from runctl.providers.hosts.deaths import Deaths
from runctl.providers.hosts.shifting import shifted
from runctl.providers.interface import HostUnreachable, LaunchRefused, LaunchUnknown, Sight
from runctl.workspace.problems import WorkspaceError

# Of guardian and agent each ends the attempt without the other. If one is dead or stopped and the other does nothing
# for so long, or once the money is over, it is left to the controller; soon, if the other can't do anything either.
IMPAIRED_SECONDS = 60.0
HELPLESS_SECONDS = 5.0

Json = dict[str, Any]


class Hostside(Protocol):
    """What a host is asked and told: `agent/hostside.py` and `agent/placement.py` there, by whatever way. Each is safe
    to do twice, and raises ProviderError for what couldn't be done, HostUnreachable where nobody knows.
    """

    async def reach(self) -> Home:
        """The paths of what is new there, when it can be asked."""

    async def home_of(self, uid: str, attempt: int) -> Home:
        """The paths of an attempt that may have been started there."""

    async def host(self, source: Source) -> spec.Host:
        """What attempts of this code find there."""

    @property
    def ahead(self) -> timedelta:
        """By how much its clock is ahead of ours."""

    async def look(self, run_dir: str, run_id: str, after: int) -> Facts: ...

    async def machine(self, home_runs: str, ending_leftovers: bool) -> tuple[Json | None, Sequence[Foreign]]:
        """Who holds it, as he has written himself down, and trainings of others."""

    async def end(self, pids: Collection[int]) -> None: ...

    async def end_unwatched(self, run_id: str) -> None: ...

    async def salvage(self, run_dir: str, begin: bool) -> Salvaged: ...

    async def launch(
        self, run_dir: str, code_hash: str, spec: Json, orders: Json, secrets: Mapping[str, str]
    ) -> Answer: ...

    async def order(self, run_dir: str, orders: Json) -> None: ...

    async def forget(self, places: Collection[str]) -> None: ...

    def stamp(self, run_dir: str, watchers: Collection[int]) -> object:
        """Differs from what it was when a look would find something new. Called often; asks nobody who is far."""


Now = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


class HostMachine:
    """One host. `name` is what it is called towards the user, `now` our clock: whatever the host's own shows, instants
    are ours on this side and its own on the other.
    """

    def __init__(self, side: Hostside, name: str, now: Now = utc_now) -> None:
        self._side = side
        self._name = name
        self._now = now
        self._watchers: dict[str, tuple[int, ...]] = {}
        self._run_dirs: dict[tuple[str, int], str] = {}
        self._deaths = Deaths()
        self._impaired: dict[str, float] = {}
        self._salvaging: set[str] = set()

    async def machine(self, record: Record) -> MachineSeen:
        return await self.seen(ending_leftovers=True)

    async def seen(self, *, ending_leftovers: bool = False) -> MachineSeen:
        """Who trains on this host now; without `ending_leftovers` by a look that changes nothing."""
        now = self._now()
        try:
            runs = str((await self._side.reach()).runs)
            held_by, foreign = await self._side.machine(runs, ending_leftovers)
        except HostUnreachable as error:
            return MachineSeen(as_of=now, name=self._name, unready=f"{self._name} can't be asked: {error}")
        holder = None if held_by is None else reading.holder(held_by, runs)
        return MachineSeen(as_of=now, name=self._name, holder=holder, foreign=tuple(foreign))

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        now = self._now()
        try:
            return await self._look(record, attempt)
        except HostUnreachable as error:
            return Sight(Unreachable(as_of=now, why=str(error)))

    async def _look(self, record: Record, attempt: Attempt) -> Sight:
        run_dir = await self._run_dir(record, attempt.number)
        run_id = spec.run_id(record, attempt)
        facts, seen, watchers = await self._glimpse(run_dir, run_id, attempt)
        if isinstance(seen, Live | Starting):
            self._deaths.alive(run_id, facts.monotonic)
            if not self._deaths.know(run_id) and self._is_beyond_help(record, attempt, run_id, watchers, seen.as_of):
                await self._side.end(watchers.alive)
                facts, seen, watchers = await self._glimpse(run_dir, run_id, attempt)
        if isinstance(seen, Starting) and watchers.gone:
            # The agent's death ends the attempt; its guardian, which would have seen to that, is dead as well.
            await self._side.end_unwatched(run_id)
            facts, seen, watchers = await self._glimpse(run_dir, run_id, attempt)
        if isinstance(seen, Dead):
            now, dead = seen.as_of, self._deaths.dated(run_id, seen, facts.monotonic)
            seen = Starting(as_of=now)
            if await self._salvage(run_id, run_dir):
                facts = await self._side.look(run_dir, run_id, attempt.events_seen)
                seen = self._meaning(facts, now)
            if isinstance(seen, Dead):
                seen = msgspec.structs.replace(seen, died_at=dead.died_at)
        if watchers.alive:
            self._watchers[record.uid] = watchers.alive
        else:
            self._watchers.pop(record.uid, None)
        events = reading.agent_events(facts.events, attempt.number)
        return Sight(seen, tuple((number, shifted(event, -self._side.ahead)) for number, event in events))

    def _meaning(self, facts: Facts, now: datetime) -> AttemptSeen:
        ahead = self._side.ahead
        return shifted(reading.attempt_seen(facts, now + ahead), -ahead)

    async def _glimpse(
        self, run_dir: str, run_id: str, attempt: Attempt
    ) -> tuple[Facts, AttemptSeen, reading.Watchers]:
        now = self._now()
        facts = await self._side.look(run_dir, run_id, attempt.events_seen)
        return facts, self._meaning(facts, now), reading.watchers(facts)

    async def _salvage(self, run_id: str, run_dir: str) -> bool:
        """Whether what a dead attempt had saved is copied, or nobody will do that any more."""
        salvaged = await self._side.salvage(run_dir, run_id not in self._salvaging)
        if salvaged.begun:
            self._salvaging.add(run_id)
        return salvaged.over

    def _is_beyond_help(
        self, record: Record, attempt: Attempt, run_id: str, watchers: reading.Watchers, now: datetime
    ) -> bool:
        """Whether guardian and agent can't end the attempt any more, and it is time to: its money is over (or soon will
        be, where nobody can save anything), or it has been so for longer than they may take for its last checkpoint.
        Time in which the machine slept doesn't count.
        """
        if not watchers.impaired:
            self._impaired.pop(run_id, None)
            return False
        grace = record.generation_of(attempt).job.checkpoint.grace.seconds
        patience = HELPLESS_SECONDS if watchers.helpless else IMPAIRED_SECONDS + salvage_seconds(grace, None)
        since = self._impaired.setdefault(run_id, time.monotonic())
        money = attempt.orders.limits.money
        if time.monotonic() - since > patience:
            return True
        margin = HELPLESS_MARGIN if watchers.helpless else timedelta(0)
        return money is not None and now > money.until - margin

    def glance(self, record: Record, attempt: Attempt) -> object:
        run_dir = self._run_dirs.get((record.uid, attempt.number))
        return None if run_dir is None else self._side.stamp(run_dir, self._watchers.get(record.uid, ()))

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        source = launch.generation.source
        with anyio.CancelScope(shield=True):
            run_dir = await self._run_dir(record, launch.attempt.number)
            attempt = shifted(launch.attempt, self._side.ahead)
            try:
                built = spec.build(await self._side.host(source), record, attempt, launch.generation, epoch)
            except (OSError, WorkspaceError) as error:
                raise LaunchRefused(str(error)) from error
            orders = spec.orders_json(attempt.orders, epoch)
            answer = await self._side.launch(run_dir, source.code_hash, built, orders, secrets)
        if answer.refused:
            raise LaunchRefused(answer.refused)
        if answer.unknown:
            raise LaunchUnknown(answer.unknown)

    async def order(self, record: Record, attempt: int, orders: Orders, epoch: int) -> None:
        with anyio.CancelScope(shield=True):
            run_dir = await self._run_dir(record, attempt)
            await self._side.order(run_dir, spec.orders_json(shifted(orders, self._side.ahead), epoch))

    async def forget(self, record: Record, *, checkpoints: bool, vouched: bool = False) -> None:
        homes = {await self._side.reach()}
        homes |= {await self._side.home_of(record.uid, each.number) for each in record.attempts}
        places = {str(home.job_dir(record.uid)) for home in homes}
        if checkpoints:
            places |= {f"{spec.destination(home, each)}/{record.uid}" for home in homes for each in record.generations}
        await self._side.forget(sorted(places))
        for key in [each for each in self._run_dirs if each[0] == record.uid]:
            del self._run_dirs[key]

    async def _run_dir(self, record: Record, attempt: int) -> str:
        found = str((await self._side.home_of(record.uid, attempt)).run_dir(record.uid, attempt))
        self._run_dirs[record.uid, attempt] = found
        return found
