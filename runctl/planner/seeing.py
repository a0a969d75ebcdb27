"""Phase 3: what was seen of the live attempt becomes part of the record."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from runctl.manifest.quantities import format_size
from runctl.planner.money import closed, rate_of
from runctl.planner.observed import Absent, Dead, Ended, Live, Starting, Unreachable
from runctl.planner.ordering import wished_end
from runctl.planner.passing import Pass
from runctl.planner.record import Attempt, AttemptEnd, CheckpointRef, EndReason, Interval
from runctl.planner.rental import Demise, Ending, Refusal, Release, Rental
from runctl.planner.renting import NoOffer, choose

# The agent writes its state at least this often: an attempt found dead may have run this long after its last word.
HEARTBEAT = timedelta(seconds=15)

# A pair of agent and guardian that can't do its work is ended by whoever looks at it: soon.
LOOK_AGAIN_HELD = timedelta(seconds=1)

# A launch that was sent in time may show its first effect this much after `launch_before`.
LATE_EFFECT = timedelta(seconds=15)


def take_in(step: Pass) -> Pass:
    """Fold the observation of the live attempt, and what its agent reported, into the record."""
    live = step.record.live
    if live is None:
        return step
    seen = step.observed.attempt
    rental = step.record.rental_of(live)
    if rental is not None and (end := _never_up(step, live, rental)) is not None:
        return _close(step, live, end, None)
    match seen:
        case Unreachable() if live.orders.end == "assume_dead" and rental is None:
            # Nobody saw it end, or perhaps begin: it counts as billed from its intent, for as long as it could have
            # gone on by any of its orders.
            if live.started_at is None:
                step = _opened(step, live, live.intended_at)
            billed = step.now if live.granted_until is None else max(step.now, live.granted_until)
            return _close(step, live, _lost("its host can't be reached, and is taken for dead as asked"), None, billed)
        case None | Unreachable():
            return step
        case Starting():
            return step.wake(step.now + LOOK_AGAIN_HELD) if seen.held else step
        case Absent():
            if live.started_at is not None and rental is not None and rental.released_at is None:
                return step  # its storage tells what it had saved, when its machine is gone
            if live.started_at is not None:
                return _close(step, live, _lost("its run directory is gone"), step.now)
            failed = step.observed.launch_failed
            if failed is not None and failed.attempt == live.number:
                return _close(step, live, AttemptEnd(reason=EndReason.LAUNCH_FAILED, detail=failed.message), None)
            if rental is None and seen.as_of > live.launch_before + LATE_EFFECT:
                return _close(step, live, AttemptEnd(reason=EndReason.NOT_STARTED, detail="never started"), None)
            return step
        case Live():
            step = _report(_advance(step, live, seen))
            return step.wake(step.now + LOOK_AGAIN_HELD) if seen.held else step
        case Ended():
            step = _checkpoint(step, live, seen.newest, seen.durable)
            step = _bill(step, live, seen.started_at)
            now = step.record.live
            assert now is not None
            now = msgspec.structs.replace(now, active=seen.active, durable=seen.durable)
            return _close(_report(step.with_attempt(now)), now, seen.end, seen.ended_at)
        case Dead():
            step = _checkpoint(step, live, seen.newest, seen.durable)
            step = _bill(step, live, seen.started_at)
            now = step.record.live
            assert now is not None
            latest = seen.latest or seen.as_of
            ended = min((latest, *_latest_ends(live, seen)))
            for known in (seen.last_seen, seen.died_at):
                ended = ended if known is None else max(ended, min(known, latest))
            now = msgspec.structs.replace(now, active=_active_of(seen), durable=seen.durable)
            detail = "the agent is gone and left no exit record; no process of the attempt is alive"
            return _close(_report(step.with_attempt(now)), now, _lost(detail), ended)
        case _:  # pragma: no cover
            assert_never(seen)


def _never_up(step: Pass, live: Attempt, rental: Rental) -> AttemptEnd | None:
    """How an attempt ended whose machine is gone, or never was, without an agent that anybody has heard of; None while
    it may go on, or where its agent has left a last word to be read."""
    if rental.released_at is None or live.started_at is not None:
        return None
    unstarted = isinstance(step.observed.attempt, Absent)
    if rental.refusal in (Refusal.PERMISSION, Refusal.INVALID):
        return AttemptEnd(reason=EndReason.LAUNCH_FAILED, detail=rental.detail)
    had_none = rental.released in (Release.REFUSED, Release.NO_EFFECT) or rental.demise is Demise.CAPACITY
    wish = live.orders.end or wished_end(step.record, live)
    if wish is not None and (had_none or unstarted):
        return AttemptEnd(reason=EndReason(wish), detail="before its agent was up")
    if had_none:
        chosen = choose(step.record, step.observed, step.now) if step.observed.offers is not None else None
        if not isinstance(chosen, NoOffer) or chosen.held:
            return None
        return AttemptEnd(reason=EndReason.NO_CAPACITY, detail=chosen.message)
    if not unstarted:
        return None
    if rental.ends is Ending.UNREACHABLE:
        return AttemptEnd(reason=EndReason.NOT_STARTED, detail="no agent came up on its machine")
    return _lost("its machine went before its agent was up")


def _latest_ends(live: Attempt, seen: Dead) -> Iterator[datetime]:
    """Instants that an attempt found dead can't have outlived: its agent wrote until it died, and would have ended it
    by its grant."""
    if seen.last_seen is not None:
        yield seen.last_seen + HEARTBEAT
    if live.granted_until is not None:
        yield live.granted_until


def _active_of(seen: Dead) -> float:
    """Seconds that count against the duration: up to when it was seen to die, not only to the agent's last word."""
    if seen.died_at is None or seen.last_seen is None:
        return seen.active
    return seen.active + max(0.0, (seen.died_at - seen.last_seen).total_seconds())


