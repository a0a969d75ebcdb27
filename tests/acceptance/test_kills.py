"""Promises 1, 3, 5 and 6 while controllers and agents are killed at random moments, 200 times in all."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from .machine import Machine, machine_in

SEEDS = range(2)
LANES = 5  # machines side by side in one test: most of the time each of them waits
KILLS_EACH = 20
MOST_IN_A_JOB = 3  # the pause before a retry doubles each time
HOURLY = 3600  # dollars an hour: a dollar a second, so that seconds of the world are money
VICTIMS = (("controller",), ("agent",), ("guardian",), ("agent", "guardian"), ("controller", "agent"), ("training",))


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
            killed += _drive(machine, draw, manifest.name, name, KILLS_EACH - killed["moments"])
            _check(machine, name, code, cap)
    return killed


def _drive(machine: Machine, draw: random.Random, manifest: str, name: str, most: int) -> Counter[str]:
    """Apply again and again, killing in between, until the job has its outcome; whom it killed how often."""
    killed: Counter[str] = Counter()
    end = time.monotonic() + 120
    while time.monotonic() < end:
        process = machine.start("apply", manifest, "--wait", warm=True)
        if killed["moments"] < min(most, MOST_IN_A_JOB):
            time.sleep(draw.uniform(0.3, 1.6))
            victims = draw.choice(VICTIMS)
            killed += _kill(machine, process.pid, victims)
            if "controller" not in victims:
                process.wait(timeout=60)
        code = process.wait(timeout=90)
        if code >= 0:  # not killed: the command stays until the job has its outcome
            assert code in (0, 1, 3, 4), machine.printed()
            return killed
    raise AssertionError(f"no outcome: {machine.status(name)}")


def _kill(machine: Machine, controller: int, victims: tuple[str, ...]) -> Counter[str]:
    """Kill them, whoever of them is there; a moment counts if a controller, an agent or a guardian died in it."""
    known = {**machine.agent_pids(), "controller": controller}
    killed: Counter[str] = Counter()
    for victim in victims:
        try:
            os.kill(known[victim], signal.SIGKILL)
            killed[victim] += 1
        except (KeyError, ProcessLookupError):
            continue
    killed["moments"] += bool(killed.keys() - {"training"})
    return killed


def _check(machine: Machine, name: str, code: int, cap: int) -> None:
    status = machine.status(name)
    told = machine.told()
    assert not [line for line in told if line["what"] == "double"], "two trainings at once"
    ends = [line for line in told if line["what"] == "end"]
    outcome, exit_code = status["outcome"], status["exit_code"]
    if outcome == "Succeeded":
        assert exit_code == 0
        assert code == 0
        assert ends
    elif outcome == "Failed":
        reason = status["reason"]
        assert reason in ("ExitCode", "Signal"), status
        assert (reason == "Signal") == (exit_code is None)
        assert reason == "Signal" or (exit_code == code == 7 and ends)
    else:
        assert outcome == "CapReached", f"{status}\n{machine.printed()}"
    assert _bill(told) <= cap * 1.0, "the world's own bill is over the cap"
    assert float(status["cost"]["spent"]) <= cap
    steps = [line["step"] for line in told if line["what"] == "start"]
    saved = {line["step"] for line in told if line["what"] == "saved"} | {0}
    assert set(steps) <= saved, "resumed from what nobody saved"
    machine.until(lambda: not machine.trainings(), "the end of every training")


def _bill(told: list[dict[str, float]]) -> float:
    """Dollars for the time in which a training was seen alive, at a dollar a second."""
    attempts: dict[tuple[float, float], list[float]] = {}
    for line in told:
        attempts.setdefault((line["attempt"], line["pid"]), []).append(line["at"])
    return sum(max(at) - min(at) for at in attempts.values()) * HOURLY / 3600
