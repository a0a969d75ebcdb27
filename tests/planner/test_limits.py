"""Money and time: what is reserved, granted and warned of, when a job is broke, and when it may go on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.planner.money import (
    LONGEST,
    Room,
    committed,
    cost_of,
    interval_cost,
    rate_of,
    reservation,
    reserves_more,
    room,
    spent,
    time_for,
)
from runctl.planner.observed import GroupSeen
from runctl.planner.record import Attempt, ConditionType, Interval, OutcomeType, Phase
from runctl.planner.requests import Apply

from .kit import PRICED, T0, Life, job, record, ref, source

Golden = Callable[[str], None]


def live(life: Life) -> Attempt:
    assert life.job.live is not None
    return life.job.live


@given(hourly=st.integers(1, 10**12), micros=st.integers(0, 10**18))
def test_time_that_money_buys_never_costs_more(hourly: int, micros: int) -> None:
    """Both roundings are against the job, for any price and any sum."""
    assert cost_of(hourly, time_for(hourly, micros)) <= micros


@given(hourly=st.integers(0, 10**9), spans=st.lists(st.integers(0, 10**7), max_size=6))
def test_parts_never_cost_less_than_the_whole(hourly: int, spans: list[int]) -> None:
    """A ledger that is cut into intervals can't hide money."""
    parts = [timedelta(milliseconds=span) for span in spans]
    assert sum(cost_of(hourly, part) for part in parts) >= cost_of(hourly, sum(parts, timedelta(0)))


def test_money_for_ever_is_a_century() -> None:
    """A tiny rate under a huge cap overflows nothing."""
    assert time_for(1, 10**18) == LONGEST
    life = Life(job("instance: {hourly_rate: 0.000001 USD}\ncost: {cap: 999999999999 USD}"))
    life.run(hours=1)
    life.see(life.live())


def test_a_clock_that_was_set_back_makes_nothing_cheaper() -> None:
    """What an attempt says that it has had the machine is billed, whatever its wall clock showed at the end."""
    life = Life(job("instance: {hourly_rate: 3.6 USD}\ncost: {cap: 1 USD}"))
    life.run(seconds=100)
    life.see(life.ended(code=1, active=103.5))
    (line,) = life.job.ledger
    assert line.ended_at is not None
    assert (line.ended_at - line.started_at).total_seconds() == 103.5
    assert spent(life.job, life.now) == 103_500


def test_time_before_the_start_costs_nothing() -> None:
    """A clock that was set back makes no negative spending."""
    line = Interval(
        attempt=1, machine="local", started_at=T0, ended_at=None, hourly=1, source="x", quoted_at=T0
    )  # fmt: skip
    assert interval_cost(line, T0 - timedelta(hours=1)) == 0


def test_platforms_without_a_price() -> None:
    """What another platform costs isn't known here."""
    aws = "instance: {platform: aws, type: g5.xlarge, region: us-east-1}\ncheckpoint: {upload: s3://my-bucket/ckpt/}"
    assert rate_of(job(aws + "\ncost: {cap: 1 USD}")) is None


def test_cap_over_attempts(golden: Golden) -> None:
    """What earlier attempts spent is gone: the second attempt's grant is the rest, and the cap ends the job there."""
    life = Life(job(PRICED))
    life.run(minutes=40)
    life.see(life.live(newest=ref(1, 1, life.now)))
    life.see(life.dead(newest=ref(1, 1, life.now)))
    life.after(seconds=2)
    life.run(minutes=19)
    life.see(life.ended("cap", 0, newest=ref(2, 1, life.now)))
    golden(life.told())
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.CAP_REACHED
    assert spent(life.job, life.now) <= 1_000_000


def test_cap_too_small_for_another_attempt(golden: Golden) -> None:
    """When less is left than a final save needs, nothing is launched."""
    life = Life(job(PRICED))
    life.run(minutes=59)
    life.see(life.dead())
    life.after(seconds=2)
    life.see()
    golden("\n".join(life.story[-2:]) + "\n")
    assert life.job.outcome is not None
    assert (life.job.outcome.type, life.job.outcome.reason) == (OutcomeType.CAP_REACHED, "DoesNotFit")


