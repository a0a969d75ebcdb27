"""Promises 1, 3, 5 and 6 while controllers and agents are killed at random moments, 200 times in all.

The guardian and the training are killed besides; only a moment at which a controller or an agent died counts.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from .machine import Machine, Started, machine_in

SEEDS = range(2)
LANES = 5  # machines side by side in one test: most of the time each of them waits
KILLS_EACH = 20
MOST_IN_A_JOB = 3  # the pause before a retry doubles each time
HOURLY = 3600  # dollars an hour: a dollar a second, so that seconds of the world are money
COUNTED = (
    ("controller",), ("agent",), ("agent", "guardian"), ("controller", "agent"), ("controller", "guardian"),
    ("controller", "agent", "guardian"),
)  # fmt: skip
VICTIMS = (*COUNTED, *COUNTED, ("guardian",), ("training",))
LEAST = 7  # seconds that an attempt must have: a grace of one, five to train, and one of margin
SILENCE = 15  # what an attempt is billed after its last heartbeat when nobody was left to record its end


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_kills_at_random_moments_break_no_promise(tmp_path: Path, seed: int) -> None:
    """However often controller and agent die, one training runs at a time, its code is the truth, the cap holds."""
    with ThreadPoolExecutor(LANES) as lanes:
        killed = sum(lanes.map(lambda lane: _lane(tmp_path / str(lane), seed * LANES + lane), range(LANES)), Counter())
    assert all(killed[role] >= 10 for role in ("controller", "agent", "guardian")), killed
    assert killed["training"] > 0


def _lane(root: Path, seed: int) -> Counter[str]:
    """Run jobs on one machine until enough of its controllers and agents were killed; whom it killed how often."""
    root.mkdir()
    draw = random.Random(seed)
    killed: Counter[str] = Counter()
    with contextmanager(machine_in)(root) as machine:
        round_ = 0
        while killed["moments"] < KILLS_EACH:
            round_ += 1
            code = draw.choice((0, 7))
            cap = draw.choice((12, 60))
            name = f"job-{round_}"
            manifest = machine.training(
                steps=draw.randint(8, 16),
                pause=0.1,
                code=code,
                name=name,
                instance={"hourly_rate": f"{HOURLY} USD"},
                cost={"cap": f"{cap} USD"},
                checkpoint={"every": "1 steps", "grace": "1s"},
            )
            (machine.world / "world.jsonl").unlink(missing_ok=True)
            deaths = Deaths()
            _drive(machine, draw, manifest.name, name, deaths, KILLS_EACH - killed["moments"])
            killed += deaths.killed
            _check(machine, name, code, cap, deaths)
    return killed


class Deaths:
    """Whom one job lost: how often each role was killed, and who of each attempt before its end was recorded."""

    def __init__(self) -> None:
        self.killed: Counter[str] = Counter()
        self.of: defaultdict[int, set[str]] = defaultdict(set)


def _drive(machine: Machine, draw: random.Random, manifest: str, name: str, deaths: Deaths, most: int) -> None:
    """Apply again and again, killing in between, until the job has its outcome."""
    tries = 0
    end = time.monotonic() + 120
    while time.monotonic() < end:
        process = machine.start("apply", manifest, "--wait")
        if deaths.killed["moments"] < most and tries < MOST_IN_A_JOB:
            time.sleep(draw.uniform(0.3, 1.6))
            victims = draw.choice(VICTIMS)
            tries += _kill(machine, process, victims, deaths)
            if "controller" not in victims:
                process.wait(timeout=60)
        code = process.wait(timeout=90)
        if code >= 0:  # not killed: the command stays until the job has its outcome
            assert code in (0, 1, 3, 4), machine.printed()
            return
    raise AssertionError(f"no outcome: {machine.status(name)}")


def _kill(machine: Machine, command: Started, victims: tuple[str, ...], deaths: Deaths) -> bool:
    """Kill them, whoever of them is there; whether one of them was."""
    (run_dir,) = machine.run_dirs()[-1:] or (machine.home,)
    pids = machine.agent_pids(run_dir)
    alive = {process.pid: process for process in machine.processes()}
    killed = set()
    for victim in victims:
        try:
            if victim == "controller":
                if command.poll() is not None:
                    continue
                command.kill()
            else:
                process = alive[pids[victim]]
                process.suspend()
                while (state := process.status()) not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                    time.sleep(0.001)
                if state == psutil.STATUS_ZOMBIE:
                    continue
                if not (run_dir / "exit.json").exists():
                    deaths.of[int(run_dir.name)].add(victim)
                process.kill()
            killed.add(victim)
        except (KeyError, psutil.NoSuchProcess):
            continue
    deaths.killed.update(killed)
    deaths.killed["moments"] += not killed.isdisjoint({"controller", "agent"})
    return bool(killed)


def _check(machine: Machine, name: str, code: int, cap: int, deaths: Deaths) -> None:
    status = machine.status(name)
    told = machine.told()
    assert not [line for line in told if line["what"] == "double"], "two trainings at once"
    ended = {line["attempt"] for line in told if line["what"] == "end"}
    outcome, exit_code = status["outcome"], status["exit_code"]
    if outcome == "Succeeded":
        assert exit_code == 0
        assert code == 0
        assert ended
    elif outcome == "Failed":
        reason = status["reason"]
        assert reason in ("ExitCode", "Signal"), status
        assert (reason == "Signal") == (exit_code is None)
        assert reason == "Signal" or (exit_code == code == 7 and ended)
    else:
        assert outcome == "CapReached", f"{status}\n{machine.printed()}"
        assert cap - _whole_bill(machine, status, deaths) < LEAST + 0.5, "the cap left room for another attempt"
    _check_attempts(status, code, ended, deaths)
    assert _bill(told) <= cap * 1.0, "the world's own bill is over the cap"
    assert float(status["cost"]["spent"]) <= cap
    steps = {line["step"] for line in told if line["what"] == "start"}
    assert steps <= _saved(told), "resumed from what nobody saved"
    machine.until(lambda: not machine.trainings(), "the end of every training")


def _check_attempts(status: dict[str, Any], code: int, ended: set[int], deaths: Deaths) -> None:
    """An attempt whose agent was killed is lost, without a code, and isn't the last one of its job; no other one is
    lost; and a code is told of that attempt alone whose training gave it."""
    attempts = status["attempts"]
    assert [each["number"] for each in attempts] == list(range(1, len(attempts) + 1))
    for each in attempts:
        dead = deaths.of[each["number"]]
        end = (each["reason"], each["exit_code"], each["signal"])
        if "agent" in dead:
            assert end == ("lost", None, None), (each, dead)
            assert each != attempts[-1] or status["outcome"] == "CapReached", status
        elif "guardian" not in dead:
            assert each["reason"] != "lost", each
        if each["reason"] == "exited" and "training" not in dead:
            assert (each["exit_code"], each["number"] in ended) == (code, True), each
        elif each["reason"] != "cap":
            assert each["exit_code"] is None, each


def _saved(told: list[dict[str, Any]]) -> set[int]:
    """The steps that were saved: those of which the trainings told, the step 0 of which there is nothing to save, and
    the next one of each attempt, which may have been killed between its save and its word."""
    steps: dict[int, int] = {}
    for line in told:
        steps[line["attempt"]] = line.get("step", 0)
    return {0} | {line["step"] for line in told if line["what"] == "saved"} | {step + 1 for step in steps.values()}


def _whole_bill(machine: Machine, status: dict[str, Any], deaths: Deaths) -> float:
    """Dollars from the making of each attempt's directory to the last word of its training, or the record of its end;
    and what is billed for the silence after an attempt of which nobody was left."""
    dollars = 0.0
    for run_dir in machine.home.glob(f"runs/{status['uid']}/0*"):
        number = int(run_dir.name)
        instants = [line["at"] for line in machine.told() if line["attempt"] == number]
        instants += [
            path.stat().st_mtime for path in map(run_dir.joinpath, ("spec.json", "exit.json")) if path.exists()
        ]
        dollars += max(instants) - min(instants) + SILENCE * (deaths.of[number] >= {"agent", "guardian"})
    return dollars * HOURLY / 3600


def _bill(told: list[dict[str, float]]) -> float:
    """Dollars for the time in which a training was seen alive, at a dollar a second."""
    attempts: dict[tuple[float, float], list[float]] = {}
    for line in told:
        attempts.setdefault((line["attempt"], line["pid"]), []).append(line["at"])
    return sum(max(at) - min(at) for at in attempts.values()) * HOURLY / 3600
