"""What else users do to jobs: they look at a plan before they say yes, lift limits, vouch for hosts, come late."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from planner.kit import T0, job, source

from runctl.manifest.job import Job, SourcedJob
from runctl.manifest.quantities import Duration, Money, format_money
from runctl.planner.reapply import Reapply
from runctl.planner.record import OutcomeType, Record, Source
from runctl.planner.requests import AssumeDead, DeleteJob, StopJob
from runctl.reconciler.applying import Prepared, propose, submit
from runctl.store.interface import Ask, StoreError

if TYPE_CHECKING:
    from .life import Life
    from .run import Run

# What may be lifted so that a job goes on that it ended.
LIFTED = (OutcomeType.CAP_REACHED, OutcomeType.DURATION_REACHED, OutcomeType.CHECKPOINT_OVERDUE)
ENDED_BY = dict(zip(("cap", "duration", "deadline"), LIFTED, strict=True))
REQUESTS = ("limits", "limits", "limits", "code", "directory", "vouch", "delete", "again")
# How long a user looks at a plan before it is applied, and how far apart two reads of a slow process are.
LONGEST_THOUGHT = 20.0
LONGEST_READ = 3.0


class Users:
    """The people of a wide life, beside what the user of every life asks for."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def plan(self) -> None:
        life, dice = self._life, self._life.dice
        for _ in range(dice.whole("wide requests", 2, 6)):
            life.later(dice.between("wide asks when", 0.0, life.storm_seconds), self._ask)
        for _ in range(dice.whole("looks for what has ended", 1, 5)):
            life.later(dice.between("looks when", 30.0, life.storm_seconds), self._lift_what_ended_a_job)

    @property
    def _now(self) -> datetime:
        return T0 + timedelta(seconds=self._life.loop.time())

    def _ask(self) -> None:
        life = self._life
        uid = life.dice.pick("wide asks whom", life.uids)
        record = life.record(uid)
        if record is None or life.weather.calm:
            return
        what = life.dice.pick("wide asks what", REQUESTS)
        self._note(what, uid)
        match what:
            case "limits":
                self.apply(uid, self._edited(record))
            case "code":
                self.apply(uid, record.job, source("1"))
            case "directory":
                self.apply(uid, record.job, msgspec.structs.replace(source(), workdir="moved"))
            case "again":
                self.apply(uid, job(life.edited(), record.name))
            case "vouch":
                self._vouch_for_its_last(uid, record)
            case _:
                self._delete(uid)

    def _note(self, what: str, uid: str) -> None:
        self._life.count(f"user: {what}")
        self._life.say("user", what, uid)
        self._life.asked[uid] += 1

    # Applying

    def apply(self, uid: str, spec: Job, code: Source | None = None, *, in_haste: bool = False) -> None:
        """As the command does it: read what there is, show the plan, and apply it when the user has said yes."""
        life = self._life
        reader = SlowReader(life.store, uid)
        replace = life.dice.between("replace", 0, 1) < 0.5
        prepared = Prepared(
            sourced=SourcedJob(job=spec, file="job.yaml", base="/project", document=0, positions={}),
            source=code or source(), findings=(), recipe_why="", root_reason="",
        )  # fmt: skip

        def read() -> None:
            proposal = propose(reader, prepared, self._now, replace=replace, rerun=False)  # type: ignore[arg-type]
            if proposal.found is None or proposal.decision.kind is Reapply.CREATE:
                return  # it would be another job
            if proposal.decision.kind not in (Reapply.NEEDS_REPLACE, Reapply.NEEDS_RERUN):
                thought = life.dice.between("thinks for", 0.0, LONGEST_THOUGHT)
                life.later(0.0 if in_haste else thought, lambda: say_yes(proposal))

        def say_yes(proposal: Any) -> None:
            if (
                life.weather.calm
                or life.controllers.is_dark()
                or life.controllers.is_full()
                or life.record(uid) is None
            ):
                return
            try:
                submit(life.store, [proposal], "me", self._now, replace=replace)
            except StoreError:
                return
            life.wrote()

        life.later(life.dice.between("reads for", 0.0, 0.1 if in_haste else LONGEST_READ), read)

    def _edited(self, record: Record) -> Job:
        """The same job with other limits, which need no new attempt."""
        spec, dice = record.job, self._life.dice
        factor = dice.pick("by what", (0.5, 2.0, 4.0))
        what = dice.pick("which limit", ("cap", "cap", "cap", "duration", "duration", "retry"))
        if what == "duration":
            limit = spec.limits.duration
            longer = Duration("30s", 30_000) if limit is None else _times(limit, factor)
            return msgspec.structs.replace(spec, limits=msgspec.structs.replace(spec.limits, duration=longer))
        if what == "retry" or (spec.cost.cap is None and not spec.cost.uncapped and spec.instance.hourly_rate is None):
            retry = msgspec.structs.replace(spec.retry, failures=spec.retry.failures + 1)
            return msgspec.structs.replace(spec, retry=retry)
        cap = Money("2 USD", 2_000_000) if spec.cost.cap is None else _money(spec.cost.cap, factor)
        return msgspec.structs.replace(spec, cost=msgspec.structs.replace(spec.cost, cap=cap, uncapped=False))

    def _lift_what_ended_a_job(self) -> None:
        life = self._life
        for uid in life.uids:
            record = life.record(uid)
            outcome = record.outcome if record is not None else None
            if record is not None and outcome is not None and outcome.type in LIFTED and not life.weather.calm:
                self._note("lift", uid)
                self.apply(uid, _lifted(record, outcome.type))

    # Vouching for hosts

    def _vouch_for_its_last(self, uid: str, record: Record) -> None:
        """For a machine of the user's only when nothing is alive there: another attempt would be the user's doing."""
        attempt = record.attempt
        run = self._life.run_of(uid, attempt.number) if attempt is not None else None
        if attempt is not None and not (run is not None and run.host is self._life.host and run.alive):
            self.vouch(uid, attempt.number)

    def vouch(self, uid: str, attempt: int) -> None:
        self._life.vouched.add((uid, attempt))
        self._life._write(Ask(uid, AssumeDead(at=self._now, attempt=attempt)))

    def sees_it_die(self, run: Run) -> None:
        """Nothing computes any more: now and then the user is quicker than a controller."""
        life, uid = self._life, run.key[0]
        soon = life.dice.between("sees it when", 0.0, 1.5)
        here = run.host is life.host
        if life.host.is_unreadable() and here and life.dice.between("vouches", 0, 1) < 0.5:
            life.later(soon, lambda: self._vouch_for_the_dead(run))
        elif here and run.key not in life.saves and life.dice.between("cleans up", 0, 1) < 0.9:
            life.later(soon, lambda: self._clean_up_after(run))
        elif life.dice.between("does something about it", 0, 1) < 0.7:
            life.later(soon, lambda: self._stop(uid))

    def _vouch_for_the_dead(self, run: Run) -> None:
        if not run.alive:
            self._note("vouch", run.key[0])
            self.vouch(*run.key)

    def sees_it_away(self, run: Run) -> None:
        """Nobody hears of it: now and then the user means to spend less, and its agent doesn't hear of that either."""
        life, uid = self._life, run.key[0]
        record = life.record(uid)
        priced = record is not None and record.job.instance.hourly_rate is not None
        if record is None or not priced or life.dice.between("saves money", 0, 1) < 0.3:
            return
        cap = record.job.cost.cap
        lower = Money("2 USD", 2_000_000) if cap is None else _money(cap, 0.5)
        self._note("limits", uid)
        cost = msgspec.structs.replace(record.job.cost, cap=lower, uncapped=False)
        self.apply(uid, msgspec.structs.replace(record.job, cost=cost), in_haste=True)

    def sees_it_drain(self, run: Run) -> None:
        """A limit ends it; now and then the user lifts that at once, so that it is higher before the end is known."""
        life, uid = self._life, run.key[0]
        record, reason = life.record(uid), run.seen.drain.reason if run.seen.drain is not None else ""
        if record is not None and reason in ENDED_BY and life.dice.between("lifts it at once", 0, 1) < 0.5:
            self._note("lift", uid)
            self.apply(uid, _lifted(record, ENDED_BY[reason]), in_haste=True)

    def _clean_up_after(self, run: Run) -> None:
        """The directory of an attempt that died and has saved nothing is removed."""
        record = self._life.record(run.key[0])
        live = record.live if record is not None else None
        known = live is not None and live.number == run.key[1] and live.started_at is not None
        if known and not run.alive and run.exit is None and run.key not in self._life.saves:
            self._life.count("user: clean up")
            run.host.runs.pop(run.key, None)
            run.host.removed.add(run.key)

    def _stop(self, uid: str) -> None:
        self._note("stop", uid)
        self._life._write(Ask(uid, StopJob(at=self._now, why="nothing computes")))

    def _delete(self, uid: str) -> None:
        self._life.deleted.add(uid)
        self._life.checkpoints_too.add(uid)
        self._life._write(Ask(uid, DeleteJob(at=self._now, checkpoints=True)))
        self.apply(uid, self._life.record(uid).job)  # type: ignore[union-attr]