def test_raised_cap_resumes(golden: Golden) -> None:
    """A raised cap goes on from the checkpoint, in the same ledger, as a new generation."""
    life = Life(job(PRICED))
    life.run(minutes=59)
    life.see(life.ended("cap", 0, newest=ref(1, 4, life.now)))
    life.apply(job("instance: {hourly_rate: 1 USD}\ncost: {cap: 3 USD}"))
    life.see(looked=False)
    life.see()
    life.see(life.live())
    golden("\n".join(life.story[-3:]) + "\n")
    assert live(life).resume == ref(1, 4, life.now)
    assert live(life).orders.limits.money is not None


def test_a_cap_raised_while_it_drains_goes_on() -> None:
    """The attempt ended for a cap that is no longer one: another follows at once."""
    life = Life(job(PRICED))
    life.run(minutes=58)
    life.apply(job("instance: {hourly_rate: 1 USD}\ncost: {cap: 3 USD}"))
    life.see(life.live("draining", drain="cap"))
    life.see(life.ended("cap", 0))
    assert life.job.phase is Phase.PENDING
    life.after(seconds=2)
    life.see()
    assert len(life.job.attempts) == 2


def test_changing_the_cap_in_place(golden: Golden) -> None:
    """A live attempt's grant follows the cap both ways; what is reserved only grows."""
    life = Life(job(PRICED))
    life.run(minutes=10)
    for cap in ("2 USD", "0.50 USD", "0.05 USD", "none"):
        life.apply(job(f"instance: {{hourly_rate: 1 USD}}\ncost: {{cap: {cap}}}"))
        life.see(life.live(serial=live(life).orders.serial))
        life.see(life.live())
    golden("\n".join(life.story[3:]) + "\n")
    assert live(life).reserved == 2_000_000
    assert live(life).orders.limits.money is None


def test_a_raise_that_is_taken_back_holds_nothing() -> None:
    """Both are answered in one pass (the controller was away): the money of the first was never there to be held."""
    life = Life(job(PRICED))
    life.run(minutes=10)
    before = live(life).reserved
    life.apply(job("instance: {hourly_rate: 1 USD}\ncost: {cap: 5 USD}"))
    first = life.job.generation.number
    life.ask(
        Apply(at=life.now, job=job(PRICED), source=source("1"), generation=first + 1, replace=True),
    )
    life.see(life.live())
    assert life.job.generation.number == first + 2
    assert live(life).orders.end == "replace"
    assert live(life).reserved == before


def test_a_replaced_attempt_is_granted_time_at_its_own_rate() -> None:
    """The new spec's machine is cheaper; the attempt that is still to end pays the old price."""
    life = Life(job(PRICED))
    life.run(minutes=10)
    life.apply(job("instance: {hourly_rate: 0.01 USD}\ncost: {cap: 1 USD}"), replace=True)
    life.see(life.live(serial=0))
    money = live(life).orders.limits.money
    assert money is not None
    assert money.seconds == 3599
    assert live(life).orders.end == "replace"


def test_duration_over_attempts(golden: Golden) -> None:
    """`limits.duration` counts the active time of all attempts; a raised one resumes."""
    life = Life(job("limits: {duration: 1h}"))
    life.run(minutes=40)
    life.see(life.dead())
    first = life.job.attempts[0].active
    life.after(seconds=2)
    life.run(minutes=20)
    assert live(life).orders.limits.duration == 3600 - first
    life.see(life.ended("duration", 0, active=3600 - first))
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.DURATION_REACHED
    life.apply(job("limits: {duration: 2h}"))
    life.see(looked=False)
    life.see()
    golden("\n".join(life.story[-3:]) + "\n")
    assert live(life).orders.limits.duration == 3600


