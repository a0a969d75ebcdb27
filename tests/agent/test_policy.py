"""The policy as a pure function: each reason, their precedence, and the stages of a drain."""

from __future__ import annotations

from typing import Any

import pytest

from runctl.agent.clocks import Now
from runctl.agent.orders import Limits, Orders
from runctl.agent.policy import (
    INTERVAL_PATIENCE,
    PRECEDENCE,
    Abandon,
    AskForCheckpoint,
    BeginDrain,
    Drain,
    Escalate,
    KillAll,
    Observed,
    SendSignal,
    Step,
    Warn,
    copy_reserve,
    money_left,
    step,
)
from runctl.agent.spec import Spec

WALL, BOOT = 1_800_000_000.0, 5000.0
STARTED = Now(WALL, BOOT, 100.0)


def at(seconds: float, *, wall: float = 0.0, suspended: float = 0.0) -> Now:
    """So many active seconds after the start; the wall clock off by `wall`, the machine asleep for `suspended`
    besides.
    """
    return Now(WALL + seconds + suspended + wall, BOOT + seconds + suspended, 100.0 + seconds)


def spec(
    *, signal: str | None = None, grace: float = 60.0, to: str = "leader", every: dict[str, Any] | None = None
) -> Spec:
    checkpoint = {"dir": "/c", "grace": grace, "signal": signal, "every": every or {"unit": "epochs", "n": 2}}
    value = {
        "version": 1, "run_id": "r-1", "job": "j", "uid": "r", "attempt": 1, "cwd": "/", "argv": ["x"],
        "checkpoint": checkpoint, "stop": {"signal": "SIGTERM", "to": to},
    }  # fmt: skip
    return Spec(value, "/run")


def orders(end: str | None = None, **limits: Any) -> Orders:
    return Orders(1, 1, Limits(**limits), end)


def training(**changes: Any) -> Observed:
    observed = Observed("training")
    observed.training_since = 100.0
    for name, value in changes.items():
        setattr(observed, name, value)
    return observed


def decide(given: Orders, observed: Observed, now: Now, of: Spec | None = None) -> Step:
    return step(of or spec(), given, observed, STARTED, now)


def test_nothing_to_do() -> None:
    """Without a limit that is near, nothing is done, and the next look is in a second."""
    found = decide(orders(money_until=WALL + 3600, duration=3600.0), training(), at(10))
    assert found.actions == []
    assert found.wait == 1.0


def test_the_next_look_is_when_something_is_due() -> None:
    """A limit that is nearer than the next tick is waited for exactly."""
    assert decide(orders(duration=10.25), training(), at(10)).wait == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("given", "now", "budget"),
    [
        (orders(money_until=WALL + 100), at(40), 60.0),
        (orders(money_until=WALL + 100), at(0, wall=75), 25.0),
        (orders(money_until=WALL + 1e6, money_seconds=100), at(40, wall=-5000), 60.0),
        (orders(money_seconds=100), at(10, suspended=60), 30.0),
        (orders(money_until=WALL - 5), at(0), 0.0),
    ],
)
def test_the_cap_begins_a_drain_a_grace_before(given: Orders, now: Now, budget: float) -> None:
    """The drain begins a grace before the cap, by the clock that is nearer to it; suspended time costs money."""
    assert decide(given, training(), now).actions == [BeginDrain("cap", budget)]


def test_before_the_grace_the_cap_does_nothing() -> None:
    """A moment before, it doesn't."""
    assert decide(orders(money_until=WALL + 100, money_seconds=100), training(), at(39.9)).actions == []


def test_suspended_time_is_no_duration() -> None:
    """A laptop that slept has not trained."""
    assert decide(orders(duration=50), training(), at(49, suspended=1000)).actions == []
    assert decide(orders(duration=50), training(), at(50)).actions == [BeginDrain("duration", 60.0)]


@pytest.mark.parametrize("end", ["stop", "cancel", "replace", "assume_dead"])
def test_orders_to_end(end: str) -> None:
    """An order to end begins a drain of that reason."""
    assert decide(orders(end), training(), at(1)).actions == [BeginDrain(end, 60.0)]


@pytest.mark.parametrize("policy", ["stop", "fail"])
def test_deadline_ends(policy: str) -> None:
    """An overdue durable checkpoint ends the attempt; its age counts from its own time."""
    given = orders(deadline=30, on_deadline=policy)
    assert decide(given, training(), at(30)).actions[-1] == BeginDrain("deadline", 60.0)
    assert decide(given, training(durable_at=120.0), at(49)).actions == []
    assert decide(given, training(durable_at=120.0), at(50)).actions == [BeginDrain("deadline", 60.0)]


