from __future__ import annotations

import operator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.manifest.quantities import (
    Duration,
    Money,
    QuantityError,
    Share,
    _Quantity,
    decimal_money,
    format_duration,
    format_money,
    format_size,
    parse_duration,
    parse_every,
    parse_money,
    parse_share,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "millis"),
    [
        ("90s", 90_000),
        ("5 minutes", 300_000),
        ("1 minute", 60_000),
        ("1h30m", 5_400_000),
        ("1 h 30 min", 5_400_000),
        ("2d", 172_800_000),
        ("1.5 hours", 5_400_000),
        ("3 weeks", 1_814_400_000),
        ("10 milliseconds", 10),
        ("250ms", 250),
        (" 1 hr 5 mins ", 3_900_000),
        ("2 secs", 2000),
        ("0s", 0),
    ],
)
def test_durations(text: str, millis: int) -> None:
    """Every unit has its short and its long name."""
    duration = parse_duration(text)
    assert (duration.millis, str(duration)) == (millis, text)
    assert duration.seconds == millis / 1000
    assert duration.delta == timedelta(milliseconds=millis)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a duration"),
        ("90", "has no unit"),
        ("1.5", "has no unit"),
        ("5 months", "is not a duration"),
        ("5 mm", "is not a duration"),
        ("1h x", "is not a duration"),
        ("-5m", "is not a duration"),
        ("٣m", "is not a duration"),
        ("0.5ms", "finer than a millisecond"),
        ("4000d", "longer than ten years"),
    ],
)
def test_durations_refused(text: str, why: str) -> None:
    """What isn't a duration says why, and what would be one."""
    with pytest.raises(QuantityError, match=why) as caught:
        parse_duration(text)
    assert "`30m`" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("25 USD", 25_000_000),
        ("$25", 25_000_000),
        ("$ .5", 500_000),
        ("25$", 25_000_000),
        ("25", 25_000_000),
        ("0.10 usd", 100_000),
        ("0.000001 USD", 1),
        ("999999999999.999999 USD", 999_999_999_999_999_999),
    ],
)
def test_money(text: str, micros: int) -> None:
    """Money is exact to a millionth of a dollar and prints as it was written."""
    assert (parse_money(text).micros, str(parse_money(text))) == (micros, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not an amount"),
        ("-1 USD", "is not an amount"),
        ("1e3", "is not an amount"),
        ("5 EUR", "`EUR` is not a currency"),
        ("€5", "is not an amount"),
        ("0.0000001 USD", "finer than a millionth"),
    ],
)
def test_money_refused(text: str, why: str) -> None:
    """What isn't an amount in dollars is refused."""
    with pytest.raises(QuantityError, match=why):
        parse_money(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("200 GiB", 200 * 2**30),
        ("200 GB", 200 * 10**9),
        ("5 B", 5),
        ("1.5kB", 1500),
        ("1KiB", 1024),
        ("0.3 B", 0),
        ("2 TiB", 2 * 2**40),
        ("1 MB", 10**6),
    ],
)
def test_sizes(text: str, count: int) -> None:
    """Binary and decimal units differ."""
    assert (parse_size(text).bytes, str(parse_size(text))) == (count, text)


@pytest.mark.parametrize("text", ["", "5", "5 iB", "5 XB", "5 gb", "-1 GB", "GB"])
def test_sizes_refused(text: str) -> None:
    """A size without a known unit is refused."""
    with pytest.raises(QuantityError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "unit", "n"),
    [
        ("2 epochs", "epochs", 2),
        ("1 epoch", "epochs", 1),
        ("500 steps", "steps", 500),
        ("10m", "time", 600_000),
        ("5 minutes", "time", 300_000),
    ],
)
def test_intervals(text: str, unit: str, n: int) -> None:
    """An interval counts epochs, steps or time."""
    every = parse_every(text)
    assert (every.unit, every.n, str(every)) == (unit, n, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 epochs", "never end"),
        ("0s", "never end"),
        ("5", "not a checkpoint interval"),
        ("2 laps", "not a checkpoint"),
        ("4000d", "ten years"),
    ],
)
def test_intervals_refused(text: str, why: str) -> None:
    """An interval of nothing, or of something else, is refused."""
    with pytest.raises(QuantityError, match=why):
        parse_every(text)


def test_shares() -> None:
    """A share is kept in thousandths."""
    assert [parse_share(each).permille for each in ("80%", "0 %", "100%", "12.5%")] == [800, 0, 1000, 125]


@pytest.mark.parametrize("text", ["101%", "80", "", "-1%", "12.55%"])
def test_shares_refused(text: str) -> None:
    """A share is from 0% to 100%."""
    with pytest.raises(QuantityError, match="is not a percentage"):
        parse_share(text)


def test_equality_is_by_meaning() -> None:
    """Two texts of one quantity are equal and hash alike; kinds of quantities never are."""
    assert parse_duration("60m") == parse_duration("1h")
    assert hash(parse_duration("60m")) == hash(parse_duration("1h"))
    assert not operator.ne(parse_duration("60m"), parse_duration("1h"))  # msgspec's own compares identities
    assert parse_money("25") == parse_money("$25.00")
    assert parse_size("1 KiB") == parse_size("1024 B")
    assert parse_every("60m") == parse_every("1h")
    assert Share(text="1%", permille=10) == parse_share("1%")
    assert Money(text="1", micros=1) != Duration(text="1", millis=1)
    assert parse_duration("1h") != "1h"


def test_a_quantity_has_to_say_what_it_means() -> None:
    """The base has no value of its own."""
    with pytest.raises(NotImplementedError):
        hash(_Quantity(text="1"))


@given(st.integers(0, 10**15))
def test_printed_money_reads_back(micros: int) -> None:
    """`format_money` prints exactly what it was given."""
    assert parse_money(format_money(micros)).micros == micros


@pytest.mark.parametrize(
    ("micros", "text"), [(12_340_000, "12.34"), (0, "0.00"), (5, "0.000005"), (-1_500_000, "-1.50"), (10**9, "1000.00")]
)
def test_decimal_money(micros: int, text: str) -> None:
    """The decimal string of JSON has at least two digits and is never rounded."""
    assert decimal_money(micros) == text


@given(st.integers(1, 10**6), st.sampled_from([("w", 604800), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1)]))
def test_printed_durations_read_back(count: int, unit: tuple[str, int]) -> None:
    """Durations of one unit survive printing; others are cut to their two largest units."""
    delta = timedelta(seconds=min(count * unit[1], 86400 * 3650))
    read = parse_duration(format_duration(delta)).delta
    assert timedelta(0) <= delta - read <= delta * 0.15


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(hours=1, minutes=30, seconds=5), "1h 30m"),
        (timedelta(seconds=-45), "-45s"),
        (timedelta(weeks=1, hours=2), "1w 2h"),
    ],
)
def test_format_duration(delta: timedelta, text: str) -> None:
    """Durations are shown by their two largest units."""
    assert format_duration(delta) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1.0 GiB"), (3 * 2**40, "3.0 TiB")]
)
def test_format_size(count: int, text: str) -> None:
    """Sizes are shown in powers of 1024."""
    assert format_size(count) == text


@given(st.text(max_size=20))
def test_no_text_breaks_a_parser(text: str) -> None:
    """Every text is a quantity or a QuantityError."""
    for parse in (parse_money, parse_duration, parse_size, parse_every, parse_share):
        try:
            assert parse(text).text == text
        except QuantityError as error:
            assert error.hint
