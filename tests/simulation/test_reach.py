"""Lives in a storm. Whatever the planner can decide, it decides in some of them: a branch that no world takes is dead,
or tests nothing.
"""

from __future__ import annotations

import pytest

from .reach import reach
from .worlds import MIXED, live

# These only meet trouble undisturbed.
PLAIN = range(80)
# In these each branch is taken, in two of them if in two of the 330 that they were chosen from.
EVERY_BRANCH = (
    68, 69, 80, 89, 90, 95, 97, 99, 103, 108, 110, 114, 117, 120, 121, 123, 126, 128, 134, 144, 146, 159, 178, 182,
    183, 185, 205, 218, 234, 245, 250, 257, 265, 281, 285, 293, 298, 302, 306, 307, 330, 356, 358, 363, 368,
)  # fmt: skip
# Local ones that take branches which none of those takes: an attempt is vouched for before its start was noted; a host
# goes away before a first cap is set; something is asked of a job that waits for its removal.
RARE = (13776, 1129, 3079)

# By the module, the line and what comes after it: branches that no world takes, and why they are there all the same.
NEVER = {
    ("machines", "if rental is None or rental.instance is not None:", "return step"):
        "a controller plans an answer once; whoever plans with it again, as the linter does, is to ask for nothing new",
    ("launching", 'if each.orders.end == "assume_dead" and holder.run_id == f"{step.record.uid}-{each.number}":',
     "return step.do(SendOrders(attempt=each.number, orders=each.orders))"):
        "who vouches for a host of his own, in these lives, has looked that nothing is alive there",
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
@pytest.mark.timeout(600)  # half a minute on a machine that does nothing else
def test_lives_in_the_storm() -> None:
    """Every life comes to its end with every promise kept, every kind of trouble was met, and they weren't idle; and in
    them every branch of the planner is taken. When they have changed, others are named by
    `python -m tests.simulation --reach --first 60 --seeds 330`."""
    found = live(MIXED, PLAIN, plain=True)
    reached = reach(MIXED, EVERY_BRANCH)
    rare = reach("local", RARE)
    found.plain = False
    found.add(reached.found)
    assert [violation for _, violation in (*found.broken, *rare.found.broken)] == []
    assert found.unmet == []
    assert found.hollow == ""
    missed = {(branch.module, *branch.text) for branch in set(reached.missed) & set(rare.missed)}
    assert sorted(missed - NEVER.keys()) == []
    assert sorted(NEVER.keys() - missed) == []