def test_deadline_is_of_durable_checkpoints() -> None:
    """A whole one that isn't durable yet (its copying fails, say) would be lost with the machine: it doesn't count."""
    given = orders(deadline=30, on_deadline="fail")
    assert decide(given, training(complete_at=125.0), at(30)).actions == [BeginDrain("deadline", 60.0)]
    assert decide(given, training(complete_at=145.0, durable_at=120.0), at(50)).actions == [
        BeginDrain("deadline", 60.0)
    ]


def test_deadline_warns_with_backoff() -> None:
    """`warn` says so at the deadline, at twice, at four times."""
    given = orders(deadline=30)
    told = [0, 1, 2, 3]
    seen = [
        next(seconds for seconds in range(300) if decide(given, training(overdue_told=count), at(seconds)).actions)
        for count in told
    ]
    assert seen == [30, 60, 120, 240]


def test_deadline_asks_first() -> None:
    """`save` asks for a checkpoint, waits a grace for it, and ends only then."""
    given = orders(deadline=30, on_deadline="save")
    actions = decide(given, training(), at(30)).actions
    assert [type(action) for action in actions] == [Warn, AskForCheckpoint]
    waiting = training(asked_at=130.0, overdue_told=1)
    assert decide(given, waiting, at(89)).actions == [
        Warn("checkpoint_overdue", "the newest durable checkpoint is 89 s old")
    ]
    assert decide(given, waiting, at(90)).actions == [BeginDrain("deadline", 60.0)]
    saved = training(asked_at=None, durable_at=150.0)
    assert decide(given, saved, at(79)).actions == []


def test_idle_and_hang() -> None:
    """CPU or GPU in use is neither; output, checkpoints or progress alone are idle, and no hang."""
    given = orders(idle=50, hang=40)
    assert decide(given, training(busy_at=130.0), at(60)).actions == []
    assert decide(given, training(busy_at=100.0, alive_at=130.0), at(49)).actions == []
    assert decide(given, training(busy_at=100.0, alive_at=130.0), at(50)).actions == [BeginDrain("idle", 60.0)]
    assert decide(given, training(), at(40)).actions == [BeginDrain("hang", 60.0)]
    assert decide(given, Observed("preparing"), at(500)).actions == []


def test_precedence() -> None:
    """Of reasons that hold together the highest is taken, down the list."""
    every = {
        "interruption": {}, "cap": {"money_until": WALL}, "duration": {"duration": 1.0}, "cancel": {}, "replace": {},
        "assume_dead": {}, "stop": {}, "deadline": {"deadline": 1.0, "on_deadline": "stop"}, "hang": {"hang": 1.0},
        "idle": {"idle": 1.0},
    }  # fmt: skip
    for position, reason in enumerate(PRECEDENCE):
        limits: dict[str, Any] = {}
        rest = PRECEDENCE[position:]
        for name in rest:
            limits.update(every[name])
        end = next((name for name in rest if name in ("cancel", "replace", "assume_dead", "stop")), None)
        found = decide(orders(end, **limits), training(interrupted="interruption" in rest), at(1000)).actions
        assert isinstance(found[0], BeginDrain)
        assert found[0].reason == reason


def test_a_higher_reason_takes_over_and_nothing_else_changes() -> None:
    """A drain takes a higher reason as its own; a lower one changes nothing."""
    drain = Drain("stop", 150.0, WALL, 60.0)
    drain.asked, drain.left_at_signal = True, 60.0
    assert decide(orders("cancel"), training(drain=drain), at(51)).actions == [Escalate("cancel")]
    drain.reason = "cap"
    assert decide(orders("cancel"), training(drain=drain), at(51)).actions == []


def apply(drain: Drain, actions: list[Any], left: float) -> None:
    for action in actions:
        if isinstance(action, AskForCheckpoint):
            drain.asked = True
        elif isinstance(action, SendSignal):
            drain.left_at_signal = left if drain.left_at_signal is None else drain.left_at_signal
            drain.grouped = drain.grouped or action.to == "group"
        elif isinstance(action, KillAll):
            drain.killed = True


def stages(of: Spec, observed: Observed, given: Orders, until: int = 70) -> list[tuple[float, str]]:
    """When each action of a drain comes, in tenths of its seconds; applying twice at one instant gives nothing more."""
    found = []
    drain = observed.drain
    assert drain is not None
    for tenth in range(until * 10):
        now = at(drain.since - 100 + tenth / 10)
        actions = decide(given, observed, now, of).actions
        apply(drain, actions, drain.until - now.active)
        found += [
            (tenth / 10, action.to if isinstance(action, SendSignal) else type(action).__name__) for action in actions
        ]
        assert drain.killed or decide(given, observed, now, of).actions == []
    return found


