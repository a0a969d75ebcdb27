"""A plan as a few lines of text: what was seen, what is remembered, done and said about it, when to look again."""

from __future__ import annotations

from datetime import datetime, timedelta

from runctl.manifest.quantities import format_duration, format_money
from runctl.planner.actions import Action, AskToStop, EndMachine, Forget, Launch, Plan, Rent, SendOrders
from runctl.planner.money import spent
from runctl.planner.observed import Absent, AttemptSeen, Dead, Ended, Live, Observed, Starting, Unreachable
from runctl.planner.record import Attempt, Orders, Record
from runctl.planner.rental import Rental
from runctl.planner.requests import Apply, AssumeDead, CancelJob, DeleteJob, Request, StopJob
from runctl.planner.seeing import end_text


def clock(at: datetime | None, zero: datetime) -> str:
    return "never" if at is None else "+" + format_duration(at - zero)


def render(before: Record, observed: Observed, plan: Plan, now: datetime, zero: datetime) -> str:
    lines = [f"{clock(now, zero)}: {_seen(observed)}"]
    lines += [f"  asked: {_request(asked.request)}" for asked in observed.requests]
    if plan.record is None:
        lines.append("  record: removed")
    else:
        lines += _changes(before, plan.record, zero, now)
    lines += [f"  does: {_action(action)}" for action in plan.actions]
    lines += [f"  says: {event.reason}{_mark(event.type)}: {event.message}" for event in plan.events]
    if plan.wake_at is not None:
        lines.append(f"  wakes: {clock(plan.wake_at, zero)}")
    if plan.yields:
        lines.append("  yields")
    return "\n".join(lines)


def _mark(kind: str) -> str:
    return "!" if kind == "Warning" else ""


def _seen(observed: Observed) -> str:
    parts = [_attempt(observed.attempt)] if observed.attempt else []
    if (machine := observed.machine) is not None:
        holder = f"`{machine.holder.job}`" if machine.holder else ""
        foreign = ", ".join(f"`{each.command}`" for each in machine.foreign)
        taken = f"held by {holder or foreign}" if holder or foreign else "free"
        parts.append(f"machine {'away' if machine.unready else taken}")
    group = observed.group
    if group.committed or group.live or group.ahead:
        names = f"live [{', '.join(group.live)}], ahead [{', '.join(group.ahead)}]"
        parts.append(f"group: {format_money(group.committed)}, {names}")
    if observed.missing_secrets:
        parts.append(f"missing {', '.join(observed.missing_secrets)}")
    if observed.launch_failed:
        parts.append(f"launch refused: {observed.launch_failed.message}")
    if (answer := observed.rent_answer) is not None:
        parts.append(f"answered: {answer.instance or answer.refusal}")
    if observed.listing is not None:
        parts.append(
            "listed: " + (", ".join(f"{each.id} {each.state}" for each in observed.listing.instances) or "none")
        )
    return "; ".join(parts) or "nothing looked at"


def _attempt(seen: AttemptSeen) -> str:
    match seen:
        case Absent():
            return "nothing of the attempt"
        case Starting():
            return "attempt claimed"
        case Unreachable(why=why):
            return f"unreachable: {why}"
        case Live(phase=phase, newest=newest):
            return f"agent {phase}" + (f", `{newest.name}` durable" if newest else "")
        case Ended(end=end, newest=newest):
            return f"ended, {end_text(end)}" + (f", `{newest.name}` durable" if newest else "")
        case Dead():
            return "agent dead"


def _request(request: Request) -> str:
    match request:
        case Apply(replace=replace):
            return "apply --replace" if replace else "apply"
        case StopJob():
            return "stop"
        case CancelJob():
            return "cancel"
        case DeleteJob(checkpoints=checkpoints):
            return "delete with checkpoints" if checkpoints else "delete"
        case AssumeDead(attempt=number):
            return f"assume attempt {number} dead"


