"""The local machine behind the provider protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from runctl.agent import hostside
from runctl.agent.bundle import install
from runctl.agent.files import write_json
from runctl.agent.foreign import foreign_trainings
from runctl.agent.hostlock import DIRECTORY_VARIABLE
from runctl.agent.leftovers import is_run_held, salvage_seconds
from runctl.home import Home
from runctl.planner.actions import Launch
from runctl.planner.money import HELPLESS_MARGIN
from runctl.planner.observed import AttemptSeen, Dead, Foreign, Holder, Live, MachineSeen, Starting
from runctl.planner.record import Attempt, Orders, Record
from runctl.providers.hosts import reading
from runctl.providers.hosts.deaths import Deaths
from runctl.providers.interface import LaunchRefused, LaunchUnknown, ProviderError, Sight
from runctl.providers.local import spec
from runctl.providers.local.files import make_run_dir, write_orders
from runctl.snapshots.materialize import materialize
from runctl.workspace.problems import WorkspaceError

NAME = "this machine"

# The launcher only forks and execs; a machine that takes longer swaps itself to death.
LAUNCHER_SECONDS = 30.0
CLAIM_SECONDS = 5.0
# What is salvaged within this doesn't keep the job waiting for another look.
SALVAGE_SECONDS = 2.0

# Of guardian and agent each ends the attempt without the other. If one is dead or stopped and the other does nothing
# for so long, or once the money is over, it is left to the controller; soon, if the other can't do anything either.
IMPAIRED_SECONDS = 60.0
HELPLESS_SECONDS = 5.0


class LocalMachine:
    """Starts attempts in run directories under `home`; `environ` is what trainings may see a part of."""

    def __init__(self, home: Home, environ: Mapping[str, str]) -> None:
        self._home = home
        self._environ = dict(environ)
        self._runs = str(home.runs)
        self._watchers: dict[str, tuple[int, ...]] = {}
        self._deaths = Deaths()
        self._impaired: dict[str, float] = {}
        self._salvaging: set[str] = set()

    async def machine(self, record: Record) -> MachineSeen:
        now = datetime.now(UTC)
        foreign = await anyio.to_thread.run_sync(self._foreign)
        return MachineSeen(as_of=now, name=NAME, holder=self._holder(ending_leftovers=True), foreign=foreign)

    def seen(self) -> MachineSeen:
        """Who trains on this machine now, by a look that changes nothing."""
        now = datetime.now(UTC)
        return MachineSeen(as_of=now, name=NAME, holder=self._holder(ending_leftovers=False), foreign=self._foreign())

    def _foreign(self) -> tuple[Foreign, ...]:
        # An administrator who divides the machine has said that others' trainings are on other hosts.
        if DIRECTORY_VARIABLE in self._environ:
            return ()
        return tuple(Foreign(**each._asdict()) for each in foreign_trainings(os.getpid()))

    def _holder(self, *, ending_leftovers: bool) -> Holder | None:
        held_by = hostside.holder(self._runs, ending_leftovers)
        return None if held_by is None else reading.holder(held_by, self._runs)

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        run_dir = str(self._home.run_dir(record.uid, attempt.number))
        run_id = spec.run_id(record, attempt)
        facts, seen, watchers = _glimpse(run_dir, run_id, attempt)
        if isinstance(seen, Live | Starting):
            self._deaths.alive(run_id, facts.monotonic)
            if not self._deaths.know(run_id) and self._is_beyond_help(record, attempt, run_id, watchers, seen.as_of):
                await anyio.to_thread.run_sync(hostside.end, watchers.alive)
                facts, seen, watchers = _glimpse(run_dir, run_id, attempt)
        if isinstance(seen, Starting) and watchers.gone:
            # The agent's death ends the attempt; its guardian, which would have seen to that, is dead as well.
            hostside.end_unwatched(run_id)
            facts, seen, watchers = _glimpse(run_dir, run_id, attempt)
        if isinstance(seen, Dead):
            now, dead = seen.as_of, self._deaths.dated(run_id, seen, facts.monotonic)
            seen = Starting(as_of=now)
            if await anyio.to_thread.run_sync(self._salvage, run_id, run_dir):
                facts = hostside.look(run_dir, run_id, attempt.events_seen)
                seen = reading.attempt_seen(facts, now)
            if isinstance(seen, Dead):
                seen = msgspec.structs.replace(seen, died_at=dead.died_at)
        if watchers.alive:
            self._watchers[record.uid] = watchers.alive
        else:
            self._watchers.pop(record.uid, None)
        return Sight(seen, reading.agent_events(facts.events, attempt.number))

    def _salvage(self, run_id: str, run_dir: str) -> bool:
        """See to it that what a dead attempt had saved is copied, by a process that needs no controller; whether that
        is over. One that was killed isn't started again.
        """
        if not hostside.may_have_unsaved(run_dir):
            return True
        if run_id not in self._salvaging and not is_run_held(run_dir):
            self._salvaging.add(run_id)
            try:
                self._start_agent(["--salvage", run_dir], spec.passed_environment(self._environ))
            except (OSError, ProviderError):
                return True
            _await(lambda: not hostside.may_have_unsaved(run_dir), SALVAGE_SECONDS)
        return not (hostside.may_have_unsaved(run_dir) and is_run_held(run_dir))

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
        # Called often, for every live job: plain strings, since building paths costs more than the look itself.
        run_dir = f"{self._runs}/{record.uid}/{attempt.number:06d}"
        return hostside.stamp(run_dir, self._watchers.get(record.uid, ()))

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._launch, record, launch, epoch, secrets)

    def _launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        run_dir = self._home.run_dir(record.uid, launch.attempt.number)
        if (run_dir / "claim.json").exists():
            return
        try:
            self._prepare(run_dir, record, launch, epoch)
        except (OSError, WorkspaceError) as error:
            raise LaunchRefused(_said(error)) from error
        self._start_agent([str(run_dir)], {**spec.passed_environment(self._environ), **secrets})
        _await(lambda: any((run_dir / name).exists() for name in ("claim.json", "exit.json")), CLAIM_SECONDS)

    def _start_agent(self, arguments: list[str], environ: Mapping[str, str]) -> None:
        """Start one of the agent's programs, which detaches itself. Raises LaunchRefused or LaunchUnknown."""
        try:
            agent = install(self._home.agents)
        except OSError as error:
            raise LaunchRefused(_said(error)) from error
        argv = [sys.executable, "-I", "-S", "-E", str(agent / "launch.py"), *arguments]
        try:
            done = subprocess.run(
                argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=LAUNCHER_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            # What it forked may live on.
            raise LaunchUnknown(f"the agent's launcher hangs: {error}") from error
        except OSError as error:
            raise LaunchRefused(f"the agent couldn't be started: {_said(error)}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-500:]
            raise LaunchRefused(f"the agent couldn't be started (exit {done.returncode}): {said}")

    def _prepare(self, run_dir: Path, record: Record, launch: Launch, epoch: int) -> None:
        generation = launch.generation
        make_run_dir(run_dir)
        work = run_dir / "work"
        if not work.exists():
            materialize(str(self._home.code / generation.source.code_hash), str(work))
        built = spec.build(self._home, record, launch.attempt, generation, epoch, self._environ)
        write_json(str(run_dir / "spec.json"), built)
        write_orders(run_dir, launch.attempt.orders, epoch)

    async def order(self, record: Record, attempt: int, orders: Orders, epoch: int) -> None:
        try:
            run_dir = self._home.run_dir(record.uid, attempt)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(write_orders, run_dir, orders, epoch)
        except OSError as error:
            raise ProviderError(_said(error)) from error

    async def forget(self, record: Record, *, checkpoints: bool) -> None:
        await anyio.to_thread.run_sync(self._forget, record, checkpoints)

    def _forget(self, record: Record, checkpoints: bool) -> None:
        shutil.rmtree(self._home.job_dir(record.uid), ignore_errors=True)
        if checkpoints:
            for place in {spec.destination(self._home, generation) for generation in record.generations}:
                shutil.rmtree(place / record.uid, ignore_errors=True)


def _glimpse(run_dir: str, run_id: str, attempt: Attempt) -> tuple[hostside.Facts, AttemptSeen, reading.Watchers]:
    now = datetime.now(UTC)
    facts = hostside.look(run_dir, run_id, attempt.events_seen)
    return facts, reading.attempt_seen(facts, now), reading.watchers(facts)


def _await(is_there: Callable[[], bool], seconds: float) -> None:
    """Give a process the moment that it needs, so that the next look sees what it did."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not is_there():
        time.sleep(0.002)


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}: `{error.filename}`" if error.filename else str(error)
    return str(error)
