"""Phase 8: warn of what costs money or work, once a threshold or again with growing pauses."""

from __future__ import annotations

from datetime import datetime, timedelta

from runctl.manifest.quantities import Money, Share, format_duration, format_money
from runctl.planner.money import Rate, allowance, cost_of, rate_now, spent, time_for
from runctl.planner.observed import Live, Unreachable
from runctl.planner.passing import Pass
from runctl.planner.record import Attempt, ConditionType, Record

LONG_RUNNING = timedelta(hours=24)
DEAR_WITHOUT_CAP = 10_000_000
DEAR_PER_HOUR = 5_000_000
# A checkpoint policy may be laxer than this; the reminder isn't.
STALE_CHECKPOINT = timedelta(hours=1)
LONGEST_PAUSE = timedelta(hours=8)
# A host that is away for less is a connection that has to be made anew.
AWAY = timedelta(seconds=20)

# The reasons of conditions.
UNREACHABLE = "Unreachable"
NOT_DELIVERED = "NotDelivered"


def remind(step: Pass) -> Pass:
    """Emit what is due and wake for what comes next."""
    live = step.record.live
    if live is None:
        return step
    step = _forget_old(step, live.number)
    if live.started_at is not None or step.record.rental_of(live) is None:  # a machine that boots is away, too
        step = _away(step, live)
    return step if live.started_at is None else _checkpoint(_uptime(_thresholds(_rate(step))))


def standing(record: Record, now: datetime) -> tuple[str, ...]:
    """What a live job is to be warned of now, however long ago it was said: for whoever looks at it."""
    live = record.live
    if live is None or live.started_at is None:
        return ()
    found = [*unheard(record)]
    rate, cap = rate_now(record), record.job.cost.cap
    if rate is not None and rate.hourly > DEAR_PER_HOUR:
        found.append(_dear(rate))
    so_far = spent(record, now)
    if cap is not None:
        passed = [share for share in record.job.cost.warn_at if so_far >= _mark(share, cap)]
        found += [_threshold(max(passed, key=lambda share: share.permille), so_far, cap)] if passed else []
    elif so_far >= DEAR_WITHOUT_CAP and allowance(record, 0, now) is None:
        found.append(_uncapped(so_far))
    if now - live.started_at >= LONG_RUNNING:
        found.append(_long(live, now - live.started_at))
    age = checkpoint_age(record, now)
    if age is not None and age >= _first_mark(record):
        found.append(_stale(record, age))
    return tuple(found)


def unheard(record: Record) -> tuple[str, ...]:
    """What a live attempt hasn't been told, or can't be, because its host can't be asked; by the last look at it."""
    if record.live is None:
        return ()
    said = {each.reason: each.message for each in record.conditions}
    away = f"its host can't be asked, and its agent keeps to what it was last told: {said.get(UNREACHABLE)}"
    return tuple(
        text for reason, text in ((UNREACHABLE, away), (NOT_DELIVERED, said.get(NOT_DELIVERED, ""))) if reason in said
    )


def checkpoint_age(record: Record, now: datetime) -> timedelta | None:
    """Since the newest durable checkpoint, or since the training began; None before it began."""
    live = record.live
    if live is None or live.training_at is None:
        return None
    newest = record.checkpoint
    since = max(live.training_at, newest.at) if newest else live.training_at
    return max(timedelta(0), now - since)


def _dear(rate: Rate) -> str:
    return f"this machine costs {format_money(rate.hourly)} an hour ({rate.source})"


def _mark(share: Share, cap: Money) -> int:
    return cap.micros * share.permille // 1000


def _threshold(share: Share, so_far: int, cap: Money) -> str:
    return f"{share} of the cap is spent: {format_money(so_far)} of {cap}"


def _uncapped(so_far: int) -> str:
    return f"{format_money(so_far)} spent and no cap: nothing ends this job but you"


def _long(live: Attempt, uptime: timedelta) -> str:
    return f"attempt {live.number} has been running for {format_duration(uptime)}"


def _first_mark(record: Record) -> timedelta:
    """The age of the newest durable checkpoint from which on it is worth a warning."""
    return min(STALE_CHECKPOINT, record.job.checkpoint.deadline.delta)


def _stale(record: Record, age: timedelta) -> str:
    rate = rate_now(record)
    money = f" and {format_money(cost_of(rate.hourly, age))}" if rate else ""
    lost = format_duration(age)
    return f"no durable checkpoint for {lost}: a crash now would lose {lost} of work{money}"