def test_duration_used_up_by_interruptions() -> None:
    """What is left after a lost attempt wouldn't last a second: nothing is launched for it."""
    life = Life(job("limits: {duration: 1h}"))
    life.run(hours=1)
    dead = msgspec.structs.replace(life.dead(), active=3599.9)
    life.see(dead)
    life.after(seconds=2)
    life.see()
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.DURATION_REACHED


def test_a_duration_that_agents_count_differently_ends() -> None:
    """An attempt that ended a few milliseconds before its duration was over isn't followed by one of milliseconds."""
    life = Life(job("limits: {duration: 1h}"))
    life.run(hours=1)
    life.see(life.ended("duration", 0, active=3599.996))
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.DURATION_REACHED


def test_a_duration_lifted_while_it_drains() -> None:
    """No limit any more: another attempt follows."""
    life = Life(job("limits: {duration: 1h}"))
    life.run(hours=1)
    life.apply(job("limits: {duration: off}"))
    life.see(life.live("draining", drain="duration"))
    life.see(life.ended("duration", 0))
    assert life.job.outcome is None


GROUPED = "instance: {hourly_rate: 1 USD, busy: share}\ncost: {cap: none}\ngroup: {cap: 2 USD, max_parallel: 2}"


def test_group_cap(golden: Golden) -> None:
    """A member waits for money that others hold and may give back; it is broke when nobody can give any."""
    life = Life(job(GROUPED), group="g")
    life.group = GroupSeen(committed=1_990_000, live=("b",))
    life.see()
    life.after(seconds=1)
    life.group = GroupSeen(committed=1_500_000, live=())
    life.see()
    life.see(life.live())
    # Others have spent nothing more, and this one's grant stays what was reserved for it.
    life.group = GroupSeen(committed=100_000)
    life.see(life.live())
    assert live(life).reserved == 500_000
    money = live(life).orders.limits.money
    assert money is not None
    assert cost_of(1_000_000, timedelta(seconds=money.seconds)) <= 500_000
    life.after(minutes=29)
    life.group = GroupSeen(committed=1_500_000, spent=1_500_000)
    life.see(life.ended("cap", 0))
    golden(life.told())
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.CAP_REACHED


def test_group_cap_that_others_have_spent() -> None:
    """Nobody waits for money that is gone, whoever else is still alive."""
    life = Life(job(GROUPED), group="g")
    life.group = GroupSeen(committed=1_999_500, spent=1_999_000, live=("b",))
    life.see()
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.CAP_REACHED


def test_group_cap_frees_up_for_an_ended_member() -> None:
    """A member that the group's cap ended goes on with what the others didn't need."""
    life = Life(job(GROUPED), group="g")
    life.group = GroupSeen(committed=1_500_000, live=("b",))
    life.run(minutes=29)
    life.see(life.ended("cap", 0))
    assert life.job.outcome is None
    life.after(seconds=2)
    life.see()
    assert life.job.phase is Phase.QUEUED
    life.group = GroupSeen(committed=600_000)
    life.after(seconds=1)
    life.see()
    assert live(life).reserved == 2_000_000 - 600_000 - spent(life.job, life.now)


def test_group_cap_raised_in_place() -> None:
    """A raised group cap is reserved before it is granted."""
    life = Life(job(GROUPED), group="g")
    life.group = GroupSeen(committed=1_500_000)
    life.run(minutes=1)
    life.apply(job(GROUPED.replace("2 USD", "4 USD")))
    life.see(life.live(serial=0))
    assert live(life).reserved == 2_500_000
    assert committed(life.job, life.now) == 2_500_000


def test_group_cap_and_duration() -> None:
    """Below a group's cap a short duration reserves little, and leaves the rest to others."""
    spec = job(GROUPED + "\nlimits: {duration: 10m}\ncheckpoint: {grace: 30s}")
    life = Life(spec, group="g")
    life.run(minutes=1)
    span = timedelta(minutes=10, seconds=60) + timedelta(minutes=1)
    assert live(life).reserved == cost_of(1_000_000, span)
    money = live(life).orders.limits.money
    assert money is not None
    # The duration comes first: an agent begins to end for money `grace` before that is over.
    assert timedelta(seconds=money.seconds) - spec.checkpoint.grace.delta > timedelta(minutes=10)


