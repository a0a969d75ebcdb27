"""One pass of the planner: the record on its way to what is next, with what was said and asked for meanwhile."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from runctl.planner.actions import Action
from runctl.planner.observed import Observed
from runctl.planner.record import Attempt, Event, Record


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """Each phase takes a pass and returns the next; none of them changes one in place."""

    record: Record
    observed: Observed
    now: datetime
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    wakes: tuple[datetime, ...] = ()
    yields: bool = False

    def to(self, **changes: Any) -> Pass:
        """With these fields of the record changed."""
        return msgspec.structs.replace(self, record=msgspec.structs.replace(self.record, **changes))

    def with_attempt(self, attempt: Attempt) -> Pass:
        return msgspec.structs.replace(self, record=self.record.with_attempt(attempt))

    def do(self, action: Action) -> Pass:
        return msgspec.structs.replace(self, actions=(*self.actions, action))

    def wake(self, at: datetime) -> Pass:
        return msgspec.structs.replace(self, wakes=(*self.wakes, at))

    def say(self, type_: Literal["Normal", "Warning"], reason: str, message: str) -> Pass:
        attempt = self.record.attempt.number if self.record.attempt else None
        event = Event(at=self.now, type=type_, reason=reason, message=message, attempt=attempt)
        return msgspec.structs.replace(self, events=(*self.events, event))
