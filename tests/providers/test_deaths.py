"""When an attempt died whose end nobody recorded, as a controller that looks now and then can tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from runctl.planner.observed import Dead
from runctl.providers.hosts.deaths import LOOKS_APART, Deaths

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FOUND = Dead(as_of=NOW, started_at=None, last_seen=None, active=0.0, durable=0, newest=None)
APART = LOOKS_APART.total_seconds()


@pytest.mark.parametrize(
    ("unseen_for", "before"), [(1.0, 0.0), (APART, 0.0), (APART + 1, APART + 1)], ids=["soon", "just", "late"]
)
def test_it_died_at_the_look_or_when_it_was_last_seen(unseen_for: float, before: float) -> None:
    """Looks that are near each other bill what lies between them; of a longer silence nobody can tell."""
    deaths = Deaths()
    deaths.alive("a", 100.0)
    assert deaths.dated("a", FOUND, 100.0 + unseen_for).died_at == NOW - timedelta(seconds=before)


def test_it_dies_once() -> None:
    """What is left of it, and what is seen of it later, doesn't make it die later."""
    deaths = Deaths()
    deaths.alive("a", 100.0)
    first = deaths.dated("a", FOUND, 101.0)
    deaths.alive("a", 150.0)
    later = msgspec.structs.replace(FOUND, as_of=NOW + timedelta(seconds=50))
    assert deaths.know("a")
    assert deaths.dated("a", later, 151.0).died_at == first.died_at == NOW


def test_who_never_saw_it_alive_cannot_tell() -> None:
    """A controller that comes later leaves it to the attempt's last word."""
    deaths = Deaths()
    deaths.alive("b", 100.0)
    assert deaths.dated("a", FOUND, 101.0).died_at is None
    assert not deaths.know("a")


def test_a_death_is_no_earlier_than_the_last_word() -> None:
    """A clock that was set back since then makes it no cheaper."""
    deaths = Deaths()
    deaths.alive("a", 100.0)
    last = NOW + timedelta(seconds=7)
    assert deaths.dated("a", msgspec.structs.replace(FOUND, last_seen=last), 101.0).died_at == last