def test_room_under_both_caps() -> None:
    """Its own cap too small is final, whatever the others hold."""
    spec = job(GROUPED.replace("cap: none", "cap: 0.02 USD").replace("cost:", "checkpoint: {grace: 1s}\ncost:"))
    fresh = record(spec, group="g")
    assert room(fresh, GroupSeen(live=("b",)), T0) is Room.ENOUGH
    poor = record(job(GROUPED.replace("cap: none", "cap: 0.018 USD")), group="g")
    assert room(poor, GroupSeen(live=("b",)), T0) is Room.NONE


def test_no_bound_is_no_reservation() -> None:
    """Without cap and duration there is no worst case; without a price there is nothing to hold."""
    assert reservation(record(job("instance: {hourly_rate: 1 USD}\ncost: {cap: none}")), 0, T0) is None
    assert reservation(record(job("limits: {duration: 1h}")), 0, T0) is None
    assert committed(record(job()), T0) == 0


def test_who_reserves_more() -> None:
    """A new attempt or a higher reservation counts, an end and a change of orders don't."""
    life = Life(job(PRICED))
    before = life.job
    life.see()
    assert reserves_more(before, life.job)
    before = life.job
    life.see(life.live())
    assert not reserves_more(before, life.job)
    life.apply(job(PRICED.replace("cap: 1 USD", "cap: 2 USD")))
    before = life.job
    life.see(life.live())
    assert reserves_more(before, life.job)
    before = life.job
    life.see(life.ended(code=0))
    assert not reserves_more(before, life.job)


def test_warnings_on_the_way_to_the_cap(golden: Golden) -> None:
    """Each threshold is said once, when it is passed, also when nobody looked at that instant."""
    life = Life(job(PRICED))
    life.run()
    for minutes in (31, 1, 26, 1):
        life.after(minutes=minutes)
        life.see(life.live(newest=ref(1, 1, life.now)))
    golden("\n".join(life.story[3:]) + "\n")
    assert sum(text.count("CostThreshold") for text in life.story) == 3


def test_reminders_without_a_cap(golden: Golden) -> None:
    """Ten dollars without a cap, a dear machine, and a day of running are each said once."""
    life = Life(job("instance: {hourly_rate: 6 USD}\ncost: {cap: none}\ncheckpoint: {deadline: 3d}"))
    life.run()
    for hours in (1, 1, 23, 1):
        life.after(hours=hours)
        life.see(life.live(newest=ref(1, int(hours), life.now)))
    golden("\n".join(life.story[3:]) + "\n")
    for reason in ("DearMachine", "CostWithoutCap", "LongRunning"):
        assert sum(text.count(reason) for text in life.story) == 1


def test_no_cost_reminder_below_a_group_cap() -> None:
    """A group's cap is a cap; a machine that costs nothing needs no reminder."""
    life = Life(job("instance: {hourly_rate: 4 USD}\ncost: {cap: none}\ngroup: {cap: 20 USD}"), group="g")
    life.run(hours=3)
    life.see(life.live())
    assert "CostWithoutCap" not in life.told()
    life = Life(job("instance: {hourly_rate: 0 USD}"))
    life.run(hours=30)
    life.see(life.live())
    assert "Cost" not in life.told()


def test_stale_checkpoints_with_growing_pauses(golden: Golden) -> None:
    """At an hour without a durable checkpoint, then at two, four, eight, sixteen, and each eight hours; one reminder
    for all marks that were passed unseen; from the start for a new checkpoint."""
    life = Life(job(PRICED.replace("cap: 1", "cap: 99") + "\ncheckpoint: {deadline: 2h}"))
    life.run()
    for hours in (0.9, 0.2, 1, 3, 4, 9, 8):
        life.after(hours=hours)
        life.see(life.live())
        assert life.plan is not None
        assert life.plan.wake_at is not None
        assert life.plan.wake_at > life.now
    life.see(life.live(newest=ref(1, 1, life.now)))
    life.after(hours=1.1)
    life.see(life.live(newest=ref(1, 1, life.now - timedelta(hours=1.1))))
    golden("\n".join(life.story[3:]) + "\n")


