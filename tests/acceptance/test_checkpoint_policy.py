"""F2, S3 and S5: a policy always exists, its breach is said, and how long it all takes is shown."""

from __future__ import annotations

import json
from typing import Any

from .machine import PATIENCE, Machine

# Reports epochs as most scripts do, and saves one file where its second argument says so.
EPOCHS = """\
import os, sys, time

epochs, pause, saves = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "saves"
with open(os.environ["WORLD"] + "/environment", "w") as file:
    file.writelines(f"{name}={value}\\n" for name, value in os.environ.items() if name.startswith("RUNCTL_"))
for epoch in range(1, epochs + 1):
    time.sleep(pause)
    print(f"epoch {epoch}/{epochs} loss={1 / epoch:.3f}", flush=True)
    if saves and epoch == 1:
        with open(os.environ["RUNCTL_CHECKPOINT_DIR"] + "/epoch-1.json", "w") as file:
            file.write("{}")
"""


def _epochs(machine: Machine, count: int, pause: float, saves: str = "never", name: str = "job", **fields: Any) -> str:
    machine.write("epochs.py", EPOCHS)
    env = {"WORLD": str(machine.world)}
    job = {"apiVersion": "runctl/v1", "name": name, "script": "epochs.py", "args": [str(count), str(pause), saves]}
    return str(machine.write(f"{name}.yaml", json.dumps({**job, "env": env, "setup": "none", **fields}, indent=1)))


def _events(machine: Machine, name: str = "job") -> list[dict[str, Any]]:
    """The job's events; none while it isn't there."""
    done = machine.run("events", name, "-o", "json")
    found: list[dict[str, Any]] = json.loads(done.out) if done.code == 0 else []
    return found


def _messages(machine: Machine, reason: str, name: str = "job") -> list[str]:
    return [each["message"] for each in _events(machine, name) if each["reason"] == reason]


def test_S3_F2_two_epochs_when_nothing_is_said(machine: Machine) -> None:
    """Visible in the plan, and in the script's environment with the directory to save in, which exists."""
    job = _epochs(machine, 1, 0.0)
    plan = machine.run("plan", job)
    assert "every 2 epochs" in plan.out
    done = machine.run("apply", job, "--wait")
    assert done.code == 0, done
    lines = dict(line.split("=", 1) for line in (machine.world / "environment").read_text().splitlines())
    assert lines["RUNCTL_CHECKPOINT_EVERY"] == "2 epochs"
    assert lines["RUNCTL_CHECKPOINT_DIR"].endswith("/checkpoints")
    assert lines["RUNCTL_JOB"] == "job"


def test_F2_S5_work_and_money_at_risk_are_named_again_with_growing_pauses(machine: Machine) -> None:
    """From the deadline on, at once, two and four times it: how much would be lost now. Also in the status, and with
    the training's ETA and what it will cost."""
    rate = {"hourly_rate": "3600 USD"}
    job = _epochs(
        machine, 60, 0.2, instance=rate, cost={"cap": "500 USD"},
        checkpoint={"every": "1s", "deadline": "1s", "grace": "1s"},
    )  # fmt: skip
    attached = machine.start("apply", job, "--wait")
    machine.until(lambda: machine.printed().count("a crash now would lose") >= 3, "three reminders", 25)
    messages = _messages(machine, "CheckpointStale")
    assert all("a crash now would lose" in each and each.endswith(" USD") for each in messages)
    times = [_seconds(each["at"]) for each in _events(machine) if each["reason"] == "CheckpointStale"]
    assert times[2] - times[1] > times[1] - times[0] - 1, times
    status = machine.status()
    assert any("no durable checkpoint" in each for each in status["warnings"])
    fresh = next(each for each in status["conditions"] if each["type"] == "CheckpointFresh")
    assert (fresh["status"], fresh["reason"]) == ("False", "Overdue")
    assert status["progress"]["epochs"] == 60
    assert status["progress"]["eta_seconds"] > 0
    assert float(status["cost"]["projected"]) > float(status["cost"]["spent"])
    assert attached.poll() is None
    machine.run("cancel", "job")
    attached.wait(PATIENCE)


def _seconds(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp).timestamp()


def test_F2_a_script_that_ignores_the_policy_is_said_so_after_the_first_interval(machine: Machine) -> None:
    """Promise 2. No checkpoint after two epochs, though asked: a warning within seconds, not at the deadline in an
    hour. A script that saves far less often than asked is told apart."""
    shared = {"busy": "share"}
    jobs = [_epochs(machine, 60, 0.3, saves, saves, instance=shared) for saves in ("never", "saves")]
    machine.start("apply", *jobs, "--wait")
    machine.until(lambda: "no checkpoint has appeared" in machine.printed(), "the warning", 20)
    told = _messages(machine, "CheckpointPolicyIgnored", "never")
    assert "2 epochs" in told[0]
    assert "no checkpoint has appeared" in told[0]
    machine.until(lambda: "1 checkpoint in " in machine.printed(), "the other warning", 20)
    told = _messages(machine, "CheckpointPolicyIgnored", "saves")
    assert told[0].startswith("1 checkpoint in "), told
