"""What jobs have cost, as text and as JSON. Sums are of what is known: a machine without a price adds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runctl.cli.render.document import cost
from runctl.cli.render.status import cost_words
from runctl.cli.render.table import table
from runctl.cli.render.words import amount, day_and_clock, span, stamp
from runctl.cli.sight import Sight
from runctl.manifest.quantities import decimal_money, format_money
from runctl.planner.money import interval_cost
from runctl.planner.record import Interval

Json = dict[str, Any]


def ledger(sight: Sight) -> str:
    """The intervals of a job, and its sum."""
    name = sight.record.name
    if not sight.record.ledger:
        why = "nothing was billed yet" if sight.priced else "not known: its machine has no price (instance.hourly_rate)"
        return f"{name}: {why}"
    heads = ("attempt", "machine", "from", "time", "rate", "source", "quoted", "cost")
    rows = [
        (
            str(each.attempt),
            each.machine,
            day_and_clock(each.started_at),
            span((each.ended_at or sight.now) - each.started_at) + ("" if each.ended_at else " …"),
            f"{format_money(each.hourly)}/h",
            each.source,
            day_and_clock(each.quoted_at),
            amount(interval_cost(each, sight.now)),
        )
        for each in sight.record.ledger
    ]
    return f"{table(heads, rows)}\n\n{name}: {cost_words(sight)}"


def sums(sights: Sequence[Sight]) -> str:
    """One line a run, and the sum of them. The newest run of a name comes last, and alone goes by it."""
    newest = {each.record.name: each.record.uid for each in sights}
    rows = [
        (
            each.record.name if newest[each.record.name] == each.record.uid else each.record.uid,
            each.word,
            amount(each.spent) if each.priced else "not known",
            amount(each.projected) if each.priced and each.projected is not None else "",
            str(each.record.job.cost.cap or ""),
        )
        for each in sights
    ]
    total = ("total", "", amount(sum(each.spent for each in sights)), "", "")
    return table(("name", "state", "spent", "projected", "cap"), [*rows, total])


def document(sight: Sight) -> Json:
    return {
        "name": sight.record.name,
        "uid": sight.record.uid,
        **cost(sight),
        "ledger": [_interval(each, sight) for each in sight.record.ledger],
    }


def sums_document(sights: Sequence[Sight]) -> Json:
    return {
        "currency": "USD",
        "spent": decimal_money(sum(each.spent for each in sights)),
        "jobs": [document(each) for each in sights],
    }


def _interval(each: Interval, sight: Sight) -> Json:
    return {
        "attempt": each.attempt,
        "machine": each.machine,
        "started_at": stamp(each.started_at),
        "ended_at": stamp(each.ended_at),
        "hourly": decimal_money(each.hourly),
        "source": each.source,
        "quoted_at": stamp(each.quoted_at),
        "cost": decimal_money(interval_cost(each, sight.now)),
    }
