"""What can go wrong with a host over SSH: the real controller and store, the real agent, and a server that runs real
processes.

The host is this computer under another home; what it does is seen in its processes and files.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from belonging import processes_with
from killing import kill_at_once
from transports.sshd import Sshd, serving

from runctl.agent.hostlock import DIRECTORY_VARIABLE
from runctl.home import Home
from runctl.manifest.job import Platform
from runctl.manifest.load import load
from runctl.planner.money import spent
from runctl.planner.record import EndReason, OutcomeType, Phase, Record
from runctl.planner.requests import CancelJob, DeleteJob, StopJob
from runctl.providers.hosts import sending
from runctl.providers.local.logs import read_output
from runctl.providers.local.provider import local_machine
from runctl.providers.ssh.provider import SshHosts
from runctl.reconciler import applying
from runctl.reconciler.controller import Controller
from runctl.store.interface import Ask, ControllerId, NotFound, done
from runctl.store.sqlite import SqliteStore
from runctl.transports.interface import Channel
from runctl.transports.ssh import Address, connect

PATIENCE = 30.0
SECRET = "Zr8-not-to-be-found"

TRAIN = """\
import json, os, sys, time
steps, pause, code = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
directory = os.environ["RUNCTL_CHECKPOINT_DIR"]
resumed = os.environ.get("RUNCTL_RESUME_FROM")
step = json.load(open(resumed + "/step.json"))["step"] if resumed else 0
print("begins at", step, "secret", len(os.environ.get("TOKEN", "")), flush=True)
while step < steps:
    time.sleep(pause)
    step += 1
    target = f"{directory}/step-{step}"
    os.mkdir(target + ".tmp")
    json.dump({"step": step}, open(target + ".tmp/step.json", "w"))
    os.rename(target + ".tmp", target)
    print("step", step, flush=True)
