"""Controllers over a real store and a scripted machine: what becomes of jobs when everything else goes wrong.

Claims are about the world (who ran, beside whom, how it ended), never about which call was made.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import msgspec
import pytest
from planner.kit import T0, job, record, source

from runctl.manifest.job import Job
from runctl.planner.record import AttemptEnd, Desired, EndReason, Outcome, OutcomeType, Phase, Record, StopReason
from runctl.planner.requests import Apply, CancelJob, DeleteJob, Request, StopJob
from runctl.providers.interface import LaunchRefused, LaunchUnknown, ProviderError
from runctl.store.interface import (
    Acquire,
    Ask,
    ControllerId,
    Create,
    NotFound,
    Put,
    Release,
    Remove,
    StoreError,
    Write,
    done,
)

from .world import World, until

pytestmark = pytest.mark.anyio


def create(world: World, *jobs: Job, group: str | None = None) -> list[str]:
    uids = []
    for order, spec in enumerate(jobs):
        uid = f"u-{spec.name}"
        done(world.store.apply([Create(record(spec, uid=uid, group=group, order=order))])[0])
        uids.append(uid)
    return uids


def ask(world: World, uid: str, request: Request) -> None:
    done(world.store.apply([Ask(uid, request)])[0])


def apply(world: World, uid: str, spec: Job, *, replace: bool = False) -> None:
    now = world.record(uid).generation
    ask(world, uid, Apply(at=world.clock(), job=spec, source=now.source, generation=now.number, replace=replace))


def outcome(world: World, uid: str) -> tuple[OutcomeType, int | None] | None:
    found = world.record(uid).outcome
    return (found.type, found.exit_code) if found else None


def training(world: World, uid: str, attempt: int = 1) -> bool:
    live = world.record(uid).live
    return live is not None and live.number == attempt and live.started_at is not None


def gone(world: World, uid: str) -> bool:
    try:
        world.store.get(uid)
    except NotFound:
        return True
    return False


async def test_from_creation_to_outcome(world: World) -> None:
    """A job is launched once, its exit becomes its outcome, its lease is let go, and the controller is done."""
    (uid,) = create(world, job())
    async with world.controller() as running:
        await until(lambda: training(world, uid))
        world.machine.end(uid, code=3)
        await until(lambda: running.ended)
    assert outcome(world, uid) == (OutcomeType.FAILED, 3)
    assert world.machine.agent(uid).starts == 1
    assert world.store.lease(uid) is None
    assert [e.reason for _, e in world.store.events(uid)][:2] == ["Launching", "AgentStarted"]


@pytest.mark.parametrize("effect", ["before", "after"])
async def test_killed_between_intent_and_launch(world: World, effect: str) -> None:
    """The controller dies after the intent is durable, before or after the launch had its effect: the next one adopts
    the attempt, which was started once or is started once."""
    (uid,) = create(world, job())
    async with world.controller() as running:
        if effect == "before":
            running.store.die_after = lambda writes: any(isinstance(w, Put) and w.record.live for w in writes)
            await until(lambda: running.store.dead)
        else:
            await until(lambda: bool(world.machine.agents))
            running.store.dead = True
    assert world.record(uid).live is not None
    async with world.controller() as running:
        await until(lambda: training(world, uid))
        world.machine.end(uid, code=0)
        await until(lambda: running.ended)
    assert outcome(world, uid) == (OutcomeType.SUCCEEDED, 0)
    assert list(world.machine.agents) == [(uid, 1)]


@pytest.mark.parametrize("first", range(1, 7))
@pytest.mark.parametrize("second", [2, 3, 4])
async def test_killed_at_every_write(world: World, first: int, second: int) -> None:
    """Whatever writes two controllers die behind, a third brings the job to its one end, with one launch."""
    (uid,) = create(world, job())
    for lives in (first, second, 1000):
        async with world.controller() as running:
            left = iter(range(lives - 1))
            running.store.die_after = lambda writes, left=left: next(left, None) is None
            await until(lambda running=running: running.store.dead or running.ended or training(world, uid))
            if running.ended:
                break
            if training(world, uid) and world.machine.agent(uid).state == "training":
                world.machine.end(uid, code=9)
            await until(lambda running=running: running.store.dead or running.ended)
    assert outcome(world, uid) == (OutcomeType.FAILED, 9)
    assert list(world.machine.agents) == [(uid, 1)]


async def test_an_exit_while_nobody_controls(world: World) -> None:
    """The training ends between two controllers: its code is not lost."""
    (uid,) = create(world, job())
    async with world.controller():
        await until(lambda: training(world, uid))
    world.machine.end(uid, code=42)
    world.clock.move(days=3)
    async with world.controller() as running:
        await until(lambda: running.ended)
    assert outcome(world, uid) == (OutcomeType.FAILED, 42)


async def test_a_dead_agent_is_retried_with_growing_pauses(world: World) -> None:
    """A lost attempt is never a success and never retried at once; the attempts never overlap."""
    (uid,) = create(world, job("retry: {interruptions: 2}"))
    async with world.controller() as running:
        for attempt in (1, 2, 3):
            await until(lambda attempt=attempt: training(world, uid, attempt))
            world.machine.die(uid, attempt)
            await until(lambda: world.record(uid).live is None)
            if attempt < 3:
                assert (uid, attempt + 1) not in world.machine.agents
                pause = world.record(uid).not_before
                assert pause is not None
                world.clock.move(seconds=(pause - world.clock()).total_seconds() + 0.001)
        await until(lambda: running.ended)
    assert outcome(world, uid) == (OutcomeType.LOST, None)
    assert world.machine.most_at_once == 1


async def test_a_launch_that_is_refused(world: World) -> None:
    """Nothing ran: the job rests with the reason, and the next apply tries again."""
    (uid,) = create(world, job())
    world.machine.trouble = [("before", LaunchRefused("no space left on device"))]
    async with world.controller() as running:
        await until(lambda: running.ended)
    stopped = world.record(uid).stopped
    assert stopped is not None
    assert (stopped.reason, stopped.message) == (StopReason.LAUNCH_FAILED, "no space left on device")
    apply(world, uid, job())
    async with world.controller():
        await until(lambda: training(world, uid, 2))
    assert list(world.machine.agents) == [(uid, 2)]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_launch_with_an_unknown_effect(world: World, when: str) -> None:
    """Whether it had one is found by looking: nothing is launched beside it."""
    (uid,) = create(world, job())
    world.machine.trouble = [(when, LaunchUnknown("timed out"))]
    async with world.controller() as running:
        await until(lambda: training(world, uid))
        world.machine.end(uid, code=0)
        await until(lambda: running.ended)
    assert outcome(world, uid) == (OutcomeType.SUCCEEDED, 0)
    assert list(world.machine.agents) == [(uid, 1)]
    assert world.troubles == ["timed out"]


async def test_a_launch_that_was_refused_after_its_effect(world: World) -> None:
    """A refusal of what an earlier sending had started isn't believed: the training is seen, and its end counts."""
    (uid,) = create(world, job())
    world.machine.trouble = [("after", LaunchRefused("the launcher died"))]
    async with world.controller() as running:
        await until(lambda: training(world, uid))
        world.machine.end(uid, code=0)
        await until(lambda: running.ended)
    assert outcome(world, uid) == (OutcomeType.SUCCEEDED, 0)