def _action(action: Action) -> str:
    match action:
        case Launch(attempt=attempt):
            return f"launch attempt {attempt.number}"
        case Rent(rental=rental, again=again):
            return f"rent {rental.offer.name}" + (" (again)" if again else "")
        case EndMachine(instance=instance):
            return f"end {instance}"
        case SendOrders(attempt=number, orders=orders):
            return f"order attempt {number}: {_orders(orders)}"
        case AskToStop(uid=uid):
            return f"ask {uid} to stop"
        case Forget(checkpoints=checkpoints, vouched=vouched):
            what = "forget the runs and checkpoints" if checkpoints else "forget the runs"
            return f"{what}, but for a host that is away" if vouched else what


def _orders(orders: Orders) -> str:
    limits = orders.limits
    parts = [f"#{orders.serial}"]
    if limits.money:
        parts.append(f"money {format_duration(timedelta(seconds=limits.money.seconds))}")
    if limits.duration is not None:
        parts.append(f"duration {format_duration(timedelta(seconds=limits.duration))}")
    parts.append(f"checkpoint {format_duration(timedelta(seconds=limits.deadline))} {limits.on_deadline}")
    if orders.end:
        parts.append(f"end {orders.end}")
    return ", ".join(parts)


def _changes(before: Record, after: Record, zero: datetime, now: datetime) -> list[str]:
    lines = []
    if (before.desired, before.generation.number) != (after.desired, after.generation.number):
        lines.append(f"  wanted: {after.desired}, generation {after.generation.number}")
    if before.phase != after.phase or before.outcome != after.outcome:
        outcome = after.outcome
        how = f", {outcome.type} ({outcome.reason}): {outcome.message}" if outcome else ""
        how += f", exit {outcome.exit_code}" if outcome and outcome.exit_code is not None else ""
        rest = f", {after.stopped.reason}: {after.stopped.message}" if after.stopped else ""
        lines.append(f"  phase: {before.phase} → {after.phase}{how}{rest}")
    if before.not_before != after.not_before and after.not_before is not None:
        lines.append(f"  not before: {clock(after.not_before, zero)}")
    for number, attempt in enumerate(after.attempts):
        if number >= len(before.attempts) or before.attempts[number] != attempt:
            lines.append(f"  {_line(attempt, zero)}")
    for number, rental in enumerate(after.rentals):
        if number >= len(before.rentals) or before.rentals[number] != rental:
            lines.append(f"  {_rental(rental, zero)}")
    if before.ledger != after.ledger:
        lines.append(f"  ledger: {len(after.ledger)} intervals, {format_money(spent(after, now))} spent")
    old = {condition.type: condition for condition in before.conditions}
    for condition in after.conditions:
        was = old.get(condition.type)
        if was is not None and was.status != condition.status:
            since = clock(condition.last_transition_time, zero)
            text = f" {condition.message}" if condition.message else ""
            lines.append(f"  {condition.type}: {condition.status} since {since} ({condition.reason}){text}")
    return lines


def _rental(rental: Rental, zero: datetime) -> str:
    parts = [f"machine {rental.attempt}.{rental.choice}: {rental.instance or rental.offer.name}"]
    parts.append(rental.state.value if rental.state else "not seen")
    if rental.reserved:
        parts.append(f"{format_money(rental.reserved)} reserved until {clock(rental.not_after, zero)}")
    if rental.ends:
        parts.append(f"to end, {rental.ends.value}")
    if rental.absences:
        parts.append(f"absent {rental.absences} times")
    if rental.released:
        parts.append(f"{rental.released.value} at {clock(rental.released_at, zero)}")
    return ", ".join(parts)


def _line(attempt: Attempt, zero: datetime) -> str:
    parts = [f"attempt {attempt.number}: generation {attempt.generation}"]
    if attempt.resume:
        parts.append(f"from `{attempt.resume.name}`")
    if attempt.reserved:
        parts.append(f"{format_money(attempt.reserved)} reserved")
    if attempt.end:
        parts.append(f"{end_text(attempt.end)} at {clock(attempt.ended_at, zero)}")
    else:
        parts.append(f"orders {_orders(attempt.orders)}")
    return ", ".join(parts)