def test_reminders_stay_few() -> None:
    """A job that is interrupted and reminded for months remembers no more than at its beginning."""
    life = Life(job("instance: {hourly_rate: 1 USD}\ncost: {cap: none}"))
    for number in range(1, 40):
        life.run(hours=26)
        life.see(life.live())
        life.see(life.dead(newest=ref(number, 1, life.now)))
        life.after(minutes=3)
    assert len(life.job.reminders) <= 5


@pytest.mark.parametrize("policy", ["warn", "save", "stop", "fail"])
def test_orders_carry_the_policy(policy: str) -> None:
    """Every limit of the manifest is in the agent's orders, and follows it in place."""
    life = Life(job(f"checkpoint: {{deadline: 30m, on_deadline: {policy}, keep: 5}}\nlimits: {{idle: 5m, hang: 7m}}"))
    life.see()
    limits = live(life).orders.limits
    assert (limits.on_deadline, limits.deadline, limits.keep, limits.idle, limits.hang) == (policy, 1800, 5, 300, 420)
    life.see(life.live())
    spec = f"checkpoint: {{deadline: 40m, on_deadline: {policy}, keep: 6}}\nlimits: {{idle: off, hang: off}}"
    life.apply(job(spec))
    life.see(life.live(serial=1))
    assert life.plan is not None
    assert "order attempt 1: #2" in life.story[-1]
    assert live(life).orders.limits.idle is None


def test_a_death_that_was_seen_counts_to_its_instant() -> None:
    """An agent that was held for long said nothing meanwhile; its attempt is billed, and counts against the duration,
    to when it was seen to die."""
    life = Life(job(PRICED + "\nlimits: {duration: 5m}"))
    life.run(seconds=130)
    silent = msgspec.structs.replace(
        life.dead(), last_seen=life.now - timedelta(seconds=90), active=30.0, died_at=life.now
    )
    life.see(silent)
    (attempt,) = life.job.attempts
    assert attempt.active == 120
    assert attempt.ended_at == life.now
    assert spent(life.job, life.now) == cost_of(1_000_000, timedelta(seconds=130))


def test_a_held_agent_is_looked_at_soon() -> None:
    """Whoever finds that agent or guardian can do nothing says so, and looks again within a second."""
    life = Life(job())
    life.run(seconds=20)
    made = life.see(msgspec.structs.replace(life.live(), held=True))
    assert made.wake_at is not None
    assert made.wake_at <= life.now + timedelta(seconds=1)
    (reachable,) = (each for each in life.job.conditions if each.type is ConditionType.REACHABLE)
    assert (reachable.status, reachable.reason) == ("False", "AgentHeld")


def test_what_was_really_gone_on_from() -> None:
    """The agent went on from an older checkpoint than it was given: the attempt says which."""
    life = Life(job())
    life.run(seconds=20)
    life.see(life.live(newest=ref(1, 3, life.now)))
    life.see(life.dead(newest=ref(1, 3, life.now)))
    life.after(seconds=5)
    life.run()
    older = ref(1, 2, T0)
    life.see(msgspec.structs.replace(life.live(), resumed_instead=older))
    life.see(life.live())
    assert life.job.attempts[-1].resume == older


def test_a_death_counts_by_the_clock_of_the_last_word() -> None:
    """A wall clock that was set back between the last word and the look makes a death no cheaper."""
    life = Life(job(PRICED))
    life.run(seconds=130)
    there = life.now + timedelta(seconds=30)
    last = there - timedelta(seconds=10)
    life.see(msgspec.structs.replace(life.dead(), last_seen=last, died_at=there, latest=there))
    (attempt,) = life.job.attempts
    assert attempt.ended_at == there
    assert spent(life.job, life.now) == cost_of(1_000_000, timedelta(seconds=160))
