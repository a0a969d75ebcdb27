"""The queue of keys: one pair of hands at a time, nothing added is lost."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner.kit import T0

from runctl.reconciler.work_queue import WorkQueue


def drain(queue: WorkQueue) -> list[str]:
    taken = []
    while (key := queue.take()) is not None:
        taken.append(key)
        queue.finish(key)
    return taken


def test_in_the_order_of_addition() -> None:
    """A key that waits already isn't added twice and keeps its place."""
    queue = WorkQueue()
    for key in "abacb":
        queue.add(key)
    assert drain(queue) == ["a", "b", "c"]
    assert queue.idle


def test_added_while_processed_is_processed_again() -> None:
    """News that comes while a key is in somebody's hands isn't handed to a second worker, nor lost."""
    queue = WorkQueue()
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("a")
    assert queue.take() is None
    assert not queue.idle
    queue.finish("a")
    assert drain(queue) == ["a"]


def test_instants() -> None:
    """The earliest of several counts; when it has come the key is ready, once."""
    queue = WorkQueue()
    queue.add_at("a", T0 + timedelta(seconds=5))
    queue.add_at("a", T0 + timedelta(seconds=2))
    queue.add_at("a", T0 + timedelta(seconds=9))
    queue.add_at("b", T0 + timedelta(seconds=7))
    assert queue.next_due() == T0 + timedelta(seconds=2)
    queue.due(T0 + timedelta(seconds=1))
    assert queue.take() is None
    assert queue.idle
    queue.due(T0 + timedelta(seconds=2))
    assert drain(queue) == ["a"]
    assert queue.next_due() == T0 + timedelta(seconds=7)


def test_an_addition_is_earlier_than_any_instant() -> None:
    """A key that is added now needs no waking later: its worker says when to look again."""
    queue = WorkQueue()
    queue.add_at("a", T0)
    queue.add("a")
    assert queue.next_due() is None
    assert drain(queue) == ["a"]


def test_forgetting_keeps_news() -> None:
    """A worker that lets a key go forgets its instant, not what was added behind its back."""
    queue = WorkQueue()
    queue.add("a")
    queue.take()
    queue.add_at("a", T0)
    queue.forget("a")
    queue.add("a")
    queue.forget("a")
    queue.finish("a")
    assert queue.next_due() is None
    assert drain(queue) == ["a"]


@pytest.mark.anyio
@pytest.mark.parametrize("move", ["add_at", "finish"])
async def test_waiters_wake(move: str) -> None:
    """Who waits for a change sees an instant that lies nearer than all others, and when nothing is left to do."""
    queue = WorkQueue()
    if move == "finish":
        queue.add("a")
        queue.take()
    moves = {
        "add_at": lambda: queue.add_at("a", T0),
        "finish": lambda: queue.finish("a"),
    }
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.changed, T0 + timedelta(seconds=1))
            await anyio.wait_all_tasks_blocked()
            moves[move]()


@pytest.mark.anyio
@pytest.mark.parametrize("move", ["add_at", "finish"])
async def test_waiters_sleep_on(move: str) -> None:
    """An instant that comes after the next look, or an end that others are to follow, is no reason to wake."""
    queue = WorkQueue()
    queue.add("a")
    queue.take()
    queue.add_at("b", T0 + timedelta(seconds=2))
    with anyio.move_on_after(5) as patience:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.changed, T0 + timedelta(seconds=1))
            await anyio.wait_all_tasks_blocked()
            if move == "finish":
                queue.finish("a")
            else:
                queue.add_at("a", T0 + timedelta(seconds=1))
            await anyio.wait_all_tasks_blocked()
            patience.cancel()
    assert patience.cancelled_caught


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(("add", "take", "finish", "later", "due"))), max_size=40)
)
def test_nothing_is_lost_and_nothing_doubled(moves: list[tuple[str, str]]) -> None:
    """After any moves: no key is in two hands, and each that was added after it was taken last is still to come."""
    queue, hands, owed = WorkQueue(), set[str](), set[str]()
    for key, move in moves:
        match move:
            case "add":
                queue.add(key)
                owed.add(key)
            case "take":
                taken = queue.take()
                if taken is not None:
                    assert taken not in hands
                    hands.add(taken)
                    owed.discard(taken)
            case "finish":
                if key in hands:
                    hands.discard(key)
                    queue.finish(key)
            case "later":
                queue.add_at(key, T0)
                owed.add(key)
            case _:
                queue.due(T0)
    for key in hands:
        queue.finish(key)
    queue.due(T0)
    assert owed <= set(drain(queue))
    assert queue.idle