sys.exit(code)
"""


class Host:
    """A project here, a host over SSH, and controllers of one home."""

    def __init__(self, root: Path, sshd: Sshd) -> None:
        self.root, self.sshd = root, sshd
        self.there = Path(os.environ["RUNCTL_HOME"])
        self.home = Home(root / "here")
        self.home.root.mkdir()
        self.project = root / "project"
        self.project.mkdir()
        (self.project / "train.py").write_text(TRAIN)
        self.store = SqliteStore(self.home.database, lambda holder: False)
        self.trouble: list[str] = []
        self.number = 0
        self.uids: list[str] = []
        # By how much the clock here is behind the host's.
        self.behind = timedelta(0)

    def apply(self, *args: str, replace: bool = False, **fields: Any) -> str:
        manifest: dict[str, Any] = {
            "name": "job",
            "script": "train.py",
            "args": list(args),
            "instance": {"platform": "ssh", "host": "box", "hourly_rate": "1 USD"},
            "cost": {"cap": "1 USD"},
            "setup": "none",
            "checkpoint": {"every": "1 steps", "grace": "2s", "format": "directory"},
            **fields,
        }
        path = self.project / "job.yaml"
        path.write_text(json.dumps(manifest))
        loaded = load(path.read_bytes(), str(path), str(self.project))
        assert not loaded.diagnostics, loaded.diagnostics
        prepared = applying.prepare(loaded.jobs[0], self.home, os.environ)
        proposal = applying.propose(self.store, prepared, self.now(), replace=replace, rerun=False)
        (submitted,) = applying.submit(self.store, [proposal], "me", self.now(), replace=replace)
        self.uids.append(submitted.uid)
        return submitted.uid

    def now(self) -> datetime:
        return datetime.now(UTC) - self.behind

    def record(self, uid: str) -> Record:
        return self.store.get(uid).record

    def run_dir(self, uid: str, attempt: int = 1) -> Path:
        return Home(self.there).run_dir(uid, attempt)

    def output(self, uid: str, attempt: int = 1) -> str:
        return (self.run_dir(uid, attempt) / "output.log").read_text()

    async def reach(self, name: str) -> Channel:
        return await connect(Address.parse(name), config=[self.sshd.config])

    @asynccontextmanager
    async def controller(self, **environ: str) -> AsyncIterator[None]:
        """While the context lasts; left, it is gone as if it was killed, but for its processes here."""
        self.number += 1
        here = local_machine(self.home, os.environ)
        hosts = SshHosts(self.home, self.reach, self.now)
        me = ControllerId(pid=self.number, start="0", boot_id="b", what="test")
        made = Controller(
            self.store, {Platform.SSH: hosts, Platform.LOCAL: here}, me, environ, self.now,
            trouble=self.trouble.append, companions=[hosts.run],
        )  # fmt: skip
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.run)
            yield
            tasks.cancel_scope.cancel()

    async def until(self, true: Callable[[], Any], what: str) -> Any:
        for _ in range(int(PATIENCE / 0.05)):
            if found := true():
                return found
            await anyio.sleep(0.05)
        raise AssertionError(f"{what} didn't happen; {self.told()}; trouble: {self.trouble}")

    def told(self) -> list[str]:
        return [f"{event.reason}: {event.message}" for uid in self.uids for _, event in self.store.events(uid)]

    async def outcome(self, uid: str) -> tuple[OutcomeType, int | None]:
        await self.until(lambda: self.record(uid).outcome, "an outcome")
        found = self.record(uid).outcome
        assert found is not None
        return found.type, found.exit_code

    def is_gone(self, uid: str) -> bool:
        try:
            self.store.get(uid)
        except NotFound:
            return True
        return False

    def processes(self) -> list[Any]:
        return processes_with("RUNCTL_HOST_LOCK_DIR", os.environ["RUNCTL_HOST_LOCK_DIR"])


def holds(path: Path, text: str) -> bool:
    return text.encode() in path.read_bytes()


Tried = Callable[[Callable[[Host], Awaitable[None]]], None]


@pytest.fixture
def on_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tried]:
    """Runs a body with a host; nothing of it may be left."""
    (tmp_path / "lock").mkdir()
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "lock"))
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "there"))

    def runs(body: Callable[[Host], Awaitable[None]]) -> None:
        async def main() -> None:
            async with serving(tmp_path / "sshd") as sshd:
                host = Host(tmp_path, sshd)
                try:
                    with anyio.fail_after(2 * PATIENCE):
                        await body(host)
                finally:
                    host.store.close()

        asyncio.run(main())

    yield runs
    for process in processes_with("RUNCTL_HOST_LOCK_DIR", str(tmp_path / "lock")):
        process.kill()


def test_a_secret_travels_and_stays_nowhere(on_host: Tried) -> None:
    """The training has it; no file of the host, nor of this home, does."""

    async def body(host: Host) -> None:
        uid = host.apply("1", "0.1", "0", secrets=["TOKEN"])
        async with host.controller(TOKEN=SECRET):
            assert await host.outcome(uid) == (OutcomeType.SUCCEEDED, 0)
        assert host.output(uid).splitlines()[0] == f"begins at 0 secret {len(SECRET)}"
        homes = (host.there, host.home.root)
        assert not [each for home in homes for each in home.rglob("*") if each.is_file() and holds(each, SECRET)]

    on_host(body)


def test_an_end_that_nobody_saw_is_told(on_host: Tried) -> None:
    """The training ends while there is no controller."""

    async def body(host: Host) -> None:
        uid = host.apply("3", "0.1", "7")
        async with host.controller():
            await host.until(lambda: (live := host.record(uid).live) and live.started_at, "the start")
        await host.until(lambda: (host.run_dir(uid) / "exit.json").exists(), "the end")
        async with host.controller():
            assert await host.outcome(uid) == (OutcomeType.FAILED, 7)

    on_host(body)


def test_a_host_that_is_away_is_waited_for(on_host: Tried) -> None:
    """Nothing is started, nothing fails; when it is back, the job starts."""

    async def body(host: Host) -> None:
        await host.sshd.stop()
        uid = host.apply("2", "0.1", "0")
        async with host.controller():
            await host.until(lambda: host.record(uid).phase is Phase.QUEUED, "that it waits")
            assert any("box can't be asked: " in each.message for each in host.record(uid).conditions)
            assert host.record(uid).attempts == ()
            await host.sshd.start()
            assert await host.outcome(uid) == (OutcomeType.SUCCEEDED, 0)

    on_host(body)


def test_what_waits_for_a_host_can_be_cancelled(on_host: Tried) -> None:
    """Nobody has to bring the host back for that."""

    async def body(host: Host) -> None:
        await host.sshd.stop()
        uid = host.apply("2", "0.1", "0")
        async with host.controller():
            await host.until(lambda: host.record(uid).phase is Phase.QUEUED, "that it waits")
            done(host.store.apply([Ask(uid, CancelJob(at=host.now(), why="test"))])[0])
            assert (await host.outcome(uid))[0] is OutcomeType.CANCELLED

    on_host(body)


def test_a_killed_agent_is_lost_and_its_job_goes_on(on_host: Tried) -> None:
    """From the newest durable checkpoint; the code of a killed attempt is never told."""

    async def body(host: Host) -> None:
        uid = host.apply("40", "0.1", "7")
        async with host.controller():
            await host.until(lambda: host.record(uid).checkpoint, "a durable checkpoint")
            claim = json.loads((host.run_dir(uid) / "claim.json").read_text())
            state = json.loads((host.run_dir(uid) / "state.json").read_text())
            kill_at_once(claim["guardian"]["pid"], state["agent"]["pid"])
            assert await host.outcome(uid) == (OutcomeType.FAILED, 7)
        first, second = host.record(uid).attempts
        assert first.end is not None
        assert (first.end.reason, first.end.exit_code) == (EndReason.LOST, None)
        assert second.end is not None
        assert second.end.exit_code == 7
        assert not host.output(uid, 2).startswith("begins at 0 ")

    on_host(body)


def test_the_cap_holds_with_nobody_here(on_host: Tried) -> None:
    """The controller is gone and the connection with it: the agent ends the training within its money."""

    async def body(host: Host) -> None:
        instance = {"platform": "ssh", "host": "box", "hourly_rate": "3600 USD"}
        uid = host.apply("1000", "0.1", "0", instance=instance, cost={"cap": "12 USD"})
        async with host.controller():
            await host.until(lambda: (live := host.record(uid).live) and live.started_at, "the start")
        host.sshd.vanish()
        await host.until(lambda: (host.run_dir(uid) / "exit.json").exists(), "the end")
        async with host.controller():
            assert (await host.outcome(uid))[0] is OutcomeType.CAP_REACHED
            assert spent(host.record(uid), host.now()) <= 12_000_000
        assert host.record(uid).checkpoint is not None

    on_host(body)


@pytest.mark.parametrize("behind", [timedelta(minutes=-10), timedelta(minutes=10)], ids=str)
def test_a_clock_that_is_wrong_changes_nothing(on_host: Tried, behind: timedelta) -> None:
    """The host's is ten minutes off: the job starts, its cap holds and isn't reached before, and what it has cost is
    what it took."""

    async def body(host: Host) -> None:
        host.behind = behind
        instance = {"platform": "ssh", "host": "box", "hourly_rate": "3600 USD"}
        began = host.now()
        uid = host.apply("1000", "0.1", "0", instance=instance, cost={"cap": "12 USD"})
        async with host.controller():
            await host.until(lambda: (live := host.record(uid).live) and live.started_at, "the start")
            assert (await host.outcome(uid))[0] is OutcomeType.CAP_REACHED
        took = (host.now() - began).total_seconds()
        assert 6_000_000 < spent(host.record(uid), host.now()) <= min(12, took) * 1_000_000
        (attempt,) = host.record(uid).attempts
        assert attempt.started_at is not None
        assert began <= attempt.started_at <= host.now()
        assert all(began <= event.at <= host.now() for _, event in host.store.events(uid))

    on_host(body)


def test_a_clock_that_is_set_meanwhile_changes_nothing(on_host: Tried) -> None:
    """Ours jumps by an hour while a training runs: it is neither ended nor billed for that."""

    async def body(host: Host) -> None:
        uid = host.apply("60", "0.1", "0")
        async with host.controller():
            await host.until(lambda: (live := host.record(uid).live) and live.started_at, "the start")
            host.behind = timedelta(hours=1)
            assert await host.outcome(uid) == (OutcomeType.SUCCEEDED, 0)
        assert 0 < spent(host.record(uid), host.now()) < 10_000

    on_host(body)


def test_what_it_printed_unseen_comes_too(on_host: Tried) -> None:
    """A megabyte, and an end, while no controller was there; the next one goes on behind what had come."""

    async def body(host: Host) -> None:
        (host.project / "train.py").write_text(
            "import sys, time\nprint('first', flush=True)\ntime.sleep(1.5)\n"
            "for number in range(100000):\n print('line', number)\n"
        )
        uid = host.apply()
        here = host.home.run_dir(uid, 1)
        async with host.controller():
            await host.until(lambda: read_output(here, 0), "its first line")
        await host.until(lambda: (host.run_dir(uid) / "exit.json").exists(), "the end")
        async with host.controller():
            assert await host.outcome(uid) == (OutcomeType.SUCCEEDED, 0)
            assert (here / "output.log").read_bytes() == host.output(uid).encode()

    on_host(body)


def test_another_machine_is_no_evidence(on_host: Tried) -> None:
    """The name leads elsewhere while a training runs: nothing is started there, nothing is called over, and what runs
    is billed on. When it leads back, the job ends as it did."""

    async def body(host: Host) -> None:
        uid = host.apply("30", "0.1", "7")
        async with host.controller():
            await host.until(lambda: host.record(uid).checkpoint, "a durable checkpoint")
        where = host.home.run_dir(uid, 1) / "host.json"
        told = where.read_text()
        where.write_text(json.dumps({**json.loads(told), "node": "another"}))
        async with host.controller():
            unreachable = "another machine answers as box"
            await host.until(
                lambda: any(unreachable in each.message for each in host.record(uid).conditions), "a word about it"
            )
            assert host.record(uid).outcome is None
            where.write_text(told)
            assert await host.outcome(uid) == (OutcomeType.FAILED, 7)
        assert len(host.record(uid).attempts) == 1

    on_host(body)


def test_what_began_in_another_home_there_is_looked_at_in_it(on_host: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the usual one couldn't be written for a time: it isn't started a second time, its end is seen, and it
    can be deleted."""

    async def body(host: Host) -> None:
        uid = host.apply("30", "0.1", "7")
        async with host.controller():
            await host.until(lambda: host.record(uid).checkpoint, "a durable checkpoint")
        monkeypatch.setenv("RUNCTL_HOME", str(host.root / "elsewhere"))
        async with host.controller():
            assert await host.outcome(uid) == (OutcomeType.FAILED, 7)
        assert len(host.record(uid).attempts) == 1
        assert list(host.there.rglob(f"*{uid}*"))
        done(host.store.apply([Ask(uid, DeleteJob(at=host.now(), checkpoints=True))])[0])
        async with host.controller():
            await host.until(lambda: host.is_gone(uid), "the end of its record")
        assert not list(host.root.rglob(f"*{uid}*"))

    on_host(body)


