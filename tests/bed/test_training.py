"""The product on a host of the bed: a job from its record to its outcome, through what can happen to its host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance.machine import Machine, machine_in

from .host import Host, Trait
from .region import Region

WORLD = "/root/world"


@pytest.fixture
def host(region: Region) -> Host:
    (booted,) = region.add()
    return booted


@pytest.fixture
def machine(tmp_path: Path, region: Region, host: Host) -> Iterator[Machine]:
    """Where the commands run. What the trainings tell is on the host's disk, and read past its network."""
    for made in machine_in(tmp_path):
        user = tmp_path / "user"
        (user / ".ssh").mkdir(parents=True)
        (user / ".ssh/config").write_text(region.config.read_text())
        made.environ["HOME"] = str(user)
        made.world = host.inside(WORLD)
        made.world.mkdir()
        yield made


def far(machine: Machine, steps: int) -> str:
    written: Path = machine.training(steps, 0.2, instance={"host": "box1"}, env={"WORLD": WORLD})
    return written.name


def saved(machine: Machine) -> int:
    return max((line["step"] for line in machine.told("saved")), default=0)


def ended_once(machine: Machine) -> None:
    status = machine.status()
    assert (status["outcome"], status["exit_code"]) == ("Succeeded", 0)
    assert machine.told("double") == []


@pytest.mark.slow
@pytest.mark.needs(Trait.PARTITION)
def test_a_training_outlives_its_controller_and_a_partition(machine: Machine, host: Host) -> None:
    """The controller is killed in mid-run and another one adopts; the host is cut off for 20 steps and heals."""
    manifest = far(machine, steps=50)
    first = machine.start("apply", manifest, "--wait")
    machine.until(lambda: saved(machine) >= 3, "some steps")
    first.kill()
    second = machine.start("apply", manifest, "--wait")
    before = saved(machine)
    machine.until(lambda: saved(machine) >= before + 5, "some steps more")
    host.partition()
    cut_off = saved(machine)
    machine.until(lambda: saved(machine) >= cut_off + 20, "the steps of who is cut off")
    host.heal()
    assert second.wait(60) == 0, machine.printed(second)
    ended_once(machine)
    assert len(machine.told("start")) == 1
    assert machine.run("logs", "job").out == "".join(f"step {step}/50\n" for step in range(1, 51))


@pytest.mark.slow
@pytest.mark.needs(Trait.REBOOT)
def test_a_training_goes_on_after_a_power_cut(machine: Machine, host: Host) -> None:
    """In another attempt, from a checkpoint that was durable, when the host has booted again."""
    manifest = far(machine, steps=30)
    applied = machine.start("apply", manifest, "--wait")
    machine.until(lambda: saved(machine) >= 10, "some steps")
    host.power_cut()
    host.boot()
    machine.world = host.inside(WORLD)
    assert applied.wait(100) == 0, machine.printed(applied)
    ended_once(machine)
    first, second = machine.told("start")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert second["step"] > 0
