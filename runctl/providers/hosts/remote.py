"""A host elsewhere: what it is asked, asked over a link."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from runctl.agent.hostside import Facts
from runctl.agent.placement import Answer, Salvaged
from runctl.checkpoints.places import S3
from runctl.home import Home
from runctl.planner.observed import Foreign
from runctl.planner.record import Source
from runctl.providers.hosts import reading
from runctl.providers.hosts.delivery import send_client
from runctl.providers.hosts.link import Link, Open, Up
from runctl.providers.hosts.sending import send_snapshot
from runctl.providers.hosts.spec import Host
from runctl.providers.interface import HostUnreachable, ProviderError
from runctl.snapshots.errors import SnapshotError
from runctl.transports.interface import Unreachable
from runctl.workspace.interpreter import Interpreter

# Clocks that are no further apart are the same.
SAME_CLOCK = timedelta(seconds=0.5)

Json = dict[str, Any]


class Tail(msgspec.Struct, frozen=True):
    output: bytes
    setup: bytes
    journal: bytes
    state: Json | None

    @property
    def nothing(self) -> bool:
        return not (self.output or self.setup or self.journal)


class RemoteHost:
    """`code` is where snapshots lie here, `now` our clock; `begun_in` tells the home there in which an attempt was
    started, by its job's uid and number, None if it wasn't."""

    def __init__(
        self,
        name: str,
        open_: Open,
        code: Path,
        now: Callable[[], datetime],
        begun_in: Callable[[str, int], str | None] = lambda uid, attempt: None,
    ) -> None:
        self.link = Link(name, open_, self._has_changed, now)
        self._code = code
        self._now = now
        self._begun_in = begun_in
        self._ahead = timedelta(0)
        self._turn = 0
        # The connection by which an attempt may be launched, and that of the last look.
        self.launches_on = 0
        self._looked_on = 0
        self._changes: dict[str, int] = {}
        self._watched: dict[str, tuple[int, ...]] = {}

    async def reach(self) -> Home:
        up = await self.link.up()
        if self._turn != self.link.turns:
            self._turn = self.link.turns
            self._compare(*up.said, reading.mapping(up.hello.get("now")).get("wall"))
        return Home(Path(up.installed.home))

    async def home_of(self, uid: str, attempt: int) -> Home:
        home = await self.reach()
        begun_in = self._begun_in(uid, attempt)
        return home if begun_in is None else Home(Path(begun_in))

    @property
    def ahead(self) -> timedelta:
        return self._ahead

    def _compare(self, asked: datetime, answered: datetime, wall: object) -> None:
        """Its clock with ours, by what it showed between these two instants. What nobody can tell from a clock that is
        right, or that was known already, is no difference: an instant that was told stays where it is."""
        shown = reading.instant(wall)
        if shown is None or answered < asked:
            return
        unsure = (answered - asked) / 2
        ahead = shown - (asked + unsure)
        if abs(ahead - self._ahead) > unsure + SAME_CLOCK:
            self._ahead = timedelta(0) if abs(ahead) <= unsure + SAME_CLOCK else ahead

    async def host(self, source: Source) -> Host:
        """With the Python, the uv and the PATH that the host has by itself."""
        home, up = await self.reach(), await self.link.up()
        match up.tools:
            case {"path": str(path), "python": python, "uv": str() | None as uv, "environ": dict(environ)}:
                return Host(
                    home=home,
                    code=self._code,
                    environ={str(name): str(value) for name, value in environ.items()},
                    python=_interpreter(python),
                    uv=uv,
                    path=path,
                    client=lambda: up.installed.client,
                )
        raise ProviderError(f"{self.link.name} doesn't say what it has")

    async def look(self, run_dir: str, run_id: str, after: int) -> Facts:
        asked = self._now()
        answer = await self.link.ask("look", run_dir=run_dir, run_id=run_id, after=after)
        try:
            found = reading.facts(answer)
        except ValueError as error:
            raise HostUnreachable(f"{self.link.name}: {error}") from None
        self._compare(asked, self._now(), found.wall)
        self._looked_on = self.link.turns
        await self._watch(run_dir, reading.watchers(found).alive)
        return found

    async def tail(self, run_dir: str, output: int, setup: int, journal: int) -> Tail:
        """What an attempt's logs and journal have from these bytes on, some of it, and its state."""
        answer = await self.link.ask("tail", run_dir=run_dir, output=output, setup=setup, journal=journal)
        try:
            match answer:
                case {"output": str(more), "setup": str(before), "journal": str(noted), "state": state}:
                    output_, setup_, journal_ = (
                        base64.b64decode(each, validate=True) for each in (more, before, noted)
                    )
                    return Tail(output_, setup_, journal_, state if isinstance(state, dict) else None)
        except ValueError:
            pass
        raise HostUnreachable(f"{self.link.name}: what it answers is no log")

    async def machine(self, home_runs: str, ending_leftovers: bool) -> tuple[Json | None, Sequence[Foreign]]:
        answer = await self.link.ask("machine", home_runs=home_runs, ending_leftovers=ending_leftovers)
        if not isinstance(answer, dict):
            raise ProviderError(f"{self.link.name} doesn't say who trains there")
        holder, foreign = answer.get("holder"), answer.get("foreign")
        found = foreign if isinstance(foreign, list) else []
        return holder if isinstance(holder, dict) else None, tuple(map(_foreign, found))

    async def has(self, up: Up, path: str) -> bool:
        return await self.link.asked(up, "exists", path=path) is True

    async def end(self, pids: Collection[int]) -> None:
        if self.link.turns != self._looked_on:
            raise HostUnreachable(f"the connection to {self.link.name} has just come back: who is who isn't known")
        await self.link.ask("end", pids=list(pids))

    async def end_unwatched(self, run_id: str) -> None:
        await self.link.ask("end_unwatched", run_id=run_id)

    async def salvage(self, run_dir: str, begin: bool) -> Salvaged:
        answer = await self.link.ask("salvage", run_dir=run_dir, entry=await self._entry(), begin=begin)
        match answer:
            case {"over": bool(over), "begun": bool(begun)}:
                return Salvaged(over, begun)
        raise HostUnreachable(f"{self.link.name} doesn't say what is saved")

    async def launch(
        self, run_dir: str, code_hash: str, spec: Json, orders: Json, secrets: Mapping[str, str]
    ) -> Answer:
        up, turn = await self.link.up(), self.launches_on
        if self.link.turns != turn:
            raise HostUnreachable(f"the connection to {self.link.name} has just come back")
        try:
            await self._send(up, code_hash)
            if spec["checkpoint"]["client"] is not None:
                await self._send_client(up)
        except HostUnreachable:
            raise
        except (ProviderError, SnapshotError, OSError) as error:
            return Answer(refused=str(error))
        if (self._now() + self._ahead).timestamp() > spec["launch_before"]:
            raise HostUnreachable(f"the code has arrived at {self.link.name}, too late for this start")
        # By this conversation alone: another one may be with another machine.
        answer = await self.link.asked(
            up,
            "launch",
            run_dir=run_dir,
            snapshot=f"{up.installed.home}/code/{code_hash}",
            spec=spec,
            orders=orders,
            entry=up.installed.entry,
            secrets=dict(secrets),
        )
        match answer:
            case {"refused": str(refused), "unknown": str(unknown)}:
                return Answer(refused, unknown)
        return Answer(unknown=f"{self.link.name} doesn't say whether it has started the agent")

    async def bring(self, code_hash: str, progress: Callable[[int, int], None]) -> None:
        """See to it that the code is there. Raises ProviderError, SnapshotError and OSError."""
        await self._send(await self.link.up(), code_hash, progress)

    async def _send(self, up: Up, code_hash: str, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        receiving = up.installed.receiving(f"{up.installed.home}/code", code_hash)
        try:
            await send_snapshot(up.channel, receiving, self._code / code_hash, progress)
        except (Unreachable, ValueError) as error:
            raise HostUnreachable(str(error)) from None

    async def _send_client(self, up: Up) -> None:
        if not await self.has(up, up.installed.client):
            try:
                await send_client(up.channel, up.installed)
            except Unreachable as error:
                raise HostUnreachable(str(error)) from None

    async def order(self, run_dir: str, orders: Json) -> None:
        await self.link.ask("order", run_dir=run_dir, orders=orders)

    async def forget(self, places: Collection[str]) -> None:
        up, client = await self.link.up(), None
        if any(place.startswith(S3) for place in places):
            await self._send_client(up)
            client = up.installed.client
        await self.link.asked(up, "forget", places=list(places), client=client)
        for place in places:
            for run_dir in [each for each in self._watched if each.startswith(f"{place}/")]:
                del self._watched[run_dir]
                self._changes.pop(run_dir, None)

    def stamp(self, run_dir: str, watchers: Collection[int]) -> object:
        return self.link.turns, self._changes.get(run_dir, 0)

    async def _watch(self, run_dir: str, pids: tuple[int, ...]) -> None:
        """See to it that the host tells when this directory changes; a conversation that is new knows of none."""
        key = (self.link.turns, *pids)
        if self._watched.get(run_dir) != key:
            self._watched[run_dir] = key
            self._has_changed(run_dir)  # what changes until it is watched is found by one more look
            turn = self.link.turns
            runs = [[each, list(of)] for each, (asked, *of) in self._watched.items() if asked == turn]
            await self.link.ask("watch", runs=runs)

    def _has_changed(self, run_dir: str) -> None:
        if run_dir in self._watched:
            self._changes[run_dir] = self._changes.get(run_dir, 0) + 1

    async def _entry(self) -> str:
        return (await self.link.up()).installed.entry


def _interpreter(value: object) -> Interpreter | None:
    match value:
        case [str(path), str(version)] if path.startswith("/") and version.count(".") == 2:
            return Interpreter(path=path, version=version)
    return None


def _foreign(value: object) -> Foreign:
    match value:
        case {"pid": int(pid), "command": str(command), "evidence": str(evidence)}:
            return Foreign(pid=pid, command=command[:500], evidence=evidence[:500])
    raise ProviderError("the host names no process where one is to be")
