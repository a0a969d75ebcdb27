"""A job, or many, as text."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.cli.render.table import facts, table
from runctl.cli.render.words import ago, amount, count, day_and_clock, number, span
from runctl.cli.sight import Sight
from runctl.manifest.quantities import format_size
from runctl.planner.money import interval_cost
from runctl.planner.record import Attempt, CheckpointRef
from runctl.planner.reminders import standing

BAR = 20


def overview(sights: Sequence[Sight]) -> str:
    """One line a job."""
    heads = ("name", "state", "progress", "cost", "cap", "checkpoint", "age")
    return table(heads, [(name, *_row(each)[1:]) for name, each in zip(handles(sights), sights, strict=True)])


def handles(sights: Sequence[Sight]) -> list[str]:
    """By what commands know each run: the newest of a name by that, those that it has superseded by their uids."""
    newest = {each.record.name: each.record.uid for each in sights}
    return [each.record.name if newest[each.record.name] == each.record.uid else each.record.uid for each in sights]


def details(sight: Sight) -> str:
    """Everything about one job."""
    record = sight.record
    parts = [f"{record.name}: {sight.word}", facts(_facts(sight))]
    parts += [f"  warning: {text}" for text in standing(record, sight.now)]
    if record.attempts:
        heads = ("attempt", "generation", "started", "ended", "cost", "result")
        parts += ["", table(heads, [_attempt(sight, each) for each in record.attempts])]
    if record.conditions:
        rows = [(c.type.value, c.status, c.reason, ago(c.last_transition_time, sight.now), c.message)
                for c in record.conditions]  # fmt: skip
        parts += ["", table(("condition", "status", "reason", "since", "message"), rows)]
    return "\n".join(parts)


def bar(fraction: float, size: int = BAR) -> str:
    """`[########------------]`."""
    done = int(fraction * size)
    return f"[{'#' * done}{'-' * (size - done)}]"


def progress_words(sight: Sight) -> str:
    """`40% · epoch 2/5 · step 400/1000 · loss 0.31 · 1m 30s left`."""
    told = sight.progress
    if told is None:
        return ""
    parts = []
    if told.fraction is not None:
        parts.append(f"{told.fraction:.0%}")
    for word, done, total in (("epoch", told.epoch, told.epochs), ("step", told.step, told.steps)):
        if done is not None:
            parts.append(f"{word} {number(done)}" + (f"/{number(total)}" if total is not None else ""))
    if told.loss is not None:
        parts.append(f"loss {number(told.loss)}")
    if told.eta is not None and sight.record.live is not None:
        parts.append(f"{span(told.at + told.eta - sight.now)} left")
    return " · ".join(parts)


def cost_words(sight: Sight) -> str:
    """`0.12 USD spent · 0.40 USD projected · cap 25 USD`."""
    if not sight.priced:
        return ""
    parts = [f"{amount(sight.spent)} spent"]
    if sight.record.live is not None and sight.projected is not None:
        parts.append(f"{amount(sight.projected)} projected")
    if sight.record.job.cost.cap is not None:
        parts.append(f"cap {sight.record.job.cost.cap}")
    return " · ".join(parts)


def cost_briefly(sight: Sight) -> str:
    """`0.12 of 25 USD, 0.40 USD projected`: the same for where there is little room."""
    if not sight.priced:
        return ""
    cap = sight.record.job.cost.cap
    spent = (
        f"{amount(sight.spent).removesuffix(' USD')} of {cap}" if cap is not None else f"{amount(sight.spent)} spent"
    )
    return spent if sight.projected is None else f"{spent}, {amount(sight.projected)} projected"


def checkpoint_words(ref: CheckpointRef | None, sight: Sight) -> str:
    """`epoch-4.pt (step 400) saved 2m ago`."""
    if ref is None:
        return ""
    place = [f"epoch {ref.epoch}"] if ref.epoch is not None else []
    place += [f"step {ref.step}"] if ref.step is not None else []
    inside = f" ({', '.join(place)})" if place else ""
    return f"{ref.name}{inside} saved {ago(ref.at, sight.now)}"


def _row(sight: Sight) -> tuple[str, ...]:
    record = sight.record
    told = sight.live_progress
    newest = sight.checkpoint
    return (
        record.name,
        sight.word + (" (unwatched)" if sight.unwatched else ""),
        f"{told.fraction:.0%}" if told is not None and told.fraction is not None else "",
        amount(sight.spent) if sight.priced else "",
        str(record.job.cost.cap or ""),
        f"{newest.name}, {ago(newest.at, sight.now)}" if newest else "",
        span(sight.now - record.created_at),
    )


def _facts(sight: Sight) -> list[tuple[str, str]]:
    record = sight.record
    ended = record.outcome or record.stopped
    told = sight.progress
    meter = f"{bar(told.fraction)} " if told is not None and told.fraction is not None and record.live else ""
    newest = checkpoint_words(sight.checkpoint, sight)
    return [
        ("why", ended.message if ended else ""),
        ("waiting for", sight.waiting_for),
        ("preparing", sight.vitals.step or "" if sight.vitals and sight.vitals.phase == "preparing" else ""),
        ("progress", meter + progress_words(sight)),
        ("cost", cost_words(sight)),
        ("checkpoint", f"{newest}; {count(sight.durable, 'durable checkpoint')} in all" if newest else ""),
        ("controller", f"{sight.controller.what} (pid {sight.controller.pid})" if sight.controller else ""),
        ("code", _code(sight)),
        ("created", f"{day_and_clock(record.created_at)}, {ago(record.created_at, sight.now)}"),
        ("uid", record.uid),
    ]


def _code(sight: Sight) -> str:
    source = sight.record.generation.source
    return f"{source.code_hash[:12]} ({count(source.files, 'file')}, {format_size(source.bytes)}) from {source.root}"


def _attempt(sight: Sight, attempt: Attempt) -> tuple[str, ...]:
    record = sight.record
    cost = sum(interval_cost(i, sight.now) for i in record.ledger if i.attempt == attempt.number)
    end = attempt.end
    if end is None:
        result = "draining" if attempt.draining else ("training" if attempt.training_at else "starting")
    else:
        result = end.detail or end.reason.value
    return (
        str(attempt.number),
        str(attempt.generation),
        day_and_clock(attempt.started_at) if attempt.started_at else "",
        day_and_clock(attempt.ended_at) if attempt.ended_at else "",
        amount(cost) if sight.priced else "",
        result,
    )
