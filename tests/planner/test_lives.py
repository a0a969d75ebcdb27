"""From launch to outcome: every way in which an attempt ends, and what it means for the job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from runctl.planner.observed import Holder, Starting, Unreachable
from runctl.planner.record import Condition, ConditionType, Desired, EndReason, Event, OutcomeType, Phase, StopReason
from runctl.planner.seeing import HEARTBEAT

from .kit import PRICED, T0, Life, job, ref

Golden = Callable[[str], None]


def test_success(golden: Golden) -> None:
    """A training that exits with 0 is a success, by way of every phase."""
    life = Life(job(PRICED))
    life.see()
    life.after(seconds=0.2)
    life.see(life.absent())
    life.see(Starting(as_of=life.now))
    life.see(life.live("preparing"))
    life.after(seconds=2)
    life.see(life.live())
    life.after(minutes=10)
    life.see(life.live(newest=ref(1, 1, life.now)))
    life.see(life.live("draining", drain="stop", newest=ref(1, 1, life.now)))
    life.see(life.ended(code=0, newest=ref(1, 2, life.now)))
    life.see()
    golden(life.told())
    assert life.job.outcome is not None
    assert (life.job.outcome.type, life.job.outcome.exit_code) == (OutcomeType.SUCCEEDED, 0)


def test_a_dead_agent_is_told_while_what_was_saved_last_is_copied() -> None:
    """The copying of some gigabytes takes a while, in which nothing trains: that is said, as long as it takes. Of an
    attempt whose training hasn't begun yet it isn't."""
    life = Life(job(PRICED))
    life.see()
    life.see(Starting(as_of=life.now))
    assert _reachable(life) == ("Unknown", "NoAgent")
    life.see(life.live())
    assert _reachable(life) == ("True", "AgentAlive")
    life.after(seconds=20)
    life.see(Starting(as_of=life.now))
    assert _reachable(life) == ("False", "AgentDied")
    life.see(life.dead())
    life.see()
    assert _reachable(life)[1] == "NoAgent"


def _reachable(life: Life) -> tuple[str, str]:
    found = next(each for each in life.job.conditions if each.type is ConditionType.REACHABLE)
    return found.status, found.reason


def test_failure_with_retries(golden: Golden) -> None:
    """Failures are retried with growing pauses, as often as `retry.failures` says; the last one's code is kept."""
    life = Life(job("retry: {failures: 2}"))
    for code in (3, 4, 5):
        life.run(minutes=1)
        life.see(life.ended(code=code, newest=ref(1, 1, life.now) if code == 3 else None))
        if life.job.not_before:
            life.see()
            life.now = life.job.not_before
    golden(life.told())
    assert life.job.outcome is not None
    assert (life.job.outcome.type, life.job.outcome.exit_code) == (OutcomeType.FAILED, 5)


def test_signal_and_memory(golden: Golden) -> None:
    """A training that a signal killed failed by it; the kernel's memory killer is named."""
    told = []
    for oom in (False, True):
        life = Life(job())
        life.run(seconds=9)
        life.see(life.ended(signal=9, oom=oom))
        told.append(life.told())
    golden("\n".join(told))


def test_lost_is_an_interruption(golden: Golden) -> None:
    """An agent that died unheard is an interruption: retried from the checkpoint, as often as the policy says."""
    life = Life(job("retry: {interruptions: 1}"))
    life.run(minutes=5)
    life.see(life.live(newest=ref(1, 3, life.now)))
    life.see(life.dead(newest=ref(1, 4, life.now)))
    assert life.job.not_before is not None
    life.now = life.job.not_before
    life.run(minutes=5)
    life.see(life.dead())
    golden(life.told())
    assert life.job.outcome is not None
    assert (life.job.outcome.type, life.job.outcome.exit_code) == (OutcomeType.LOST, None)


def test_pauses_between_interruptions_grow() -> None:
    """An attempt that is lost again and again is retried after 1, 2, 4 … 120 seconds, a fifth more or less."""
    life = Life(job())
    pauses = []
    for _ in range(10):
        life.run()
        life.see(life.dead())
        assert life.job.not_before is not None
        pauses.append((life.job.not_before - life.now).total_seconds())
        life.now = life.job.not_before
    for pause, nominal in zip(pauses, (1, 2, 4, 8, 16, 32, 64, 120, 120, 120), strict=True):
        assert 0.8 * nominal <= pause <= 1.2 * nominal
    assert len({round(p / n, 3) for p, n in zip(pauses, (1, 2, 4, 8, 16, 32, 64, 120, 120, 120), strict=True)}) > 5


