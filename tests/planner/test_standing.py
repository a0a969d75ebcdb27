"""What a live job is to be warned of at this moment, whoever looks."""

from __future__ import annotations

from datetime import timedelta

import pytest

from runctl.planner.observed import Unreachable
from runctl.planner.reminders import standing, unheard

from .kit import PRICED, Life, job

DAY = timedelta(hours=24)


def warned(more: str, after: timedelta) -> list[str]:
    life = Life(job(more))
    life.run(hours=0)
    life.see(life.live())
    started = life.job.live.started_at if life.job.live else None
    assert started is not None
    return list(standing(life.job, started + after))


def test_nothing_is_said_of_a_job_that_is_not_live() -> None:
    """Before its attempt has started there is nothing to warn of."""
    assert standing(Life(job()).job, Life(job()).now) == ()
    assert unheard(Life(job()).job) == ()


def test_a_host_that_is_away_is_warned_of_for_as_long() -> None:
    """With what its agent hasn't heard of."""
    priced = "instance: {hourly_rate: 1 USD}\ncost: {cap: %s}"
    life = Life(job(priced % "1 USD"))
    life.run(minutes=6)
    life.apply(job(priced % "0.50 USD"))
    life.see(Unreachable(as_of=life.now, why="no route"))
    away, loose = standing(life.job, life.now)
    assert away == "its host can't be asked, and its agent keeps to what it was last told: no route"
    assert "cap 0.50 USD, of which its agent hasn't heard" in loose
    life.see(life.live())
    assert standing(life.job, life.now) == ()


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (29, []),
        (30, ["50% of the cap is spent: 0.50 USD of 1 USD"]),
        (50, ["80% of the cap is spent: 0.833334 USD of 1 USD"]),
    ],
)
def test_of_the_thresholds_the_highest_that_is_passed_stands(minutes: int, expected: list[str]) -> None:
    """It names what is spent now, not what was when it was passed."""
    assert warned(f"{PRICED}\ncheckpoint: {{deadline: 2h}}", timedelta(minutes=minutes)) == expected


def test_a_dear_machine_without_a_cap_for_a_day() -> None:
    """Rate, spending, uptime and the work at risk stand beside one another."""
    found = warned("instance: {hourly_rate: 6 USD}", DAY)
    assert [each.split(":")[0] for each in found] == [
        "this machine costs 6.00 USD an hour (instance.hourly_rate)",
        "144.00 USD spent and no cap",
        "attempt 1 has been running for 1d",
        "no durable checkpoint for 1d",
    ]
    assert "1d of work and 144.00 USD" in found[-1]


def test_a_machine_without_a_price_costs_no_warning() -> None:
    """What isn't known isn't said; the work at risk is, without money."""
    assert warned("", timedelta(minutes=59)) == []
    assert warned("", timedelta(hours=1)) == ["no durable checkpoint for 1h: a crash now would lose 1h of work"]
