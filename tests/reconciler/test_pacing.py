"""Turns for what is answered a few times a second only."""

from __future__ import annotations

from runctl.providers.interface import Allowance
from runctl.reconciler.pacing import ALONE_SECONDS, HOLDS_SECONDS, Turns


def test_some_at_once_and_the_others_one_after_the_other() -> None:
    """In the order in which they asked first, however often they ask again."""
    turns = Turns(Allowance(burst=2, seconds=1.0))
    assert [turns.turn(key, 10.0) for key in "abcd"] == [10.0, 10.0, 11.0, 12.0]
    assert [turns.turn(key, 10.5) for key in "dcba"] == [12.0, 11.0, 10.0, 10.0]
    for key in "ab":
        turns.take(key, 10.5)
    assert turns.turn("a", 10.5) == 13.0


def test_after_a_while_of_nothing_as_many_are_let_through_as_at_first() -> None:
    turns = Turns(Allowance(burst=3, seconds=2.0))
    for at in (0.0, 100.0):
        for key, expected in zip("abcd", (0.0, 0.0, 0.0, 2.0), strict=True):
            assert turns.turn(key, at) == at + expected
            turns.take(key, at + expected)


def test_a_turn_that_is_given_back_is_the_next_one_s() -> None:
    """Whoever needed none after all costs the others nothing; whoever comes too late waits anew."""
    turns = Turns(Allowance(burst=1, seconds=1.0))
    assert (turns.turn("a", 0.0), turns.turn("b", 0.0)) == (0.0, 1.0)
    turns.give_back("b")
    turns.give_back("b")
    assert turns.turn("c", 0.0) == 1.0
    late = HOLDS_SECONDS + 5.0
    assert turns.turn("a", late) == late


def test_who_has_just_had_a_turn_leaves_the_service_to_other_controllers() -> None:
    """However much is left of this controller's own share: three that each try one zone after the other would use up
    what EC2 allows them together."""
    turns = Turns(Allowance(burst=5, seconds=0.5))
    assert turns.turn("a", 0.0) == 0.0
    turns.take("a", 0.1)
    assert turns.turn("a", 0.2) == 0.1 + ALONE_SECONDS
    assert turns.turn("b", 0.2) == 0.2
    turns.take("a", 50.0)
    assert turns.turn("a", 60.0) == 60.0


def test_what_is_sent_without_a_turn_counts() -> None:
    turns = Turns(Allowance(burst=1, seconds=1.0))
    for _ in range(3):
        turns.take("again", 0.0)
    assert turns.turn("a", 0.0) == 3.0
