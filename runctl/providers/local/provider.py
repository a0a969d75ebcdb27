"""This machine: what a host is asked, asked in this process."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import anyio.to_thread

from runctl.agent import hostside, placement
from runctl.agent.bundle import ENTRY, install
from runctl.agent.foreign import foreign_trainings
from runctl.agent.hostlock import DIRECTORY_VARIABLE
from runctl.agent.hostside import Facts
from runctl.agent.placement import Answer, Salvaged, said
from runctl.home import Home
from runctl.planner.observed import Foreign
from runctl.planner.record import Source
from runctl.providers.hosts.provider import HostMachine
from runctl.providers.hosts.spec import Host
from runctl.providers.interface import ProviderError
from runctl.workspace.interpreter import Interpreter

NAME = "this machine"


def local_machine(home: Home, environ: Mapping[str, str]) -> HostMachine:
    """Attempts are in run directories under `home`; `environ` is what trainings may see a part of."""
    return HostMachine(ThisMachine(home, environ), NAME)


class ThisMachine:
    """What is quick is done at once: a thread would cost more than the look itself."""

    def __init__(self, home: Home, environ: Mapping[str, str]) -> None:
        self._home = home
        self._environ = dict(environ)

    async def reach(self) -> Home:
        return self._home

    async def home_of(self, uid: str, attempt: int) -> Home:
        return self._home

    @property
    def ahead(self) -> timedelta:
        return timedelta(0)

    async def host(self, source: Source) -> Host:
        """With the Python, the uv and the PATH that the caller had when he applied the job."""
        return Host(
            home=self._home,
            code=self._home.code,
            environ=self._environ,
            client=self._client,
            python=Interpreter(path=source.python, version=source.python_version) if source.python else None,
            uv=source.uv,
            path=source.path,
        )

    async def look(self, run_dir: str, run_id: str, after: int) -> Facts:
        return hostside.look(run_dir, run_id, after)

    async def machine(self, home_runs: str, ending_leftovers: bool) -> tuple[dict[str, Any] | None, Sequence[Foreign]]:
        foreign = await self._foreign()
        return hostside.holder(home_runs, ending_leftovers), foreign

    async def _foreign(self) -> Sequence[Foreign]:
        # An administrator who divides the machine has said that others' trainings are on other hosts.
        if DIRECTORY_VARIABLE in self._environ:
            return ()
        found = await anyio.to_thread.run_sync(foreign_trainings, os.getpid())
        return tuple(Foreign(**each._asdict()) for each in found)

    async def end(self, pids: Collection[int]) -> None:
        await anyio.to_thread.run_sync(hostside.end, pids)

    async def end_unwatched(self, run_id: str) -> None:
        hostside.end_unwatched(run_id)

    async def salvage(self, run_dir: str, begin: bool) -> Salvaged:
        def salvage() -> Salvaged:
            try:
                entry = self._entry()
            except OSError:
                return Salvaged(over=True, begun=begin)
            return placement.salvage(run_dir, entry, self._environ, begin)

        return await anyio.to_thread.run_sync(salvage)

    async def launch(
        self, run_dir: str, code_hash: str, spec: dict[str, Any], orders: dict[str, Any], secrets: Mapping[str, str]
    ) -> Answer:
        def launch() -> Answer:
            try:
                entry = self._entry()
                if spec["checkpoint"]["client"] is not None:
                    self._install_client()
            except OSError as error:
                return Answer(refused=said(error))
            environ = {**placement.agent_environment(self._environ, spec), **secrets}
            return placement.launch(run_dir, str(self._home.code / code_hash), spec, orders, entry, environ)

        return await anyio.to_thread.run_sync(launch)

    async def order(self, run_dir: str, orders: dict[str, Any]) -> None:
        try:
            await anyio.to_thread.run_sync(placement.order, run_dir, orders)
        except OSError as error:
            raise ProviderError(said(error)) from error

    async def forget(self, places: Collection[str]) -> None:
        try:
            await anyio.to_thread.run_sync(placement.forget, places)
        except OSError as error:
            raise ProviderError(said(error)) from error

    def stamp(self, run_dir: str, watchers: Collection[int]) -> object:
        return hostside.stamp(run_dir, watchers)

    def _client(self) -> str:
        """Where the S3 client is, or will be; to know its name is to read all of it."""
        from runctl.providers.hosts.client_bundle import client_hash

        return str(self._home.clients / client_hash())

    def _install_client(self) -> None:
        """Raises OSError."""
        from runctl.providers.hosts.client_bundle import install_client

        install_client(self._home.clients)

    def _entry(self) -> str:
        """The agent, which is put there if it isn't yet. Raises OSError."""
        return str(install(self._home.agents) / ENTRY)
