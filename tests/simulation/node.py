"""A controller's process: the real `Controller` on a clock of its own, behind ports that fail, and that it may lose."""

from __future__ import annotations

import contextvars
import sqlite3
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.kit import T0

from runctl.planner.record import Record
from runctl.reconciler.controller import Controller
from runctl.store.interface import (
    ControllerId,
    Create,
    Put,
    Receipt,
    Remove,
    StoreError,
    StoreFull,
    StoreUnavailable,
    Versioned,
    Write,
)
from runctl.store.sqlite import _SCHEMA, SqliteStore

from . import oracles
from .loop import NODE, Scheduled
from .oracles import MOST_SKEW

if TYPE_CHECKING:
    from .life import Life


class PowerCut(BaseException):
    """The process that ran this is gone; it runs nothing more."""


class MemoryStore(SqliteStore):
    """The real statements on a database in memory: no disk, one connection for every node of a life."""

    def __init__(self, life: Life) -> None:
        self._path = Path("state.db")
        self._alive = life.controllers.is_alive
        self._lock = threading.RLock()
        self._listed = {}
        self._db = self._reader = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        # What was written last, as values: for the judge, who asks often.
        self.latest: dict[str, Record] = {}
        self._decoded: dict[bytes, Record] = {}
        for statement in filter(str.strip, _SCHEMA.split(";")):
            self._db.execute(statement)

    def apply(self, writes: Sequence[Write]) -> list[Receipt]:
        receipts = super().apply(writes)
        for write, receipt in zip(writes, receipts, strict=True):
            if isinstance(receipt, StoreError):
                continue
            if isinstance(write, Create):
                self.latest[write.record.uid] = write.record
            elif isinstance(write, Put):
                self.latest[write.uid] = write.record
            elif isinstance(write, Remove):
                self.latest.pop(write.uid, None)
        return receipts

    def _versioned(self, row: Any) -> Versioned:
        # The same bytes are the same record: decoded once for all who read them.
        known = self._decoded.get(row[0])
        if known is None:
            known = self._decoded[row[0]] = super()._versioned(row).record
        return Versioned(known, row[1], row[2])

    def change_token(self) -> int:
        return self._db.total_changes


class Node(Scheduled):
    """One incarnation of a controller. Once dead it is never run again; the next one is another node."""

    __slots__ = ("clock_offset", "drift", "life", "me", "number", "only", "task", "writes")

    def __init__(self, life: Life, number: int, only: str | None = None) -> None:
        """`only`: the one job that it cares for; None: whatever it finds."""
        super().__init__()
        self.life = life
        self.number = number
        self.only = only
        self.clock_offset = life.dice.between("skew", -MOST_SKEW / 2, MOST_SKEW / 2)
        self.drift = life.dice.between("drift", -1e-4, 1e-4)
        self.me = ControllerId(pid=1000 + number, start=str(number), boot_id="boot", what="simulated controller")
        self.task: Any = None
        self.writes = 0

    def clock(self) -> datetime:
        """Its own, or that of the machine on which it runs beside the agents."""
        true = self.life.loop.time()
        apart = self.clock_offset + self.drift * true if self.life.clocks_apart else self.life.host.offset
        return T0 + timedelta(seconds=true + apart)

    def start(self) -> None:
        providers, clouds = self.life.ports(self)
        controller = Controller(
            StorePort(self.life, self), providers, self.me, self.life.environ(), self.clock, glance=self.life.glance,
            trouble=self.life.note_trouble, clouds=clouds, only=None if self.only is None else [self.only],
        )  # fmt: skip
        context = contextvars.copy_context()
        context.run(NODE.set, self)
        self.task = context.run(self.life.loop.create_task, controller.run(linger=timedelta(seconds=2)))
        self.life.say("controller", self.number, "starts", *([] if self.only is None else ["for", self.only]))

    def die(self) -> None:
        if not self.dead:
            self.dead = True
            self.life.say("controller", self.number, "dies")

    def at(self, point: str) -> None:
        """A crash point: the process may end here. Everything that a node does to the world passes three of them."""
        if self.dead:
            raise PowerCut
        self.life.points += 1
        if self.life.points in self.life.crash_at or self.life.weather.strikes("crash"):
            self.life.count(f"crash {point}")
            self.die()
            raise PowerCut


class StorePort:
    """What one node sees of the store."""

    def __init__(self, life: Life, node: Node) -> None:
        self._life = life
        self._node = node

    def apply(self, writes: Sequence[Write]) -> list[Receipt]:
        self._node.at("before a write")
        if self._life.meets("disk full") or self._life.controllers.is_full():
            raise StoreFull("no space left on the device")
        if self._life.meets("power cut"):
            self._cut(writes)
        receipts = self._life.store.apply(writes)
        done = [write for write, receipt in zip(writes, receipts, strict=True) if isinstance(receipt, int)]
        oracles.asks_only_its_own_to_stop(self._life, done)
        self._node.writes += 1
        self._life.wrote()
        self._node.at("after a write")
        return receipts

    def _cut(self, writes: Sequence[Write]) -> None:
        """The power goes while this is written. It is there afterwards or it isn't; nobody has been told of it."""
        if self._life.dice.between("written when cut", 0, 1) < 0.5:
            self._life.count("written in a power cut")
            self._life.store.apply(writes)
            self._life.wrote()
        else:
            self._life.count("lost in a power cut")
        self._life.controllers.cut_power()
        raise PowerCut

    def jobs(self) -> list[Versioned]:
        if self._node.dead:
            raise PowerCut
        if self._life.meets("store unreadable"):
            raise StoreUnavailable("locked for too long")
        return self._life.store.jobs()

    def __getattr__(self, name: str) -> Any:
        if self._node.dead:
            raise PowerCut
        return getattr(self._life.store, name)
