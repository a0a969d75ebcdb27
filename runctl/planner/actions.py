"""What a plan asks the reconciler to do to the world. Each is safe to do twice."""

from __future__ import annotations

from datetime import datetime

import msgspec

from runctl.planner.record import Attempt, Event, Generation, Orders, Record
from runctl.planner.rental import Rental


class _Action(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Launch(_Action, frozen=True, kw_only=True):
    """Prepare the run directory and start the agent of `attempt`; starting it twice is the same as once.

    `again`: it may have been sent before, with what effect nobody knows.
    """

    attempt: Attempt
    generation: Generation
    again: bool = False


class Rent(_Action, frozen=True, kw_only=True):
    """Ask for a machine. The same token to the same zone is the same request, however often it is sent.

    `again`: it may have been sent before, with what effect nobody knows.
    """

    rental: Rental
    again: bool = False


class EndMachine(_Action, frozen=True, kw_only=True):
    """Terminate a rented machine. The answer is no proof: it is released when it is seen terminated."""

    instance: str


class SendOrders(_Action, frozen=True, kw_only=True):
    attempt: int
    orders: Orders


class AskToStop(_Action, frozen=True, kw_only=True):
    """Put a stop request to another job of this store, which holds the machine."""

    uid: str
    why: str


class Forget(_Action, frozen=True, kw_only=True):
    """Remove the job's run directories; with `checkpoints` its durable checkpoints, too. What lies on a host that can't
    be asked is left there if that is `vouched` for. In all the job has cost `spent` micro-dollars."""

    checkpoints: bool
    vouched: bool = False
    spent: int = 0


Action = Launch | Rent | EndMachine | SendOrders | AskToStop | Forget


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`record` is the next record, durable before any of `actions` is done (None: the job is removed after them).

    `wake_at`: look again then, whatever happens; None: only when something happens. `yields`: the job waits for what
    this controller hasn't got (secrets), so that another should have the lease."""

    record: Record | None
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    wake_at: datetime | None = None
    yields: bool = False
