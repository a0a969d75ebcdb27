"""Instants of one clock as another one shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from runctl.planner.observed import Ended
from runctl.planner.record import AttemptEnd, CheckpointRef, EndReason
from runctl.providers.hosts.shifting import shifted

T = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def seen(at: datetime) -> Ended:
    newest = CheckpointRef(attempt=1, seq=1, name="n", path="p", at=at, bytes=1, step=None, epoch=None)
    end = AttemptEnd(reason=EndReason.EXITED, detail="", exit_code=0)
    return Ended(as_of=at, end=end, started_at=at, ended_at=at + HOUR, active=1.0, durable=1, newest=newest)


def test_each_instant_is_moved_and_nothing_else() -> None:
    """At any depth; and back again."""
    assert shifted(seen(T), HOUR) == seen(T + HOUR)
    assert shifted(shifted(seen(T), HOUR), -HOUR) == seen(T)
    assert shifted(((1, seen(T)), None, "text"), HOUR) == ((1, seen(T + HOUR)), None, "text")


def test_an_instant_at_the_end_of_time_stays() -> None:
    """A hostile host's."""
    assert shifted(datetime.max.replace(tzinfo=UTC), HOUR) == datetime.max.replace(tzinfo=UTC)
