"""Phase 1: what users asked for becomes what is desired."""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

import msgspec

from runctl.planner.machines import replaced
from runctl.planner.money import affordable, cost_of, reservation
from runctl.planner.observed import Observed, Unreachable
from runctl.planner.passing import Pass
from runctl.planner.reapply import Change, Reapply, decide
from runctl.planner.record import Attempt, Desired, Generation, Record
from runctl.planner.removing import DELETE_CHECKPOINTS, VOUCHED
from runctl.planner.requests import Apply, Asked, AssumeDead, CancelJob, DeleteJob, Request, StopJob


def absorb(step: Pass) -> Pass:
    """Answer every request that is new, in the order of its serial. What counts then is the last spec: a higher limit
    that was asked for and taken back holds no money."""
    generation = step.record.generation.number
    for asked in step.observed.requests:
        if asked.serial > step.record.answered:
            step = _answer(step, asked.request).to(answered=asked.serial)
    live = step.record.live
    return step if live is None or step.record.generation.number == generation else _hold(step, live)


def anticipate(record: Record, requests: tuple[Asked, ...], now: datetime) -> Record:
    """The record as it will be once the requests that are open are answered."""
    return absorb(Pass(record=record, observed=Observed(requests=requests), now=now)).record


def _answer(step: Pass, request: Request) -> Pass:
    match request:
        case Apply():
            return _apply(step, request)
        case StopJob():
            if step.record.finished or step.record.desired is not Desired.RUN:
                return step
            return step.to(desired=Desired.STOPPED).say("Normal", "StopRequested", request.why)
        case CancelJob():
            if step.record.finished or step.record.desired is Desired.DELETED:
                return step
            return step.to(desired=Desired.CANCELLED).say("Normal", "CancelRequested", request.why)
        case DeleteJob():
            told = {DELETE_CHECKPOINTS: request.checkpoints, VOUCHED: request.vouched}
            reminders = {**step.record.reminders, **{key: step.now for key, is_so in told.items() if is_so}}
            return step.to(desired=Desired.DELETED, reminders=reminders).say(
                "Normal", "DeleteRequested", "delete requested"
            )
        case AssumeDead():
            live = step.record.live
            if live is None or live.number != request.attempt:
                return step
            if not isinstance(step.observed.attempt, Unreachable):
                why = f"the host of attempt {live.number} answers: it isn't taken for dead"
                return step.say("Warning", "NotAssumedDead", why)
            orders = msgspec.structs.replace(live.orders, serial=live.orders.serial + 1, end="assume_dead")
            return step.with_attempt(msgspec.structs.replace(live, orders=orders))
        case _:  # pragma: no cover
            assert_never(request)


def _apply(step: Pass, request: Apply) -> Pass:
    record = step.record
    if request.generation != record.generation.number:
        return step.say("Warning", "ApplyRefused", f"the plan was made against generation {request.generation}, "
                        f"but the job is at generation {record.generation.number}; nothing was changed")  # fmt: skip
    decision = decide(record, request.job, request.source, replace=request.replace)
    match decision.kind:
        case Reapply.ATTACH | Reapply.REPORT:
            return step
        case Reapply.NEEDS_REPLACE | Reapply.NEEDS_RERUN | Reapply.CREATE:
            return step.say(
                "Warning", "ApplyRefused", f"{fields(decision.changes)}: {decision.kind}; nothing was changed"
            )
        case Reapply.CHANGE_IN_PLACE:
            return _new_generation(step, request, decision.changes)
        case Reapply.REPLACE:
            step = _new_generation(step, request, decision.changes)
            return _resume(step).to(relaunch_from=step.record.generation.number)
        case Reapply.RESUME:
            return _resume(_new_generation(step, request, decision.changes) if decision.changes else step)
        case _:  # pragma: no cover
            assert_never(decision.kind)


def _new_generation(step: Pass, request: Apply, changes: tuple[Change, ...]) -> Pass:
    number = step.record.generation.number + 1
    generation = Generation(number=number, job=request.job, source=request.source, applied_at=step.now)
    step = step.to(generations=(*step.record.generations, generation))
    return step.say("Normal", "SpecChanged", f"generation {number}: {fields(changes)}")


def _hold(step: Pass, live: Attempt) -> Pass:
    """A higher limit is a higher worst case: it is held before the agent is granted more.

    What a rented machine may cost is fixed with the request for it, unless no cap bounded it then.
    """
    record, others = step.record, step.observed.group.committed
    rental = record.rental_of(live)
    if rental is None:
        worst = reservation(record, others, step.now, live) or 0
        return step.with_attempt(msgspec.structs.replace(live, reserved=max(live.reserved, worst)))
    time = affordable(record, others, step.now, live)
    if time is None or rental.not_after is not None or rental.released_at is not None:
        return step
    worst = cost_of(rental.offer.hourly, time)
    return replaced(step, rental, msgspec.structs.replace(rental, reserved=max(rental.reserved, worst)))


def _resume(step: Pass) -> Pass:
    forgiven = step.record.attempt.number if step.record.attempt and step.record.attempt.end else step.record.forgiven
    resting = step.record.finished or step.record.stopped is not None
    step = step.to(desired=Desired.RUN, stopped=None, outcome=None, forgiven=forgiven, not_before=None)
    if not resting:
        return step
    newest = step.record.checkpoint
    resumes = newest is not None and step.record.job.checkpoint.resume != "never"
    how = f"going on from `{newest.name}`" if newest is not None and resumes else "starting again"
    return step.say("Normal", "Resumed", how)


def fields(changes: tuple[Change, ...]) -> str:
    """`cost.cap: 1 USD → 2 USD, args: [a] → [b]`."""
    return ", ".join(f"{c.path}: {c.before or 'unset'} → {c.after or 'unset'}" for c in changes) or "no field"
