"""Jobs, records and observations in few words, and a life that is planned step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import msgspec

from runctl.manifest.job import Job
from runctl.manifest.load import load
from runctl.planner.actions import Plan
from runctl.planner.lint import lint
from runctl.planner.observed import (
    Absent,
    Dead,
    Ended,
    GroupSeen,
    Holder,
    InstanceSeen,
    LaunchFailed,
    Listing,
    Live,
    MachineSeen,
    Observed,
    RentAnswer,
    Starting,
    Unreachable,
)
from runctl.planner.plan import plan
from runctl.planner.record import AttemptEnd, CheckpointRef, Desired, EndReason, Event, Generation, Record, Source
from runctl.planner.rental import MachineState, Market, Offer, Refusal, Rental
from runctl.planner.requests import Apply, Asked, AssumeDead, CancelJob, DeleteJob, Request, StopJob

from .rendering import render

T0 = datetime(2026, 1, 1, tzinfo=UTC)

PRICED = "instance: {hourly_rate: 1 USD}\ncost: {cap: 1 USD}"


@cache
def job(more: str = "", name: str = "a") -> Job:
    """The job of a manifest with these lines beside its name and script, every default filled in."""
    loaded = load(f"name: {name}\nscript: train.py\n{more}\n".encode(), "job.yaml", "/project")
    errors = [each.message for each in loaded.diagnostics if each.severity.value == "error"]
    assert not errors, errors
    return loaded.jobs[0].job


def source(code: str = "0") -> Source:
    return Source(
        code_hash=code * 64, files=3, bytes=2048, root="/project", workdir=".", python="/usr/bin/python3",
        python_version="3.12.1", path="/usr/bin",
    )  # fmt: skip


def record(spec: Job, *, uid: str = "u1", group: str | None = None, order: int = 0, at: datetime = T0) -> Record:
    """A job as it is created."""
    return Record(
        uid=uid, name=spec.name, owner="me", group=group, order=order, created_at=at, desired=Desired.RUN,
        generations=(Generation(number=1, job=spec, source=source(), applied_at=at),),
    )  # fmt: skip


def ref(attempt: int, seq: int, at: datetime) -> CheckpointRef:
    return CheckpointRef(
        attempt=attempt, seq=seq, name=f"epoch-{seq}.npz", path=f"/ckpt/{attempt}/{seq}", at=at, bytes=1024, epoch=seq
    )


class Life:
    """One job as its controller sees it. Every plan on the way has to please the linter."""

    def __init__(self, spec: Job, *, group: str | None = None) -> None:
        self.now = T0
        self.record: Record | None = record(spec, group=group)
        self.machine: MachineSeen | None = None
        self.group = GroupSeen()
        self.missing: tuple[str, ...] = ()
        self.serial = 0
        self.asked: list[Asked] = []
        self.events: tuple[tuple[int, Event], ...] = ()
        self.listing: Listing | None = None
        self.offers: tuple[Offer, ...] | None = None
        self.rent_from: datetime | None = None
        self.answer: RentAnswer | None = None
        self.plan: Plan | None = None
        self.story: list[str] = []

    @property
    def job(self) -> Record:
        assert self.record is not None
        return self.record

    def holds(self, holder: Holder | None = None) -> None:
        """From now on the machine is held by this one."""
        self.machine = MachineSeen(as_of=self.now, name="this machine", holder=holder)

    def ask(self, request: Request) -> None:
        self.serial += 1
        self.asked.append(Asked(self.serial, request))

    def apply(self, spec: Job, *, code: str = "0", replace: bool = False) -> None:
        self.ask(
            Apply(at=self.now, job=spec, source=source(code), generation=self.job.generation.number, replace=replace)
        )

    def stop(self, why: str = "asked to stop") -> None:
        self.ask(StopJob(at=self.now, why=why))

    def cancel(self) -> None:
        self.ask(CancelJob(at=self.now, why="asked to cancel"))

    def delete(self, *, checkpoints: bool = False, vouched: bool = False) -> None:
        self.ask(DeleteJob(at=self.now, checkpoints=checkpoints, vouched=vouched))

    def assume_dead(self, attempt: int) -> None:
        self.ask(AssumeDead(at=self.now, attempt=attempt))

    def after(self, **span: float) -> None:
        self.now += timedelta(**span)

    def see(
        self,
        attempt: Absent | Starting | Live | Ended | Dead | Unreachable | None = None,
        *,
        failed: str | None = None,
        not_forgotten: str | None = None,
        looked: bool = True,
    ) -> Plan:
        """One pass with this view of the live attempt; the requests since the last are answered."""
        before = self.job
        machine = self.machine or MachineSeen(as_of=self.now, name="this machine")
        observed = Observed(
            attempt=attempt,
            machine=machine if looked and before.live is None and not before.rented else None,
            group=self.group,
            requests=tuple(self.asked),
            missing_secrets=self.missing,
            launch_failed=LaunchFailed(attempt=before.live.number, message=failed) if failed and before.live else None,
            agent_events=self.events,
            listing=self.listing,
            offers=self.offers if self.rent_from is None else None,
            rent_from=self.rent_from,
            rent_answer=self.answer,
            not_forgotten=not_forgotten,
        )
        made = plan(before, observed, self.now)
        found = lint(before, observed, made, self.now)
        assert found == [], found
        assert plan(before, observed, self.now) == made
        self.story.append(render(before, observed, made, self.now, T0))
        self.record, self.plan = made.record, made
        if made.record is not None:
            # What is remembered survives the way through the store.
            assert msgspec.json.decode(msgspec.json.encode(made.record), type=Record) == made.record
        self.asked, self.events, self.answer = [], (), None
        return made

    def told(self) -> str:
        """The plans so far, as text."""
        return "\n".join(self.story) + "\n"

    # The usual views of the newest attempt.

    def absent(self) -> Absent:
        return Absent(as_of=self.now)

    def live(
        self,
        phase: str = "training",
        *,
        started: float = 0.0,
        drain: str | None = None,
        newest: CheckpointRef | None = None,
        serial: int | None = None,
    ) -> Live:
        """Up since `started` seconds ago, or since it was seen first; its orders are the newest ones."""
        attempt = self.job.attempts[-1]
        began = attempt.started_at or self.now - timedelta(seconds=started)
        return Live(
            as_of=self.now, phase=phase, step=None, started_at=began,  # type: ignore[arg-type]
            training_at=None if phase == "preparing" else attempt.training_at or self.now, drain=drain,
            active=(self.now - began).total_seconds(), durable=newest.seq if newest else 0, newest=newest,
            serial=attempt.orders.serial if serial is None else serial, heartbeat=self.now,
        )  # fmt: skip

    def ended(
        self,
        reason: EndReason | str = EndReason.EXITED,
        code: int | None = None,
        *,
        signal: int | None = None,
        oom: bool = False,
        detail: str = "",
        newest: CheckpointRef | None = None,
        active: float | None = None,
        billed: bool = True,
    ) -> Ended:
        attempt = self.job.attempts[-1]
        began = (attempt.started_at or self.now) if billed else None
        ran = (self.now - began).total_seconds() if began else 0.0
        end = AttemptEnd(
            reason=EndReason(reason), detail=detail, exit_code=code, signal=signal, oom=oom, training_started=billed
        )
        return Ended(
            as_of=self.now, end=end, started_at=began, ended_at=self.now, active=ran if active is None else active,
            durable=newest.seq if newest else 0, newest=newest,
        )  # fmt: skip

    def dead(self, *, newest: CheckpointRef | None = None) -> Dead:
        attempt = self.job.attempts[-1]
        return Dead(
            as_of=self.now, started_at=attempt.started_at or self.now, last_seen=self.now, active=1.0,
            durable=newest.seq if newest else 0, newest=newest,
        )  # fmt: skip

    def run(self, **training: float) -> None:
        """Through launch and start into the training, which has gone on for so long."""
        self.see()
        self.see(self.live("preparing"))
        self.see(self.live())
        if training:
            self.after(**training)


RENTED = (
    "instance: {platform: aws, type: g5.xlarge, region: us-east-1}\n"
    "checkpoint: {upload: s3://bucket/ckpt/, grace: 5s}\n"
)


def offer(zone: str = "a", *, spot: bool = False, hourly: int = 3_600_000, kind: str = "g5.xlarge") -> Offer:
    market = Market.SPOT if spot else Market.ON_DEMAND
    return Offer(type=kind, zone=zone, market=market, hourly=hourly, minimum=60, source="quoted", quoted_at=T0)


class RentedLife(Life):
    """A job on rented machines. `lists` is what the next listings say."""

    def __init__(self, more: str = "cost: {cap: 2 USD}", *offers: Offer, spec: str = RENTED, group: str | None = None):
        super().__init__(job(spec + more), group=group)
        self.offers = offers or (offer("a"), offer("b"))
        self.lists()

    @property
    def rental(self) -> Rental:
        return self.job.rentals[-1]

    def lists(self, *instances: InstanceSeen) -> None:
        self.listing = Listing(as_of=self.now, instances=instances)

    def instance(
        self, state: str = "running", name: str | None = None, *, rental: Rental | None = None, **more: object
    ) -> InstanceSeen:
        """The newest rental's machine, as it is listed."""
        of = rental or self.rental
        return InstanceSeen(
            id=name or of.instance or "i-1", token=of.token, attempt=of.attempt, state=MachineState(state),
            launched_at=of.launched_at or self.now, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    def accepted(self, name: str = "i-1") -> None:
        """The last request was granted; this pass takes that in."""
        self.answer = RentAnswer(token=self.rental.token, instance=name)
        self.see(self.unreachable())

    def refused(self, why: Refusal = Refusal.CAPACITY, *, again: bool = False) -> None:
        self.answer = RentAnswer(token=self.rental.token, refusal=why, message=f"no {why.value}", again=again)
        self.see(self.unreachable())

    def unreachable(self) -> Unreachable:
        return Unreachable(as_of=self.now, why="it doesn't answer")

    def comes_up(self, name: str = "i-1") -> None:
        """Through request and start into the training."""
        self.see()
        self.accepted(name)
        self.after(seconds=30)
        self.lists(self.instance("running", name))
        self.see(self.unreachable())
        self.see(self.absent())
        self.after(seconds=2)
        self.see(self.live("preparing"))
        self.see(self.live())

    def goes(self, **more: object) -> None:
        """Its machine is listed as terminated, after a while."""
        self.after(seconds=20)
        self.lists(self.instance("terminated", **more))


def holder(*, uid: str = "other", name: str = "b", ours: bool = True, run: int = 1) -> Holder:
    return Holder(job=name, uid=uid, run_id=f"{uid}-{run}", pid=77, since=T0, ours=ours)
