"""Others who train on the machine: of another home, which holds the host's lock, or under no agent at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.planner.observed import Foreign, Holder, MachineSeen

if TYPE_CHECKING:
    from datetime import datetime

    from .host import Host
    from .life import Life


# Seconds after which somebody who was refused the lock comes again.
TRIES_AGAIN = 3.0


class Stranger:
    """A training of another home. It holds the lock as those of this home do, and nobody here may end it."""

    name, key, shares = "theirs", ("another-home", 1), False

    def __init__(self, life: Life) -> None:
        self.until = life.loop.time() + life.dice.between("another home trains for", 1.0, 90.0)
        self._life = life

    @property
    def alive(self) -> bool:
        return not self._life.weather.calm and self._life.loop.time() < self.until


class Strangers:
    """Who comes when to the machine of a life."""

    def __init__(self, life: Life, host: Host) -> None:
        self._life, self._host = life, host
        # When a training that no agent watches began, and until when it goes on.
        self.foreign: tuple[float, float] | None = None

    def plan(self) -> None:
        life = self._life
        for fault, comes in (("another home", self._take), ("foreign training", self._begin)):
            # One that may be there before any job is, and one among them.
            for latest in (20.0, life.storm_seconds / 2):
                if life.weather.strikes(fault):
                    life.later(life.dice.between(f"{fault} when", 0.0, latest), comes)

    def _take(self) -> None:
        """It waits for the lock, as others do."""
        if self._life.weather.calm:
            return
        if self._host.holder is not None:
            self._life.later(TRIES_AGAIN, self._take)
            return
        self._life.count("another home")
        self._host.holders.append(Stranger(self._life))

    def _begin(self) -> None:
        if not self._life.weather.calm:
            self._life.count("foreign training")
            now = self._life.loop.time()
            self.foreign = (now, now + self._life.dice.between("foreign training for", 1.0, 90.0))

    @property
    def is_foreign_there(self) -> bool:
        return self.foreign is not None and not self._life.weather.calm and self._life.loop.time() < self.foreign[1]

    def seen(self, now: datetime) -> MachineSeen:
        """What a controller of this home sees of the machine."""
        if self._host.is_away():
            return MachineSeen(as_of=now, name="this machine", unready="it doesn't answer")
        if self._host.is_unreadable():
            return MachineSeen(as_of=now, name="this machine", unready="too many open files")
        holder = self._host.holder
        shown = None
        if holder is not None:
            uid, number = holder.key
            ours = not isinstance(holder, Stranger)
            shown = Holder(job=holder.name, uid=uid, run_id=f"{uid}-{number}", pid=1, since=None, ours=ours)
        foreign = (Foreign(pid=2, command="python", evidence="uses the GPU"),) if self.is_foreign_there else ()
        return MachineSeen(as_of=now, name="this machine", holder=shown, foreign=foreign)