def test_stages_of_a_drain() -> None:
    """Ask and tell the leader, the group at 60 % of what is left, SIGKILL when only the copy's reserve is left."""
    drain = Drain("stop", 150.0, WALL, 60.0)
    assert stages(spec(), training(drain=drain), orders("stop")) == [
        (0.0, "AskForCheckpoint"), (0.0, "leader"), (32.4, "group"), (54.0, "KillAll"),
    ]  # fmt: skip


def test_stages_with_a_checkpoint_signal() -> None:
    """A script that saves on a signal has half of the grace for it."""
    drain = Drain("stop", 150.0, WALL, 60.0)
    assert stages(spec(signal="SIGUSR1"), training(drain=drain), orders("stop")) == [
        (0.0, "AskForCheckpoint"), (30.0, "leader"), (44.4, "group"), (54.0, "KillAll"),
    ]  # fmt: skip
    early = training(drain=Drain("stop", 150.0, WALL, 60.0), complete_at=150.5)
    assert stages(spec(signal="SIGUSR1"), early, orders("stop"))[1] == (0.0, "leader")


def test_stages_with_a_slow_copy() -> None:
    """What the last copy took, and half as much again, is kept for the next one, though no more than half of the
    time.
    """
    observed = training(drain=Drain("stop", 150.0, WALL, 60.0), last_copy=10.0)
    assert stages(spec(), observed, orders("stop"))[-1] == (45.0, "KillAll")
    assert copy_reserve(60.0, 1000.0) == 30.0


def test_the_whole_group_at_once() -> None:
    """`stop.to: group` tells all at once."""
    drain = Drain("stop", 150.0, WALL, 60.0)
    assert stages(spec(to="group"), training(drain=drain), orders("stop")) == [
        (0.0, "AskForCheckpoint"), (0.0, "group"), (54.0, "KillAll"),
    ]  # fmt: skip


def test_the_cap_cuts_a_drain() -> None:
    """A cap that is nearer than the drain's own end brings the stages forward."""
    drain = Drain("stop", 150.0, WALL, 60.0)
    drain.asked, drain.left_at_signal = True, 60.0
    near = orders("stop", money_until=WALL + 50 + 5)
    actions = decide(near, training(drain=drain), at(50)).actions
    assert actions == [Escalate("cap")]
    drain.reason = "cap"
    assert decide(near, training(drain=drain), at(50)).actions == [SendSignal("group"), KillAll()]


def test_no_grace_does_all_at_once() -> None:
    """With no time left everything is done in one step."""
    drain = Drain("cap", 150.0, WALL, 0.0)
    found = decide(orders("stop", money_until=WALL), training(drain=drain), at(50)).actions
    assert found == [AskForCheckpoint("cap", 0.0), SendSignal("leader"), SendSignal("group"), KillAll()]


def test_a_drain_before_the_training() -> None:
    """There is nothing to save before the training runs."""
    observed = Observed("preparing")
    observed.drain = Drain("stop", 150.0, WALL, 60.0)
    assert decide(orders("stop"), observed, at(50)).actions == [KillAll()]


def test_the_last_copy_is_given_up_when_the_time_is_over() -> None:
    """After the exit only the time is watched."""
    observed = training(drain=Drain("stop", 150.0, WALL, 60.0))
    observed.phase = "ending"
    assert decide(orders("stop"), observed, at(109)).actions == []
    assert decide(orders("stop"), observed, at(110)).actions == [Abandon()]


def test_a_script_that_ignores_its_policy() -> None:
    """No checkpoint after the first interval, or far fewer than asked, is said once each."""
    over = training(intervals=1.2, interval_over_at=110.0)
    assert decide(orders(), over, at(10 + INTERVAL_PATIENCE - 0.1)).actions == []
    (warning,) = decide(orders(), over, at(10 + INTERVAL_PATIENCE)).actions
    assert isinstance(warning, Warn)
    assert warning.event == "checkpoint_policy_ignored"
    over.ignored_told = True
    assert decide(orders(), over, at(100)).actions == []
    few = training(intervals=6.0, interval_over_at=110.0, saved=2)
    assert len(decide(orders(), few, at(100)).actions) == 1
    enough = training(intervals=6.0, interval_over_at=110.0, saved=3)
    assert decide(orders(), enough, at(100)).actions == []


def test_money_left() -> None:
    """None without a cap; else the nearer clock's."""
    assert money_left(orders(), STARTED, at(5)) is None
    assert money_left(orders(money_until=WALL + 10, money_seconds=7), STARTED, at(5)) == 2.0
    assert money_left(orders(money_until=WALL + 10, money_seconds=70), STARTED, at(5)) == 5.0
