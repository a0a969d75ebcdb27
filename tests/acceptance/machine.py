"""A machine of its own for one test: a home, a host lock, a project, and the real command line to drive them.

The world is read from what the trainings themselves write (`world.jsonl`) and from the process table, never from
what the program says of itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
from belonging import processes_with

from .permissions import bound
from .warm import WarmCommand

Started = subprocess.Popen[bytes] | WarmCommand
RUNCTL = [sys.executable, "-m", "runctl"]
PATIENCE = 60.0
# What a command reads when it prints, and nothing does at its start.
READ_LATE = frozenset({"COLUMNS"})

# A training that tells the world what it does, and dies of nothing but what a test tells it to.
TRAINING = """\
import fcntl, json, os, signal, sys, time

world = os.environ["WORLD"]
steps, pause, code = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
attempt = int(os.environ["RUNCTL_ATTEMPT"])
folder = os.environ["RUNCTL_CHECKPOINT_DIR"]


def tell(what, **more):
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.time(), "attempt": attempt, **more})
    with open(world + "/world.jsonl", "a") as file:
        file.write(line + "\\n")


alone = open(world + "/alone.lock", "w")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    tell("double")
    sys.exit(99)


def save(step):
    path = f"{folder}/step-{step:06d}.json"
    with open(path + ".tmp", "w") as file:
        json.dump({"step": step}, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".tmp", path)
    tell("saved", step=step)


def drain(number, frame):
    save(step)
    tell("drained", step=step)
    sys.exit(0)


step = 0
resume = os.environ.get("RUNCTL_RESUME_FROM")
if resume:
    with open(resume) as file:
        step = json.load(file)["step"]
signal.signal(signal.SIGTERM, drain)
tell("start", step=step)
while step < steps:
    time.sleep(pause)
    step += 1
    print(f"step {step}/{steps}", flush=True)
    save(step)
