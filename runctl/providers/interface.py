"""The protocol that every kind of machine keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from runctl.manifest.job import Job
from runctl.planner.actions import Launch
from runctl.planner.observed import AttemptSeen, InstanceSeen, Listing, MachineSeen
from runctl.planner.record import Attempt, Event, Orders, Record
from runctl.planner.rental import Offer, Refusal, Rental


class ProviderError(Exception):
    """Base of the errors below."""


class HostUnreachable(ProviderError):
    """The host can't be asked, or its answer was lost: what it was told to do may be done."""


class LaunchRefused(ProviderError):
    """The launch definitely had no effect: nothing runs, nothing is billed."""


class LaunchUnknown(ProviderError):
    """The launch may or may not have had an effect: look before sending anything else."""


class RentRefused(ProviderError):
    """The request for a machine definitely had no effect."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


class RentUnknown(ProviderError):
    """The request for a machine may or may not have had an effect."""


class Sight(msgspec.Struct, frozen=True):
    """What one look at an attempt gave: its state, and the agent's events after those already reported, numbered."""

    attempt: AttemptSeen
    events: tuple[tuple[int, Event], ...] = ()


class Provider(Protocol):
    """Every method may be cancelled, except that `launch` and `order` finish what they began."""

    async def machine(self, record: Record) -> MachineSeen:
        """What is on the machine that the job would run on. Changes nothing there."""

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        """The attempt as it is now. A host that can't be asked is `Unreachable`, never an error."""

    def glance(self, record: Record, attempt: Attempt) -> object:
        """A token that differs from the last one when a look would show something new. Cheap: meant to be polled."""

    async def launch(self, record: Record, launch: Launch, epoch: int, secrets: Mapping[str, str]) -> None:
        """Prepare the attempt's run directory and start its agent; returns when that was sent, not when it is up.
        Twice is the same as once. Raises `LaunchRefused` or `LaunchUnknown`."""

    async def order(self, record: Record, attempt: int, orders: Orders, epoch: int) -> None:
        """Lay orders where the attempt's agent reads them. Raises `ProviderError` if that failed."""

    async def forget(self, record: Record, *, checkpoints: bool, vouched: bool = False) -> None:
        """Remove what the job left on its machines: run directories, and with `checkpoints` the durable ones, too. What
        is on a machine that can't be asked stays there if it is `vouched` that this one never comes back. Raises
        `ProviderError`."""


class Tagged(msgspec.Struct, frozen=True):
    """An instance with this owner's tags, and the job that they name."""

    uid: str
    seen: InstanceSeen


class Allowance(msgspec.Struct, frozen=True):
    """So many requests at once, and one more after each `seconds`."""

    burst: int
    seconds: float


class Cloud(Protocol):
    """Where machines are rented. One sweep lists those of all jobs; a look at one job's reads the newest sweep.

    `rent` and `end` finish what they began, the others may be cancelled. Raises `ProviderError` where nothing else is
    said: what was asked for isn't known then.
    """

    allowance: Allowance
    """Of requests for machines, for one controller."""

    async def offers(self, job: Job) -> tuple[Offer, ...]:
        """What could be rented for the job, priced, in the order of its preference."""

    async def rent(self, record: Record, rental: Rental) -> str:
        """Send the request as it is frozen, once; the instance's id. Raises `RentRefused` or `RentUnknown`."""

    async def end(self, instances: Sequence[str]) -> None:
        """Terminate these; one that can't be ended doesn't keep the others from it."""

    async def sweep(self) -> Sequence[Tagged]:
        """List every instance of this owner."""

    def listing(self, uid: str) -> Listing | None:
        """A job's instances in the newest sweep; None before the first one."""
