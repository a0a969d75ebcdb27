"""Lives in a storm. Whatever the planner can decide, it decides in some of them: a branch that no world takes is dead,
or tests nothing.
"""

from __future__ import annotations

import pytest

from .dice import Dice
from .reach import reach
from .wide import is_wide
from .worlds import MIXED, live

# In the wide ones each branch is taken, most of them in several; the others only meet the same trouble undisturbed.
PLAIN = range(80)
WIDE = [seed for seed in (*range(60, 310), 386) if is_wide(Dice(seed))]

# By the module, the line and what comes after it: branches that no world takes, and why they are there all the same.
NEVER = {
    ("machines", "if rental is None or rental.instance is not None:", "return step"):
        "a controller plans an answer once; whoever plans with it again, as the linter does, is to ask for nothing new",
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
@pytest.mark.timeout(600)  # half a minute on a machine that does nothing else
def test_lives_in_the_storm() -> None:
    """Every life comes to its end with every promise kept, every kind of trouble was met, and they weren't idle; and in
    them every branch of the planner is taken. `python -m tests.simulation --reach` says that of other seeds."""
    found = live(MIXED, PLAIN, plain=True)
    reached = reach(MIXED, WIDE)
    found.plain = False
    found.add(reached.found)
    assert [violation for _, violation in found.broken] == []
    assert found.unmet == []
    assert found.hollow == ""
    missed = {(branch.module, *branch.text) for branch in reached.missed}
    assert sorted(missed - NEVER.keys()) == []
    assert sorted(NEVER.keys() - missed) == []
