"""Group commit: what comes in during one transaction is one transaction, and everybody gets their own answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import msgspec
import pytest
from planner.kit import T0, job, record

from runctl.planner.requests import StopJob
from runctl.reconciler.group_commit import GroupCommit
from runctl.store.interface import (
    Acquire,
    Ask,
    Conflict,
    ControllerId,
    Create,
    NotFound,
    Put,
    Receipt,
    Store,
    StoreUnavailable,
    Write,
)

from .world import World, until

pytestmark = pytest.mark.anyio
ME = ControllerId(pid=99, start="1", boot_id="b", what="test")


class Slow:
    """A store whose transactions wait for a word, and fail if told to."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.go = threading.Event()
        self.batches: list[int] = []
        self.error: BaseException | None = None

    def apply(self, writes: Sequence[Write]) -> list[Receipt]:
        self.batches.append(len(writes))
        assert self.go.wait(10)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.store.apply(writes)


def create(number: int) -> Create:
    return Create(record(job(name=f"j{number}"), uid=f"u{number}"))


async def test_one_transaction_for_those_that_wait(world: World) -> None:
    """The first write goes alone; all that came in meanwhile go together, in their order."""
    slow = Slow(world.store)
    commit = GroupCommit(slow)  # type: ignore[arg-type]
    receipts: dict[int, int] = {}

    async def write(number: int) -> None:
        receipts[number] = await commit.apply(create(number))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(write, number)
        await until(lambda: slow.batches == [1])
        await anyio.wait_all_tasks_blocked()
        slow.go.set()
    assert slow.batches == [1, 19]
    assert receipts == dict.fromkeys(range(20), 1)
    assert len(world.store.jobs()) == 20


async def test_each_gets_its_own_refusal(world: World) -> None:
    """A conflict is the writer's whose it is; the others of the batch are done."""
    commit = GroupCommit(world.store)
    await commit.apply(create(1))
    epoch = await commit.apply(Acquire("u1", ME, T0))
    told: list[object] = []

    async def write(write: Write) -> None:
        try:
            told.append(await commit.apply(write))
        except (Conflict, NotFound) as error:
            told.append(type(error))

    async with anyio.create_task_group() as tasks:
        for each in (
            Put("u1", 1, epoch, record(job(name="j1"), uid="u1")),
            Put("u1", 1, epoch, record(job(name="j1"), uid="u1")),
            Ask("nope", StopJob(at=T0, why="")),
            create(2),
        ):
            tasks.start_soon(write, each)
    assert sorted(map(str, told)) == sorted(map(str, [2, Conflict, NotFound, 1]))


async def test_a_store_that_fails_fails_all_that_waited_and_goes_on(world: World) -> None:
    """The whole batch hears of it; the next write is a new try."""
    slow = Slow(world.store)
    slow.error = StoreUnavailable("full")
    slow.go.set()
    commit = GroupCommit(slow)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="full"):
        await commit.apply(create(1))
    assert await commit.apply(create(1)) == 1


async def test_a_defect_leaves_nobody_waiting(world: World) -> None:
    """When a transaction breaks in a way that nobody foresaw, whose it was is told, and the others' are done."""
    slow = Slow(world.store)
    slow.error = RuntimeError("bug")
    commit = GroupCommit(slow)  # type: ignore[arg-type]
    told: list[str] = []

    async def write(number: int) -> None:
        try:
            await commit.apply(create(number))
        except (StoreUnavailable, RuntimeError) as error:
            told.append(type(error).__name__)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(write, number)
            await until(lambda: slow.batches == [1])
            await anyio.wait_all_tasks_blocked()
            slow.go.set()
    assert told == ["RuntimeError"]
    assert await commit.apply(create(7)) == 1


async def test_a_write_that_cannot_be_made_harms_no_other(world: World) -> None:
    """One of them holds what can't be written down; all are in one transaction, and the others are made."""
    slow = Slow(world.store)
    commit = GroupCommit(slow)  # type: ignore[arg-type]
    told: dict[int, object] = {}

    async def write(number: int) -> None:
        made = create(number)
        if number == 2:
            made = Create(msgspec.structs.replace(made.record, owner="\udce8"))
        try:
            told[number] = await commit.apply(made)
        except UnicodeEncodeError:
            told[number] = "refused"

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(write, number)
            await until(lambda: slow.batches == [1])
            await anyio.wait_all_tasks_blocked()
            slow.go.set()
    assert told == {0: 1, 1: 1, 2: "refused", 3: 1}
    assert slow.batches[:2] == [1, 3]


async def test_a_cancelled_carrier_finishes_what_it_carries(world: World) -> None:
    """The one that carries the batch is cancelled: the others' writes are done all the same."""
    slow = Slow(world.store)
    commit = GroupCommit(slow)  # type: ignore[arg-type]
    receipts: list[int] = []

    async def write(number: int) -> None:
        receipts.append(await commit.apply(create(number)))

    async with anyio.create_task_group() as others, anyio.create_task_group() as first:
        first.start_soon(write, 0)
        await until(lambda: slow.batches == [1])
        others.start_soon(write, 1)
        others.start_soon(write, 2)
        await anyio.wait_all_tasks_blocked()
        first.cancel_scope.cancel()
        slow.go.set()
    assert receipts.count(1) >= 2
    assert len(world.store.jobs()) == 3


async def test_a_cancelled_waiter_leaves_the_line_in_order(world: World) -> None:
    """One that waits is cancelled: its write may be done, and nobody else is kept from theirs."""
    slow = Slow(world.store)
    commit = GroupCommit(slow)  # type: ignore[arg-type]
    receipts: list[int] = []

    async def write(number: int) -> None:
        receipts.append(await commit.apply(create(number)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, 0)
        await until(lambda: slow.batches == [1])
        async with anyio.create_task_group() as second:
            second.start_soon(write, 1)
            tasks.start_soon(write, 2)
            await anyio.wait_all_tasks_blocked()
            second.cancel_scope.cancel()
        slow.go.set()
    assert receipts == [1, 1]
    assert len(world.store.jobs()) == 3
