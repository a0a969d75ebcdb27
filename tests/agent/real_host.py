"""Real agents on this machine: each test is a host of its own, and leaves no process behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from belonging import processes_with

Json = dict[str, Any]
PATIENCE = 20.0


def until(condition: Callable[[], Any], what: str | Callable[[], str] = "", patience: float = PATIENCE) -> Any:
    """Poll until the condition holds and return what it returned."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"waited {patience:g} s in vain: {what() if callable(what) else what or condition}")
        time.sleep(0.02)


class Run:
    """One attempt's run directory, and the processes that belong to it."""

    def __init__(self, host: Host, path: Path, spec: Json) -> None:
        self.host = host
        self.path = path
        self.spec = spec

    def read(self, name: str) -> Json | None:
        try:
            value: Json = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return None
        return value

    def lines(self, name: str) -> list[Json]:
        path = self.path / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines("events.jsonl")]

    @property
    def state(self) -> Json:
        return self.read("state.json") or {}

    def exit(self, patience: float = PATIENCE) -> Json:
        until(lambda: (self.path / "exit.json").exists(), self.describe, patience)
        value = self.read("exit.json")
        assert value is not None
        return value

    def describe(self) -> str:
        log = self.path / "agent.log"
        return f"state {self.state}, agent.log {log.read_text() if log.exists() else None}"

    def training(self) -> Json:
        """The state once the training runs."""
        return until(lambda: self.state if self.state.get("training") else None, "training")

    def wait_state(self, condition: Callable[[Json], Any], what: str = "", patience: float = PATIENCE) -> Json:
        return until(
            lambda: self.state if self.state and condition(self.state) else None, what or self.describe, patience
        )

    def printed(self, text: str) -> None:
        until(lambda: text.encode() in self.output(), self.describe)

    def output(self) -> bytes:
        """The whole output: the segments in order, then the current one."""
        parts = sorted(self.path.glob("output.*.log"))
        current = self.path / "output.log"
        return b"".join(part.read_bytes() for part in [*parts, *([current] if current.exists() else [])])

    def order(self, serial: int = 2, end: str | None = None, epoch: int = 1, **limits: Any) -> None:
        orders = {
            "serial": serial,
            "epoch": epoch,
            "limits": {"keep": 3, **limits},
            "end": None if end is None else {"reason": end},
        }
        temporary = self.path / "orders.new"
        temporary.write_text(json.dumps(orders))
        temporary.rename(self.path / "orders.json")

    def durable(self) -> list[Path]:
        return sorted(path.parent for path in self.host.destination.glob(f"{self.spec['uid']}/*/*/manifest.json"))

    def processes(self) -> list[psutil.Process]:
        """What is alive of the attempt, guardian and agent included."""
        return processes_with("RUNCTL_RUN_ID", self.spec["run_id"], or_argument=str(self.path))

    def gone(self) -> None:
        """Nothing of the attempt is left."""
        until(lambda: not self.processes(), lambda: f"processes to be gone: {self.processes()}")


class Host:
    """This machine as a host of its own, by its lock directory."""

    def __init__(self, root: Path, agent: Path, python: str = sys.executable) -> None:
        self.root = root
        self.agent = agent
        self.python = python
        self.locks = root / "locks"
        self.locks.mkdir()
        self.destination = root / "durable"
        self.runs: list[Run] = []

    def prepare(self, argv: list[str], *, attempt: int = 1, uid: str | None = None, **changes: Any) -> Run:
        """A run directory with its spec and first orders. `checkpoint`, `orders` are merged into the defaults."""
        uid = uid or secrets.token_hex(6)
        path = self.root / "runs" / uid / str(attempt)
        work = path / "work"
        work.mkdir(parents=True)
        spec: Json = {
            "version": 1,
            "run_id": f"{uid}-{attempt}",
            "job": "job",
            "uid": uid,
            "attempt": attempt,
            "epoch": 1,
            "home_fence": str(self.root / f"{uid}.fence"),
            "busy": "refuse",
            "cwd": str(work),
            "argv": argv,
            "env": {"PATH": os.environ["PATH"]},
            "secrets": [],
            "steps": [],
            "setup_timeout": 60,
            "checkpoint": {
                "dir": str(work / "checkpoints"),
                "every": {"unit": "epochs", "n": 2},
                "format": {"kind": "auto"},
                "destination": str(self.destination),
                "signal": None,
                "grace": 5.0,
                "restore": None,
                "resume_arg": None,
                **changes.pop("checkpoint", {}),
            },
            "stop": {"signal": "SIGTERM", "to": "leader"},
            "hooks": {"after_start": [], "before_stop": [], "before_terminate": [], "timeout": 5.0},
        }
        run = Run(self, path, spec)
        limits = changes.pop("limits", {})
        run.order(serial=1, **limits)
        spec.update(changes)
        (path / "spec.json").write_text(json.dumps(spec))
        self.runs.append(run)
        return run

    def launch(self, run: Run, *, arguments: tuple[str, ...] = (), **environment: str) -> int:
        argv = [self.python, "-I", "-S", "-E", str(self.agent / "launch.py"), *arguments, str(run.path)]
        env = {**os.environ, "RUNCTL_HOST_LOCK_DIR": str(self.locks), **environment}
        return subprocess.run(argv, env=env, check=False, timeout=30).returncode

    def start(self, argv: list[str], **changes: Any) -> Run:
        run = self.prepare(argv, **changes)
        assert self.launch(run) == 0
        return run

    def script(self, source: str, **changes: Any) -> Run:
        """Start a training that is this Python text."""
        return self.start([sys.executable, "-c", source], **changes)

    def is_free(self) -> bool:
        """Whether the host lock can be taken."""
        import fcntl

        path = self.locks / "runctl-host.lock"
        if not path.exists():
            return True
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            return True

    def clean_up(self) -> None:
        for run in self.runs:
            for process in run.processes():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
