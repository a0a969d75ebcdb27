"""Submitting what was proposed: into one durable transaction, or not at all."""

from __future__ import annotations

import msgspec
import pytest
from planner.kit import T0, job, record, source

from runctl.manifest.job import SourcedJob
from runctl.planner.reapply import Reapply
from runctl.planner.record import Desired
from runctl.planner.requests import StopJob
from runctl.reconciler.applying import Prepared, Proposal, propose, submit
from runctl.store.interface import Acquire, Ask, ControllerId, Create, NameTaken, Put, done

from .world import World

ME = ControllerId(pid=99, start="1", boot_id="b", what="test")


def proposal(world: World, more: str = "", name: str = "a") -> Proposal:
    sourced = SourcedJob(job=job(more, name=name), file="job.yaml", base="/project", document=1, positions={})
    prepared = Prepared(sourced=sourced, source=source(), findings=(), recipe_why="", root_reason="")
    return propose(world.store, prepared, T0, replace=False, rerun=False)


def test_a_job_that_is_being_deleted_keeps_its_name(world: World) -> None:
    """Until it is gone no other job takes its place: its training and its files would be in nobody's care."""
    done(world.store.apply([Create(record(job(), uid="u1"))])[0])
    epoch = done(world.store.apply([Acquire("u1", ME, T0)])[0])
    going = msgspec.structs.replace(world.record("u1"), desired=Desired.DELETED)
    done(world.store.apply([Put("u1", 1, epoch, going)])[0])
    with pytest.raises(NameTaken, match="is being deleted"):
        submit(world.store, [proposal(world, name="b"), proposal(world)], "me", T0)
    assert [each.record.uid for each in world.store.jobs()] == ["u1"]


def test_two_that_create_at_once(world: World) -> None:
    """Both have seen nothing; one creates the job, the other is told, and attaches when it compares again."""
    first, second = proposal(world), proposal(world)
    (made,) = submit(world.store, [first], "me", T0)
    with pytest.raises(NameTaken):
        submit(world.store, [second], "me", T0)
    assert submit(world.store, [proposal(world)], "me", T0)[0].uid == made.uid
    assert world.store.requests(made.uid) == ()


def test_several_files_are_a_group_in_their_order(world: World) -> None:
    """Members of one apply know each other, and whose turn comes first."""
    made = submit(world.store, [proposal(world, name=name) for name in "ba"], "me", T0)
    members = [world.record(each.uid) for each in made]
    assert len({each.group for each in members}) == 1
    assert [(each.name, each.order) for each in members] == [("b", 0), ("a", 1)]
    (alone,) = submit(world.store, [proposal(world, name="c")], "me", T0)
    assert world.record(alone.uid).group is None


def test_what_is_open_counts(world: World) -> None:
    """A change or a stop that nobody has answered yet is a part of the job that the next apply is compared with."""
    done(world.store.apply([Create(record(job(), uid="u1"))])[0])
    (first,) = submit(world.store, [proposal(world, "limits: {duration: 1h}")], "me", T0)
    second = proposal(world, "limits: {duration: 2h}")
    assert second.found is not None
    assert (first.asked, second.found.record.generation.number) == (1, 2)
    submit(world.store, [second], "me", T0)
    assert proposal(world, "limits: {duration: 2h}").decision.kind is Reapply.ATTACH
    done(world.store.apply([Ask("u1", StopJob(at=T0, why="enough"))])[0])
    assert proposal(world, "limits: {duration: 2h}").decision.kind is Reapply.RESUME