@pytest.mark.parametrize(
    ("reason", "outcome", "why"),
    [
        ("deadline", OutcomeType.CHECKPOINT_OVERDUE, "CheckpointOverdue"),
        ("hang", OutcomeType.FAILED, "Hung"),
        ("idle", OutcomeType.FAILED, "Idle"),
        ("setup_failed", OutcomeType.FAILED, "SetupFailed"),
        ("start_failed", OutcomeType.FAILED, "StartFailed"),
        ("duration", OutcomeType.DURATION_REACHED, "DurationReached"),
        ("cap", OutcomeType.CAP_REACHED, "CapReached"),
        ("cancel", OutcomeType.CANCELLED, "CancelRequested"),
    ],
)
def test_ends(reason: str, outcome: OutcomeType, why: str, golden: Golden) -> None:
    """Each reason of an agent's has its outcome."""
    life = Life(job(PRICED + "\nlimits: {duration: 1m}"))
    life.run(hours=1)
    life.see(life.ended(reason, code=0 if reason == "cancel" else None, detail="said so"))
    golden(life.story[-1] + "\n")
    assert life.job.outcome is not None
    assert (life.job.outcome.type, life.job.outcome.reason) == (outcome, why)


def test_launch_refused(golden: Golden) -> None:
    """A launch that had no effect puts the job to rest; the next apply tries again."""
    life = Life(job())
    life.see()
    life.see(life.absent(), failed="no space left on device: `/home`")
    life.see()
    assert life.job.stopped is not None
    assert life.job.stopped.reason is StopReason.LAUNCH_FAILED
    life.apply(life.job.job)
    life.see(looked=False)
    life.see()
    golden(life.told())
    assert life.job.live is not None


def test_a_refusal_is_not_believed_when_something_started() -> None:
    """The second sending of a launch was refused, but the first had its effect: the attempt lives."""
    life = Life(job())
    life.see()
    life.see(life.live(), failed="no space left on device")
    assert life.job.live is not None
    assert life.job.phase is Phase.TRAINING


def test_launch_without_effect(golden: Golden) -> None:
    """A launch is sent again while it may be; later its effect is looked for; then another attempt is made."""
    life = Life(job())
    life.see()
    life.after(seconds=59)
    life.see(life.absent())
    life.after(seconds=2)
    life.see(life.absent())
    life.after(seconds=15)
    life.see(life.absent())
    life.after(seconds=2)
    life.see()
    golden(life.told())
    assert [attempt.number for attempt in life.job.attempts] == [1, 2]


def test_five_launches_without_effect_rest_the_job() -> None:
    """What never starts isn't launched for ever."""
    life = Life(job())
    for _ in range(5):
        life.see()
        life.after(minutes=2)
        life.see(life.absent())
        life.after(minutes=3)
    assert life.job.stopped is not None
    assert life.job.stopped.reason is StopReason.LAUNCH_FAILED


def test_a_swept_run_directory_is_a_lost_attempt(golden: Golden) -> None:
    """An attempt that ran and of which nothing is left is lost, and billed until that was seen."""
    life = Life(job(PRICED))
    life.run(minutes=6)
    life.see(life.absent())
    golden(life.story[-1] + "\n")
    assert life.job.ledger[0].ended_at == life.now


def test_unreachable_is_not_dead(golden: Golden) -> None:
    """A host that can't be asked changes nothing but a condition, for days; only the user's word ends the attempt, and
    its bill is what it could still have cost."""
    life = Life(job(PRICED))
    life.run(minutes=6)
    for _ in range(3):
        life.after(hours=20)
        life.see(Unreachable(as_of=life.now, why="connection refused"))
    assert life.job.live is not None
    life = Life(job(PRICED))
    life.run(minutes=6)
    life.see(Unreachable(as_of=life.now, why="connection refused"))
    life.assume_dead(2)
    life.see(Unreachable(as_of=life.now, why="connection refused"))
    life.assume_dead(1)
    life.see(Unreachable(as_of=life.now, why="connection refused"))
    golden(life.told())
    assert life.job.live is None
    assert life.job.ledger[0].ended_at == T0 + timedelta(minutes=59, seconds=59)


