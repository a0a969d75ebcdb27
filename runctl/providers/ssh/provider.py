"""Every host that jobs name, each behind a link of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio

from runctl.home import Home
from runctl.planner.actions import Launch
from runctl.planner.observed import MachineSeen
from runctl.planner.record import Attempt, Orders, Record
from runctl.providers.hosts.provider import HostMachine, Now, utc_now
from runctl.providers.hosts.remote import RemoteHost
from runctl.providers.interface import Sight
from runctl.transports.interface import Channel

# How a host is reached, by the name that the user gives it.
Reach = Callable[[str], Awaitable[Channel]]


async def over_ssh(host: str) -> Channel:
    """As the user's own `ssh` would. A host that nobody has trusted before is refused: there is nobody to ask."""
    from runctl.transports.ssh import Address, connect

    return await connect(Address.parse(host))


class SshHosts:
    """`run` has to run while anything is asked."""

    def __init__(self, home: Home, reach: Reach = over_ssh, now: Now = utc_now) -> None:
        self._home = home
        self._reach = reach
        self._now = now
        self._hosts: dict[str, HostMachine] = {}
        self._new: list[RemoteHost] = []
        self._came = anyio.Event()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                came = self._came
                for remote in self._new:
                    tasks.start_soon(remote.link.run)
                self._new.clear()
                await came.wait()

    async def machine(self, record: Record) -> MachineSeen:
        return await self._of(record).machine(record)

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        return await self._of(record, attempt).look(record, attempt)

    def glance(self, record: Record, attempt: Attempt) -> object:
        return self._of(record, attempt).glance(record, attempt)

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        await self._of(record, launch.attempt).launch(record, launch, epoch, secrets)

    async def order(self, record: Record, attempt: int, orders: Orders, epoch: int) -> None:
        await self._of(record, record.attempts[attempt - 1]).order(record, attempt, orders, epoch)

    async def forget(self, record: Record, *, checkpoints: bool) -> None:
        for name in sorted({each.job.instance.host for each in record.generations if each.job.instance.host}):
            await self._at(name).forget(record, checkpoints=checkpoints)

    def _of(self, record: Record, attempt: Attempt | None = None) -> HostMachine:
        job = record.job if attempt is None else record.generation_of(attempt).job
        return self._at(job.instance.host or "")

    def _at(self, name: str) -> HostMachine:
        if name not in self._hosts:
            remote = RemoteHost(name, lambda: self._reach(name), self._home.code, self._now)
            self._hosts[name] = HostMachine(remote, name, self._now)
            self._new.append(remote)
            came, self._came = self._came, anyio.Event()
            came.set()
        return self._hosts[name]
