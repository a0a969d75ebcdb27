"""The planner's one entry: what to remember and what to do, given what is remembered and what was seen."""

from __future__ import annotations

from datetime import datetime

from runctl.planner.actions import Plan
from runctl.planner.intents import absorb
from runctl.planner.launching import launch
from runctl.planner.machines import take_in_machines
from runctl.planner.observed import Observed
from runctl.planner.ordering import give_orders
from runctl.planner.passing import Pass
from runctl.planner.record import Record
from runctl.planner.releasing import release
from runctl.planner.reminders import remind
from runctl.planner.removing import remove
from runctl.planner.seeing import take_in
from runctl.planner.status import describe
from runctl.planner.verdict import conclude


def plan(record: Record, observed: Observed, now: datetime) -> Plan:
    """One pass over one job. Pure: the same arguments give the same plan.

    Planning the plan's own record again with the same observation (its requests answered) asks for nothing new
    but what is still unseen.
    """
    step = Pass(record=record, observed=observed, now=now)
    for phase in (absorb, take_in_machines, take_in, conclude, give_orders, launch, release, remind, describe):
        step = phase(step)
    step, gone = remove(step, record)
    return Plan(
        record=None if gone else step.record,
        actions=step.actions,
        events=step.events,
        wake_at=min(step.wakes, default=None),
        yields=step.yields,
    )
