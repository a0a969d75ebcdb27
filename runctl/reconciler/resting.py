"""When a controller has nothing to do for a job, and when it has somebody to look after."""

from __future__ import annotations

from runctl.planner.record import Attempt, Desired, Record
from runctl.planner.rental import MachineState


def rests(record: Record) -> bool:
    """Nothing is to be done for the job until somebody asks."""
    if record.live is not None or record.unreleased or record.desired is Desired.DELETED:
        return False
    return record.outcome is not None or record.stopped is not None


def may_have_agent(record: Record, live: Attempt) -> bool:
    """The live attempt has a machine that is up, or was, as far as anybody has seen."""
    rental = record.rental_of(live)
    return rental is None or rental.state not in (None, MachineState.PENDING)
