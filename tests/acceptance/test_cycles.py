"""E1: a hundred cycles of apply and stop, some of them on top of each other."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time

import pytest

from .machine import PATIENCE, Machine

# A cycle takes a second, more than the check has for a hundred: it runs so many, RUNCTL_TEST_CYCLES=100 all of them.
CYCLES = int(os.environ.get("RUNCTL_TEST_CYCLES", "8"))

# Runs commands in forks of a process that has the program loaded: what they do is the same, the import is paid once.
LANE = """\
import importlib, json, os, sys

for name in ("apply", "ending", "attaching", "watching", "proposing", "manifests", "views", "sight", "jobs"):
    importlib.import_module("runctl.cli." + name)
from runctl.cli.main import main

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        request = json.loads(line)
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["runctl", *request["argv"]]
        main()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
"""

DRAW = random.Random(1)

# Clear answers: done, ended by the stop, or refused since something else is under way.
ANSWERS = {0, 6, 11}


class Lane:
    """One command at a time, of as many as are wanted."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._out = machine.root / f"lane-{name}.out"
        self._process = subprocess.Popen(
            [sys.executable, "-c", LANE], env=machine.environ, cwd=machine.project, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        machine.started.append(self._process)  # type: ignore[arg-type]
        self._argv: tuple[str, ...] = ()

    def start(self, *argv: str) -> None:
        assert self._process.stdin is not None
        self._argv = argv
        self._process.stdin.write(json.dumps({"argv": argv, "out": str(self._out)}) + "\n")
        self._process.stdin.flush()

    @property
    def busy(self) -> bool:
        return not select.select([self._process.stdout], [], [], 0)[0]

    def end(self) -> int:
        """Wait for the command; its answer has to be a clear one."""
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], PATIENCE)[0], (self._argv, self._out.read_text())
        code = int(self._process.stdout.readline())
        text = self._out.read_text()
        assert code in ANSWERS, (self._argv, code, text)
        assert "Traceback" not in text
        return code

    def run(self, *argv: str) -> int:
        self.start(*argv)
        return self.end()

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait(PATIENCE)


@pytest.mark.timeout(120 + 4 * CYCLES)
def test_E1_cycles_of_apply_and_stop_keep_every_checkpoint_and_leak_nothing(machine: Machine) -> None:
    """Each apply goes on from the step that the stop before it saved; commands on top of each other are answered or
    clearly refused; two trainings never run at once; in the end nothing is left running."""
    manifest = str(machine.training(100_000, 0.02))
    with Lane(machine, "a") as applying, Lane(machine, "b") as stopping, Lane(machine, "c") as other:
        for cycle in range(CYCLES):
            before = len(machine.told("start"))
            applying.start("apply", manifest, "--wait")
            match cycle % 4:
                case 1:  # a second one, which attaches or waits its turn
                    other.start("apply", manifest, "--wait")
                    machine.until(lambda: len(machine.told("start")) > before, "a start")  # noqa: B023
                case 2:  # a stop while it starts
                    time.sleep(DRAW.uniform(0, 0.4))
                    other.start("stop", "job")
                case 3:  # a stop and another apply at the same instant
                    machine.until(lambda: len(machine.told("start")) > before, "a start")  # noqa: B023
                    stopping.start("stop", "job")
                    other.start("apply", manifest, "--wait")
                    stopping.end()
                case _:
                    machine.until(lambda: len(machine.told("start")) > before, "a start")  # noqa: B023
            used = [applying] if cycle % 4 == 0 else [applying, other]
            # A stop may come before the apply that it is meant for.
            _stop_until_ended(machine, stopping, used)
            _check(machine)
    assert len(machine.told("start")) >= CYCLES * 3 // 4
    assert machine.status()["phase"] == "Stopped"
    machine.quiet()


def _stop_until_ended(machine: Machine, stopping: Lane, used: list[Lane]) -> None:
    end = time.monotonic() + PATIENCE
    while any(lane.busy for lane in used):
        assert time.monotonic() < end, machine.status()
        stopping.run("stop", "job")
        time.sleep(0.02)
    for lane in used:
        lane.end()


def _check(machine: Machine) -> None:
    """The world so far: one at a time, each from where the one before was told to end, and that is durable."""
    told = machine.told()
    assert not [line for line in told if line["what"] == "double"]
    step = 0
    for line in told:
        if line["what"] == "start":
            assert line["step"] == step, told[-6:]
        elif line["what"] == "drained":
            step = line["step"]
    copies = machine.home.glob("checkpoints/*/*/*/data/step-*.json")
    assert step == max((json.loads(path.read_text())["step"] for path in copies), default=0)