def test_a_home_there_that_cannot_be_read_is_no_evidence(on_host: Tried) -> None:
    """As on a disk that isn't mounted just now: nothing is found in it, and what was started there may run."""

    async def body(host: Host) -> None:
        uid = host.apply("30", "0.1", "7")
        async with host.controller():
            await host.until(lambda: host.record(uid).checkpoint, "a durable checkpoint")
        known = host.home.run_dir(uid, 1) / "host.json"
        where = json.loads(known.read_text())
        elsewhere = str(host.root / "unmounted")
        known.write_text(json.dumps({**where, "home": elsewhere}))
        async with host.controller():
            await host.until(
                lambda: any(f"in `{elsewhere}`" in each.message for each in host.record(uid).conditions), "a word"
            )
            assert host.record(uid).outcome is None
        known.write_text(json.dumps(where))
        async with host.controller():
            assert await host.outcome(uid) == (OutcomeType.FAILED, 7)
        assert len(host.record(uid).attempts) == 1

    on_host(body)


def test_a_python_there_that_does_not_fit_is_said(on_host: Tried) -> None:
    """By the host's, whatever is here."""

    async def body(host: Host) -> None:
        (host.project / "pyproject.toml").write_text(
            '[project]\nname = "thing"\nversion = "1"\nrequires-python = ">=3.50"\n'
        )
        uid = host.apply("2", "0.1", "0", setup="auto")
        async with host.controller():
            await host.until(lambda: host.record(uid).attempts and host.record(uid).attempts[0].end, "its end")
        end = host.record(uid).attempts[0].end
        assert end is not None
        assert end.reason is EndReason.LAUNCH_FAILED
        assert "requires Python >=3.50, and `" in end.detail

    on_host(body)