def _forget_old(step: Pass, attempt: int) -> Pass:
    """Drop what was said of earlier attempts and checkpoints: it isn't said of them again."""
    current = (f"uptime:{attempt}", f"away:{attempt}", _stale_key(step.record, attempt))
    kept = {
        key: at
        for key, at in step.record.reminders.items()
        if key in current or not key.startswith(("uptime:", "away:", "stale:"))
    }
    return step if len(kept) == len(step.record.reminders) else step.to(reminders=kept)


def _away(step: Pass, live: Attempt) -> Pass:
    """Say once that the attempt's host can't be asked, when that lasts; and that it can again."""
    key = f"away:{live.number}"
    match step.observed.attempt:
        case Unreachable(why=why):
            message = f"{why}; meanwhile its agent keeps to what it was last told"
            return _once(step, key, _unknown_since(step) + AWAY, "HostAway", message)
        case Live() if key in step.record.reminders:
            left = {each: at for each, at in step.record.reminders.items() if each != key}
            return step.to(reminders=left).say("Normal", "HostBack", f"attempt {live.number} goes on there")
    return step


def _unknown_since(step: Pass) -> datetime:
    """Since when nobody has known whether the agent lives, as the last pass left it; now, if that is news."""
    for each in step.record.conditions:
        if each.type is ConditionType.REACHABLE and each.status == "Unknown":
            return each.last_transition_time
    return step.now


def _once(step: Pass, key: str, due: datetime, reason: str, message: str) -> Pass:
    if key in step.record.reminders:
        return step
    if due > step.now:
        return step.wake(due)
    reminders = {**step.record.reminders, key: step.now}
    return step.to(reminders=reminders).say("Warning", reason, message)


def _rate(step: Pass) -> Pass:
    rate = rate_now(step.record)
    if rate is None or rate.hourly <= DEAR_PER_HOUR:
        return step
    return _once(step, "rate", step.now, "DearMachine", _dear(rate))


def _thresholds(step: Pass) -> Pass:
    record, now = step.record, step.now
    rate = rate_now(record)
    if rate is None or rate.hourly == 0:
        return step
    so_far = spent(record, now)
    cap = record.job.cost.cap
    if cap is None:
        if allowance(record, 0, now) is not None:
            return step
        due = now + time_for(rate.hourly, DEAR_WITHOUT_CAP - so_far)
        return _once(step, "dear", due, "CostWithoutCap", _uncapped(so_far))
    for share in record.job.cost.warn_at:
        mark = _mark(share, cap)
        due = now if so_far >= mark else now + time_for(rate.hourly, mark - so_far) + timedelta(milliseconds=1)
        message = _threshold(share, so_far, cap)
        step = _once(step, f"cost:{share.permille}:{cap.micros}", due, "CostThreshold", message)
    return step


def _uptime(step: Pass) -> Pass:
    live = step.record.live
    assert live is not None
    assert live.started_at is not None
    due = live.started_at + LONG_RUNNING
    return _once(step, f"uptime:{live.number}", due, "LongRunning", _long(live, LONG_RUNNING))


def _checkpoint(step: Pass) -> Pass:
    """The age of the newest durable checkpoint, from an hour (or the policy's deadline) on, at 1, 2, 4 … times it and
    then each `LONGEST_PAUSE`. Of marks that were passed while nobody looked, one is said."""
    live, age = step.record.live, checkpoint_age(step.record, step.now)
    if live is None or age is None:
        return step
    key = _stale_key(step.record, live.number)
    mark = _first_mark(step.record)
    told = step.record.reminders.get(key)
    if told is not None:
        told_age = age - (step.now - told)
        while mark <= told_age:
            mark += min(LONGEST_PAUSE, mark)
    if age < mark:
        return step.wake(step.now + (mark - age))
    step = step.to(reminders={**step.record.reminders, key: step.now})
    step = step.say("Warning", "CheckpointStale", _stale(step.record, age))
    while mark <= age:
        mark += min(LONGEST_PAUSE, mark)
    return step.wake(step.now + (mark - age))


def _stale_key(record: Record, attempt: int) -> str:
    newest = record.checkpoint
    return f"stale:{attempt}:{newest.attempt}.{newest.seq}" if newest else f"stale:{attempt}:0"