tell("end", step=step, code=code)
sys.exit(code)
"""


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []  # gone meanwhile


class Machine:
    """Drives the program in `root`; `environ` is what its commands see."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.project = root / "project"
        self.world = root / "world"
        self.lock = root / "lock"
        for directory in (self.project, self.world, self.lock):
            directory.mkdir(parents=True)
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RUNCTL_", "CI", "GITHUB_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RUNCTL_HOME": str(self.home),
            "RUNCTL_HOST_LOCK_DIR": str(self.lock),
            "WORLD": str(self.world),
            "NO_COLOR": "1",
        }
        self.started: list[Started] = []

    def write(self, name: str, text: str) -> Path:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def training(self, steps: int = 5, pause: float = 0.1, code: int = 0, name: str = "job", **fields: Any) -> Path:
        """A manifest of the training that tells the world what it does; `fields` are further ones of the manifest."""
        self.write("train.py", TRAINING)
        manifest = {
            "apiVersion": "runctl/v1",
            "name": name,
            "script": "train.py",
            "args": [str(steps), str(pause), str(code)],
            "env": {"WORLD": str(self.world)},
            "setup": "none",
            "checkpoint": {"every": "1 steps", "grace": "5s"},
            **fields,
        }
        return self.write(f"{name}.yaml", json.dumps(manifest, indent=1))

    def run(self, *args: str, timeout: float = PATIENCE, stdin: bytes = b"", **environ: str) -> Done:
        """Run a command of the program to its end: a forked one, unless the environment may change its start."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            process = self._start(args, environ, [given, out, err], warm=environ.keys() <= READ_LATE)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            out.seek(0)
            err.seek(0)
            return Done(code, out.read().decode(errors="replace"), err.read().decode(errors="replace"))

    def run_bound(self, *args: str) -> Done:
        """Run a command that meets the permissions of files, whoever runs the tests."""
        done = subprocess.run(
            [*RUNCTL, *args],
            preexec_fn=bound(),
            env=self.environ,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, warm: bool = True, **environ: str) -> Started:
        """Start a command, forked like those of `run`, and leave it running; it prints to a file of its own."""
        with (self.root / f"started-{len(self.started)}.out").open("wb") as out, open(os.devnull, "rb") as nothing:
            process = self._start(args, environ, [nothing, out, out], warm and environ.keys() <= READ_LATE)
        self.started.append(process)
        return process

    def _start(self, args: tuple[str, ...], environ: dict[str, str], files: list[IO[bytes]], warm: bool) -> Started:
        environ = {**self.environ, **environ}
        if warm:
            return WarmCommand(args, environ, self.project, files)
        given, out, err = files
        return subprocess.Popen(
            [*RUNCTL, *args], env=environ, cwd=self.project, stdin=given, stdout=out, stderr=err, start_new_session=True
        )

    def printed(self, command: Started | None = None) -> str:
        """What a command has printed so far, the one that was started last if none is named."""
        number = len(self.started) - 1 if command is None else self.started.index(command)
        return (self.root / f"started-{number}.out").read_text(errors="replace")

    def status(self, name: str = "job") -> dict[str, Any]:
        done = self.run("status", name, "-o", "json")
        assert done.code == 0, done
        found: dict[str, Any] = json.loads(done.out)
        return found

    def told(self, what: str | None = None) -> list[dict[str, Any]]:
        """What the trainings told the world, in order."""
        path = self.world / "world.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in found if what is None or line["what"] == what]

    def until(self, true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Wait for a condition of the world; fails with `what` when it doesn't come. To look takes a fifth of the time
        at most: a command that is asked again and again would keep from the processor those that it asks about."""
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            found = true()
            if found:
                return found
            time.sleep(max(0.05, 4 * (time.monotonic() - began)))
        raise AssertionError(f"{what} didn't happen within {seconds} s; told: {self.told()[-5:]}")

    def run_dirs(self) -> list[Path]:
        """The attempts' directories, the one that was written to last at the end."""
        return sorted(self.home.glob("runs/*/0*"), key=lambda run_dir: run_dir.stat().st_mtime_ns)

    def agent_pids(self, *of: Path) -> dict[str, int]:
        """An attempt's agent, guardian and training by role, as the files in its directory say; the newest one's."""
        found: dict[str, int] = {}
        for run_dir in of or self.run_dirs()[-1:]:
            for name, roles in (("claim.json", ("guardian",)), ("state.json", ("agent", "guardian", "training"))):
                try:
                    content = json.loads((run_dir / name).read_text())
                except (OSError, ValueError):
                    continue
                found.update({role: content[role]["pid"] for role in roles if content.get(role)})
        return found

    def processes(self) -> list[psutil.Process]:
        """Every live process of this machine: whatever carries its lock directory in its environment."""
        assert "PATH" in psutil.Process().environ(), "what can't see environments would find nothing left anywhere"
        return processes_with("RUNCTL_HOST_LOCK_DIR", str(self.lock))

    def trainings(self) -> list[psutil.Process]:
        """Every live process that runs the project's script."""
        return [process for process in self.processes() if "train.py" in " ".join(_command(process))]

    def quiet(self, seconds: float = 20.0) -> None:
        """Wait until nothing of this machine runs any more."""
        self.until(lambda: not self.processes(), f"the end of {self.processes()}", seconds)

    def quiet_but_for(self, program: str) -> None:
        """Wait until nothing of this machine runs but that."""

        def left() -> list[psutil.Process]:
            return [each for each in self.processes() if program not in _command(each)]

        self.until(lambda: not left(), f"the end of {left()}")

    def end(self) -> None:
        """End whatever the test left running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        for _ in range(100):
            left = self.processes()
            if not left:
                return
            for one in left:
                try:
                    one.send_signal(signal.SIGKILL)
                except psutil.Error:
                    continue
            time.sleep(0.02)


class Done:
    """How a command ended and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def machine_in(root: Path) -> Iterator[Machine]:
    made = Machine(root)
    try:
        yield made
    finally:
        made.end()
