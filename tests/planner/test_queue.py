"""Whose turn it is: the machine's holder, the group, secrets, and what a job says while it waits."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from runctl.planner.actions import Launch
from runctl.planner.observed import Foreign, GroupSeen, MachineSeen
from runctl.planner.record import ConditionType, Phase, StopReason
from runctl.planner.status import waiting_for

from .kit import Life, holder, job

Golden = Callable[[str], None]


def held_by(life: Life, who: str) -> None:
    life.holds(holder(ours=who == "ours") if who in ("ours", "theirs") else None)
    if who == "foreign":
        foreign = (Foreign(pid=9, command="python other.py", evidence="uses the GPU"),)
        life.machine = MachineSeen(as_of=life.now, name="this machine", foreign=foreign)


@pytest.mark.parametrize("who", ["ours", "theirs", "foreign"])
@pytest.mark.parametrize("busy", ["refuse", "wait", "replace", "share"])
def test_busy(busy: str, who: str, golden: Golden) -> None:
    """What each policy does about each holder, until the machine is free."""
    life = Life(job(f"instance: {{busy: {busy}}}"))
    held_by(life, who)
    life.see()
    life.after(seconds=5)
    life.see()
    life.holds(None)
    life.see()
    golden(life.told())
    refused = busy == "refuse" or (busy == "replace" and who != "ours")
    assert (life.job.stopped is not None) == refused
    assert (life.job.live is not None) == (not refused)


def test_replace_asks_again_when_the_request_died(golden: Golden) -> None:
    """A holder that goes on is asked again after half a minute, and a later attempt of it at once."""
    life = Life(job("instance: {busy: replace}"))
    life.holds(holder())
    for _ in range(4):
        life.see()
        life.after(seconds=11)
    life.holds(holder(run=2))
    life.see()
    golden(life.told())
    assert sum(text.count("ask other to stop") for text in life.story) == 3
    assert life.job.phase is Phase.QUEUED
    life.holds(None)
    life.see()
    assert life.job.reminders == {}


def test_its_own_earlier_attempt_is_waited_for_under_every_policy() -> None:
    """Also where others may share the machine, two trainings of one job may not."""
    for busy in ("refuse", "wait", "replace", "share"):
        life = Life(job(f"instance: {{busy: {busy}}}"))
        life.holds(holder(uid="u1", name="a"))
        life.see()
        assert life.job.phase is Phase.QUEUED
        assert life.job.live is None
        life.holds(None)
        life.see()
        assert life.job.live is not None


@pytest.mark.parametrize("busy", ["refuse", "wait", "replace", "share"])
def test_a_machine_that_is_away_is_waited_for(busy: str, golden: Golden) -> None:
    """Nobody knows who trains there: under no policy is anything started, or refused."""
    life = Life(job(f"instance: {{busy: {busy}}}"))
    life.machine = MachineSeen(as_of=life.now, name="box", unready="box can't be asked: no route to host")
    life.see()
    assert life.job.phase is Phase.QUEUED
    assert waiting_for_text(life) == "box can't be asked: no route to host"
    life.after(seconds=5)
    life.see()
    assert (life.job.live, life.job.stopped) == (None, None)
    life.holds(None)
    life.see()
    golden(life.told())
    assert life.job.live is not None


def test_members_of_a_group_take_turns(golden: Golden) -> None:
    """One at a time, in the order of the files, whatever `busy` says of others."""
    life = Life(job(), group="g")
    life.group = GroupSeen(live=("b",), ahead=("c",))
    life.see()
    life.group = GroupSeen(ahead=("c",))
    life.see()
    life.holds(holder())
    life.group = GroupSeen()
    life.see()
    life.holds(None)
    life.see()
    golden(life.told())
    assert life.job.live is not None


def test_max_parallel(golden: Golden) -> None:
    """Members that share the machine still are at most so many, and don't wait for their turn."""
    life = Life(job("instance: {busy: share}\ngroup: {max_parallel: 2}"), group="g")
    life.group = GroupSeen(live=("b", "c"), ahead=("d",))
    life.see()
    life.group = GroupSeen(live=("b",), ahead=("d",))
    life.see()
    golden(life.told())
    assert life.job.live is not None


