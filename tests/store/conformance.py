"""What every store keeps, whatever it is made of. A store's own test module subclasses `StoreContract`."""

from __future__ import annotations

import threading
from datetime import timedelta

import msgspec
import pytest
from planner.kit import T0, job, record

from runctl.planner.record import Event
from runctl.planner.requests import CancelJob, StopJob
from runctl.store.interface import (
    Acquire,
    Ask,
    Conflict,
    ControllerId,
    Create,
    GroupHead,
    LeaseHeld,
    NameTaken,
    NotFound,
    Put,
    Release,
    Remove,
    Store,
    done,
)

change = msgspec.structs.replace

ME = ControllerId(pid=1, start="10", boot_id="b", what="test")
OTHER = ControllerId(pid=2, start="20", boot_id="b", what="other")


def event(reason: str) -> Event:
    return Event(at=T0, type="Normal", reason=reason, message="")


class Alive:
    """Which controllers live; a test may let one die."""

    def __init__(self) -> None:
        self.dead: set[int] = set()

    def __call__(self, holder: ControllerId) -> bool:
        return holder.pid not in self.dead


def create(store: Store, name: str = "a", uid: str = "u1", at: int = 0) -> None:
    fresh = change(record(job(name=name), uid=uid, group="g"), created_at=T0 + timedelta(seconds=at))
    done(store.apply([Create(fresh, (event("Created"),))])[0])


def acquire(store: Store, uid: str = "u1", holder: ControllerId = ME) -> int:
    return done(store.apply([Acquire(uid, holder, T0)])[0])