async def test_a_launch_that_became_due_too_late(world: World) -> None:
    """The disk took a minute to make the intent durable: it isn't sent any more, and another attempt is."""
    (uid,) = create(world, job())
    async with world.controller() as running:
        running.store.die_after = lambda writes: bool(
            any(isinstance(w, Put) and w.record.live for w in writes)
            and not world.machine.agents
            and world.clock.move(seconds=61)
        )
        await until(lambda: world.record(uid).live is not None)
        await anyio.wait_all_tasks_blocked()
        running.store.die_after = None
        assert world.machine.agents == {}
        world.clock.move(seconds=16)
        await until(lambda: world.record(uid).live is None)
        world.clock.move(seconds=3)
        await until(lambda: training(world, uid, 2))
    assert list(world.machine.agents) == [(uid, 2)]


async def test_a_full_disk_is_waited_out(world: World) -> None:
    """Nothing is launched that isn't durable; a controller doesn't end for it; with space everything goes on."""
    (uid,) = create(world, job())
    async with world.controller() as running:
        running.store.full = True
        # A try that is under way may fail after the clock was moved: it is moved until what is waited for has come.
        await until(lambda: len(world.troubles) > 1 or world.clock.move(seconds=0.1))
        assert world.machine.agents == {}
        assert not running.ended
        running.store.full = False
        await until(lambda: training(world, uid) or world.clock.move(seconds=0.1))
        running.store.full = True
        world.machine.end(uid, code=5)
        count = len(world.troubles)
        await until(lambda: len(world.troubles) > count)
        running.store.full = False
        await until(lambda: running.ended or world.clock.move(seconds=0.1))
    assert outcome(world, uid) == (OutcomeType.FAILED, 5)