def _lost(detail: str) -> AttemptEnd:
    return AttemptEnd(reason=EndReason.LOST, detail=detail)


def _advance(step: Pass, live: Attempt, seen: Live) -> Pass:
    step = _checkpoint(_bill(step, live, seen.started_at), live, seen.newest, seen.durable)
    if live.started_at is None:
        step = step.say("Normal", "AgentStarted", f"the agent of attempt {live.number} is up")
    now = step.record.live
    assert now is not None
    money = now.orders.limits.money
    known = seen.serial == now.orders.serial
    return step.with_attempt(
        msgspec.structs.replace(
            now,
            granted_until=(money.until if money else None) if known else now.granted_until,
            training_at=seen.training_at,
            draining=seen.drain,
            durable=seen.durable,
            resume=seen.resumed_instead or now.resume,
            delivered=seen.serial,
        )
    )


def _bill(step: Pass, live: Attempt, started_at: datetime | None) -> Pass:
    """Note the attempt's start, and bill from there, once."""
    if started_at is None or live.started_at is not None:
        return step
    return _opened(step.with_attempt(msgspec.structs.replace(live, started_at=started_at)), live, started_at)


def _opened(step: Pass, live: Attempt, at: datetime) -> Pass:
    """With a line of the ledger for the attempt, from `at` on, where anybody knows what its machine costs."""
    generation = step.record.generation_of(live)
    # A rented machine is billed by its own life, not by the attempt's.
    rate = rate_of(generation.job) if step.record.rental_of(live) is None else None
    if rate is None:
        return step
    interval = Interval(
        attempt=live.number, machine=generation.job.instance.platform.value, started_at=at, ended_at=None,
        hourly=rate.hourly, source=rate.source, quoted_at=generation.applied_at,
    )  # fmt: skip
    return step.to(ledger=(*step.record.ledger, interval))


def _checkpoint(step: Pass, live: Attempt, newest: CheckpointRef | None, durable: int) -> Pass:
    """Take over the newest durable checkpoint; `durable` is how many the attempt has had, several perhaps new."""
    old = step.record.checkpoint
    if newest is None or (old is not None and (old.attempt, old.seq) >= (newest.attempt, newest.seq)):
        return step
    message = f"`{newest.name}` ({format_size(newest.bytes)}) is durable"
    before = durable - live.durable - 1
    if before > 0:
        message += ", and so is the one before it" if before == 1 else f", and so are the {before} before it"
    return step.to(checkpoint=newest).say("Normal", "CheckpointSaved", message)


def _report(step: Pass) -> Pass:
    """Take over the agent's own events, each once."""
    live = step.record.live
    assert live is not None
    new = tuple((seq, event) for seq, event in step.observed.agent_events if seq > live.events_seen)
    if not new:
        return step
    step = step.with_attempt(msgspec.structs.replace(live, events_seen=new[-1][0]))
    return msgspec.structs.replace(step, events=(*step.events, *(event for _, event in new)))


def _close(
    step: Pass, live: Attempt, end: AttemptEnd, ended_at: datetime | None, billed_until: datetime | None = None
) -> Pass:
    """The attempt is over: its reservation falls, its ledger interval closes (`billed_until`: if not with it)."""
    now = step.record.live
    assert now is not None
    ended_at = ended_at or step.now
    over = msgspec.structs.replace(now, end=end, ended_at=ended_at, reserved=0, draining=None)
    until = billed_until or ended_at
    if now.started_at is not None:  # a wall clock that was set back meanwhile makes nothing cheaper
        until = max(until, now.started_at + timedelta(seconds=now.active))
    # A rented machine has a line of its own name, which its release closes.
    machine = step.record.generation_of(live).job.instance.platform.value
    ledger = closed(step.record.ledger, machine, until)
    step = step.with_attempt(over).to(ledger=ledger, durable=step.record.durable + over.durable)
    quiet = end.reason in (EndReason.EXITED, EndReason.STOP, EndReason.CANCEL, EndReason.REPLACE) and not end.exit_code
    return step.say("Normal" if quiet else "Warning", "AttemptEnded", f"attempt {live.number}: {end_text(end)}")


END_WORDS = {
    EndReason.CAP: "ended for the cap",
    EndReason.DURATION: "ended for limits.duration",
    EndReason.DEADLINE: "ended for the checkpoint deadline",
    EndReason.HANG: "ended as hung",
    EndReason.IDLE: "ended as idle",
    EndReason.STOP: "stopped",
    EndReason.REPLACE: "stopped to be replaced",
    EndReason.CANCEL: "cancelled",
    EndReason.INTERRUPTION: "interrupted",
}


def end_text(end: AttemptEnd) -> str:
    """`exited with 0`, `killed by signal 9`, `ended for the cap: …`."""
    if end.reason is EndReason.EXITED:
        if end.exit_code is not None:
            return f"exited with {end.exit_code}"
        by = f"killed by signal {end.signal}"
        return f"{by} (the kernel was out of memory)" if end.oom else by
    word = END_WORDS.get(end.reason, end.reason.value.replace("_", " "))
    return f"{word}: {end.detail}" if end.detail else word
