"""Phase 5: launch the next attempt, or say what it waits for."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

import msgspec

from runctl.manifest.job import Busy
from runctl.manifest.quantities import format_duration, format_money
from runctl.planner.actions import AskToStop, Launch
from runctl.planner.money import affordable, allowance, least_useful, rate_of, reservation
from runctl.planner.observed import Absent, Holder, MachineSeen
from runctl.planner.ordering import orders_for
from runctl.planner.passing import Pass
from runctl.planner.record import (
    Attempt,
    Limits,
    Orders,
    Outcome,
    OutcomeType,
    Record,
    Stopped,
    StopReason,
)
from runctl.planner.verdict import queues

# A launch that wasn't sent by then isn't sent any more; its effect is looked for a little longer.
LAUNCH_WINDOW = timedelta(seconds=60)

LOOK_AGAIN = timedelta(seconds=1)
LOOK_AGAIN_FOREIGN = timedelta(seconds=10)


class Gate(StrEnum):
    """What a launch may wait for."""

    BACKOFF = "Backoff"
    SECRETS = "SecretsMissing"
    GROUP = "GroupQueue"
    MACHINE = "MachineBusy"
    LOOK = "MachineUnknown"


class Waits(msgspec.Struct, frozen=True):
    gate: Gate
    message: str
    until: datetime | None


class Refused(msgspec.Struct, frozen=True):
    """The machine is busy and the policy says not to wait."""

    message: str


class Broke(msgspec.Struct, frozen=True):
    """What the caps leave doesn't fit another attempt."""

    message: str


class Go(msgspec.Struct, frozen=True):
    displaces: Holder | None = None


Clearance = Waits | Refused | Broke | Go


def launch(step: Pass) -> Pass:
    """Send a pending launch again, or make the next attempt if the job may have one."""
    live = step.record.live
    if live is not None:
        return _resend(step, live)
    if step.record.outcome is not None or step.record.stopped is not None:
        return step
    match clear(step.record, step):
        case Waits(_, _, until):
            return step if until is None else step.wake(until)
        case Refused(message):
            rest = Stopped(reason=StopReason.BUSY, message=message, at=step.now)
            return step.to(stopped=rest).say("Warning", "Busy", message)
        case Broke(message):
            outcome = Outcome(type=OutcomeType.CAP_REACHED, reason="DoesNotFit", message=message, at=step.now)
            return step.to(outcome=outcome).say("Warning", "CapReached", message)
        case Go(displaces) if displaces is not None:
            return _displace(step, displaces).wake(step.now + LOOK_AGAIN)
        case Go():
            return _intend(step)


def clear(record: Record, step: Pass) -> Clearance:
    """May the job launch now? The first thing that stands in the way, in the order in which a user would ask."""
    observed, now = step.observed, step.now
    if record.not_before is not None and record.not_before > now:
        return Waits(Gate.BACKOFF, "waiting before the next attempt", record.not_before)
    if observed.missing_secrets:
        names = ", ".join(f"`{name}`" for name in observed.missing_secrets)
        return Waits(Gate.SECRETS, f"apply again from a shell that has {names}", None)
    time = affordable(record, observed.group.committed, now)
    least = least_useful(record.job)
    if time is not None and time <= least:
        left = format_money(max(0, allowance(record, observed.group.committed, now) or 0))
        return Broke(
            f"the {left} that the cap leaves last {format_duration(max(time, timedelta(0)))}, "
            f"less than a final save needs ({format_duration(least)})"
        )
    return _group_clear(record, step) or _machine_clear(record, observed.machine, now)


def _group_clear(record: Record, step: Pass) -> Clearance | None:
    group, job = step.observed.group, record.job
    most = job.group.max_parallel
    if most is not None and len(group.live) >= most:
        return Waits(Gate.GROUP, f"{most} of the group run already (group.max_parallel)", step.now + LOOK_AGAIN)
    if job.instance.busy is not Busy.SHARE:
        before = (*group.live, *group.ahead)
        if before:
            return Waits(Gate.GROUP, f"`{before[0]}` of the group has the machine first", step.now + LOOK_AGAIN)
    return None


def _machine_clear(record: Record, machine: MachineSeen | None, now: datetime) -> Clearance:
    if machine is None:
        return Waits(Gate.LOOK, "the machine hasn't been looked at yet", now)
    busy = record.job.instance.busy
    holder = machine.holder
    if busy is Busy.SHARE:
        return Go()
    if holder is not None and holder.uid == record.uid:
        return Waits(Gate.MACHINE, "an earlier attempt of this job is still on its way out", now + LOOK_AGAIN / 2)
    if holder is not None:
        who = f"job `{holder.job}` (pid {holder.pid}) is training on {machine.name}"
        if busy is Busy.REPLACE and holder.ours:
            return Go(displaces=holder)
        if busy is Busy.REPLACE:
            return Refused(f"{who} and belongs to another home or user, so it can't be replaced from here")
        if queues(record):
            return Waits(Gate.MACHINE, who, now + LOOK_AGAIN)
        return Refused(who)
    if machine.foreign:
        first = machine.foreign[0]
        who = f"`{first.command}` (pid {first.pid}, {first.evidence}) is training on {machine.name}"
        if busy is Busy.WAIT:
            return Waits(Gate.MACHINE, who, now + LOOK_AGAIN_FOREIGN)
        return Refused(who)
    return Go()


def _displace(step: Pass, holder: Holder) -> Pass:
    """Ask the holder to stop, once for each of its attempts."""
    key = f"displaced:{holder.run_id}"
    if key in step.record.reminders:
        return step
    why = f"job `{step.record.name}` replaces it on this machine (instance.busy: replace)"
    step = step.to(reminders={**step.record.reminders, key: step.now})
    return step.say("Normal", "Replacing", f"asking job `{holder.job}` to save and stop").do(
        AskToStop(uid=holder.uid, why=why)
    )


def _resend(step: Pass, live: Attempt) -> Pass:
    """The intent is durable; as long as nothing of it is seen, the launch may be sent: twice is the same as once."""
    if isinstance(step.observed.attempt, Absent) and live.started_at is None:
        if step.now <= live.launch_before:
            return step.do(Launch(attempt=live, generation=step.record.generation_of(live)))
        return step.wake(step.now + LOOK_AGAIN)
    return step


def _intend(step: Pass) -> Pass:
    record, now = step.record, step.now
    number = len(record.attempts) + 1
    token = sha256(f"{record.owner}/{record.uid}/{number}/0".encode()).hexdigest()[:32]
    none = Limits(money=None, duration=None, idle=None, hang=None, deadline=0.0, on_deadline="warn", keep=1)
    attempt = Attempt(
        number=number,
        generation=record.generation.number,
        token=token,
        intended_at=now,
        launch_before=now + LAUNCH_WINDOW,
        reserved=reservation(record, step.observed.group.committed, now),
        orders=Orders(serial=1, limits=none),
        resume=record.checkpoint if record.job.checkpoint.resume != "never" else None,
    )
    step = step.to(attempts=(*record.attempts, attempt), not_before=None)
    orders = orders_for(step.record, attempt, step.observed.group.committed, now)
    attempt = msgspec.structs.replace(attempt, orders=orders)
    step = step.with_attempt(attempt)
    resume = f", resuming from `{attempt.resume.name}`" if attempt.resume else ""
    rate = rate_of(record.job)
    held = f", {format_money(attempt.reserved)} reserved" if rate and attempt.reserved else ""
    step = step.say("Normal", "Launching", f"attempt {number}{resume}{held}")
    return step.do(Launch(attempt=attempt, generation=record.generation))