async def test_an_intent_that_is_not_durable_has_no_effect(world: World) -> None:
    """The disk has room for the lease, and none for the intent to launch: nothing is launched before it has."""
    (uid,) = create(world, job())
    async with world.controller() as running:
        running.store.refuses = lambda writes: any(isinstance(w, Put) and w.record.live for w in writes)
        for tries in (1, 2):
            await until(lambda tries=tries: len(world.troubles) >= tries)
            world.clock.move(seconds=1.1)
        assert world.machine.agents == {}
        running.store.refuses = lambda writes: False
        await until(lambda: training(world, uid))
        world.machine.end(uid, code=0)
        await until(lambda: running.ended)
    assert list(world.machine.agents) == [(uid, 1)]


async def test_two_controllers(world: World) -> None:
    """One has the job; the other waits, takes over when the first is dead, and ends when the job does."""
    (uid,) = create(world, job())
    async with world.controller() as second_body:
        await until(lambda: training(world, uid))
        async with world.controller() as other:
            await anyio.sleep(0.05)
            assert not other.ended
            assert world.store.get(uid).epoch == 1
            world.machine.end(uid, code=0)
            await until(lambda: second_body.ended)
            world.clock.move(seconds=1.1)
            await until(lambda: other.ended)
    assert outcome(world, uid) == (OutcomeType.SUCCEEDED, 0)
    assert world.machine.agent(uid).starts == 1


async def test_the_heir_fences_the_dead(world: World) -> None:
    """A controller that was taken for dead comes back: its writes are refused, it takes nothing over from the heir."""
    (uid,) = create(world, job())
    async with world.controller() as first:
        await until(lambda: training(world, uid))
        world.dead.add(1)
        async with world.controller() as heir:
            world.clock.move(seconds=1.1)
            await until(lambda: world.store.get(uid).epoch >= 2)
            world.machine.end(uid, code=7)
            await until(lambda: heir.ended or first.ended)
            world.clock.move(seconds=1.1)
            await until(lambda: outcome(world, uid) is not None)
    assert outcome(world, uid) == (OutcomeType.FAILED, 7)
    reasons = [e.reason for _, e in world.store.events(uid)]
    assert reasons.count("AttemptEnded") == 1


@pytest.mark.parametrize(
    ("request_", "ends"),
    [
        (StopJob(at=T0, why="enough"), Phase.STOPPED),
        (CancelJob(at=T0, why="enough"), Phase.FINISHED),
        (DeleteJob(at=T0, checkpoints=True), None),
    ],
)
@pytest.mark.parametrize("when", ["before", "live", "resting"])
async def test_requests(world: World, request_: Request, ends: Phase | None, when: str) -> None:
    """Stop, cancel and delete by another process are done whatever state they find, and leave nothing running."""
    (uid,) = create(world, job())
    if when == "before":
        ask(world, uid, request_)
    if when == "resting":
        async with world.controller() as running:
            await until(lambda: training(world, uid))
            ask(world, uid, StopJob(at=T0, why="first"))
            await until(lambda: running.ended)
        ask(world, uid, request_)
    async with world.controller() as running:
        if when == "live":
            await until(lambda: training(world, uid))
            ask(world, uid, request_)
        await until(lambda: running.ended)
    assert world.machine.alive == []
    if ends is None:
        assert gone(world, uid)
        assert world.machine.forgotten == [(uid, True)]
    else:
        assert world.record(uid).phase is ends
        assert world.store.requests(uid) == ()


async def test_a_request_to_a_resting_job_is_answered_while_the_controller_goes(world: World) -> None:
    """Requests that come at any moment of the hand-over are answered by this controller or the next."""
    (uid,) = create(world, job())
    for round_ in range(15):
        async with world.controller() as running:
            await until(lambda: world.record(uid).live is not None or running.ended)
            ask(world, uid, StopJob(at=T0, why=str(round_)))
            for _ in range(round_):
                await anyio.sleep(0)
            apply(world, uid, job())
            await until(lambda: running.ended or not world.store.requests(uid))
        assert world.machine.most_at_once <= 1
    async with world.controller() as running:
        ask(world, uid, CancelJob(at=T0, why="end"))
        await until(lambda: running.ended)
    assert world.store.pending() == set()
    assert world.record(uid).phase is Phase.FINISHED


