"""Every host that jobs name, each behind a link of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup

from runctl.agent import placement
from runctl.home import Home
from runctl.planner.actions import Launch
from runctl.planner.observed import Dead, Ended, Live, MachineSeen, Starting, Unreachable
from runctl.planner.record import Attempt, Orders, Record
from runctl.providers.hosts.code import Delivery
from runctl.providers.hosts.mirror import Mirror
from runctl.providers.hosts.provider import HostMachine, Now, utc_now
from runctl.providers.hosts.remote import RemoteHost
from runctl.providers.interface import HostUnreachable, LaunchRefused, ProviderError, Sight
from runctl.providers.ssh.whereabouts import NAME, Whereabouts, write, written
from runctl.transports.interface import Channel, ConfigurationBroken

AGAIN_SECONDS = 5.0

# How a host is reached, by the name that the user gives it.
Reach = Callable[[str], Awaitable[Channel]]


async def over_ssh(host: str) -> Channel:
    """As the user's own `ssh` would. A host that nobody has trusted before is refused: there is nobody to ask."""
    from runctl.transports.ssh import Address, connect

    try:
        address = Address.parse(host)
    except ValueError as error:
        raise ConfigurationBroken(str(error)) from None
    return await connect(address)


async def _again_and_again(what: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """To its end, whatever comes between: a defect or a disk in trouble ends neither the controller nor this."""
    while True:
        try:
            return await what()
        except Exception:
            await anyio.sleep(AGAIN_SECONDS)


class _Known(msgspec.Struct, frozen=True):
    remote: RemoteHost
    machine: HostMachine


class SshHosts:
    """`run` has to run while anything is asked."""

    def __init__(self, home: Home, reach: Reach = over_ssh, now: Now = utc_now) -> None:
        self._home = home
        self._reach = reach
        self._now = now
        self._hosts: dict[str, _Known] = {}
        self._deliveries: dict[tuple[str, str], Delivery] = {}
        self._mirrors: dict[tuple[str, int], Mirror] = {}
        self._tasks: TaskGroup | None = None

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            await anyio.sleep_forever()

    async def machine(self, record: Record) -> MachineSeen:
        """Not ready before the code is there: an attempt's start doesn't wait for what may take long to travel."""
        known = self._of(record)
        seen = await known.machine.machine(record)
        if seen.unready:
            return seen
        return msgspec.structs.replace(seen, unready=await self._bring(known, record.generation.source.code_hash))

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        known, now = self._of(record, attempt), self._now()
        try:
            turn = await self._confirm(known, record, attempt.number)
            there = (await known.remote.home_of(record.uid, attempt.number)).run_dir(record.uid, attempt.number)
            sight = await known.machine.look(record, attempt)
        except ProviderError as error:
            return Sight(Unreachable(as_of=now, why=str(error)))
        if known.remote.link.turns != turn:
            return Sight(Unreachable(as_of=now, why=f"the connection to {known.remote.link.name} has just come back"))
        if isinstance(sight.attempt, Live | Starting | Ended | Dead):
            mirror = self._mirror(known, record, attempt, str(there))
        if isinstance(sight.attempt, Ended | Dead):
            await mirror.end()
        return sight

    def glance(self, record: Record, attempt: Attempt) -> object:
        return self._of(record, attempt).machine.glance(record, attempt)

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        known, number = self._of(record, launch.attempt), launch.attempt.number
        turn = await self._confirm(known, record, number)
        up, here = await known.remote.link.up(), self._home.run_dir(record.uid, number)
        try:
            if written(here) is None:  # a launch that was sent before may have its effect where it was sent
                write(here, Whereabouts.of(up))
        except OSError as error:
            raise LaunchRefused(placement.said(error)) from error
        if await known.remote.has(up, f"{up.installed.home}/runs/{record.uid}/{here.name}/{NAME}"):
            raise LaunchRefused(
                f"{known.remote.link.name} has the same directory for its home as this machine, "
                f"`{up.installed.home}`: set RUNCTL_HOME to another one here or there"
            )
        known.remote.launches_on = turn
        await known.machine.launch(record, launch, epoch, secrets)

    async def order(self, record: Record, attempt: int, orders: Orders, epoch: int) -> None:
        known = self._of(record, record.attempts[attempt - 1])
        await self._confirm(known, record, attempt)
        await known.machine.order(record, attempt, orders, epoch)

    async def forget(self, record: Record, *, checkpoints: bool, vouched: bool = False) -> None:
        used = [each for each in record.attempts if written(self._home.run_dir(record.uid, each.number)) is not None]
        for name in sorted({record.generation_of(each).job.instance.host or "" for each in used}):
            known = self._at(name)
            try:
                for attempt in used:
                    if record.generation_of(attempt).job.instance.host == name:
                        await self._confirm(known, record, attempt.number, readable=False)
                await known.machine.forget(record, checkpoints=checkpoints)
            except HostUnreachable:
                if not vouched:
                    raise
        for key in [each for each in self._mirrors if each[0] == record.uid]:
            self._mirrors.pop(key).drop()
        await anyio.to_thread.run_sync(placement.forget, [str(self._home.job_dir(record.uid))])

    async def _bring(self, known: _Known, code_hash: str) -> str:
        """Bring the code there, if nobody does yet; what there is to say as long as it isn't there."""
        key = known.remote.link.name, code_hash
        delivery = self._deliveries.get(key)
        if delivery is None or delivery.is_to_be_repeated(known.remote.link.turns):
            delivery = self._deliveries[key] = Delivery(known.remote, code_hash)
            self._start(delivery.run)
        return await delivery.soon()

    async def _confirm(self, known: _Known, record: Record, attempt: int, *, readable: bool = True) -> int:
        """See to it that the host is the one on which the attempt was started, if it was, and its home there is
        `readable`; as which connection. Raises HostUnreachable."""
        up, turn, name = await known.remote.link.up(), known.remote.link.turns, known.remote.link.name
        meant = written(self._home.run_dir(record.uid, attempt))
        if meant is None:
            return turn
        if why := meant.other_than(Whereabouts.of(up), name):
            raise HostUnreachable(why)
        # In a home that can't be read nothing is found either.
        moved = readable and meant.home != up.installed.home
        if moved and not await known.remote.has(up, str(Home(Path(meant.home)).run_dir(record.uid, attempt))):
            raise HostUnreachable(f"{name}: what was started there is in `{meant.home}`, where nothing is found now")
        return turn

    def _begun_in(self, uid: str, attempt: int) -> str | None:
        found = written(self._home.run_dir(uid, attempt))
        return None if found is None else found.home

    def _of(self, record: Record, attempt: Attempt | None = None) -> _Known:
        job = record.job if attempt is None else record.generation_of(attempt).job
        return self._at(job.instance.host or "")

    def _at(self, name: str) -> _Known:
        if name not in self._hosts:
            remote = RemoteHost(name, lambda: self._reach(name), self._home.code, self._now, self._begun_in)
            self._start(remote.link.run)
            self._hosts[name] = _Known(remote, HostMachine(remote, name, self._now))
        return self._hosts[name]

    def _mirror(self, known: _Known, record: Record, attempt: Attempt, there: str) -> Mirror:
        key = record.uid, attempt.number
        if key not in self._mirrors:
            self._mirrors[key] = Mirror(known.remote, there, self._home.run_dir(*key))
            self._start(self._mirrors[key].run)
        return self._mirrors[key]

    def _start(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._tasks is not None, "`run` isn't running"
        self._tasks.start_soon(_again_and_again, what)
