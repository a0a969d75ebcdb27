"""Phase 9: phase and conditions, computed from the record and what was seen; nothing else ever sets them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from runctl.manifest.quantities import format_money
from runctl.planner.launching import Gate, Go, Waits, clear
from runctl.planner.money import CAP_MARGIN, spent
from runctl.planner.observed import Live, Starting, Unreachable
from runctl.planner.passing import Pass
from runctl.planner.record import Condition, ConditionType, OutcomeType, Phase
from runctl.planner.reminders import NOT_DELIVERED, UNREACHABLE, checkpoint_age

Truth = Literal["True", "False", "Unknown"]

_TYPES = tuple(ConditionType)
# The reason why an attempt that had trained isn't reachable while what it saved last is still to be copied.
AGENT_DIED = "AgentDied"


def describe(step: Pass) -> Pass:
    """Set the phase and the conditions; a condition's transition time moves only with its status."""
    phase = phase_of(step)
    old = {condition.type: condition for condition in step.record.conditions}
    found = [
        _launched(step),
        _reachable(step),
        _synced(step),
        _secrets(step),
        _training(step, phase),
        _checkpoint(step),
        _budget(step),
        _released(step),
    ]
    conditions = tuple(
        _condition(step, old.get(kind), kind, truth, reason, message)
        for kind, (truth, reason, message) in zip(_TYPES, found, strict=True)
    )
    return step.to(phase=phase, conditions=conditions)


def phase_of(step: Pass) -> Phase:
    record = step.record
    if record.live is None and record.unreleased and (record.outcome is not None or record.stopped is not None):
        return Phase.RELEASING
    if record.outcome is not None:
        return Phase.FINISHED
    if record.stopped is not None:
        return Phase.STOPPED
    live = record.live
    if live is None:
        clearance = clear(record, step)
        own = isinstance(clearance, Waits) and clearance.gate in (Gate.BACKOFF, Gate.SECRETS)
        return Phase.PENDING if own else Phase.QUEUED
    if live.started_at is None:
        return Phase.PROVISIONING
    if live.draining is not None:
        return Phase.DRAINING
    return Phase.PREPARING if live.training_at is None else Phase.TRAINING


def waiting_for(step: Pass) -> str | None:
    """What a job without a live attempt waits for, in words."""
    if step.record.live is not None or step.record.outcome is not None or step.record.stopped is not None:
        return None
    clearance = clear(step.record, step)
    if isinstance(clearance, Go):
        assert clearance.displaces is not None, "a job that may go has been launched by now"
        return f"job `{clearance.displaces.job}` was asked to save and stop"
    return clearance.message


def _condition(
    step: Pass, old: Condition | None, kind: ConditionType, truth: Truth, reason: str, message: str
) -> Condition:
    told = (truth, reason, message, step.record.generation.number)
    if old is not None and (old.status, old.reason, old.message, old.observed_generation) == told:
        return old
    same = old is not None and old.status == truth
    return Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=message,
        last_transition_time=old.last_transition_time if old is not None and same else _seconds(step.now),
        observed_generation=step.record.generation.number,
    )


def _seconds(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)


Finding = tuple[Truth, str, str]


def _launched(step: Pass) -> Finding:
    live = step.record.live
    if live is None:
        return "False", _why_none(step), waiting_for(step) or ""
    if live.started_at is None:
        return "False", "Launching", f"attempt {live.number}"
    return "True", "AgentUp", f"attempt {live.number}"


def _why_none(step: Pass) -> str:
    return "Ended" if step.record.attempt is not None else "NoAttempt"


def _reachable(step: Pass) -> Finding:
    live = step.record.live
    if live is None or (live.started_at is None and live.intended_at == step.now):
        return "Unknown", "NoAgent", ""  # what was seen is of an attempt before
    match step.observed.attempt:
        case Live(held=True):
            return "False", "AgentHeld", "agent or guardian is stopped or dead; if that lasts, the attempt is ended"
        case Live():
            return "True", "AgentAlive", ""
        case Unreachable(why=why):
            return "Unknown", UNREACHABLE, why
        case Starting() if live.training_at is not None:
            return "False", AGENT_DIED, "its agent has died: what it saved last is made durable before it goes on"
        case _:
            return "Unknown", "NoAgent", ""


def _synced(step: Pass) -> Finding:
    live = step.record.live
    if live is None or live.started_at is None:
        return "False", _why_none(step), ""
    return "True", "Verified", f"code {step.record.generation_of(live).source.code_hash[:12]}"


def _secrets(step: Pass) -> Finding:
    live = step.record.live
    missing = step.observed.lacks(step.record.job if live is None else step.record.generation_of(live).job)
    if missing and (live is None or live.started_at is None):
        return "False", "Missing", "apply again from a shell that has " + ", ".join(missing)
    return "True", "Present", ""


def _training(step: Pass, phase: Phase) -> Finding:
    if phase in (Phase.TRAINING, Phase.DRAINING):
        return "True", phase.value, ""
    return "False", phase.value, ""


def _checkpoint(step: Pass) -> Finding:
    age = checkpoint_age(step.record, step.now)
    newest = step.record.checkpoint
    name = f"newest: `{newest.name}`" if newest else "none yet"
    if age is None:
        return "Unknown", "NotTraining", name
    if age > step.record.job.checkpoint.deadline.delta:
        return "False", "Overdue", f"{name}; the deadline is {step.record.job.checkpoint.deadline}"
    return "True", "Fresh", name


def _budget(step: Pass) -> Finding:
    job, outcome = step.record.job, step.record.outcome
    named = (("cap", job.cost.cap), ("group cap", job.group.cap))
    caps = ", ".join(f"{label} {cap}" for label, cap in named if cap is not None)
    if outcome is not None and outcome.type is OutcomeType.CAP_REACHED:
        return (
            "False",
            "CapReached",
            f"{format_money(spent(step.record, step.now))} spent, {caps or 'cap lifted since'}",
        )
    if not caps:
        return "Unknown", "NoCap", ""
    loose = _beyond_reach(step)
    unheard = f", of which its agent hasn't heard: {loose}" if loose else ""
    so_far = spent(step.record, step.now)
    if job.cost.cap is not None and so_far > job.cost.cap.micros:
        return "False", "OverCap", f"{format_money(so_far)} spent, {caps}{unheard}"
    return ("Unknown", NOT_DELIVERED, caps + unheard) if unheard else ("True", "WithinCap", caps)


def _beyond_reach(step: Pass) -> str:
    """What an attempt may cost by earlier orders, while its agent can't be told of a lower cap; "" if no more."""
    live = step.record.live
    if live is None or not isinstance(step.observed.attempt, Unreachable) or live.delivered == live.orders.serial:
        return ""
    money = live.orders.limits.money
    if money is None or step.record.rental_of(live) is not None:  # a rented machine is ended without its agent
        return ""
    if live.granted_until is None:
        return "until its host can be reached, nothing ends it for its cost"
    if live.granted_until <= max(money.until, step.now):
        return ""
    most = spent(step.record, live.granted_until + CAP_MARGIN)
    return f"it may spend up to {format_money(most)} in all before it ends by itself"


def _released(step: Pass) -> Finding:
    """A machine that the user owns is handed back when the attempt on it is over; a rented one is seen to be gone."""
    if step.record.live is not None:
        return "False", "InUse", ""
    if unreleased := step.record.unreleased:
        return "False", "Releasing", ", ".join(each.instance or each.offer.name for each in unreleased)
    return "True", "NothingBilled", ""
