"""Instants, spans, sizes and money in the few forms that people read."""

from __future__ import annotations

from datetime import datetime, timedelta

from runctl.manifest.quantities import format_duration

SECOND = timedelta(seconds=1)


def clock(at: datetime) -> str:
    """`12:03:04`, in the reader's own time zone."""
    return f"{at.astimezone():%H:%M:%S}"


def day_and_clock(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def stamp(at: datetime | None) -> str | None:
    """An instant in JSON: RFC 3339, UTC, to the second."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}" if at is not None else None


def span(delta: timedelta) -> str:
    """A span to the second."""
    return format_duration(max(timedelta(0), delta) // SECOND * SECOND)


def ago(at: datetime, now: datetime) -> str:
    """`3m 2s ago`."""
    return f"{span(now - at)} ago"


def number(value: float) -> str:
    """`4`, `0.5`, `0.3127`: no more digits than help."""
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"


def count(of: int, word: str) -> str:
    return f"{of} {word}{'' if of == 1 else 's'}"


def amount(micros: int) -> str:
    """Money for people: cents, below a dollar a hundredth of one; always rounded up, as costs are."""
    unit = 100 if 0 < abs(micros) < 1_000_000 else 10_000
    rounded = -(-micros // unit) * unit
    text = f"{rounded / 1_000_000:.4f}" if unit == 100 else f"{rounded / 1_000_000:.2f}"
    return f"{text.rstrip('0').ljust(len(text.partition('.')[0]) + 3, '0')} USD"
