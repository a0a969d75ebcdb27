"""All that is known of one job at one moment, put together for rendering."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from runctl.home import Home
from runctl.manifest.job import Platform
from runctl.planner.money import cost_of, rate_now, spent
from runctl.planner.observed import Dead, Ended, Live, Observed
from runctl.planner.plan import plan
from runctl.planner.record import Attempt, CheckpointRef, ConditionType, Phase, Record
from runctl.planner.seeing import HEARTBEAT
from runctl.planner.status import AGENT_DIED
from runctl.providers.hosts.spec import run_id
from runctl.providers.hosts.vitals import Progress, Vitals
from runctl.providers.local import run_dir
from runctl.reconciler.resting import rests
from runctl.store.interface import ControllerId, Store, Versioned


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """`vitals` are those of the newest attempt; `controller` is who cares for the job now."""

    record: Record
    now: datetime
    vitals: Vitals | None
    controller: ControllerId | None

    @property
    def unwatched(self) -> bool:
        """There is something to do for the job, and nobody who does it."""
        return self.controller is None and not rests(self.record)

    @property
    def progress(self) -> Progress | None:
        return self.vitals.progress if self.vitals is not None else None

    @property
    def live_progress(self) -> Progress | None:
        """Progress while it can still move."""
        return self.progress if self.record.live is not None else None

    @property
    def checkpoint(self) -> CheckpointRef | None:
        """The newest durable one: the agent may know of one that the record doesn't hold yet."""
        known, told = self.record.checkpoint, self.vitals.newest if self.vitals else None
        if known is None or told is None:
            return told or known
        return max(known, told, key=lambda ref: (ref.attempt, ref.seq))

    @property
    def durable(self) -> int:
        """How many durable checkpoints all attempts have made."""
        attempt = self.record.attempt
        told = self.vitals.durable if self.vitals is not None else 0
        before = sum(each.durable for each in self.record.attempts[:-1])
        return before + max(told, attempt.durable if attempt else 0)

    @property
    def priced(self) -> bool:
        return rate_now(self.record) is not None or bool(self.record.ledger)

    @property
    def spent(self) -> int:
        return spent(self.record, self.now)

    @property
    def projected(self) -> int | None:
        """What the job will have cost in all if it goes on like this, the cap at most; None while nobody can tell."""
        record = self.record
        if record.live is None:
            return self.spent if rests(record) else None
        rate, progress = rate_now(record), self.live_progress
        if rate is None or progress is None or progress.eta is None:
            return None
        left = max(timedelta(0), progress.at + progress.eta - self.now)
        ahead = self.spent + cost_of(rate.hourly, left)
        cap = record.job.cost.cap
        return ahead if cap is None else min(ahead, cap.micros)

    @property
    def waiting_for(self) -> str:
        """What a job waits for that has no attempt, or one with a dead agent."""
        if rests(self.record):
            return ""
        kind = ConditionType.LAUNCHED if self.record.live is None else ConditionType.REACHABLE
        found = next((c for c in self.record.conditions if c.type is kind), None)
        waits = found is not None and (self.record.live is None or found.reason == AGENT_DIED)
        return found.message if found is not None and waits else ""

    @property
    def word(self) -> str:
        """The outcome if there is one, else the phase."""
        if self.record.outcome is not None:
            return self.record.outcome.type.value
        return self.record.phase.value if not self._asked_to_end else f"{self.record.phase.value} (ending)"

    @property
    def _asked_to_end(self) -> bool:
        live = self.record.live
        return live is not None and live.orders.end is not None and self.record.phase is not Phase.DRAINING


def look(home: Home, store: Store, versioned: Versioned, now: datetime) -> Sight:
    """Reads the newest attempt's run directory; asks no network."""
    record = versioned.record
    controller = store.lease(record.uid)
    if controller is None and record.live is not None and _is_here(record, record.live):
        record = _as_seen(home, record, record.live, now)
    attempt = record.attempt
    seen = run_dir.vitals(home.run_dir(record.uid, attempt.number)) if attempt is not None else None
    return Sight(record=record, now=now, vitals=seen, controller=controller)


def _is_here(record: Record, attempt: Attempt) -> bool:
    """What is here of an attempt elsewhere says nothing of its processes."""
    return record.generation_of(attempt).job.instance.platform is Platform.LOCAL


def _as_seen(home: Home, record: Record, live: Attempt, now: datetime) -> Record:
    """The record as the next controller will write it, if the attempt has begun or ended and none has seen that yet."""
    seen = run_dir.look(home.run_dir(record.uid, live.number), run_id(record, live), now)
    if isinstance(seen, Dead) and seen.last_seen is not None and now <= seen.last_seen + HEARTBEAT:
        return record  # until when it is billed isn't sure yet
    if not (isinstance(seen, Ended | Dead) or (isinstance(seen, Live) and live.started_at is None)):
        return record
    return plan(record, Observed(attempt=seen), now).record or record
