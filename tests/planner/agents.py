"""An attempt on its host, as it is in truth: what the walks' looks at the world are views of."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from hypothesis import settings

from runctl.planner.observed import Absent, AttemptSeen, Dead, Ended, Live, Starting
from runctl.planner.record import Attempt, AttemptEnd, CheckpointRef, EndReason


class Agent:
    """One attempt on its host: the truth that a look gives a view of."""

    def __init__(self, attempt: Attempt, now: datetime) -> None:
        self.attempt, self.orders, self.sent_at = attempt, attempt.orders, now
        self.state = "sent"
        self.started_at: datetime | None = None
        self.training_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.end: AttemptEnd | None = None
        self.newest: CheckpointRef | None = None

    @property
    def alive(self) -> bool:
        return self.state in ("starting", "up", "training")

    def advance(self, to: str, now: datetime) -> None:
        """On to that state, unless it is there or over."""
        order = ("sent", "starting", "up", "training")
        if self.state not in order or order.index(self.state) >= order.index(to):
            return
        self.state = to
        if to != "starting" and self.started_at is None:
            self.started_at = now
        if to == "training":
            self.training_at = now

    def finish(self, reason: EndReason, at: datetime, code: int | None = None) -> None:
        self.state, self.ended_at = "ended", at
        self.end = AttemptEnd(reason=reason, detail="", exit_code=code, training_started=self.training_at is not None)

    def die(self, at: datetime) -> None:
        self.state, self.ended_at = "dead", at

    def enforce(self, now: datetime) -> None:
        """Hold the limits as an agent does: never past the grant, whatever its controller knows."""
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
        durable = self.newest.seq if self.newest else 0
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
                    active=self.active(now), durable=durable, newest=self.newest,
                )  # fmt: skip
            case "dead":
                return Dead(
                    as_of=now, started_at=self.started_at, last_seen=self.ended_at, active=self.active(now),
                    durable=durable, newest=self.newest,
                )  # fmt: skip
            case _:
                assert self.started_at is not None
                return Live(
                    as_of=now, phase="training" if self.training_at else "preparing", step=None,
                    started_at=self.started_at, training_at=self.training_at, drain=None, active=self.active(now),
                    durable=durable, newest=self.newest, serial=self.orders.serial, heartbeat=now,
                )  # fmt: skip


def walk_settings(*, examples: int, steps: int) -> settings:
    """The same examples each time. `RUNCTL_WALK=20000` in the environment: so many, and other ones each time."""
    more = os.environ.get("RUNCTL_WALK")
    if more is None:
        return settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    return settings(max_examples=int(more), stateful_step_count=steps, deadline=None, derandomize=False)
