"""N21: limits hold with nobody at the terminal, no controller, and no laptop open."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

import psutil
import pytest
from killing import kill_at_once

from .machine import PATIENCE, Machine
from .scripts import alive, durable, job

SAVES = """
def end(number, frame):
    save("step-99.safetensors")
    tell("drained")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
tell("on")
for number in range(1000):
    tell("alive")
    if "saves" in sys.argv:
        save(f"step-{number}.safetensors")
    time.sleep(0.2)
"""

DOLLAR_A_SECOND = {"hourly_rate": "3600 USD"}
LIMITS = {
    "cap": ({"instance": DOLLAR_A_SECOND, "cost": {"cap": "8 USD"}, "args": ["saves"]}, "CapReached", 3),
    "deadline": ({"checkpoint": {"deadline": "2s", "every": "1s", "on_deadline": "fail", "grace": "1s"}},
                 "CheckpointOverdue", 5),
    "duration": ({"limits": {"duration": "3s"}, "args": ["saves"]}, "DurationReached", 3),
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_N21_limits_hold_when_every_controller_is_killed(machine: Machine, limit: str) -> None:
    """The terminal hangs up, what takes over is killed for good: the agent alone ends the training in time, with its
    last save; whoever asks later is told the truth, and nothing is started again."""
    fields, outcome, code = LIMITS[limit]
    given = {"checkpoint": {"every": "1 steps", "grace": "1s"}, **fields}
    controller = machine.start("apply", job(machine, SAVES, **given), "--wait")
    machine.until(lambda: machine.told("on"), "the start")
    os.killpg(controller.pid, signal.SIGHUP)
    background = machine.until(lambda: _background(machine, controller.pid), "a controller in the background")
    controller.kill()
    os.kill(background, signal.SIGKILL)
    (on,) = machine.told("on")
    machine.until(lambda: not alive(on["pid"]), "the end of the training", 15)
    machine.quiet(5)
    seconds = max(each["at"] for each in machine.told()) - on["at"]
    assert seconds < 8, "a dollar a second, a cap of 8; the others come earlier"
    assert machine.told("drained")
    unseen = machine.status()
    assert (unseen["outcome"], unseen["controller"]) == (outcome, None), "told before any controller has noted it"
    assert machine.run("apply", "job.yaml", "--no-wait").code == code
    assert machine.run("wait", "job").code == code
    status = machine.status()
    assert (status["outcome"], len(status["attempts"])) == (outcome, 1)
    assert status["cost"] == unseen["cost"]
    assert [path.name for path in durable(machine)][-1] == "step-99.safetensors"
    if limit == "cap":
        assert seconds <= float(status["cost"]["spent"]) + 0.01 <= 8.01


def _background(machine: Machine, not_pid: int) -> int | None:
    """Who holds the job now, if it isn't that process any more."""
    try:
        pid = int((machine.home / "controller.pid").read_text())
        return pid if pid != not_pid and psutil.pid_exists(pid) else None
    except (OSError, ValueError):
        return None


def test_N21_a_host_that_shuts_down_saves_first(machine: Machine) -> None:
    """SIGTERM to the agent, as a shutdown sends it: the training saves, its attempt ends as an interruption, and the
    next `apply` goes on from that save."""
    code = """
tell("on", resumed=os.environ.get("RUNCTL_RESUME_FROM"))
def end(number, frame):
    save("step-5.safetensors")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
if "RUNCTL_RESUME_FROM" not in os.environ:
    time.sleep(120)
"""
    attached = machine.start("apply", job(machine, code), "--wait")
    machine.until(lambda: machine.told("on") and machine.agent_pids().get("training"), "the start")
    os.kill(machine.agent_pids()["agent"], signal.SIGTERM)
    assert attached.wait(PATIENCE) == 0
    assert [str(each["resumed"]).rpartition("/")[2] for each in machine.told("on")] == ["None", "step-5.safetensors"]
    assert machine.status()["outcome"] == "Succeeded"


