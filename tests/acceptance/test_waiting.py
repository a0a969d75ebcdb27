"""F4: who waits, who detaches, and what a detached user is told."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess

import psutil
import pytest
from cli.terminal import Terminal

from .machine import PATIENCE, RUNCTL, Machine

LONG = 1000


def _commands(text: str) -> dict[str, list[str]]:
    """The commands that a detaching `apply` has printed, by what they are for."""
    found = {}
    for line in text.splitlines():
        what, _, command = line.strip().partition("  ")
        if what in ("follow", "wait", "stop"):
            found[what] = shlex.split(command)
    return found


def _as_printed(machine: Machine, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command exactly as it was printed, its first word being the program."""
    assert command[0] == "runctl"
    return subprocess.run(
        [*RUNCTL, *command[1:]], env=machine.environ, cwd=machine.project, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip


def _trains(machine: Machine) -> bool:
    told = machine.told("start")
    return bool(told) and psutil.pid_exists(told[-1]["pid"])


def test_F4_on_a_terminal_apply_stays_to_the_end(machine: Machine) -> None:
    """`wait: auto` on a terminal attaches: the output is shown, and the exit code is the outcome's."""
    with Terminal(machine, "apply", str(machine.training(3, 0.1, code=5))) as terminal:
        assert terminal.end() == 1
        assert "step 3/3" in terminal.text
    assert machine.told("end")


def test_F4_under_ci_apply_stays_without_a_terminal(machine: Machine) -> None:
    """`CI=true` attaches; `CI=false` is no CI."""
    assert machine.run("apply", str(machine.training(5, 0.1, code=5)), CI="true").code == 1
    assert len(machine.told("end")) == 1
    assert machine.run("apply", str(machine.training(LONG, 0.1, name="off")), CI="false").code == 0
    assert len(machine.told("end")) == 1
    assert _trains(machine)


def test_F4_elsewhere_apply_detaches_once_the_start_is_acknowledged(machine: Machine) -> None:
    """Without a terminal it leaves a training that is under way, and the commands it prints do what they say."""
    done = machine.run("apply", str(machine.training(12, 0.1)))
    assert done.code == 0, done
    assert machine.status()["phase"] in ("Preparing", "Training")
    commands = _commands(done.err)
    assert set(commands) == {"follow", "wait", "stop"}, done
    followed = _as_printed(machine, commands["follow"])
    assert followed.returncode == 0, followed
    assert followed.stdout.splitlines() == [f"step {n}/12" for n in range(1, 13)]
    assert _as_printed(machine, commands["wait"]).returncode == 0

    second = machine.run("apply", str(machine.training(LONG, 0.1, name="it-s-second")))
    machine.until(lambda: machine.told("start")[-1]["step"] == 0 and len(machine.told("start")) == 2, "its start")
    stopped = _as_printed(machine, _commands(second.err)["stop"])
    assert stopped.returncode == 0, stopped
    assert machine.told("drained"), "stopped, but not asked to save"
    assert not _trains(machine)


def test_F4_a_start_that_comes_to_nothing_is_not_acknowledged(machine: Machine) -> None:
    """Somebody holds the machine without a word about themselves, which shows at the very start alone: `--no-wait`
    stays until then, and exits with 11."""
    manifest = str(machine.training(3, 0.1))
    with (machine.lock / "runctl-host.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = machine.run("apply", manifest, "--no-wait")
    assert done.code == 11, done
    assert machine.told() == []
    assert machine.run("apply", manifest, "--no-wait").code == 0
    assert machine.run("wait", "job").code == 0


def test_F4_flags_beat_the_manifest_and_the_manifest_beats_the_surroundings(machine: Machine) -> None:
    """`--no-wait` detaches under CI and from `wait: true`; `--wait` stays for `wait: false`; the manifest for CI. Who
    stays, exits with the training's outcome."""
    machine.write("fails.py", "import sys, time\ntime.sleep(int(sys.argv[1]))\nraise SystemExit(5)\n")
    for name, flag, written, ci, code in (
        ("flag-leaves", "--no-wait", True, "true", 0),
        ("flag-stays", "--wait", False, "", 1),
        ("manifest-leaves", "", False, "true", 0),
        ("manifest-stays", "", True, "", 1),
    ):
        share = {"busy": "share"}
        job = str(machine.training(1 if code else 30, name=name, script="fails.py", wait=written, instance=share))
        done = machine.run("apply", job, *([flag] if flag else []), CI=ci)
        assert done.code == code, (name, done)


def test_F4_ctrl_c_detaches_and_the_training_goes_on(machine: Machine) -> None:
    """The key, on a terminal: exit 0, the commands, the same process trains on to its end, and its code is kept."""
    with Terminal(machine, "apply", str(machine.training(40, 0.1, code=3))) as terminal:
        terminal.until("step 2/40")
        pid = machine.told("start")[0]["pid"]
        terminal.press(b"\x03")
        assert terminal.end() == 0
        assert "goes on" in terminal.text
        assert set(_commands(terminal.text)) == {"follow", "wait", "stop"}
    assert psutil.pid_exists(pid)
    assert machine.run("wait", "job").code == 1
    assert [(line["pid"], line["code"]) for line in machine.told("end")] == [(pid, 3)]
    assert machine.status()["exit_code"] == 3


@pytest.mark.parametrize("way", ["hang up", "SIGKILL"])
def test_F4_a_job_survives_the_terminal_that_started_it(machine: Machine, way: str) -> None:
    """The window is closed, or the command is ended: the training never notices."""
    with Terminal(machine, "apply", str(machine.training(12, 0.1))) as terminal:
        terminal.until("step 2/12")
        if way == "hang up":
            terminal.hang_up()
        else:
            os.kill(terminal.pid, signal.Signals[way])
    assert machine.run("wait", "job").code == 0
    assert [line["attempt"] for line in machine.told("start")] == [1]
    assert len(machine.told("end")) == 1
