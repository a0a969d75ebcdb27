"""Whatever the planner can decide, it decides in some life: a branch that no world takes is dead, or tests nothing."""

from __future__ import annotations

import pytest

from .dice import Dice
from .reach import reach
from .wide import is_wide
from .worlds import MIXED

# In these lives each branch is taken, most of them in several.
LIVES = [seed for seed in range(60, 310) if is_wide(Dice(seed))]

# By the module, the line and what comes after it: branches that no world takes, and why they are there all the same.
NEVER = {
    ("machines", "if rental is None or rental.instance is not None:", "return step"):
        "a controller plans an answer once; whoever plans with it again, as the linter does, is to ask for nothing new",
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_every_branch_of_the_planner_is_taken() -> None:
    """`python -m tests.simulation --reach` says the same of other seeds."""
    reached = reach(MIXED, LIVES)
    assert [violation for _, violation in reached.found.broken] == []
    missed = {(branch.module, *branch.text) for branch in reached.missed}
    assert sorted(missed - NEVER.keys()) == []
    assert sorted(NEVER.keys() - missed) == []