@pytest.mark.parametrize("cap", ["", "cost: {cap: 1 USD}"])
def test_assumed_dead_before_it_was_seen_to_start(cap: str) -> None:
    """Its launch was sent, and may have had its effect: it is billed from its intent, as one that was seen is."""
    life = Life(job(f"instance: {{hourly_rate: 1 USD}}\n{cap}"))
    life.see()
    life.after(minutes=2)
    life.assume_dead(1)
    life.see(Unreachable(as_of=life.now, why="no route"))
    assert life.job.live is None
    assert life.job.attempts[0].started_at is None
    (line,) = life.job.ledger
    assert line.started_at == T0
    assert line.ended_at == (T0 + timedelta(minutes=59, seconds=59) if cap else life.now)


def test_a_grant_that_was_shortened_since_bounds_nothing() -> None:
    """Nobody knows whether the orders of a lower cap reached the agent before it died: it is billed for as long as it
    may have gone on by those before."""
    lower = job(PRICED.replace("cap: 1 USD", "cap: 0.06 USD"))
    assert lower != job(PRICED)
    life = Life(job(PRICED))
    life.run(minutes=6)
    last = life.now
    life.apply(lower)
    life.after(seconds=5)
    life.see(Unreachable(as_of=life.now, why="too many open files"))
    orders = life.job.attempts[0].orders
    assert orders.limits.money is not None
    assert orders.limits.money.until < last
    life.after(seconds=25)
    life.see(msgspec.structs.replace(life.dead(), last_seen=last))
    assert life.job.ledger[0].ended_at == last + HEARTBEAT
    life = Life(job(PRICED))
    life.run(minutes=6)
    life.apply(lower)
    life.see(Unreachable(as_of=life.now, why="no route"))
    life.assume_dead(1)
    life.see(Unreachable(as_of=life.now, why="no route"))
    assert life.job.ledger[0].ended_at == T0 + timedelta(minutes=59, seconds=59)


def _budget(life: Life) -> Condition:
    return next(each for each in life.job.conditions if each.type is ConditionType.WITHIN_BUDGET)


def test_a_cap_that_its_agent_has_not_heard_of_is_not_said_to_hold() -> None:
    """Its host is away when the cap is lowered: what it may spend by the last orders that reached it is said, until
    those of the new cap are there, and not when the next absence comes."""
    life = Life(job(PRICED))
    life.run(minutes=6)
    life.apply(job(PRICED.replace("cap: 1 USD", "cap: 0.50 USD")))
    life.see(Unreachable(as_of=life.now, why="no route"))
    said = _budget(life)
    assert (said.status, said.reason) == ("Unknown", "NotDelivered")
    assert "0.50 USD" in said.message
    assert "may spend up to 1.00 USD" in said.message
    life.see(life.live(serial=1))
    assert _budget(life).status == "True"
    life.see(life.live())
    life.after(seconds=5)
    life.stop()  # other orders than those of the cap aren't there yet
    life.see(Unreachable(as_of=life.now, why="no route"))
    assert _budget(life).status == "True"


def test_what_is_spent_over_the_cap_is_not_said_to_be_within_it() -> None:
    """However long its host is away, and whatever it had been granted."""
    life = Life(job(PRICED))
    life.run(minutes=6)
    life.apply(job(PRICED.replace("cap: 1 USD", "cap: 0.06 USD")))
    for hours in (0, 1, 1):
        life.after(hours=hours)
        life.see(Unreachable(as_of=life.now, why="no route"))
        assert (_budget(life).status, _budget(life).reason) == ("False", "OverCap")


def test_a_grant_that_was_delivered_replaces_those_before_it() -> None:
    """A first cap that its agent has heard of: who is taken for dead then is billed up to it."""
    rate = "instance: {hourly_rate: 1 USD}\n"
    life = Life(job(rate))
    life.run(minutes=6)
    life.apply(job(rate + "cost: {cap: 1 USD}"))
    life.see(life.live(serial=1))
    life.see(life.live())
    life.see(Unreachable(as_of=life.now, why="no route"))
    life.assume_dead(1)
    life.see(Unreachable(as_of=life.now, why="no route"))
    assert life.job.ledger[0].ended_at == T0 + timedelta(minutes=59, seconds=59)


