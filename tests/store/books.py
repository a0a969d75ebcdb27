"""What a store must hold, kept beside it: the receipts of its writes, done again on plain values."""

from __future__ import annotations

from typing import Any, NamedTuple, assert_never

from runctl.planner.record import Event, Record
from runctl.planner.requests import Asked
from runctl.store.interface import (
    Acquire,
    Ask,
    ControllerId,
    Create,
    NotFound,
    Put,
    Receipt,
    Release,
    Remove,
    Store,
    StoreError,
    Write,
)


class Job(NamedTuple):
    """One job with everything that a store knows of it."""

    record: Record
    version: int = 1
    epoch: int = 0
    current: bool = True
    events: tuple[Event, ...] = ()
    requests: tuple[Asked, ...] = ()
    holder: ControllerId | None = None


class Books(NamedTuple):
    """A value: each batch makes another one."""

    jobs: dict[str, Job]
    groups: dict[str, int]

    def after(self, writes: tuple[Write, ...], receipts: list[Receipt]) -> Books:
        """What is held once `writes` are done; those that were refused have left nothing."""
        books = Books(dict(self.jobs), dict(self.groups))
        for write, receipt in zip(writes, receipts, strict=True):
            if not isinstance(receipt, StoreError):
                books._note(write, receipt)
        return books

    def _note(self, write: Write, receipt: int) -> None:
        match write:
            case Create(record, events, supersedes):
                if supersedes is not None:
                    self.jobs[supersedes] = self.jobs[supersedes]._replace(current=False)
                self.jobs[record.uid] = Job(record, receipt, events=events)
            case Put(uid, _, epoch, record, events, group):
                was = self.jobs[uid]
                left = tuple(each for each in was.requests if each.serial > record.answered)
                self.jobs[uid] = was._replace(
                    record=record, version=receipt, epoch=epoch, events=was.events + events, requests=left
                )
                if group is not None:
                    self.groups[group[0]] = group[1] + 1
            case Remove(uid):
                del self.jobs[uid]
            case Acquire(uid, holder):
                self.jobs[uid] = self.jobs[uid]._replace(epoch=receipt, holder=holder)
            case Release(uid, epoch):
                if self.jobs[uid].epoch == epoch:
                    self.jobs[uid] = self.jobs[uid]._replace(holder=None)
            case Ask(uid, request):
                was = self.jobs[uid]
                self.jobs[uid] = was._replace(requests=(*was.requests, Asked(receipt, request)))
            case _:
                assert_never(write)


def read(store: Store, uids: set[str], groups: set[str]) -> Books:
    """The same of a store, by its own word. Its controllers must count as alive."""
    current = {each.record.uid for each in store.jobs()}
    jobs = {uid: _job(store, uid, uid in current) for uid in uids if _has(store, uid)}
    return Books(jobs, {group: version for group in groups if (version := store.group(group).version)})


def _has(store: Store, uid: str) -> bool:
    try:
        store.get(uid)
    except NotFound:
        return False
    return True


def _job(store: Store, uid: str, current: bool) -> Job:
    found = store.get(uid)
    events = store.events(uid)
    assert [number for number, _ in events] == list(range(1, len(events) + 1))
    return Job(
        found.record, found.version, found.epoch, current, tuple(event for _, event in events), store.requests(uid),
        store.lease(uid),
    )  # fmt: skip


def difference(held: Books, found: Books) -> str:
    """In words, for whoever reads of a lost write."""
    told: list[Any] = [f"groups {found.groups} for {held.groups}"] if held.groups != found.groups else []
    for uid in sorted({*held.jobs, *found.jobs}):
        was, now = held.jobs.get(uid), found.jobs.get(uid)
        if was is None or now is None:
            told += [f"{uid} is there"] if was is None else [f"{uid} is gone"] if now is None else []
            continue
        told += [
            f"{uid}.{field} is {str(now[n])[:80]} for {str(was[n])[:80]}"
            for n, field in enumerate(Job._fields)
            if was[n] != now[n] and field not in ("record", "events")
        ]
        told += [f"the record of {uid} is another one"] if was.record != now.record else []
        told += [f"{uid} has {len(now.events)} events for {len(was.events)}"] if was.events != now.events else []
    return "; ".join(told) or "nothing"
