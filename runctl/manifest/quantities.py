"""Money, durations, sizes, checkpoint intervals and shares: one parser each.

A quantity keeps the text that it was read from and prints it back unchanged; two quantities are equal when
they mean the same (`60m` equals `1h`). Money is whole micro-dollars: nothing here is ever a float, apart from
`Duration.seconds`, which is for clocks.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import msgspec

MICROS_PER_DOLLAR = 1_000_000


class QuantityError(ValueError):
    """The text is not such a quantity. `args[0]` says why, `hint` which texts are."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


class _Quantity(msgspec.Struct, frozen=True, eq=False):
    """A value with the text it was written as; equality and hash look at the value alone."""

    text: str

    def _value(self) -> Any:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(self._value() == other._value())

    def __ne__(self, other: object) -> bool:
        # Not what Python would derive: msgspec's own `!=` compares identities.
        return not self == other

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._value()))

    def __str__(self) -> str:
        return self.text


class Money(_Quantity, frozen=True, eq=False):
    """An amount of US dollars in whole micro-dollars (1 USD = 1,000,000)."""

    micros: int

    def _value(self) -> Any:
        return self.micros


class Duration(_Quantity, frozen=True, eq=False):
    """A span of time, exact to the millisecond."""

    millis: int

    def _value(self) -> Any:
        return self.millis

    @property
    def delta(self) -> timedelta:
        return timedelta(milliseconds=self.millis)

    @property
    def seconds(self) -> float:
        return self.millis / 1000


class Size(_Quantity, frozen=True, eq=False):
    """A number of bytes."""

    bytes: int

    def _value(self) -> Any:
        return self.bytes


class Every(_Quantity, frozen=True, eq=False):
    """How often to checkpoint: `n` epochs or steps, or `n` milliseconds for `time`."""

    unit: Literal["epochs", "steps", "time"]
    n: int

    def _value(self) -> Any:
        return (self.unit, self.n)


class Share(_Quantity, frozen=True, eq=False):
    """A part of a whole in thousandths (`80%` is 800)."""

    permille: int

    def _value(self) -> Any:
        return self.permille


MONEY_HINT = "write an amount and its currency, such as `25 USD`, `$25` or `0.10 USD`"
DURATION_HINT = "write a number and a unit (ms, s, m, h, d, w), such as `90s`, `30m`, `1h30m` or `2d`"
SIZE_HINT = "write a number and a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), such as `200 GiB`"
EVERY_HINT = "write `2 epochs`, `500 steps` or a duration such as `10m`"
SHARE_HINT = "write a percentage, such as `80%`"

_DIGITS = r"\d{1,12}(?:\.\d{1,12})?|\.\d{1,12}"
_MONEY = re.compile(rf"\$\s*(?P<dollars>{_DIGITS})|(?P<amount>{_DIGITS})\s*(?P<currency>[A-Za-z$€£¥]*)", re.ASCII)
_DURATION_PART = re.compile(
    r"(\d{1,9}(?:\.\d{1,9})?)\s*"
    r"(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w)\s*",
    re.ASCII,
)
_DURATION_MILLIS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SIZE = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?\s*([kKMGT]i?)?B", re.ASCII)
_SIZE_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_COUNT = re.compile(r"(\d{1,12})\s*(epochs?|steps?)", re.ASCII)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d)?)\s*%", re.ASCII)
MAX_DURATION = timedelta(days=3650)


def parse_money(text: str) -> Money:
    """Parse `25 USD`, `$25` or `25`; a plain number is dollars. Amounts finer than a micro-dollar are refused."""
    match = _MONEY.fullmatch(text.strip())
    if match is None:
        raise QuantityError(f"`{text}` is not an amount of money", MONEY_HINT)
    currency = match["currency"] or "USD"
    if currency.upper() not in {"USD", "$"}:
        raise QuantityError(
            f"`{currency}` is not a currency that prices are known in",
            f"only `USD` is known: write the amount in US dollars, such as `{match['amount']} USD`",
        )
    micros = Decimal(match["dollars"] or match["amount"]) * MICROS_PER_DOLLAR
    if micros != micros.to_integral_value():
        raise QuantityError(f"`{text}` is finer than a millionth of a dollar", MONEY_HINT)
    return Money(text=text, micros=int(micros))


