"""What a plan says to people before anything is done: the change, the machine, the money, the limits, the warnings."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from runctl.manifest.job import Job, Platform
from runctl.manifest.quantities import format_duration, format_money, format_size
from runctl.planner.launching import Go, Refused, Waits, machine_clear
from runctl.planner.money import affordable, cost_of, least_useful, needs, rate_of, reservation, spent
from runctl.planner.observed import Holder, MachineSeen
from runctl.planner.reapply import Change, Decision, Effect, Reapply
from runctl.planner.record import Desired, Generation, Record, Source
from runctl.planner.reminders import DEAR_PER_HOUR

Line = tuple[str, str]

STARTS = (Reapply.CREATE, Reapply.RESUME, Reapply.REPLACE)


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """`changes` says whether applying would change anything; `lines` are labels with their text."""

    name: str
    headline: str
    changed: bool
    lines: tuple[Line, ...]
    diff: tuple[Change, ...]
    warnings: tuple[str, ...]
    worst_case: int | None


def preview(
    record: Record | None,
    job: Job,
    source: Source,
    decision: Decision,
    why_environment: str,
    now: datetime,
    machine: MachineSeen | None = None,
) -> Preview:
    """The plan of applying `job`. Pure: `now` only dates what is relative to it; `machine` is this computer, where
    somebody has looked at it."""
    as_if = _as_if(record, job, source, decision, now)
    starts_here = job.instance.platform is Platform.LOCAL and decision.kind in STARTS and as_if.live is None
    short = _short(as_if, now)
    worst = _worst_case(as_if, now)
    return Preview(
        name=job.name,
        headline=f"will not start: {short}" if short and decision.kind in STARTS else _headline(record, decision),
        changed=decision.kind not in (Reapply.ATTACH, Reapply.REPORT),
        lines=(
            ("machine", _machine(job)),
            ("now", _in_the_way(as_if, machine, now) if machine is not None and starts_here else ""),
            ("command", " ".join([*job.launcher, job.script, *(_quoted(arg) for arg in job.args)])),
            ("code", f"{source.code_hash[:12]} ({_size(source)}) from {source.root}"),
            ("setup", why_environment),
            ("checkpoints", _checkpoints(job)),
            ("resume", _resume(as_if, job)),
            ("cost", _cost(as_if, worst, now)),
            ("limits", _limits(job)),
            ("cap held by", _layers(job)),
            ("on failure", _retry(job)),
        ),
        diff=decision.changes,
        warnings=tuple(_warnings(job)),
        worst_case=worst,
    )


def render(plan: Preview) -> str:
    """The plan as text."""
    width = max(len(label) for label, _ in plan.lines)
    out = [f"{plan.name}: {plan.headline}"]
    for change in plan.diff:
        mark = "~" if change.effect is Effect.IN_PLACE else "!"
        out.append(f"  {mark} {change.path}: {change.before or 'unset'} → {change.after or 'unset'} ({change.effect})")
    if not plan.changed:
        return "\n".join(out) + "\n"
    out.extend(f"  {label.ljust(width)}  {text}" for label, text in plan.lines if text)
    out.extend(f"  warning: {text}" for text in plan.warnings)
    return "\n".join(out) + "\n"


def _as_if(record: Record | None, job: Job, source: Source, decision: Decision, now: datetime) -> Record:
    """The record as it would be with the new spec: what was spent counts, unless it is a new run."""
    generation = Generation(number=1, job=job, source=source, applied_at=now)
    if record is None or decision.kind is Reapply.CREATE:
        return Record(
            uid="", name=job.name, owner="", group=None, order=0, created_at=now, desired=Desired.RUN,
            generations=(generation,),
        )  # fmt: skip
    return msgspec.structs.replace(record, generations=(*record.generations, generation))


def _headline(record: Record | None, decision: Decision) -> str:
    match decision.kind:
        case Reapply.CREATE:
            return "will be created" if record is None else "will run anew, with a new ledger"
        case Reapply.ATTACH:
            return f"unchanged, {record.phase if record else ''}: apply attaches to it"
        case Reapply.REPORT:
            outcome = record.outcome.type if record and record.outcome else "being cancelled"
            return f"unchanged, {outcome}: apply reports that and starts nothing (--rerun starts a new run)"
        case Reapply.RESUME:
            if record is None or record.checkpoint is None:
                return "will begin anew: there is no durable checkpoint"
            return "will go on from its newest durable checkpoint"
        case Reapply.CHANGE_IN_PLACE:
            return "will be changed in place"
        case Reapply.REPLACE:
            return "will save, end its attempt, and go on from the checkpoint with the new spec"
        case Reapply.NEEDS_REPLACE:
            return "needs --replace: these fields can't change on a live attempt"
        case Reapply.NEEDS_RERUN:
            return "needs --rerun: the job is finished, and these fields would make it another one"
        case _:  # pragma: no cover
            assert_never(decision.kind)


def _machine(job: Job) -> str:
    rate = rate_of(job)
    price = f"{format_money(rate.hourly)} an hour ({rate.source})" if rate else "no price known (instance.hourly_rate)"
    where = f"{job.instance.platform} {job.instance.host or ''}".rstrip()
    return f"{where}, {price}; when another training runs there: {job.instance.busy}"


def _in_the_way(record: Record, machine: MachineSeen, now: datetime) -> str:
    """What a start on that machine would meet as it was seen, in words; empty if nothing."""
    match machine_clear(record, machine, now):
        case Waits(message=message):
            return f"waits: {message}"
        case Refused(message=message):
            return f"won't start: {message}"
        case Go(displaces=Holder(job=job, pid=pid)):
            return f"first asks job `{job}` (pid {pid}), which is training there, to save and stop"
        case _:
            return ""


def _size(source: Source) -> str:
    files = "1 file" if source.files == 1 else f"{source.files} files"
    return f"{files}, {format_size(source.bytes)}"


def _checkpoints(job: Job) -> str:
    policy = job.checkpoint
    where = policy.upload or "kept beside the run"
    return (
        f"every {policy.every} into {policy.dir}, {policy.keep} kept ({where}); "
        f"one older than {policy.deadline}: {policy.on_deadline}"
    )


def _resume(record: Record, job: Job) -> str:
    if job.checkpoint.resume == "never":
        return "never"
    if record.checkpoint is not None:
        return f"from `{record.checkpoint.name}` of attempt {record.checkpoint.attempt}"
    return "" if job.checkpoint.resume == "auto" else f"from {job.checkpoint.resume}"


def _worst_case(record: Record, now: datetime) -> int | None:
    worst = reservation(record, 0, now)
    return worst + spent(record, now) if worst is not None else None


def _cost(record: Record, worst: int | None, now: datetime) -> str:
    job, rate = record.job, rate_of(record.job)
    if rate is None:
        return "not known: this machine has no price"
    if rate.hourly == 0:
        return "nothing: this machine's price is zero"
    if worst is None:
        return "no bound: neither a cap nor a duration limit ends this job"
    parts = [f"at most {format_money(worst)}"]
    time = affordable(record, 0, now)
    if job.cost.cap is not None and time is not None:
        grace = job.checkpoint.grace.delta
        save = (
            f"{format_money(cost_of(rate.hourly, grace))} ({job.checkpoint.grace}) of it held back for the final save"
        )
        parts.append(f"the cap of {job.cost.cap} ends it after {format_duration(max(time, timedelta(0)))}, {save}")
    if job.group.cap is not None:
        parts.append(f"all jobs of its group together at most {job.group.cap}")
    return "; ".join(parts)


def _short(record: Record, now: datetime) -> str:
    """Why the cap leaves too little to start with; empty if it doesn't."""
    job, rate, time = record.job, rate_of(record.job), affordable(record, 0, now)
    if rate is None or job.cost.cap is None or time is None or time > least_useful(job):
        return ""
    enough = format_money(spent(record, now) + cost_of(rate.hourly, least_useful(job)))
    left = format_duration(max(time, timedelta(0)))
    return f"the cap leaves {left}, and {needs(job)}: `cost.cap` has to be above {enough}"