class SlowReader:
    """The store as a slow process reads it: what was asked of the job a moment before the job itself."""

    def __init__(self, store: Any, uid: str) -> None:
        self._store, self._asked = store, store.requests(uid)

    def requests(self, _uid: str) -> Any:
        return self._asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _lifted(record: Record, by: OutcomeType) -> Job:
    spec = record.job
    if by is OutcomeType.CAP_REACHED and spec.cost.cap is not None:
        return msgspec.structs.replace(spec, cost=msgspec.structs.replace(spec.cost, cap=_money(spec.cost.cap, 2)))
    if by is OutcomeType.DURATION_REACHED and spec.limits.duration is not None:
        duration = _times(spec.limits.duration, 2)
        return msgspec.structs.replace(spec, limits=msgspec.structs.replace(spec.limits, duration=duration))
    deadline = _times(spec.checkpoint.deadline, 2)
    return msgspec.structs.replace(spec, checkpoint=msgspec.structs.replace(spec.checkpoint, deadline=deadline))


def _times(duration: Duration, factor: float) -> Duration:
    millis = int(duration.millis * factor)
    return Duration(f"{millis}ms", millis)


def _money(money: Money, factor: float) -> Money:
    micros = int(money.micros * factor)
    return Money(format_money(micros), micros)
