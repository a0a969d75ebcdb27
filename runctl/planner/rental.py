"""A machine that is rented for an attempt: what was asked for, and what became of it.

All instants are aware UTC datetimes; all money is whole micro-dollars.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

# Machines come up in a minute or two, the largest ones in several.
PENDING_WINDOW = timedelta(minutes=15)


class _Value(msgspec.Struct, frozen=True):
    pass


class Market(StrEnum):
    ON_DEMAND = "on-demand"
    SPOT = "spot"


class Offer(_Value, frozen=True, kw_only=True):
    """What can be asked for. `hourly` is the worst that is billed for it in all: compute, disks and addresses; on the
    spot market `max_price` of it is for compute, as the request says. `minimum`: seconds that are billed at least."""

    type: str
    zone: str
    market: Market
    hourly: int
    minimum: int
    source: str
    quoted_at: datetime
    max_price: int | None = None

    @property
    def name(self) -> str:
        return f"{self.type} ({self.market.value}) in {self.zone}"


class MachineState(StrEnum):
    """As the provider lists it. Billed from `running` on, until it stops or shuts down."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"


# A machine in one of these isn't billed for computing any more, and only looking tells when it is gone.
GOING = (MachineState.SHUTTING_DOWN, MachineState.TERMINATED)


class Demise(StrEnum):
    """Why a machine went, as the provider tells it. `CAPACITY`: it never ran, there was no capacity after all."""

    CAPACITY = "capacity"
    RECLAIMED = "reclaimed"
    ITSELF = "itself"
    ASKED = "asked"
    FAULT = "fault"


class Ending(StrEnum):
    """Why the planner wants a machine to go."""

    ATTEMPT_OVER = "its attempt is over"
    NOT_WANTED = "the job isn't to run any more"
    STRAY = "no attempt expects it"
    UNREACHABLE = "no agent came up on it"
    CEILING = "its money is over"
    STOPPED = "it was stopped"
    WIPED = "what its attempt left on it is gone"
    MISSING = "no listing has it any more"
    VOUCHED = "its attempt is taken for dead, as asked"


class Release(StrEnum):
    """How it came to be known that nothing is billed any more."""

    TERMINATED = "seen terminated"
    VANISHED = "absent from every listing, long past its end"
    REFUSED = "refused"
    NO_EFFECT = "the request had no effect"


class Refusal(StrEnum):
    """Why a request had no effect. The first two are of the offer, the others of whoever asks."""

    CAPACITY = "capacity"
    QUOTA = "quota"
    PERMISSION = "permission"
    INVALID = "invalid"


class Shunned(_Value, frozen=True, kw_only=True):
    """An offer that was refused at `at`."""

    type: str
    zone: str
    market: Market
    why: Refusal
    message: str
    at: datetime


class Rental(_Value, frozen=True, kw_only=True):
    """One request for a machine. It exists, durably, before it is sent, and is over when `released_at` is set.

    `choice` counts the requests of its attempt from 0. `reserved` is the worst case, held until the release is seen.
    Past `launch_before` one may look for its effect, but not send it. `not_after`: by then the machine is gone,
    whoever is alive to see to it (None: nothing bounds its cost). A listing tells something about it if it started
    after `asked_at`. `state` is None until a listing has had it. `absences` are those that hadn't, when that counts;
    `absent_at` is when the last of them started, or where none counts yet the first that hadn't it; `absent_since` when
    the first that counts did.
    `ends` is why it is to go, `ends_since` since when. `pending_at`: when it was last listed as pending before its end
    was asked for. `refusal` with its `detail`: why there was none.
    """

    attempt: int
    choice: int
    offer: Offer
    token: str
    intended_at: datetime
    launch_before: datetime
    not_after: datetime | None
    reserved: int
    asked_at: datetime
    instance: str | None = None
    state: MachineState | None = None
    launched_at: datetime | None = None
    demise: Demise | None = None
    ends: Ending | None = None
    ends_since: datetime | None = None
    ends_asked: int = 0
    pending_at: datetime | None = None
    refusal: Refusal | None = None
    detail: str = ""
    absences: int = 0
    absent_at: datetime | None = None
    absent_since: datetime | None = None
    released_at: datetime | None = None
    released: Release | None = None

    @property
    def pending_until(self) -> datetime:
        """A machine that was granted and doesn't run by then isn't waited for any longer."""
        return self.launch_before + PENDING_WINDOW

    @property
    def stray(self) -> bool:
        return self.ends is Ending.STRAY
