"""E1: a hundred cycles of apply and stop, some of them on top of each other."""

from __future__ import annotations

import os
import random
import time

import pytest

from .machine import PATIENCE, Machine, Started
from .scripts import durable_steps

# A cycle takes a second, more than the check has for a hundred: it runs so many, RUNCTL_TEST_CYCLES=100 all of them.
CYCLES = int(os.environ.get("RUNCTL_TEST_CYCLES", "8"))

DRAW = random.Random(1)

# Clear answers: done, ended by the stop, or refused since something else is under way.
ANSWERS = {0, 6, 11}


@pytest.mark.slow
@pytest.mark.timeout(120 + 4 * CYCLES)
def test_E1_cycles_of_apply_and_stop_keep_every_checkpoint_and_leak_nothing(machine: Machine) -> None:
    """Promises 6 and 7. Each apply goes on from the step that the stop before it saved; commands on top of each other
    are answered or clearly refused; two trainings never run at once; in the end nothing is left running."""
    manifest = str(machine.training(100_000, 0.02))
    for cycle in range(CYCLES):
        before = len(machine.told("start"))
        commands = [machine.start("apply", manifest, "--wait")]
        if cycle % 4 == 2:  # a stop while it starts
            time.sleep(DRAW.uniform(0, 0.4))
            commands.append(machine.start("stop", "job"))
        else:
            if cycle % 4 == 1:  # a second apply, which attaches or waits its turn
                commands.append(machine.start("apply", manifest, "--wait"))
            machine.until(lambda: len(machine.told("start")) > before, "a start")  # noqa: B023
            if cycle % 4 == 3:  # a stop and another apply at the same instant
                stopping = machine.start("stop", "job")
                commands.append(machine.start("apply", manifest, "--wait"))
                _answer(machine, stopping)
        # A stop may come before the apply that it is meant for.
        _stop_until_ended(machine, commands)
        _check(machine)
    assert len(machine.told("start")) >= CYCLES * 3 // 4
    assert machine.status()["phase"] == "Stopped"
    machine.quiet()


def _stop_until_ended(machine: Machine, commands: list[Started]) -> None:
    end = time.monotonic() + PATIENCE
    while any(command.poll() is None for command in commands):
        assert time.monotonic() < end, machine.status()
        _answer(machine, machine.start("stop", "job"))
        time.sleep(0.02)
    for command in commands:
        _answer(machine, command)


def _answer(machine: Machine, command: Started) -> None:
    """Wait for the command; its answer has to be a clear one."""
    code = command.wait(PATIENCE)
    text = machine.printed(command)
    assert code in ANSWERS, text
    assert "Traceback" not in text


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
    assert step == max(durable_steps(machine), default=0)
