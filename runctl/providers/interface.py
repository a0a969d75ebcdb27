"""The protocol that every kind of machine keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from runctl.planner.actions import Launch
from runctl.planner.observed import AttemptSeen, MachineSeen
from runctl.planner.record import Attempt, Event, Orders, Record


class ProviderError(Exception):
    """Base of the errors below."""


class LaunchRefused(ProviderError):
    """The launch definitely had no effect: nothing runs, nothing is billed."""


class LaunchUnknown(ProviderError):
    """The launch may or may not have had an effect: look before sending anything else."""


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

    async def forget(self, record: Record, *, checkpoints: bool) -> None:
        """Remove what the job left on its machine: run directories, and with `checkpoints` the durable ones, too."""
