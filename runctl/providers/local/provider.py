"""The local machine behind the provider protocol."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from runctl.agent.bundle import install
from runctl.agent.files import write_json
from runctl.agent.hostlock import DIRECTORY_VARIABLE, LockUnusable, recorded_holders
from runctl.agent.leftovers import end_unwatched
from runctl.agent.processes import is_alive, signal_one
from runctl.home import Home
from runctl.planner.actions import Launch
from runctl.planner.observed import Dead, Holder, Live, MachineSeen, Starting
from runctl.planner.record import Attempt, Orders, Record
from runctl.providers.interface import PAST_MONEY, LaunchRefused, LaunchUnknown, ProviderError, Sight
from runctl.providers.local import seeing, spec
from runctl.providers.local.files import write_orders
from runctl.providers.local.foreign import foreign_trainings
from runctl.workspace.materialize import materialize
from runctl.workspace.problems import WorkspaceError

# The launcher only forks and execs; a machine that takes longer swaps itself to death.
LAUNCHER_SECONDS = 30.0
CLAIM_SECONDS = 5.0

# Of guardian and agent each ends the attempt without the other. If one is dead or stopped and the other does nothing
# for so long, or once the money is over, it is left to the controller.
IMPAIRED_SECONDS = 60.0

# A controller looks at a live attempt at least so often, unless its machine slept.
LOOKS_APART = timedelta(seconds=20)


class LocalMachine:
    """Starts attempts in run directories under `home`; `environ` is what trainings may see a part of."""

    def __init__(self, home: Home, environ: Mapping[str, str]) -> None:
        self._home = home
        self._environ = dict(environ)
        self._runs = str(home.runs)
        self._watchers: dict[str, tuple[int, ...]] = {}
        self._alive_at: dict[str, datetime] = {}
        self._impaired: dict[str, float] = {}

    async def machine(self, record: Record) -> MachineSeen:
        now = datetime.now(UTC)
        # An administrator who divides the machine has said that others' trainings are on other hosts.
        divided = DIRECTORY_VARIABLE in self._environ
        foreign = () if divided else await anyio.to_thread.run_sync(foreign_trainings, os.getpid())
        return MachineSeen(as_of=now, name="this machine", holder=self._holder(), foreign=foreign)

    def _holder(self) -> Holder | None:
        try:
            holders = recorded_holders()
        except (LockUnusable, OSError):
            return None
        for holder in holders:
            if is_alive(holder.get("agent")) or is_alive(holder.get("guardian")):
                return self._describe(holder)
        return None

    def _describe(self, holder: dict[str, object]) -> Holder:
        run_id = str(holder.get("run_id", ""))
        agent = holder.get("agent")
        pid = agent.get("pid") if isinstance(agent, dict) else None
        uid = run_id.rpartition("-")[0]
        run_dir = Path(str(holder.get("run_dir", "/nowhere")))
        return Holder(
            job=str(holder.get("job", "unknown"))[:63],
            uid=uid,
            run_id=run_id,
            pid=pid if isinstance(pid, int) else 0,
            since=seeing.instant(holder.get("since")),
            ours=run_dir.is_relative_to(self._home.runs),
        )

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        now = datetime.now(UTC)
        run_dir = self._home.run_dir(record.uid, attempt.number)
        run_id = spec.run_id(record, attempt)
        seen = seeing.look(run_dir, run_id, now)
        if isinstance(seen, Starting) and seeing.is_unwatched(run_dir):
            # The agent's death ends the attempt; its guardian, which would have seen to that, is dead as well.
            self._alive_at[record.uid] = now
            end_unwatched(run_id)
            seen = seeing.look(run_dir, run_id, datetime.now(UTC))
        if isinstance(seen, Live | Starting):
            self._alive_at[record.uid] = now
            if self._is_beyond_help(record, attempt, run_dir, now):
                for pid in seeing.living_watchers(run_dir):
                    signal_one(pid, signal.SIGKILL)
        elif isinstance(seen, Dead) and record.uid in self._alive_at:
            # It died since the last look: billed is what was seen of it, and what nobody can tell from that.
            alive_at = self._alive_at[record.uid]
            last = now if now - alive_at <= LOOKS_APART else alive_at
            seen = msgspec.structs.replace(seen, last_seen=max(last, seen.last_seen or last))
        if isinstance(seen, Live | Starting):
            self._watchers[record.uid] = seeing.watchers(run_dir)
        else:
            self._watchers.pop(record.uid, None)
        return Sight(seen, seeing.agent_events(run_dir, attempt.events_seen, attempt.number))

    def _is_beyond_help(self, record: Record, attempt: Attempt, run_dir: Path, now: datetime) -> bool:
        """Whether guardian and agent can't end the attempt any more, and it is time to: its money is over, or it has
        been so for long. Time in which the machine slept doesn't count."""
        if not seeing.is_impaired(run_dir):
            self._impaired.pop(record.uid, None)
            return False
        since = self._impaired.setdefault(record.uid, time.monotonic())
        money = attempt.orders.limits.money
        return time.monotonic() - since > IMPAIRED_SECONDS or (money is not None and now > money.until + PAST_MONEY)

    def glance(self, record: Record, attempt: Attempt) -> object:
        # Called often, for every live job: plain strings, since building paths costs more than the look itself.
        run_dir = f"{self._runs}/{record.uid}/{attempt.number:06d}"
        # Guardian and agent killed together leave no trace in any file.
        alive = tuple(_exists(pid) for pid in self._watchers.get(record.uid, ()))
        mtimes = _mtime(f"{run_dir}/state.json"), _mtime(f"{run_dir}/exit.json"), _mtime(f"{run_dir}/events.jsonl")
        return mtimes, alive

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._launch, record, launch, epoch, secrets)

    def _launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        run_dir = self._home.run_dir(record.uid, launch.attempt.number)
        if (run_dir / "claim.json").exists():
            return
        try:
            self._prepare(run_dir, record, launch, epoch)
            agent = install(self._home.agents)
        except (OSError, WorkspaceError) as error:
            raise LaunchRefused(_said(error)) from error
        environ = {**spec.passed_environment(self._environ), **secrets}
        argv = [sys.executable, "-I", "-S", "-E", str(agent / "launch.py"), str(run_dir)]
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
        _await_claim(run_dir)

    def _prepare(self, run_dir: Path, record: Record, launch: Launch, epoch: int) -> None:
        generation = launch.generation
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = run_dir / "work"
        if not work.exists():
            materialize(self._home.code / generation.source.code_hash, work)
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


def _await_claim(run_dir: Path) -> None:
    """Give the guardian the moment that it needs to claim the attempt, so that the next look sees it."""
    until = time.monotonic() + CLAIM_SECONDS
    while time.monotonic() < until and not any((run_dir / name).exists() for name in ("claim.json", "exit.json")):
        time.sleep(0.002)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}: `{error.filename}`" if error.filename else str(error)
    return str(error)