def _limits(job: Job) -> str:
    limits = job.limits
    named = (("duration", limits.duration), ("idle", limits.idle), ("setup", limits.setup), ("hang", limits.hang))
    return ", ".join(f"{name} {value or 'off'}" for name, value in named)


def _layers(job: Job) -> str:
    if job.cost.cap is None:
        return ""
    return (
        "the controller, and the agent beside the training even with the controller dead; "
        "not covered: somebody who freezes or kills agent and guardian while no controller runs"
    )


def _retry(job: Job) -> str:
    lost = "unlimited" if job.retry.interruptions is None else str(job.retry.interruptions)
    return f"{job.retry.failures} retries after a failure, {lost} after an interruption"


def _warnings(job: Job) -> list[str]:
    found = []
    rate = rate_of(job)
    if rate is not None and rate.hourly > DEAR_PER_HOUR:
        found.append(f"this machine costs more than {format_money(DEAR_PER_HOUR)} an hour")
    bounds = (job.cost.cap, job.group.cap, job.limits.duration)
    if rate is not None and rate.hourly and all(bound is None for bound in bounds):
        found.append("there is a price but no cap: nothing but you ends this job")
    if job.limits.hang is None and all(bound is None for bound in bounds):
        found.append("no cap, no duration and no hang limit: a training that never ends is never ended")
    return found


def _quoted(arg: str) -> str:
    return arg if arg and all(c.isalnum() or c in "-_./=:,+@%" for c in arg) else "'" + arg.replace("'", "'\\''") + "'"