@pytest.mark.parametrize(
    "faults",
    [
        ("STOP", "KILL"),
        ("KILL", "STOP"),
        ("STOP", "STOP"),
        ("STOP", "STOP", "state.json"),
        ("STOP", "STOP", "state.json", "claim.json"),
    ],
)
@pytest.mark.slow
def test_N21_the_controller_holds_the_cap_when_neither_of_the_two_can(
    machine: Machine, faults: tuple[str, ...]
) -> None:
    """Agent and guardian are held or killed, and what they wrote of themselves may be lost: neither ends the attempt.
    The controller does, before the cap is reached; and what is billed never shrinks."""
    manifest = machine.training(
        1000,
        0.1,
        instance={"hourly_rate": "3600 USD"},
        cost={"cap": "9 USD"},
        checkpoint={"every": "1 steps", "grace": "1s"},
    )
    machine.start("apply", str(manifest), "--wait")
    machine.until(lambda: machine.told("saved"), "a checkpoint")
    pids = machine.agent_pids()
    for who, fault in zip(("agent", "guardian"), faults[:2], strict=True):
        os.kill(pids[who], signal.Signals[f"SIG{fault}"])
    for name in faults[2:]:
        (machine.run_dirs()[-1] / name).unlink()
    spent = []

    def over() -> bool:
        status = machine.status()
        spent.append(float(status["cost"]["spent"]))
        return status["phase"] == "Finished"

    machine.until(over, "the end")
    # What a status says while the attempt dies may be ahead of its end by as long as a look takes on a busy machine.
    assert all(later > sooner - 3 for sooner, later in pairwise(spent))
    assert spent[-1] <= 9
    assert not machine.trainings()


@pytest.mark.parametrize("killed", [["guardian", "agent"], ["agent"]])
def test_N21_what_a_lost_attempt_had_saved_is_not_lost(machine: Machine, killed: list[str]) -> None:
    """Promise 2. The agent is held while the training saves, and killed: the next attempt goes on from that save all
    the same."""
    code = """
tell("on", resumed=os.environ.get("RUNCTL_RESUME_FROM"))
if "RUNCTL_RESUME_FROM" not in os.environ:
    while not os.path.exists(os.environ["WORLD"] + "/go"):
        time.sleep(0.01)
    save("step-5.safetensors")
    tell("saved")
    time.sleep(120)
"""
    attached = machine.start("apply", job(machine, code), "--wait")
    machine.until(lambda: machine.told("on") and machine.agent_pids().get("training"), "the start")
    pids = machine.agent_pids()
    os.kill(pids["agent"], signal.SIGSTOP)
    (machine.world / "go").touch()
    machine.until(lambda: machine.told("saved"), "the save")
    kill_at_once(*(pids[who] for who in killed))
    assert attached.wait(PATIENCE) == 0
    assert [str(each["resumed"]).rpartition("/")[2] for each in machine.told("on")] == ["None", "step-5.safetensors"]
    lost, _ = machine.status()["attempts"]
    assert (lost["reason"], lost["exit_code"]) == ("lost", None)


def test_a_start_that_no_controller_has_noted_is_told(machine: Machine) -> None:
    """The command dies right after the launch: who asks is told of the training that runs, and what it costs."""
    manifest = machine.training(1000, 0.1, instance={"hourly_rate": "3600 USD"}, cost={"cap": "60 USD"})
    command = machine.start("apply", str(manifest), "--wait")
    machine.until(lambda: machine.run_dirs() and (machine.run_dirs()[-1] / "claim.json").exists(), "the claim")
    command.kill()
    machine.until(lambda: machine.told("saved"), "a save")
    status = machine.status()
    assert (status["phase"], status["controller"]) == ("Training", None)
    assert float(status["cost"]["spent"]) > 0
    assert machine.run("cancel", "job").code == 0