async def test_orders_that_could_not_be_written(world: World) -> None:
    """They are written again: a stop isn't lost with a full disk on the host."""
    (uid,) = create(world, job())
    world.machine.order_trouble = [ProviderError("no space"), ProviderError("no space")]
    async with world.controller() as running:
        await until(lambda: training(world, uid))
        ask(world, uid, StopJob(at=T0, why="enough"))
        await until(lambda: len(world.troubles) == 2)
        assert world.machine.agent(uid).state == "training"
        world.clock.move(seconds=1.1)
        await until(lambda: running.ended)
    assert world.record(uid).phase is Phase.STOPPED


async def test_a_clean_up_that_fails_is_tried_again(world: World) -> None:
    """The record goes last: what is left on the machine is still known of, and that it is left is said once."""
    (uid,) = create(world, job())
    world.machine.forget_trouble = [ProviderError("busy")] * 1000
    ask(world, uid, DeleteJob(at=T0, checkpoints=False))
    async with world.controller() as running:
        for _ in range(3):
            tries = len(world.machine.forget_trouble)
            await until(lambda tries=tries: len(world.machine.forget_trouble) < tries)
            world.clock.move(seconds=1.1)
        assert not gone(world, uid)
        said = [event for _, event in world.store.events(uid) if event.reason == "RemovalWaits"]
        assert [event.message for event in said] == ["what it left can't be removed: busy"]
        assert len(world.machine.forget_trouble) > 990
        world.machine.forget_trouble.clear()
        world.clock.move(seconds=1.1)
        await until(lambda: running.ended)
    assert gone(world, uid)
    assert world.machine.forgotten == [(uid, False)]


async def test_a_job_removed_by_another(world: World) -> None:
    """What isn't there any more is let go without a word."""
    (uid,) = create(world, job("secrets: [TOKEN]"))
    async with world.controller(environ={}) as running:
        await until(lambda: running.ended)
    found = world.store.get(uid)
    done(world.store.apply([Remove(uid, found.version, found.epoch)])[0])
    async with world.controller() as running:
        await until(lambda: running.ended)


@pytest.mark.parametrize("superseded", [False, True])
async def test_a_held_job_of_which_another_has_made_an_end_is_let_go(world: World, superseded: bool) -> None:
    """A controller that slept for long is taken for dead. Awake again, it cares no longer for what was removed, or
    ended and superseded, meanwhile: it would go on for ever."""
    (uid,) = create(world, job())
    async with world.controller() as running:
        await until(lambda: training(world, uid))
        world.dead.add(1)
        found = world.store.get(uid)
        epoch = found.epoch + 1
        writes: list[Write] = [Acquire(uid, ControllerId(9, "1", "b", "heir"), T0)]
        if superseded:
            assert found.record.live is not None
            lost = AttemptEnd(reason=EndReason.LOST, detail="")
            ended = msgspec.structs.replace(found.record.live, end=lost, ended_at=T0)
            over = Outcome(type=OutcomeType.CANCELLED, reason="Cancelled", message="", at=T0)
            finished = msgspec.structs.replace(found.record, attempts=(ended,), outcome=over, phase=Phase.FINISHED)
            again = msgspec.structs.replace(finished, uid="again")
            writes += [Put(uid, found.version, epoch, finished), Release(uid, epoch), Create(again, supersedes=uid)]
        else:
            writes += [Remove(uid, found.version, epoch)]
        assert [each for each in world.store.apply(writes) if isinstance(each, StoreError)] == []
        await until(lambda: running.ended)


async def test_secrets(world: World) -> None:
    """A controller without the secrets lets the job go for one that has them; they reach the launch and no record."""
    (uid,) = create(world, job("secrets: [TOKEN]"))
    async with world.controller(environ={}) as running:
        await until(lambda: running.ended)
        assert world.store.lease(uid) is None
        assert world.record(uid).phase is Phase.PENDING
    async with world.controller(environ={"TOKEN": "s3cret", "OTHER": "x"}):
        await until(lambda: training(world, uid))
    assert world.machine.secrets[uid] == {"TOKEN": "s3cret"}
    assert "s3cret" not in str(world.record(uid))