class StoreContract:
    """Fixtures of the subclass: `store`, with `alive` deciding who lives."""

    def test_a_created_job_is_found(self, store: Store) -> None:
        """By uid and by name, at version 1, with its events."""
        create(store)
        found = store.get("u1")
        assert (found.record, found.version, found.epoch) == (record(job(), uid="u1", group="g"), 1, 0)
        assert store.current("a") == found
        assert store.jobs() == [found]
        assert store.events("u1") == [(1, event("Created"))]

    def test_what_is_not_there(self, store: Store) -> None:
        """Nothing is made up for a job that nobody created."""
        for get in (store.get, store.current):
            with pytest.raises(NotFound):
                get("nope")
        assert (store.jobs(), store.requests("nope"), store.events("nope"), store.lease("nope")) == ([], (), [], None)
        for write in (
            Put("nope", 1, 1, record(job())), Remove("nope", 1, 1), Acquire("nope", ME, T0),
            Ask("nope", StopJob(at=T0, why="")),
        ):  # fmt: skip
            assert isinstance(store.apply([write])[0], NotFound)
        assert store.apply([Release("nope", 1)]) == [0]

    def test_compare_and_set(self, store: Store) -> None:
        """Only the next version under the newest lease is written; a refused write leaves nothing behind."""
        create(store)
        epoch = acquire(store)
        was = store.get("u1").record
        new = change(was, durable=5)
        for version, held in ((2, epoch), (0, epoch), (1, epoch + 1), (1, epoch - 1)):
            assert isinstance(store.apply([Put("u1", version, held, new, (event("No"),))])[0], Conflict)
        assert store.get("u1").record == was
        assert done(store.apply([Put("u1", 1, epoch, new, (event("Yes"),))])[0]) == 2
        assert isinstance(store.apply([Put("u1", 1, epoch, was)])[0], Conflict)
        assert (store.get("u1").record.durable, store.get("u1").version) == (5, 2)
        assert [e.reason for _, e in store.events("u1")] == ["Created", "Yes"]

    def test_a_batch_refuses_one_by_one(self, store: Store) -> None:
        """One refused write doesn't take the others with it, and sees what came before it in the batch."""
        create(store)
        epoch = acquire(store)
        new = change(store.get("u1").record, durable=1)
        receipts = store.apply(
            [Put("u1", 1, epoch, new), Put("u1", 1, epoch, new), Put("u1", 2, epoch, change(new, durable=2))]
        )
        assert [receipts[0], type(receipts[1]), receipts[2]] == [2, Conflict, 3]
        assert store.get("u1").record.durable == 2
        assert store.apply([]) == []

    def test_one_lease(self, store: Store, alive: Alive) -> None:
        """A live holder keeps a job, a dead one frees it at once, and each taking raises the epoch."""
        create(store)
        assert acquire(store) == 1
        assert store.lease("u1") == ME
        refusal = store.apply([Acquire("u1", OTHER, T0)])[0]
        assert isinstance(refusal, LeaseHeld)
        assert refusal.holder == ME
        assert store.get("u1").epoch == 1
        alive.dead.add(ME.pid)
        assert store.lease("u1") is None
        assert acquire(store, holder=OTHER) == 2
        assert isinstance(store.apply([Put("u1", 1, 1, store.get("u1").record)])[0], Conflict)

    def test_the_same_holder_takes_its_lease_again(self, store: Store) -> None:
        """A controller that lost track fences its own earlier self."""
        create(store)
        assert (acquire(store), acquire(store)) == (1, 2)
        assert isinstance(store.apply([Put("u1", 1, 1, store.get("u1").record)])[0], Conflict)

    def test_release(self, store: Store) -> None:
        """Only the lease of that epoch is let go; the epoch never goes back."""
        create(store)
        epoch = acquire(store)
        assert store.apply([Release("u1", epoch - 1)]) == [0]
        assert store.lease("u1") == ME
        assert store.apply([Release("u1", epoch)]) == [0]
        assert store.lease("u1") is None
        assert acquire(store, holder=OTHER) == epoch + 1

    def test_names(self, store: Store) -> None:
        """One current job a name; a new run takes the name over, and the old one is still there by its uid."""
        create(store)
        assert isinstance(store.apply([Create(record(job(), uid="u2"))])[0], NameTaken)
        assert isinstance(store.apply([Create(record(job(), uid="u2"), supersedes="another")])[0], NameTaken)
        assert done(store.apply([Create(record(job(), uid="u2"), supersedes="u1")])[0]) == 1
        assert store.current("a").record.uid == "u2"
        assert [each.record.uid for each in store.jobs()] == ["u2"]
        assert [each.record.uid for each in store.runs("a")] == ["u1", "u2"]
        assert store.runs("b") == []
        assert store.get("u1").record.uid == "u1"
        # Two that rerun at once: the second finds its predecessor superseded already.
        assert isinstance(store.apply([Create(record(job(), uid="u3"), supersedes="u1")])[0], NameTaken)

    def test_a_refused_rerun_gives_no_name_up(self, store: Store) -> None:
        """Superseding and creating are one write: without the new run the old one stays current."""
        create(store)
        create(store, "b", "u2")
        taken = store.apply([Create(record(job(), uid="u2"), supersedes="u1")])[0]
        assert isinstance(taken, NameTaken)
        assert store.current("a").record.uid == "u1"

    def test_jobs_in_the_order_of_their_creation(self, store: Store) -> None:
        """Whatever order they were written in."""
        create(store, "b", "u2", at=5)
        create(store, "a", "u1", at=9)
        create(store, "c", "u3", at=1)
        assert [each.record.name for each in store.jobs()] == ["c", "b", "a"]

    def test_requests_are_kept_until_answered(self, store: Store) -> None:
        """Serials count from 1 without gaps, also after earlier ones are gone."""
        create(store)
        epoch = acquire(store)
        assert [done(store.apply([Ask("u1", StopJob(at=T0, why=str(n)))])[0]) for n in range(3)] == [1, 2, 3]
        assert [asked.serial for asked in store.requests("u1")] == [1, 2, 3]
        assert store.pending() == {"u1"}
        done(store.apply([Put("u1", 1, epoch, change(store.get("u1").record, answered=2))])[0])
        left = store.requests("u1")
        assert [(asked.serial, asked.request) for asked in left] == [(3, StopJob(at=T0, why="2"))]
        done(store.apply([Put("u1", 2, epoch, change(store.get("u1").record, answered=3))])[0])
        assert (store.requests("u1"), store.pending()) == ((), set())
        assert done(store.apply([Ask("u1", CancelJob(at=T0, why=""))])[0]) == 4

    def test_a_request_for_another_job_needs_that_ones_lease(self, store: Store) -> None:
        """A controller that slept asks nothing of anybody for a job that another has by now, or that has gone."""
        create(store)
        create(store, "b", "u2")
        first = acquire(store)
        stop = StopJob(at=T0, why="")
        assert done(store.apply([Ask("u2", stop, ("u1", 1, first))])[0]) == 1
        done(store.apply([Put("u1", 1, first, store.get("u1").record)])[0])
        assert isinstance(store.apply([Ask("u2", stop, ("u1", 1, first))])[0], Conflict)
        done(store.apply([Release("u1", first)])[0])
        assert done(store.apply([Ask("u2", stop, ("u1", 2, first))])[0]) == 2
        second = acquire(store)
        assert isinstance(store.apply([Ask("u2", stop, ("u1", 2, first))])[0], Conflict)
        done(store.apply([Remove("u1", 2, second)])[0])
        assert isinstance(store.apply([Ask("u2", stop, ("u1", 2, second))])[0], NotFound)
        assert [asked.serial for asked in store.requests("u2")] == [1, 2]

    def test_a_refused_put_answers_nothing(self, store: Store) -> None:
        """A request is dropped with the record that answers it, or not at all."""
        create(store)
        epoch = acquire(store)
        done(store.apply([Ask("u1", StopJob(at=T0, why=""))])[0])
        store.apply([Put("u1", 7, epoch, change(store.get("u1").record, answered=1))])
        assert len(store.requests("u1")) == 1

    def test_events_in_order(self, store: Store) -> None:
        """Numbered from 1 for each job, in the order of their writes; readable from any number on."""
        create(store)
        create(store, "b", "u2")
        epoch = acquire(store)
        for version in range(1, 4):
            reasons = tuple(event(f"{version}{letter}") for letter in "xy")
            done(store.apply([Put("u1", version, epoch, store.get("u1").record, reasons)])[0])
        assert [(n, e.reason) for n, e in store.events("u1", after=2)] == [
            (3, "1y"), (4, "2x"), (5, "2y"), (6, "3x"), (7, "3y"),
        ]  # fmt: skip
        assert [n for n, _ in store.events("u2")] == [1]

    def test_remove(self, store: Store) -> None:
        """With everything of the job, under the same check as a put; the name is free again."""
        create(store)
        epoch = acquire(store)
        done(store.apply([Ask("u1", StopJob(at=T0, why=""))])[0])
        assert isinstance(store.apply([Remove("u1", 2, epoch)])[0], Conflict)
        assert store.apply([Remove("u1", 1, epoch)]) == [0]
        assert (store.jobs(), store.requests("u1"), store.events("u1"), store.pending()) == ([], (), [], set())
        create(store, "a", "u9")

    def test_groups(self, store: Store) -> None:
        """Of two writes against one view of a group the second is refused, with all that is in it."""
        create(store)
        create(store, "b", "u2")
        first, second = acquire(store), acquire(store, "u2")
        assert store.group("g").version == 0
        new = change(store.get("u1").record, durable=1)
        other = change(store.get("u2").record, durable=1)
        assert store.apply([Put("u1", 1, first, new, group=("g", 0))]) == [2]
        assert store.group("g").version == 1
        assert isinstance(store.apply([Put("u2", 1, second, other, (event("No"),), group=("g", 0))])[0], Conflict)
        assert store.get("u2").record.durable == 0
        assert len(store.events("u2")) == 1
        assert isinstance(store.apply([Put("u1", 1, first, new, group=("g", 1))])[0], Conflict)
        assert store.group("g").version == 1
        assert store.apply([Put("u2", 1, second, other, group=("g", 1))]) == [2]
        assert (store.group("g").version, store.group("h").version) == (2, 0)

    def test_what_a_removed_member_cost_stays_with_its_group(self, store: Store) -> None:
        """It counts as long as there are members, and whoever saw the group before is refused."""
        for name, uid in (("a", "u1"), ("b", "u2"), ("c", "u3")):
            create(store, name, uid)
        first, second, third = acquire(store), acquire(store, "u2"), acquire(store, "u3")
        done(store.apply([Remove("u1", 1, first, "g", 400)])[0])
        assert store.group("g") == GroupHead(version=1, spent=400)
        new = change(store.get("u2").record, durable=1)
        assert isinstance(store.apply([Put("u2", 1, second, new, group=("g", 0))])[0], Conflict)
        done(store.apply([Remove("u2", 1, second, "g", 30)])[0])
        assert store.group("g").spent == 430
        done(store.apply([Remove("u3", 1, third, "g", 5)])[0])
        assert store.group("g") == GroupHead(version=3, spent=0)

    def test_the_token_moves_with_writes(self, store: Store) -> None:
        """A watcher sees each durable write, and nothing where nothing was written."""
        tokens = {store.change_token()}
        create(store)
        tokens.add(store.change_token())
        acquire(store)
        tokens.add(store.change_token())
        assert len(tokens) == 3
        store.jobs()
        assert store.change_token() in tokens

    def test_threads(self, store: Store) -> None:
        """Writers in several threads lose nothing."""
        create(store)

        def ask() -> None:
            for _ in range(10):
                done(store.apply([Ask("u1", StopJob(at=T0, why=""))])[0])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [asked.serial for asked in store.requests("u1")] == list(range(1, 41))