def test_a_host_that_answers_is_not_taken_for_dead(golden: Golden) -> None:
    """A moment of silence later, while it saves, would lose what it was asked to save."""
    life = Life(job(PRICED))
    life.run(minutes=6)
    life.assume_dead(1)
    life.stop()
    life.see(life.live())
    life.see(Unreachable(as_of=life.now, why="the connection has just come back"))
    assert life.job.live is not None
    golden("\n".join(life.story[3:]) + "\n")


def test_an_attempt_that_lives_after_all_is_told_to_end(golden: Golden) -> None:
    """It was taken for dead, and holds the machine when the next one is to start there."""
    life = Life(job(PRICED))
    life.run(minutes=6)
    life.assume_dead(1)
    life.see(Unreachable(as_of=life.now, why="no route"))
    life.apply(job(PRICED.replace("cap: 1 USD", "cap: 9 USD")))
    life.after(minutes=1)
    first = Holder(job="job", uid=life.job.uid, run_id=f"{life.job.uid}-1", pid=1, since=None, ours=True)
    life.holds(first)
    life.see()
    life.holds(msgspec.structs.replace(first, run_id=f"{life.job.uid}-9"))
    life.see()
    life.holds()
    life.see()
    golden("\n".join(life.story[4:]) + "\n")


def test_a_first_cap_that_its_agent_has_not_heard_of() -> None:
    rate = "instance: {hourly_rate: 1 USD}\n"
    life = Life(job(rate))
    life.run(minutes=6)
    life.apply(job(rate + "cost: {cap: 5 USD}"))
    life.see(Unreachable(as_of=life.now, why="no route"))
    assert "nothing ends it for its cost" in _budget(life).message
    life = Life(job(PRICED))
    life.run(minutes=6)
    life.apply(job(PRICED.replace("cap: 1 USD", "cap: 2 USD")))
    life.see(Unreachable(as_of=life.now, why="no route"))
    assert _budget(life).status == "True"


def test_an_absence_that_lasts_is_said_once_and_so_is_its_end(golden: Golden) -> None:
    life = Life(job(PRICED))
    life.run(minutes=6)
    for seconds in (5, 14, 3, 30):
        life.after(seconds=seconds)
        life.see(Unreachable(as_of=life.now, why="no route"))
    life.after(seconds=5)
    life.see(life.live())
    life.after(seconds=5)
    life.see(Unreachable(as_of=life.now, why="no route"))
    life.after(seconds=5)
    life.see(life.live())
    golden("\n".join(life.story[3:]) + "\n")


def test_without_a_cap_at_first_no_grant_bounds_it() -> None:
    """An agent that was let go on for ever may not have heard of the cap that came later."""
    rate = "instance: {hourly_rate: 1 USD}\n"
    life = Life(job(rate))
    life.run(minutes=6)
    last = life.now
    life.apply(job(rate + "cost: {cap: 0.06 USD}"))
    life.see(Unreachable(as_of=life.now, why="too many open files"))
    life.after(seconds=25)
    life.see(msgspec.structs.replace(life.dead(), last_seen=last))
    assert life.job.ledger[0].ended_at == last + HEARTBEAT


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_one_that_may_be_beyond_help_is_looked_at_soon(told: bool, held: bool) -> None:
    """Guardian and agent are held: whoever looks is to end the attempt, whether or not the agent has told anything."""
    life = Life(job("instance: {hourly_rate: 0 USD}"))
    life.see()
    seen = life.live() if told else Starting(as_of=life.now)
    made = life.see(msgspec.structs.replace(seen, held=held))
    soon = made.wake_at is not None and made.wake_at <= life.now + timedelta(seconds=1)
    assert soon is held


