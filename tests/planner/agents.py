"""An attempt on its host, as it is in truth: what the walks' looks at the world are views of."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from runctl.planner.observed import Absent, AttemptSeen, Dead, Ended, Live, Starting
from runctl.planner.record import Attempt, AttemptEnd, CheckpointRef, EndReason, Event

# What an attempt goes through, if nothing ends it.
STATES = ("sent", "starting", "up", "training", "draining")
# How long ago an agent that dies may have written its state last.
HEARTBEAT = timedelta(seconds=15)


class Agent:
    """Its death is seen by somebody (`seen_dying`) or found out later; its guardian or itself may be `held`."""

    def __init__(self, attempt: Attempt, now: datetime) -> None:
        self.attempt, self.orders, self.sent_at = attempt, attempt.orders, now
        self.state = "sent"
        self.started_at: datetime | None = None
        self.training_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.end: AttemptEnd | None = None
        self.newest: CheckpointRef | None = None
        self.resumed_instead: CheckpointRef | None = None
        self.events: tuple[tuple[int, Event], ...] = ()
        self.held = self.seen_dying = self.swept = False

    @property
    def alive(self) -> bool:
        return self.state in STATES[1:]

    @property
    def durable(self) -> int:
        return self.newest.seq if self.newest is not None else 0

    def advance(self, to: str, now: datetime) -> None:
        """On to that state, unless it is there or over."""
        if self.state not in STATES or STATES.index(self.state) >= STATES.index(to) or self.held:
            return
        if to == "draining" and self.training_at is None:
            return
        self.state = to
        if to != "starting" and self.started_at is None:
            self.started_at = now
        if to == "training":
            self.training_at = now

    def finds_its_checkpoint_damaged(self) -> None:
        """Once, before it trains: it goes on from the one before."""
        given = self.attempt.resume
        if self.state == "up" and given is not None and given.seq > 1:
            self.resumed_instead = msgspec.structs.replace(given, seq=given.seq - 1, name="older")

    def says(self, event: Event) -> None:
        self.events = (*self.events, (len(self.events) + 1, event))

    def finish(
        self, reason: EndReason, at: datetime, code: int | None = None, signal: int | None = None, *, oom: bool = False
    ) -> None:
        self.state, self.ended_at = "ended", at
        self.end = AttemptEnd(
            reason=reason, detail="", exit_code=code, signal=signal, oom=oom,
            training_started=self.training_at is not None,
        )  # fmt: skip

    def die(self, at: datetime, *, seen: bool = False) -> None:
        self.state, self.ended_at, self.seen_dying = "dead", at, seen

    def enforce(self, now: datetime) -> None:
        """Hold the limits as an agent does, or its guardian for it: never past the grant, whatever its controller
        knows."""
        if not self.alive or self.started_at is None:
            return
        ends = []
        grant = self.orders.limits.money
        if grant is not None:
            ends.append((min(grant.until, self.started_at + timedelta(seconds=grant.seconds)), EndReason.CAP))
        if self.orders.limits.duration is not None:
            ends.append((self.started_at + timedelta(seconds=self.orders.limits.duration), EndReason.DURATION))
        if ends and min(ends)[0] <= now:
            at, reason = min(ends)
            self.finish(reason, max(at, self.started_at))

    def active(self, now: datetime) -> float:
        return ((self.ended_at or now) - self.started_at).total_seconds() if self.started_at else 0.0

    def look(self, now: datetime) -> AttemptSeen:
        if self.swept:
            return Absent(as_of=now)
        match self.state:
            case "sent":
                return Absent(as_of=now)
            case "starting":
                return Starting(as_of=now)
            case "ended":
                assert self.end is not None
                assert self.ended_at is not None
                return Ended(
                    as_of=now, end=self.end, started_at=self.started_at, ended_at=self.ended_at,
                    active=self.active(now), durable=self.durable, newest=self.newest,
                )  # fmt: skip
            case "dead":
                return self.found_dead(now)
            case _:
                assert self.started_at is not None
                draining = self.state == "draining"
                phase = "draining" if draining else "training" if self.training_at else "preparing"
                return Live(
                    as_of=now, phase=phase, step=None,  # type: ignore[arg-type]
                    started_at=self.started_at, training_at=self.training_at, drain="cap" if draining else None,
                    active=self.active(now), durable=self.durable, newest=self.newest, serial=self.orders.serial,
                    heartbeat=now, held=self.held, resumed_instead=self.resumed_instead,
                )  # fmt: skip

    def found_dead(self, now: datetime) -> AttemptSeen:
        """Without a last word: one was never written, or was lost with its machine."""
        if self.started_at is None:
            return Dead(as_of=now, started_at=None, last_seen=None, active=0.0, durable=0, newest=None)
        assert self.ended_at is not None
        last = max(self.started_at, self.ended_at - HEARTBEAT)
        return Dead(
            as_of=now, started_at=self.started_at, last_seen=last, active=(last - self.started_at).total_seconds(),
            durable=self.durable, newest=self.newest, died_at=self.ended_at if self.seen_dying else None,
        )  # fmt: skip