def test_a_member_that_was_refused_queues() -> None:
    """Another member had the machine first by a hair: this one comes again, and doesn't rest."""
    life = Life(job(), group="g")
    life.see()
    life.see(life.ended("refused", billed=False))
    assert life.job.stopped is None
    assert life.job.not_before is not None


def test_missing_secrets(golden: Golden) -> None:
    """A job whose secrets this controller hasn't got yields, and starts when they are there."""
    life = Life(job("secrets: [HF_TOKEN]"))
    life.missing = ("HF_TOKEN",)
    life.see()
    assert life.plan is not None
    assert life.plan.yields
    assert waiting_for_text(life) == "apply again from a shell that has `HF_TOKEN`"
    life.see()
    life.missing = ()
    life.see()
    golden(life.told())
    assert life.job.live is not None


def test_a_launch_is_not_sent_again_without_its_secrets() -> None:
    """Whoever made the intent had them. Without them the attempt would start, and its job fail."""
    life = Life(job("secrets: [HF_TOKEN]"))
    life.see()
    life.missing = ("HF_TOKEN",)
    made = life.see(life.absent())
    assert made.actions == ()
    assert made.wake_at is not None
    assert [each.reason for each in life.job.conditions if each.type is ConditionType.SECRETS_PRESENT] == ["Missing"]
    life.missing = ()
    made = life.see(life.absent())
    assert [type(each) for each in made.actions] == [Launch]


def test_secrets_that_only_another_spec_needs_are_not_waited_for() -> None:
    """What is missing is asked of the spec that is to be launched."""
    life = Life(job("secrets: [HF_TOKEN]"))
    life.missing = ("HF_TOKEN",)
    life.see()
    life.apply(job(), replace=True)
    life.see()
    assert life.job.live is not None


def test_a_spec_that_was_applied_just_now_waits_for_its_secrets() -> None:
    """It isn't launched in the pass that answers the request, for want of a look at the environment."""
    life = Life(job())
    life.see(looked=False)
    life.apply(job("secrets: [HF_TOKEN]"), replace=True)
    life.missing = ("HF_TOKEN",)
    life.see()
    assert life.job.live is None


def waiting_for_text(life: Life) -> str:
    launched = next(each for each in life.job.conditions if each.type is ConditionType.LAUNCHED)
    return launched.message


def test_a_machine_that_nobody_looked_at_is_looked_at() -> None:
    """Without a look there is no launch, and the look is asked for at once."""
    life = Life(job())
    life.see(looked=False)
    assert life.job.phase is Phase.QUEUED
    assert life.plan is not None
    assert life.plan.wake_at == life.now
    assert life.job.live is None


def test_a_waiting_job_is_not_written_at_each_look() -> None:
    """Looking again at the same queue changes nothing in the record: nothing is written, nothing spins."""
    life = Life(job("instance: {busy: wait}"))
    life.holds(holder())
    life.see()
    before = life.job
    for _ in range(3):
        life.after(seconds=1)
        life.see()
    assert life.job == before
    assert life.plan is not None
    assert life.plan.wake_at is not None
    assert life.plan.wake_at > life.now


def test_nothing_is_waited_for_by_what_runs_or_rests() -> None:
    """Only a job without an attempt waits for something."""
    from runctl.planner.observed import Observed
    from runctl.planner.passing import Pass

    life = Life(job())
    life.run()
    assert waiting_for(Pass(record=life.job, observed=Observed(), now=life.now)) is None


def test_transition_times_move_with_the_status_alone() -> None:
    """A condition's time is that of its last change of status, cut to seconds; reason and message move freely."""
    life = Life(job())
    life.after(milliseconds=1500)
    life.holds(holder())
    life.see()
    stopped = life.job
    assert stopped.stopped is not None
    assert stopped.stopped.reason is StopReason.BUSY
    first = {each.type: each.last_transition_time for each in stopped.conditions}
    assert {at.microsecond for at in first.values()} == {0}
    life.after(hours=1)
    life.holds(None)
    life.apply(msgspec.structs.replace(job()))
    life.see(looked=False)
    life.see()
    later = {each.type: each.last_transition_time for each in life.job.conditions}
    assert later[ConditionType.LAUNCHED] == first[ConditionType.LAUNCHED]
    assert later[ConditionType.RELEASED] > first[ConditionType.RELEASED]