@pytest.mark.parametrize("wish", ["stop", "cancel", "delete"])
@pytest.mark.parametrize(
    "phase", ["pending", "backoff", "provisioning", "preparing", "training", "stopped", "finished"]
)
def test_wishes(wish: str, phase: str, golden: Golden) -> None:
    """Stop, cancel and delete are finished from every phase."""
    life = Life(job("secrets: [TOKEN]" if phase == "pending" else ""))
    match phase:
        case "pending":
            life.missing = ("TOKEN",)
            life.see()
            life.see()
        case "backoff":
            life.run()
            life.see(life.dead())
        case "provisioning":
            life.see()
        case "preparing":
            life.see()
            life.see(life.live("preparing"))
        case "training":
            life.run()
        case "stopped":
            life.run()
            life.stop()
            life.see(life.live())
            life.see(life.ended("stop", 0))
        case _:
            life.run()
            life.see(life.ended(code=0))
    before = len(life.story)
    ends = {"stop": life.stop, "cancel": life.cancel, "delete": life.delete}
    ends[wish]()
    if life.job.live is None:
        life.see()
        if wish == "delete":
            life.see()  # what can't be taken back waits for the store
    elif phase == "provisioning":
        life.see(life.absent())
        life.see(life.live("preparing"))
        life.see(life.ended(wish if wish == "stop" else "cancel", 0))
    else:
        serial = life.job.live.orders.serial
        life.see(life.live("preparing" if phase == "preparing" else "training"))
        life.see(life.live("draining", drain=wish, serial=serial))
        life.see(life.ended(wish if wish == "stop" else "cancel", 0))
    golden("\n".join(life.story[before:]) + "\n")
    if wish == "delete":
        assert life.record is None
    elif phase == "finished":
        assert life.job.outcome is not None
        assert life.job.outcome.type is OutcomeType.SUCCEEDED
    elif wish == "stop":
        assert life.job.stopped is not None
        assert life.job.desired is Desired.STOPPED
    else:
        assert life.job.outcome is not None
        assert life.job.outcome.type is OutcomeType.CANCELLED


def test_delete_with_checkpoints_and_what_comes_after_it() -> None:
    """A deletion can't be taken back by a stop, a cancel or an apply that comes behind it."""
    life = Life(job())
    life.run()
    life.delete(checkpoints=True)
    life.cancel()
    life.stop()
    life.apply(job())
    life.see(life.live())
    assert life.job.desired is Desired.DELETED
    life.see(life.ended("cancel", 0))
    assert life.record is None
    assert "forget the runs and checkpoints" in life.story[-1]


def test_a_removal_that_fails_is_said_once(golden: Golden) -> None:
    """Its host is away: the record stays as long as something is left there, until the user vouches for the host."""
    life = Life(job())
    life.run()
    life.cancel()
    life.see(life.live())
    life.see(life.ended("cancel", 0))
    life.delete()
    life.see()
    before = life.record
    life.see(not_forgotten="no route")
    assert life.record is not None
    life.record = before
    life.see(not_forgotten="no route")
    said = life.record
    life.see()
    assert life.record is None
    life.record = said
    life.see(not_forgotten="no route")
    assert life.record is None
    life.record = said
    life.delete(vouched=True)
    life.see(not_forgotten="no route")
    golden("\n".join(life.story[5:]) + "\n")


def test_a_stop_that_is_too_late() -> None:
    """The training ended by itself before it read the order: it succeeded, and the wish stays unfulfilled."""
    life = Life(job())
    life.run()
    life.stop()
    life.see(life.live())
    life.see(life.ended(code=0))
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.SUCCEEDED


def test_agent_events_are_taken_over_once() -> None:
    """What the agent reported is said once, however often it is read."""
    life = Life(job())
    life.run()
    event = Event(at=T0, type="Warning", reason="DiskFull", message="nearly", attempt=1)
    for batch in (((1, event),), ((1, event), (2, event)), ((2, event),)):
        life.events = batch
        life.see(life.live())
    assert sum(text.count("says: DiskFull!") for text in life.story) == 2
    assert life.job.attempts[0].events_seen == 2


