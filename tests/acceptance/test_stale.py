"""N20: what is left of an earlier process, run or boot is never taken for a live or a finished one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from runctl.agent import processes

from .machine import PATIENCE, Machine
from .scripts import alive, crash, durable, job

GOES_ON = """
attempt = os.environ["RUNCTL_ATTEMPT"]
tell("on", attempt=attempt, resumed=os.environ.get("RUNCTL_RESUME_FROM"))
if attempt == "1":
    save("step-1.safetensors")
    time.sleep(120)
sys.exit(3)
"""

ANOTHER_BOOT = "11111111-2222-3333-4444-555555555555"


def _start_of(pid: int) -> int | str:
    """When it started, as this system's process table has it."""
    found = processes.look(pid)
    assert found is not None
    return found.start


def _recycled(bystander: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The pid of the dead process is another's by now."""
    return lambda who: {**who, "pid": bystander}


def _zombie(corpse: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The process has ended, and its parent hasn't waited for it."""
    return lambda who: {**who, "pid": corpse, "start": _start_of(corpse)}


def _rebooted(bystander: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """After a reboot the same pid and start time are another process: only the boot tells."""
    return lambda who: {"pid": bystander, "start": _start_of(bystander), "boot_id": ANOTHER_BOOT}


@pytest.mark.parametrize("fake", [_recycled, _zombie, _rebooted])
def test_N20_a_dead_attempt_is_not_taken_for_a_live_one(
    machine: Machine, fake: Callable[[int], Callable[[dict[str, Any]], dict[str, Any]]]
) -> None:
    """The machine dies in mid-run, and other processes have the numbers of the dead: the attempt is lost, another
    one goes on from the checkpoint, the bystanders are left alone, and the code is the second training's own."""
    controller = machine.start("apply", job(machine, GOES_ON), "--wait")
    machine.until(lambda: durable(machine) and _is_noted(machine), "a durable checkpoint that its agent has noted")
    controller.kill()
    controller.wait()
    crash(machine)
    bystander = subprocess.Popen(["sleep", "0" if fake is _zombie else "300"])
    try:
        if fake is _zombie:
            machine.until(lambda: _is_zombie(bystander.pid), "a zombie")
        (run_dir,) = machine.run_dirs()
        _rewrite(run_dir / "claim.json", ("guardian",), fake(bystander.pid))
        _rewrite(run_dir / "state.json", ("agent", "guardian", "training"), fake(bystander.pid))
        done = machine.run("apply", "job.yaml", "--wait")
        assert done.code == 1, done
        assert fake is _zombie or alive(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()
    status = machine.status()
    assert [each["reason"] for each in status["attempts"]] == ["lost", "exited"]
    assert [each["exit_code"] for each in status["attempts"]] == [None, 3]
    first, second = machine.told("on")
    assert (first["resumed"], Path(second["resumed"]).name) == (None, "step-1.safetensors")


def _is_noted(machine: Machine) -> bool:
    return any('"durable"' in path.read_text() for path in machine.home.glob("runs/*/*/checkpoints.jsonl"))


def _rewrite(path: Path, roles: tuple[str, ...], fake: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    content = json.loads(path.read_text())
    content.update({role: fake(content[role]) for role in roles})
    path.write_text(json.dumps(content))


def _is_zombie(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_N20_an_attempt_is_not_over_while_a_process_of_it_lives(machine: Machine) -> None:
    """Agent, guardian and leader die at once, a child in a session of its own goes on: the controller ends it, and
    before it is gone the attempt isn't said to be over, and no other one is started."""
    code = """
attempt = os.environ["RUNCTL_ATTEMPT"]
if attempt == "1":
    if os.fork() == 0:
        os.setsid()
        tell("child")
        time.sleep(120)
    time.sleep(120)
tell("again", attempt=attempt)
"""
    attached = machine.start("apply", job(machine, code), "--wait")
    (child,) = machine.until(lambda: machine.agent_pids().get("training") and machine.told("child"), "the child")
    crash(machine)
    end = time.monotonic() + 10.0
    while alive(child["pid"]):
        assert time.monotonic() < end, "a child that nobody watches goes on"
        over = machine.status()["attempts"][0]["reason"]
        assert over is None or not alive(child["pid"]), over
    assert attached.wait(PATIENCE) == 0
    assert [each["attempt"] for each in machine.told("again")] == ["2"]
    assert [each["reason"] for each in machine.status()["attempts"]] == ["lost", "exited"]


def test_N20_a_run_directory_that_is_swept_away_is_not_the_end(machine: Machine) -> None:
    """Somebody cleans up below a training that goes on: it isn't said to be over, and no other one is started, before
    it has ended; then it is lost."""
    code = """
attempt = os.environ["RUNCTL_ATTEMPT"]
tell("on", attempt=attempt)
if attempt == "1":
    time.sleep(120)
"""
    attached = machine.start("apply", job(machine, code), "--wait")
    machine.until(lambda: machine.told("on") and machine.status()["phase"] == "Training", "the training")
    (first,) = machine.told("on")
    machine.run_dirs()[0].rename(machine.root / "swept")
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        over = machine.status()["attempts"][0]["reason"]
        assert over is None or not alive(first["pid"]), over
    os.kill(first["pid"], signal.SIGKILL)
    attached.kill()
    attached.wait()
    assert machine.run("apply", "job.yaml", "--wait").code == 0
    assert [each["reason"] for each in machine.status()["attempts"]] == ["lost", "exited"]


def test_N20_a_stale_lock_or_controller_file_holds_nothing(machine: Machine) -> None:
    """Files of an earlier boot that name living processes as holder and controller: the job runs all the same."""
    bystander = subprocess.Popen(["sleep", "300"])
    try:
        me = {"pid": bystander.pid, "start": _start_of(bystander.pid), "boot_id": ANOTHER_BOOT}
        holder = {"run_id": "x-1", "job": "old", "attempt": 1, "uid": os.getuid(), "agent": me, "guardian": me}
        (machine.lock / "runctl-host.lock").write_text(json.dumps(holder))
        machine.home.mkdir(mode=0o700)
        (machine.home / "controller.pid").write_text(f"{bystander.pid}\n")
        manifest = job(machine, "tell('on')")
        assert machine.run("apply", manifest, "--detach", "now").code == 0
        assert machine.run("wait", "job").code == 0
        assert alive(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()
    assert machine.told("on")


def test_N20_a_guardian_that_outlives_its_attempt_holds_nothing(machine: Machine) -> None:
    """A guardian that is held doesn't see its attempt end; some seconds later its machine is free all the same."""
    manifest = job(machine, "tell('on')\nwhile os.path.exists(os.environ['WORLD'] + '/hold'): time.sleep(0.02)")
    (machine.world / "hold").touch()
    assert machine.run("apply", manifest, "--no-wait").code == 0
    machine.until(lambda: machine.told("on"), "the training")
    guardian = machine.agent_pids()["guardian"]
    os.kill(guardian, signal.SIGSTOP)
    (machine.world / "hold").unlink()
    assert machine.run("wait", "job").code == 0
    second = job(machine, "tell('second')", "second")
    done = machine.until(lambda: _applied(machine, second), "the machine is free", seconds=15.0)
    assert done
    assert machine.told("second")
    machine.until(lambda: not alive(guardian), "the end of the guardian")


def _applied(machine: Machine, manifest: str) -> bool:
    return machine.run("apply", manifest, "--wait").code == 0


def test_N20_markers_in_the_project_are_not_taken_for_the_runs(machine: Machine) -> None:
    """Checkpoints, records and requests that lie in the project from an earlier run by hand: the new run starts from
    its own beginning, and counts none of them."""
    for name in ("checkpoints/epoch-99.json", "exit.json", "state.json", "checkpoint-request"):
        machine.write(name, '{"version": 1, "reason": "exited", "exit_code": 0}')
    code = """
tell("on", resumed=os.environ.get("RUNCTL_RESUME_FROM"), found=os.listdir(os.environ["RUNCTL_CHECKPOINT_DIR"]))
sys.exit(4)
"""
    done = machine.run("apply", job(machine, code), "--wait")
    assert done.code == 1, done
    (told,) = machine.told("on")
    assert (told["resumed"], told["found"]) == (None, [])
    assert (machine.status()["exit_code"], machine.status()["checkpoints"]["count"]) == (4, 0)
    assert durable(machine) == []


def test_N20_an_earlier_runs_end_is_not_the_next_ones(machine: Machine) -> None:
    """A rerun that is killed by a crash before it ends isn't finished by what the run before it left."""
    code = """
tell("on")
while os.path.exists(os.environ["WORLD"] + "/hold"):
    time.sleep(0.02)
"""
    manifest = job(machine, code, retry={"interruptions": 0})
    assert machine.run("apply", manifest, "--wait").code == 0
    (machine.world / "hold").touch()
    second = machine.start("apply", manifest, "--rerun", "--wait")
    machine.until(lambda: len(machine.told("on")) == 2, "the second run")
    newest = machine.home / "runs" / machine.status()["uid"] / "000001"
    state = machine.until(lambda: _trains(newest / "state.json"), "the state of the second run")
    for role in ("guardian", "agent"):
        psutil.Process(state[role]["pid"]).kill()
    assert second.wait(PATIENCE) == 9
    assert (machine.status()["outcome"], machine.status()["exit_code"]) == ("Lost", None)


def _trains(path: Path) -> dict[str, Any] | None:
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state if state.get("training") else None