async def test_an_edit_that_wants_secrets_waits_for_them(world: World) -> None:
    """A controller that answers the edit, and hasn't got them, doesn't launch it in the same pass."""
    (uid,) = create(world, job())
    edit = Apply(at=T0, job=job("secrets: [TOKEN]"), source=source(), generation=1, replace=True)
    ask(world, uid, edit)
    async with world.controller(environ={}) as running:
        await until(lambda: running.ended)
        assert world.record(uid).attempts == ()
    async with world.controller(environ={"TOKEN": "t"}):
        await until(lambda: training(world, uid))
    assert world.machine.secrets[uid] == {"TOKEN": "t"}


async def test_a_controller_without_the_secrets_yields_to_one_that_has_them(world: World) -> None:
    """While other work keeps the first alive the second gets the job; neither spins."""
    waiting, other = create(world, job("secrets: [TOKEN]", name="w"), job(name="o"))
    async with world.controller(environ={}) as first:
        await until(lambda: training(world, other))
        await until(lambda: world.store.lease(waiting) is None and bool(world.record(waiting).conditions))
        batches = first.store.batches
        await anyio.sleep(0.2)
        assert first.store.batches - batches <= 2
        world.machine.end(other)
        async with world.controller(environ={"TOKEN": "t"}, only=[waiting]):
            await until(lambda: training(world, waiting))


async def test_a_waiting_job_costs_nothing(world: World) -> None:
    """A job that waits for the machine is looked at each second, and written when something changes."""
    first, second = create(world, job(name="a"), job("instance: {busy: wait}", name="b"))
    async with world.controller(only=[first]):
        await until(lambda: training(world, first))
        async with world.controller(only=[second]) as waits:
            await until(lambda: world.record(second).phase is Phase.QUEUED)
            await anyio.wait_all_tasks_blocked()
            version, looks = world.store.get(second).version, world.machine.looks
            await anyio.sleep(0.1)
            assert world.store.get(second).version == version
            assert world.machine.looks - looks <= 1
            world.machine.end(first)
            world.clock.move(seconds=1.1)
            await until(lambda: training(world, second))
            world.machine.end(second)
            await until(lambda: waits.ended)
    assert world.machine.most_at_once == 1


async def test_replace(world: World) -> None:
    """The holder is asked to save and stop, and rests; the other runs. Never both."""
    first, second = create(world, job(name="a"), job("instance: {busy: replace}", name="b"))
    async with world.controller(only=[first]) as holder:
        await until(lambda: training(world, first))
        async with world.controller(only=[second]):
            await until(lambda: holder.ended)
            world.clock.move(seconds=1.1)
            await until(lambda: training(world, second))
    assert world.record(first).phase is Phase.STOPPED
    assert world.machine.most_at_once == 1


async def test_members_of_a_group_take_turns(world: World) -> None:
    """In their order, one at a time, whatever the number of controllers."""
    uids = create(world, job(name="a"), job(name="b"), job(name="c"), group="g")
    ran = []
    async with world.controller() as running:
        for _ in uids:
            await until(lambda: len(world.machine.alive) == 1 and training(world, who(world)))
            ran.append(who(world))
            world.machine.end(who(world))
            world.clock.move(seconds=1.1)
            await until(lambda: not world.machine.alive or who(world) != ran[-1])
            for _ in range(5):
                world.clock.move(seconds=1.1)
                await anyio.sleep(0.01)
        await until(lambda: running.ended)
    assert ran == uids
    assert world.machine.most_at_once == 1
    assert all(outcome(world, uid) == (OutcomeType.SUCCEEDED, 0) for uid in uids)


@pytest.mark.parametrize("controllers", [1, 2])
@pytest.mark.parametrize("waits_for", ["group: {max_parallel: 1}", "group: {cap: 0.9 USD}"])
async def test_a_turn_comes_by_itself(world: World, waits_for: str, controllers: int) -> None:
    """Whoever waits for the others of its group is planned when something of theirs changes, and at no other time."""
    text = f"instance: {{hourly_rate: 1 USD, busy: share}}\ncost: {{cap: 0.9 USD}}\n{waits_for}"
    first, second = create(world, *(job(text, name=name) for name in "ab"), group="g")
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(world.controller(only=None if controllers == 1 else [first]))
        await until(lambda: training(world, first))
        if controllers == 2:
            running = await stack.enter_async_context(world.controller(only=[second]))
        await until(lambda: world.record(second).phase is Phase.QUEUED)
        await anyio.wait_all_tasks_blocked()
        looks = world.machine.looks
        for _ in range(14):
            world.clock.move(seconds=1)
            await anyio.sleep(0.02)
        assert world.machine.looks - looks <= 3  # at the other one, for what it writes meanwhile
        world.machine.end(first)
        await until(lambda: training(world, second))
        world.machine.end(second)
        await until(lambda: running.ended)
    assert world.machine.most_at_once == 1