def test_a_job_that_moved_there_can_be_deleted(on_host: Tried) -> None:
    """Its first attempt was on this machine: of that no other host has to know."""

    async def body(host: Host) -> None:
        uid = host.apply("100", "0.1", "0", instance={"platform": "local", "hourly_rate": "1 USD"})
        async with host.controller():
            await host.until(lambda: host.record(uid).checkpoint, "a durable checkpoint")
            assert host.apply("2", "0.1", "0", replace=True, checkpoint={"resume": "never"}) == uid
            assert await host.outcome(uid) == (OutcomeType.SUCCEEDED, 0)
        assert len(host.record(uid).attempts) == 2
        done(host.store.apply([Ask(uid, DeleteJob(at=host.now(), checkpoints=True))])[0])
        async with host.controller():
            await host.until(lambda: host.is_gone(uid), "the end of its record")
        assert not list(host.root.rglob(f"*{uid}*"))

    on_host(body)


def test_a_host_with_this_very_home_is_refused(on_host: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is brought here would be written over what it is brought from."""

    async def body(host: Host) -> None:
        monkeypatch.setenv("RUNCTL_HOME", str(host.home.root))
        uid = host.apply("2", "0.1", "0")
        async with host.controller():
            await host.until(lambda: host.record(uid).stopped, "that it rests")
        assert any("has the same directory for its home" in each for each in host.told())

    on_host(body)


def test_large_code_travels_before_the_start(on_host: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowly: the job waits and says how far it is, no attempt is made for it, and what is asked meanwhile is done."""
    monkeypatch.setattr(sending, "CHUNK_BYTES", 64 * 1024)
    pieces = sending._pieces

    def slow(*of: Any) -> Iterator[tuple[bytes, int]]:
        for piece in pieces(*of):
            time.sleep(0.1)
            yield piece

    monkeypatch.setattr(sending, "_pieces", slow)

    async def body(host: Host) -> None:
        (host.project / "big.bin").write_bytes(Random(1).randbytes(3_000_000))
        uid = host.apply("1", "0.1", "0")
        async with host.controller():
            told = "its code is on its way to box: "
            await host.until(
                lambda: any(told in each.message for each in host.record(uid).conditions), "a word about it"
            )
            assert host.record(uid).attempts == ()
            done(host.store.apply([Ask(uid, StopJob(at=host.now(), why="test"))])[0])
            await host.until(lambda: host.record(uid).stopped, "the stop")
        assert host.apply("1", "0.1", "0") == uid
        async with host.controller():
            assert await host.outcome(uid) == (OutcomeType.SUCCEEDED, 0)
        assert len(host.record(uid).attempts) == 1

    on_host(body)