def test_an_old_checkpoint_does_not_displace_a_newer_one() -> None:
    """The newest durable checkpoint is that of the highest attempt, whatever is read again; each newer one of the same
    attempt takes its place."""
    life = Life(job())
    life.run()
    life.see(life.live(newest=ref(1, 5, life.now)))
    life.see(life.live(newest=ref(1, 4, life.now)))
    assert life.job.checkpoint == ref(1, 5, T0)
    life.see(life.live(newest=ref(1, 6, life.now)))
    assert life.job.checkpoint == ref(1, 6, T0)
    life.see(life.dead(newest=ref(1, 5, life.now)))
    assert life.job.checkpoint == ref(1, 6, T0)
    assert life.job.durable == 5


def test_a_start_without_a_price_is_not_billed() -> None:
    """Where nothing says what the machine costs there is no ledger."""
    life = Life(job())
    life.run(minutes=1)
    life.see(life.ended(code=0))
    assert life.job.ledger == ()


def test_a_refused_start(golden: Golden) -> None:
    """An agent that found the machine taken rests a job that doesn't wait, and queues one that does."""
    told = []
    for busy in ("refuse", "wait"):
        life = Life(job(f"instance: {{busy: {busy}}}"))
        life.see()
        life.see(life.ended("refused", detail="attempt 4 of `b` holds this machine", billed=False))
        told.append(life.story[-1])
        assert (life.job.stopped is not None) == (busy == "refuse")
    golden("\n".join(told) + "\n")


def test_an_end_by_lost_agent_record() -> None:
    """`lost` in the last word is a loss: never a code."""
    life = Life(job("retry: {interruptions: 0}"))
    life.run()
    life.see(life.ended(EndReason.LOST))
    assert life.job.outcome is not None
    assert (life.job.outcome.type, life.job.outcome.exit_code) == (OutcomeType.LOST, None)


def test_a_clock_that_was_set_back_does_not_stretch_a_pause() -> None:
    """A pause that would end after more than the longest one was written by a clock that is no longer true."""
    life = Life(job())
    life.run()
    life.see(life.dead())
    life.after(days=-3)
    life.see()
    assert life.job.live is not None


def test_an_answered_request_is_not_answered_again() -> None:
    """A request that is still in the store when it is seen again was consumed with the record that answered it."""
    life = Life(job())
    life.run()
    life.stop()
    asked = list(life.asked)
    life.see(life.live())
    life.see(life.ended("stop", 0))
    life.apply(job())
    life.see(looked=False)
    life.asked = asked
    life.see()
    assert life.job.desired is Desired.RUN
    assert life.job.live is not None


def test_pauses_start_anew_after_another_end() -> None:
    """Only what follows itself without a break grows: a stop in between is one."""
    life = Life(job("retry: {failures: 9}"))
    for _ in range(4):
        life.run()
        life.see(life.dead())
        assert life.job.not_before is not None
        life.now = life.job.not_before
    life.run()
    life.apply(job("retry: {failures: 9}\nargs: [x]"), replace=True)
    life.see(life.live())
    life.see(life.ended("replace", 0))
    life.run()
    life.see(life.ended(code=1))
    assert life.job.not_before is not None
    assert (life.job.not_before - life.now).total_seconds() <= 1.2


def test_a_death_that_left_no_heartbeat_is_billed_until_it_was_found() -> None:
    """Where nothing says when the agent died, the time until it was seen dead counts."""
    life = Life(job("instance: {hourly_rate: 1 USD}\ncost: {cap: none}"))
    life.run(minutes=3)
    life.see(msgspec.structs.replace(life.dead(), last_seen=None))
    assert life.job.ledger[0].ended_at == life.now


def test_a_death_long_ago_is_billed_until_its_last_word() -> None:
    """A machine that was off for a day isn't billed for it: the agent wrote until it died."""
    life = Life(job("instance: {hourly_rate: 1 USD}\ncost: {cap: none}"))
    life.run(minutes=3)
    last = life.now
    life.after(days=1)
    life.see(msgspec.structs.replace(life.dead(), last_seen=last))
    assert life.job.ledger[0].ended_at == last + timedelta(seconds=15)


def test_a_stop_that_the_end_overtakes_keeps_the_end() -> None:
    """A job whose last allowed attempt is lost while it is being stopped is lost: nothing is left to go on with."""
    life = Life(job("retry: {interruptions: 0}"))
    life.run()
    life.stop()
    life.see(life.live())
    life.see(life.dead())
    assert life.job.outcome is not None
    assert life.job.outcome.type is OutcomeType.LOST
