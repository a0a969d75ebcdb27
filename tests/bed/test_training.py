"""The product on a host of the bed: a job from its record to its outcome, through what can happen to its host."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import botocore.session
import pytest
from acceptance.machine import Machine, machine_in
from checkpoints.far_side import environment, served

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


@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.needs(Trait.PARTITION)
def test_a_job_moves_to_another_host_once_its_first_is_provably_over(
    machine: Machine, region: Region, host: Host
) -> None:
    """The power of its host is cut in mid-run, and the user moves it: nothing starts as long as the first may run. When
    that host has booted again it goes on elsewhere, from what was durable in S3, with each host's own credentials, and
    ends as one that nothing has disturbed, within its cap."""
    assert region.network is not None
    (second,) = region.add()
    Path(machine.environ["HOME"], ".ssh/config").write_text(region.config.read_text())
    with served(region.network.gateway) as url:
        known = environment(url)
        client = botocore.session.get_session().create_client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        client.create_bucket(Bucket="checkpoints")
        for each in (host, second):
            aws = each.inside("/root/.aws")
            aws.mkdir()
            aws.joinpath("config").write_text(f"[default]\nregion = us-east-1\nendpoint_url = {url}\n")
            aws.joinpath("credentials").write_text(
                f"[default]\naws_access_key_id = {known['AWS_ACCESS_KEY_ID']}\n"
                f"aws_secret_access_key = {known['AWS_SECRET_ACCESS_KEY']}\n"
            )
        second.inside(WORLD).mkdir()
        fields = {
            "env": {"WORLD": WORLD},
            "checkpoint": {"every": "1 steps", "grace": "10s", "upload": "s3://checkpoints/team/"},
            "cost": {"cap": "1 USD"},
        }
        manifest = machine.training(60, 0.2, instance={"host": "box1", "hourly_rate": "3 USD"}, **fields).name
        machine.run("apply", manifest, "--no-wait")
        machine.until(lambda: (machine.status()["checkpoints"]["newest"] or {}).get("step", 0) >= 5, "durable steps")
        host.power_cut()
        newest = machine.status()["checkpoints"]["newest"]["step"]
        machine.training(60, 0.2, instance={"host": "box2", "hourly_rate": "3 USD"}, **fields)
        machine.world = second.inside(WORLD)
        applied = machine.start("apply", manifest, "--wait", "--replace")
        machine.until(lambda: "HostAway" in machine.printed(applied), "that the first host is away", 120)
        assert machine.told("start") == []
        host.boot()
        machine.until(lambda: applied.poll() is not None, "its end", 150)
        assert applied.wait() == 0, machine.printed(applied)
        ended_once(machine)
        (start,) = machine.told("start")
        assert start["step"] >= newest >= 5
        assert [(line["step"], line["code"]) for line in machine.told("end")] == [(60, 0)]
        assert Decimal(machine.status()["cost"]["spent"]) < 1