def parse_duration(text: str) -> Duration:
    """Parse `90s`, `30m`, `1h30m`, `2d`. A number without a unit is refused: nobody knows whether it is seconds."""
    duration = _duration(text)
    if duration is None:
        why = "has no unit" if re.fullmatch(r"\d+(\.\d+)?", text.strip(), re.ASCII) else "is not a duration"
        raise QuantityError(f"`{text}` {why}", DURATION_HINT)
    return duration


def _duration(text: str) -> Duration | None:
    """None for text of another form; raises for a duration out of bounds."""
    stripped = text.strip()
    position, millis = 0, Decimal(0)
    while position < len(stripped):
        match = _DURATION_PART.match(stripped, position)
        if match is None:
            return None
        unit = "ms" if match[2].startswith(("ms", "milli")) else match[2][0]
        millis += Decimal(match[1]) * _DURATION_MILLIS[unit]
        position = match.end()
    if position == 0:
        return None
    if millis != millis.to_integral_value():
        raise QuantityError(f"`{text}` is finer than a millisecond", DURATION_HINT)
    if millis > MAX_DURATION / timedelta(milliseconds=1):
        raise QuantityError(f"`{text}` is longer than ten years", DURATION_HINT)
    return Duration(text=text, millis=int(millis))


def parse_size(text: str) -> Size:
    """Parse `200 GiB` (powers of 1024) or `200 GB` (powers of 1000); a part of a byte is rounded down."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise QuantityError(f"`{text}` is not a size", SIZE_HINT)
    whole, part, prefix = match[1], match[2] or "", (match[3] or "").lower()
    factor = (1024 if prefix.endswith("i") else 1000) ** _SIZE_POWER[prefix[:1]]
    return Size(text=text, bytes=int(whole + part) * factor // 10 ** len(part))


def parse_every(text: str) -> Every:
    """Parse a checkpoint interval: a count of epochs or steps, or a duration."""
    match = _COUNT.fullmatch(text.strip())
    if match is not None:
        n, unit = int(match[1]), match[2]
        if n == 0:
            raise QuantityError("an interval of 0 would never end", EVERY_HINT)
        return Every(text=text, unit="epochs" if unit.startswith("epoch") else "steps", n=n)
    duration = _duration(text)
    if duration is None:
        raise QuantityError(f"`{text}` is not a checkpoint interval", EVERY_HINT)
    if duration.millis == 0:
        raise QuantityError("an interval of 0 would never end", EVERY_HINT)
    return Every(text=text, unit="time", n=duration.millis)


def parse_share(text: str) -> Share:
    """Parse `80%`, from 0 % to 100 %."""
    match = _SHARE.fullmatch(text.strip())
    permille = int(Decimal(match[1]) * 10) if match else 1001
    if permille > 1000:
        raise QuantityError(f"`{text}` is not a percentage from 0% to 100%", SHARE_HINT)
    return Share(text=text, permille=permille)


def format_money(micros: int) -> str:
    """`12.34 USD`: cents, or as many digits as an amount below a cent needs."""
    return f"{decimal_money(micros)} USD"


def decimal_money(micros: int) -> str:
    """The decimal string of the JSON contract: at least two digits after the point, never rounded."""
    sign = "-" if micros < 0 else ""
    dollars, rest = divmod(abs(micros), MICROS_PER_DOLLAR)
    digits = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{dollars}.{digits}"


def format_duration(delta: timedelta) -> str:
    """`1h 30m`, `45s`, `250ms`: the two largest units."""
    millis = int(delta / timedelta(milliseconds=1))
    if millis < 0:
        return "-" + format_duration(-delta)
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    parts = []
    for unit in ("w", "d", "h", "m", "s"):
        count, millis = divmod(millis, _DURATION_MILLIS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def format_size(count: int) -> str:
    """`1.5 GiB`: powers of 1024 with at most one digit after the point."""
    value = Decimal(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


__all__ = [
    "DURATION_HINT",
    "EVERY_HINT",
    "MICROS_PER_DOLLAR",
    "MONEY_HINT",
    "SHARE_HINT",
    "SIZE_HINT",
    "Duration",
    "Every",
    "Money",
    "QuantityError",
    "Share",
    "Size",
    "decimal_money",
    "format_duration",
    "format_money",
    "format_size",
    "parse_duration",
    "parse_every",
    "parse_money",
    "parse_share",
    "parse_size",
]
