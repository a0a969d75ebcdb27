"""How long ago an attempt died whose files nobody closed, whatever the wall clock says now."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.processes import boot_id
from runctl.planner.observed import Dead
from runctl.providers.local.run_dir import left_behind

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def found(run_dir: Path, ago: float, wall: datetime, **more: Any) -> Dead:
    """A dead attempt that said its last word `ago` seconds ago, when the wall clock said `wall`; up for 60 s then."""
    state = {
        "version": 1, "agent": {"pid": 1, "start": 1, "boot_id": boot_id()}, "started_at": wall.timestamp() - 60,
        "heartbeat": wall.timestamp(), "monotonic": time.monotonic() - ago, "active": 60.0, **more,
    }  # fmt: skip
    (run_dir / "claim.json").write_text(json.dumps({"guardian": state["agent"], "claimed_at": state["started_at"]}))
    (run_dir / "state.json").write_text(json.dumps(state))
    seen = left_behind(run_dir, NOW)
    assert isinstance(seen, Dead)
    return seen


@pytest.mark.parametrize("ahead", [0, 3600, -3600], ids=["not set", "set back", "set forward"])
def test_the_instant_of_the_look_is_of_the_clock_of_the_last_word(tmp_path: Path, ahead: int) -> None:
    """A wall clock that was set since the last word neither adds to what has passed since then nor takes from it."""
    last = NOW + timedelta(seconds=ahead - 10)
    seen = found(tmp_path, ago=10, wall=last)
    assert seen.latest is not None
    assert abs(seen.latest - last - timedelta(seconds=10)) < timedelta(seconds=5)


def test_another_boot_tells_nothing(tmp_path: Path) -> None:
    """The clock that counts seconds awake began anew when the machine did."""
    other = {"pid": 1, "start": 1, "boot_id": "another"}
    assert found(tmp_path, ago=10, wall=NOW - timedelta(seconds=10), agent=other).latest is None


@pytest.mark.parametrize("monotonic", [None, "x", True, -1.0, 1e300, float("nan")])
def test_what_is_no_such_instant_tells_nothing(tmp_path: Path, monotonic: object) -> None:
    """Whatever else lies there, an older agent's silence included, leaves it to the wall clock."""
    assert found(tmp_path, ago=10, wall=NOW, monotonic=monotonic).latest is None


def test_a_last_word_from_the_future_adds_nothing(tmp_path: Path) -> None:
    """A heartbeat that is later than the attempt can have been there for bills no more than that."""
    seen = found(tmp_path, ago=10, wall=NOW, heartbeat=datetime(9999, 1, 1, tzinfo=UTC).timestamp())
    assert seen.latest is not None
    assert seen.latest < NOW + timedelta(seconds=20)