def who(world: World) -> str:
    return world.machine.alive[0].run_id.rpartition("-")[0] if world.machine.alive else ""


GROUPED = "instance: {hourly_rate: 1 USD, busy: share}\ncost: {cap: none}\ngroup: {cap: 2 USD, max_parallel: 2}"


@pytest.mark.parametrize("controllers", [1, 3])
async def test_a_group_cap_holds_between_controllers(world: World, controllers: int) -> None:
    """Members that are planned at the same time, by one controller or several, never reserve more than the group has,
    and never are more at once than it allows."""
    uids = create(world, *(job(GROUPED + "\nlimits: {duration: 20m}", name=n) for n in "abcdef"), group="g")
    share = len(uids) // controllers
    async with anyio.create_task_group() as tasks:
        ended = []

        async def control(mine: list[str]) -> None:
            async with world.controller(only=mine) as running:
                await until(lambda: running.ended)
            ended.append(1)

        for n in range(controllers):
            tasks.start_soon(control, uids[n * share : (n + 1) * share])
        while len(ended) < controllers:
            records = [world.record(uid) for uid in uids]
            assert sum(reserved(each) for each in records) <= 2_000_000
            for agent in list(world.machine.alive):
                uid, _, number = agent.run_id.rpartition("-")
                if training(world, uid, int(number)):
                    world.clock.move(minutes=10)
                    world.machine.end(uid, int(number))
            world.clock.move(seconds=1.1)
            await anyio.sleep(0.005)
    assert world.machine.most_at_once <= 2
    assert {outcome(world, uid) for uid in uids} <= {(OutcomeType.SUCCEEDED, 0), (OutcomeType.CAP_REACHED, None)}


def reserved(each: Record) -> int:
    live = each.live
    return live.reserved if live is not None else 0


async def test_a_raised_cap_reaches_the_agent(world: World) -> None:
    """A change in place is in the live agent's orders, at a higher serial."""
    spec = "instance: {hourly_rate: 1 USD}\ncost: {cap: %s USD}"
    (uid,) = create(world, job(spec % 1))
    async with world.controller():
        await until(lambda: training(world, uid))
        before = world.machine.agent(uid).orders
        apply(world, uid, job(spec % 2))
        await until(lambda: world.machine.agent(uid).orders.serial > before.serial)
        await until(lambda: not world.store.requests(uid))
        grant = world.machine.agent(uid).orders.limits.money
        assert grant is not None
        assert before.limits.money is not None
        await until(lambda: (world.machine.agent(uid).orders.limits.money or grant).seconds == 7199)


async def test_replaced_in_place(world: World) -> None:
    """New arguments with `--replace`: the attempt saves and ends, the next one runs them; never both."""
    (uid,) = create(world, job())
    async with world.controller():
        await until(lambda: training(world, uid))
        apply(world, uid, job("args: [x]"), replace=True)
        await until(lambda: training(world, uid, 2))
    live = world.record(uid).live
    assert live is not None
    assert live.generation == 2
    assert world.machine.most_at_once == 1


async def test_a_held_job_is_left_alive_by_an_end_that_is_no_death(world: World) -> None:
    """A controller that is cancelled (a Ctrl-C) lets the lease go and the training live."""
    (uid,) = create(world, job())
    async with world.controller() as running:
        with anyio.CancelScope() as scope:
            pass
        await until(lambda: training(world, uid))
        await running.controller._release_all()
        assert world.store.lease(uid) is None
        del scope
    assert world.machine.agent(uid).state == "training"
    assert world.record(uid).desired is Desired.RUN


async def test_a_refusal_speaks_for_its_own_sending_alone(world: World) -> None:
    """A launch whose effect nobody knows is sent again and refused: that doesn't end the attempt, since the first may
    still have its effect."""
    (uid,) = create(world, job())
    world.machine.trouble = [("before", LaunchUnknown("hangs")), ("before", LaunchRefused("no space"))]
    async with world.controller():
        await until(lambda: not world.machine.trouble or world.clock.move(seconds=0.1))
        assert world.record(uid).live is not None
        await until(lambda: training(world, uid) or world.clock.move(seconds=0.1))
    assert list(world.machine.agents) == [(uid, 1)]
