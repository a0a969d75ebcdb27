"""E5: how a script ended is what its parent saw; nothing else, and never a guess."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import psutil
import pytest
from killing import kill_at_once

from .machine import PATIENCE, Machine

DIES = """\
import os, signal, sys, time

print("Training complete! exit code 0, accuracy 99%", flush=True)
how = sys.argv[1]
if how.startswith("SIG"):
    signal.signal(signal.Signals[how], signal.SIG_DFL) if how != "SIGKILL" else None
    os.kill(os.getpid(), signal.Signals[how])
    time.sleep(60)
if how == "exec":
    os.execvp("sh", ["sh", "-c", "exit 9"])
if how == "fork":
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os._exit(4)
os._exit(int(how))
"""


def _jobs(machine: Machine, hows: list[str]) -> str:
    """One manifest of several jobs, each of which ends in its own way, all at the same time."""
    machine.write("dies.py", DIES)
    shared = {"apiVersion": "runctl/v1", "script": "dies.py", "setup": "none", "instance": {"busy": "share"}}
    documents = [json.dumps({**shared, "name": f"job-{n}", "args": [how]}) for n, how in enumerate(hows)]
    return str(machine.write("jobs.yaml", "\n---\n".join(documents)))


def test_E5_exit_codes_and_signals_as_the_parent_saw_them(machine: Machine) -> None:
    """0, 1, 7, 255, an exec, a leader that leaves a child behind, and three signals: the code or the signal, never
    both, whatever the log says of success; nothing that the scripts left is alive."""
    hows = ["0", "1", "7", "255", "exec", "fork", "SIGKILL", "SIGSEGV", "SIGTERM"]
    done = machine.run("apply", _jobs(machine, hows), "--wait", timeout=90)
    assert done.code == 1, done
    found = {each["name"]: each for each in json.loads(machine.run("status", "-o", "json").out)}
    ended = [(found[f"job-{n}"]["exit_code"], found[f"job-{n}"]["signal"]) for n in range(len(hows))]
    numbers = [signal.Signals[how].value for how in ("SIGKILL", "SIGSEGV", "SIGTERM")]
    assert ended == [(0, None), (1, None), (7, None), (255, None), (9, None), (4, None), *((None, n) for n in numbers)]
    outcomes = [found[f"job-{n}"]["outcome"] for n in range(len(hows))]
    assert outcomes == ["Succeeded"] + ["Failed"] * 8
    assert [found[f"job-{n}"]["attempts"][0]["exit_code"] for n in range(6)] == [0, 1, 7, 255, 9, 4]
    assert not [each for each in machine.processes() if "dies.py" in " ".join(each.cmdline())]
    for n, code in ((0, 0), (2, 1), (6, 1)):
        assert machine.run("wait", f"job-{n}").code == code


def _kill(machine: Machine, *roles: str) -> None:
    pids = machine.agent_pids()
    kill_at_once(*(pids[role] for role in roles))


@pytest.mark.slow
@pytest.mark.parametrize("roles", [("agent",), ("guardian", "agent")])
def test_E5_a_killed_agent_is_lost_and_retried_never_a_success(machine: Machine, roles: tuple[str, ...]) -> None:
    """The training dies with its agent, its end is recorded without a code, and the next attempt goes on from what was
    saved; the outcome is that one's."""
    attached = machine.start("apply", str(machine.training(60, 0.1, code=6)), "--wait")
    told = machine.until(lambda: re.search(r"CheckpointSaved: `step-(\d+)", machine.printed()), "a durable checkpoint")
    durable = machine.until(lambda: (step := _durable_step(machine)) > int(told[1]) and step, "a newer one")
    first = machine.told("start")[0]["pid"]
    _kill(machine, *roles)
    machine.until(lambda: not psutil.pid_exists(first), "the end of the training", 10)
    # A controller that follows answers at once, not at its next heartbeat (15 s); the retry is a second later.
    machine.until(lambda: len(machine.told("start")) == 2, "the next attempt", 10)
    assert attached.wait(PATIENCE) == 1
    status = machine.status()
    ends = [(each["reason"], each["exit_code"], each["signal"]) for each in status["attempts"]]
    assert ends == [("lost", None, None), ("exited", 6, None)]
    assert (status["outcome"], status["exit_code"]) == ("Failed", 6)
    assert [line["attempt"] for line in machine.told("end")] == [2]
    assert machine.told("start")[1]["step"] >= durable
    assert not machine.told("double")


def _durable_step(machine: Machine) -> int:
    """The newest step of which the agent has noted a durable copy; 0 if there is none."""
    noted = [
        json.loads(line)
        for path in machine.home.glob("runs/*/*/checkpoints.jsonl")
        for line in path.read_text().splitlines()
    ]
    return max((line["step"] for line in noted if line["status"] == "durable"), default=0)


@pytest.mark.parametrize("damage", ["half", "a lie"])
def test_E5_without_a_sound_record_it_is_lost(machine: Machine, damage: str) -> None:
    """The exit record of a finished attempt is cut in half, or says `exited` without a code, before any
    controller has read it: Lost, exit 9, whatever the training had printed."""
    fields: dict[str, Any] = {"retry": {"interruptions": 0}}
    attached = machine.start("apply", str(machine.training(4, 0.2, **fields)), "--wait")
    machine.until(lambda: machine.told("saved"), "a first save")
    attached.kill()
    attached.wait()
    machine.until(lambda: machine.told("end"), "the end of the training")
    machine.quiet()
    record = machine.run_dirs()[0] / "exit.json"
    text = record.read_text()
    assert json.loads(text)["exit_code"] == 0
    record.write_text(text[: len(text) // 2] if damage == "half" else json.dumps({"reason": "exited"}))
    done = machine.run("wait", "job")
    status = machine.status()
    assert status["outcome"] != "Succeeded", done
    assert status["exit_code"] is None
    assert done.code == 9, done
    assert status["outcome"] == "Lost"
