"""One sweep for all jobs: which of them it is of interest to, and what belongs to none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import msgspec
import pytest
from planner.kit import T0, RentedLife

from runctl.manifest.job import Job, Platform
from runctl.planner.record import Record
from runctl.planner.rental import Offer
from runctl.providers.aws.api import ApiError, NoAnswer
from runctl.providers.aws.cloud import Ec2
from runctl.reconciler.renting import Renting, Swept
from runctl.store.interface import Create, done

from .world import World


class Region:
    """Lists `instances`, and ends what it is asked to: the far side of EC2's calls."""

    def __init__(self) -> None:
        self.instances: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.broken: Exception | None = None

    def holds(self, name: str, uid: str, state: str = "running") -> None:
        tags = {"runctl:owner": "me", "runctl:job": uid, "runctl:attempt": "1"}
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        self.instances.append(
            {"InstanceId": name, "State": {"Name": state}, "LaunchTime": T0, "ClientToken": "t", "Tags": listed}
        )

    async def __call__(self, operation: str, parameters: Mapping[str, Any], /) -> Mapping[str, Any]:
        if self.broken is not None:
            raise self.broken
        if operation == "TerminateInstances":
            self.ended += parameters["InstanceIds"]
            return {}
        return {"Reservations": [{"Instances": self.instances}]}


class Desk:
    def __init__(self, world: World) -> None:
        self.region = Region()
        self.told: list[str] = []
        self.cloud = Ec2(self.region, "me", self._offers, lambda: T0)
        self.renting = Renting({Platform.AWS: self.cloud}, world.store, self.told.append)

    async def _offers(self, _job: Job) -> tuple[Offer, ...]:
        raise AssertionError("nobody asks for offers here")

    def sweep(self, *held: Record) -> Swept:
        return anyio.run(self.renting.sweep, Platform.AWS, {record.uid: record for record in held})


def up(uid: str = "u1") -> Record:
    """A job that trains on i-1."""
    life = RentedLife()
    life.comes_up()
    return msgspec.structs.replace(life.job, uid=uid)


def test_news_wake_the_jobs_they_are_of(world: World) -> None:
    """The first listing, and each that differs; a machine that runs and goes on running is no news."""
    desk, record = Desk(world), up()
    desk.region.holds("i-1", "u1")
    assert desk.sweep(record).news == {"u1"}
    assert desk.sweep(record).news == set()
    desk.region.instances[0]["State"]["Name"] = "terminated"
    assert desk.sweep(record).news == {"u1"}


def test_what_is_on_its_way_is_always_news(world: World) -> None:
    """A request without a machine is looked for in each listing."""
    life = RentedLife()
    life.see()
    desk = Desk(world)
    assert desk.sweep(life.job).news == desk.sweep(life.job).news == {"u1"}


def test_an_orphan_is_ended(world: World) -> None:
    """An instance of a job that no store knows bills somebody; one that goes already is left alone."""
    desk = Desk(world)
    desk.region.holds("i-8", "nobody")
    desk.region.holds("i-9", "nobody", "shutting-down")
    desk.sweep(up())
    assert desk.region.ended == ["i-8"]
    assert desk.told == ["ending i-8: tagged as this owner's, and of no job that is known"]


def test_another_controllers_job_is_left_alone(world: World) -> None:
    """What the store accounts for is nobody's orphan; what a job doesn't expect wakes that job."""
    other = up("u2")
    done(world.store.apply([Create(msgspec.structs.replace(other, name="b"))])[0])
    desk = Desk(world)
    desk.region.holds("i-1", "u2")
    assert desk.sweep(up()).news == {"u1"}
    assert desk.sweep(up()).news == set()
    desk.region.holds("i-5", "u2")
    assert desk.sweep(up()).news == {"u2"}
    assert desk.region.ended == []


def test_what_a_resting_job_has_is_anybodys(world: World) -> None:
    """A machine with the tags of a job of which nothing is to be done: no controller of its own will come for it."""
    life = RentedLife()
    life.comes_up()
    life.see(life.ended(code=0))
    life.goes()
    life.see()
    assert life.job.unreleased == ()
    done(world.store.apply([Create(msgspec.structs.replace(life.job, uid="u2", name="b"))])[0])
    desk = Desk(world)
    desk.region.holds("i-5", "u2")
    assert desk.sweep(up()) == Swept(news={"u1"}, astray={"u2"})


@pytest.mark.parametrize("broken", [NoAnswer("timed out"), ApiError("RequestLimitExceeded", "slower", 503)])
def test_a_sweep_that_fails_is_told(world: World, broken: Exception) -> None:
    """Nothing follows from it: no job is woken, nothing is ended."""
    desk = Desk(world)
    desk.region.broken = broken
    assert desk.sweep(up()).news == set()
    assert len(desk.told) == 1
    assert desk.region.ended == []
