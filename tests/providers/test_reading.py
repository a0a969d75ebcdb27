"""What the facts about an attempt mean, whatever of them is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from runctl.agent.hostside import ABLE, GONE, HELD, Facts, Watcher
from runctl.planner.observed import Absent, Dead, Ended, Live, Starting, Unreachable
from runctl.providers.hosts.reading import attempt_seen, holder, watchers

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CLAIM: dict[str, Any] = {"guardian": {"pid": 7}, "claimed_at": 1000.0}
STATE: dict[str, Any] = {"phase": "training", "started_at": 1000.0, "heartbeat": 1010.0, "agent": {"pid": 8}}
END: dict[str, Any] = {"reason": "exited", "exit_code": 0, "started_at": 1000.0, "ended_at": 1020.0}


def who(pid: int, state: str) -> Watcher:
    return Watcher(0 if state == GONE else pid, state)


def facts(guardian: str | None = None, agent: str | None = None, **more: Any) -> Facts:
    traces = bool(more.get("claim") or more.get("state"))
    return Facts(
        wall=0.0,
        boot_id="b",
        monotonic=100.0,
        guardian=None if guardian is None else who(7, guardian),
        agent=None if agent is None else who(8, agent),
        **{"traces": traces, **more},
    )


@pytest.mark.parametrize(
    ("of", "kind", "held"),
    [
        (facts(), Absent, None),
        (facts(GONE), Absent, None),
        (facts(GONE, left=True), Starting, True),
        (facts(GONE, locked=True), Starting, True),
        (facts(ABLE), Starting, False),
        (facts(ABLE, claim=CLAIM), Starting, False),
        (facts(HELD, claim=CLAIM), Starting, True),
        (facts(ABLE, ABLE, claim=CLAIM, state=STATE), Live, False),
        (facts(HELD, ABLE, claim=CLAIM, state=STATE), Live, True),
        (facts(ABLE, HELD, claim=CLAIM, state=STATE), Live, True),
        (facts(GONE, ABLE, state=STATE), Live, True),
        (facts(ABLE, GONE, claim=CLAIM, state=STATE), Starting, True),
        (facts(ABLE, ABLE, claim=CLAIM, state={"phase": "nonsense"}), Starting, None),
        (facts(GONE, GONE, claim=CLAIM, state=STATE, left=True), Starting, False),
        (facts(GONE, GONE, claim=CLAIM, state=STATE, locked=True), Dead, None),
        (facts(GONE, GONE, claim=CLAIM, state=STATE), Dead, None),
        (facts(GONE, claim=CLAIM), Dead, None),
        (facts(GONE, traces=True), Dead, None),
        (facts(unreadable="too many open files", traces=True), Unreachable, None),
        (facts(ABLE, ABLE, exit=END, claim=CLAIM, state=STATE), Ended, None),
        (facts(exit={}), Ended, None),
    ],
)  # fmt: skip
def test_what_is_seen(of: Facts, kind: type, held: bool | None) -> None:
    """An attempt is absent or dead only when nobody of it is there; held while one of the two that watch can't act."""
    seen = attempt_seen(of, NOW)
    assert type(seen) is kind
    assert held is None or getattr(seen, "held", None) is held


@pytest.mark.parametrize("active", [10**400, float("inf"), float("nan"), True, "x", None])
def test_an_implausible_number_is_none(active: object) -> None:
    """Whatever somebody wrote into the state, a look comes to its end."""
    seen = attempt_seen(facts(ABLE, ABLE, claim=CLAIM, state={**STATE, "active": active}), NOW)
    assert isinstance(seen, Live)
    assert seen.active == 0.0


@pytest.mark.parametrize(
    ("of", "alive", "gone", "helpless"),
    [
        (facts(ABLE, ABLE, state=STATE), (7, 8), False, False),
        (facts(HELD, ABLE, state=STATE), (7, 8), False, False),
        (facts(HELD, HELD, state=STATE), (7, 8), False, True),
        (facts(GONE, HELD, state=STATE), (8,), False, True),
        (facts(GONE, GONE, state=STATE), (), True, True),
        (facts(GONE, HELD, state=STATE, exit=END), (), False, False),
    ],
)
def test_who_watches(of: Facts, alive: tuple[int, ...], gone: bool, helpless: bool) -> None:
    """Those whom a controller may have to end, and whether nobody else can."""
    found = watchers(of)
    assert (found.alive, found.gone, found.helpless) == (alive, gone, helpless)


@pytest.mark.parametrize(
    ("run_dir", "ours"),
    [("/home/runs/u/000001", True), ("/home/runs-of-others/u", False), ("/home/runs/../x", False), (7, False)],
)
def test_a_holder_is_ours_by_where_it_runs(run_dir: object, ours: bool) -> None:
    """What a holder wrote of itself is anybody's."""
    seen = holder(
        {"run_dir": run_dir, "run_id": "u-1", "agent": {"pid": "x"}, "since": "then", "job": ["j"]}, "/home/runs"
    )
    assert (seen.ours, seen.uid, seen.pid, seen.since) == (ours, "u", 0, None)
