"""The last phase: a job that is to be gone, and has nothing left that runs or is billed, goes."""

from __future__ import annotations

from runctl.planner.actions import Forget
from runctl.planner.money import spent
from runctl.planner.passing import Pass
from runctl.planner.record import Desired, Record

# Among the record's reminders: what the user asked for with the removal, and that its failure was said.
DELETE_CHECKPOINTS = "delete-checkpoints"
VOUCHED = "vouched"
WAITS = "removal-waits"


def remove(step: Pass, before: Record) -> tuple[Pass, bool]:
    """The pass with what is left to do, and whether the job is gone then.

    `before`: a controller that has slept may plan from a record of before the last attempt. What can't be taken back
    waits until the store has taken down from the one who cares for the job that it is to be gone.
    """
    asked = before.desired is Desired.DELETED
    if not asked or step.record.live is not None or step.record.unreleased:
        return step, False
    if step.record.answered != before.answered:
        return step, False  # what was asked meanwhile is answered first: nobody is left to do so after it
    told, why = step.record.reminders, step.observed.not_forgotten
    if why is not None and WAITS not in told:
        said = step.say("Warning", "RemovalWaits", f"what it left can't be removed: {why}")
        return said.to(reminders={**told, WAITS: step.now}), False
    cost = spent(step.record, step.now)
    return step.do(Forget(checkpoints=DELETE_CHECKPOINTS in told, vouched=VOUCHED in told, spent=cost)), True
