"""The controllers of a life, and what befalls them, their machine and its disk.

One is there most of the time; a second now and then; some are suspended, some never come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.reconciler.resting import rests
from runctl.store.interface import ControllerId

from .node import Node
from .oracles import Violation

if TYPE_CHECKING:
    from .life import Life


class Controllers:
    def __init__(self, life: Life) -> None:
        self._life = life
        self.nodes: list[Node] = []
        self._one_each = life.meets("a controller each")
        # Until when the disk of the store has no room, and until when its machine has no power.
        self._full_until = self._dark_until = 0.0

    def is_full(self) -> bool:
        life = self._life
        full = not life.weather.calm and life.loop.time() < self._full_until
        if full:
            life.count("store full")
        return full

    def fill_store(self) -> None:
        life = self._life
        self._full_until = life.loop.time() + life.dice.between("store full for", 1.0, 120.0)
        life.say("the disk of the store is full")

    def is_dark(self) -> bool:
        life = self._life
        return not life.weather.calm and life.loop.time() < self._dark_until

    def cut_power(self) -> None:
        """All controllers are gone at one instant, with what else runs on their machine; for a while none starts."""
        life = self._life
        self._dark_until = life.loop.time() + life.dice.between("dark for", 1.0, 60.0)
        life.say("the power is off")
        for node in self.nodes:
            node.die()
        life.lose_power()

    def start(self, only: str | None = None) -> Node:
        life = self._life
        node = Node(life, len(self.nodes), only)
        self.nodes.append(node)
        node.start()
        return node

    def plan(self) -> None:
        life = self._life
        self._keep_alive(life.dice.between("restart", 0.5, 30.0))
        if life.meets("second controller"):
            life.later(life.dice.between("second when", 1.0, 120.0), self._start_second)
        if life.weather.strikes("controller suspended"):
            at = life.dice.between("suspended when", 1.0, 100.0)
            life.later(at, lambda: self.suspend(self.nodes[-1]))

    def _start_second(self) -> None:
        life = self._life
        if self.is_dark():
            life.later(1.0, self._start_second)
        else:
            self.start()

    def _attended(self) -> list[str | None]:
        """For which jobs somebody sees to it that a controller is there; None: one for all."""
        life = self._life
        if not self._one_each or life.weather.calm:
            return [None]
        asked = life.store.pending()
        records = {uid: life.record(uid) for uid in life.uids}
        return [uid for uid, each in records.items() if each is not None and (uid in asked or not rests(each))]

    def suspend(self, node: Node) -> None:
        """It runs nothing for a while, counts as dead to others meanwhile, and then goes on as if nothing had been."""
        life = self._life
        if not node.dead and not node.suspended and not node.task.done():
            life.count("controller suspended")
            life.say("controller", node.number, "is suspended")
            node.suspended = True
            life.later(life.dice.between("suspended for", 1.0, 150.0), lambda: life.loop.resume(node))

    def sleep(self) -> None:
        """The lid is closed: nothing runs, its boot clock does."""
        life = self._life
        now, lasts = life.loop.time(), life.dice.between("sleeps for", 1.0, 400.0)
        life.count("machine sleeps")
        life.say("the machine sleeps")
        life.host.slept.append((now, now + lasts))
        for node in self.nodes:
            if not node.dead and not node.suspended:
                node.suspended = True
                life.later(lasts, lambda node=node: life.loop.resume(node))  # type: ignore[misc]

    def _keep_alive(self, every: float) -> None:
        life = self._life
        if self.is_dark():
            life.later(1.0, lambda: self._keep_alive(every))
            return
        if life.host.sleeps_for() > 0:
            life.later(life.host.sleeps_for() + 0.1, lambda: self._keep_alive(every))
            return
        at_work = {each.only for each in self.nodes if not each.dead and not each.suspended and not each.task.done()}
        for only in self._attended():
            if only not in at_work and not life.rested():
                self.start(only)
        for each in self.nodes:
            if not each.dead and each.task.done() and not each.task.cancelled() and each.task.exception():
                raise Violation(life, f"controller {each.number} failed: {each.task.exception()!r}")
        life.later(5.0 if life.weather.calm else every, lambda: self._keep_alive(every))

    def is_alive(self, holder: ControllerId) -> bool:
        """What the store asks of the holder of a lease."""
        node = self.nodes[int(holder.start)]
        return not node.dead and not node.suspended

    def resume(self) -> None:
        for node in self.nodes:
            if node.suspended:
                self._life.loop.resume(node)
