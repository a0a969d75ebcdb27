"""Lifetimes of jobs in a world that fails: no promise is broken, the same seed gives the same life, and the simulation
misses each safeguard that is taken out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl.planner import ordering, seeing
from runctl.planner.money import affordable
from runctl.planner.record import Record

from .life import FAULTS, Simulation
from .oracles import Violation

LIVES = 150

# What dies in a life is never ended; its `finally` blocks run when it is collected, and every port refuses them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# What a run of so many lives has met at least once: a fault that never strikes tests nothing.
SOMETIMES = (
    "agent killed", "agent and guardian killed", "salvaged", "torn checkpoint", "trainings", "disk full",
    "store unreadable", "launch refused", "launch lost", "launch answer lost", "crash before a write",
    "crash after a write", "second controller", "controller suspended", "user: apply", "user: stop", "user: cancel",
    "user: delete", "user: edit", "drain cap", "drain duration", "drain deadline",
)  # fmt: skip


def test_lives_in_the_storm() -> None:
    """Every life comes to its end with every promise kept, and every kind of trouble was met."""
    met: Counter[str] = Counter()
    with Simulation() as simulation:
        for seed in range(LIVES):
            met.update(simulation.life(seed).counts)
    assert [each for each in SOMETIMES if not met[each]] == []


def test_the_same_seed_is_the_same_life() -> None:
    """Whatever the process, its hash seed and its addresses."""
    code = (
        "import sys\nfrom simulation.life import Simulation\n"
        "with Simulation() as simulation:\n print([simulation.life(seed).digest for seed in (3, 5, 89)])"
    )
    digests = set()
    for hash_seed in ("0", "1", "2", "3"):
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def _no_money_granted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ordering, "_money", lambda *_: None)


def _checkpoints_are_not_taken_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seeing, "_checkpoint", lambda step, *_: step)


def _earlier_attempts_cost_nothing(patch: pytest.MonkeyPatch) -> None:
    def forgetful(record: Record, *others: Any) -> timedelta | None:
        return affordable(msgspec.structs.replace(record, ledger=()), *others)

    patch.setattr(ordering, "affordable", forgetful)


def _late_effects_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seeing, "LATE_EFFECT", seeing.LATE_EFFECT * -10)


ABLATIONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int]] = {
    "granted limits": (_no_money_granted, 200),
    "durable checkpoints in the record": (_checkpoints_are_not_taken_over, 200),
    "waiting for late effects": (_late_effects_are_not_waited_for, 300),
    "what earlier attempts have cost": (_earlier_attempts_cost_nothing, 200),
}


@pytest.mark.parametrize("safeguard", ABLATIONS)
def test_a_safeguard_that_is_missing_is_missed(safeguard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken out from the test's side, it is found to be missing within so many lives."""
    take_out, most = ABLATIONS[safeguard]
    take_out(monkeypatch)
    with Simulation() as simulation, pytest.raises(Violation):
        for seed in range(most):
            simulation.life(seed)


def test_a_silenced_fault_never_strikes() -> None:
    """A life can be made calmer fault by fault, and stays the same life otherwise."""
    with Simulation() as simulation:
        quiet = simulation.life(89, silenced=frozenset(FAULTS))
    assert not any(each.startswith("crash") or "killed" in each for each in quiet.counts)


# Lives that broke a promise once, and what was wrong with the product.
REGRESSIONS = {
    2495: "a launch with a late effect was taken for refused, as its second sending was: nobody cared for it",
    2970: "the same, and the next attempt began at zero beside what it had made durable",
}


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_what_broke_once(seed: int) -> None:
    with Simulation() as simulation:
        simulation.life(seed)
