"""The kinds of values that fields have: each reads the text of a scalar and says what it accepts.

The model is given text alone (see `reading.py`), never a number or a boolean that YAML made of it. Each kind
carries a `Shape`, from which the JSON schema, `runctl explain` and the documentation are made.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, LiteralString, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

from runctl.manifest.diagnostics import closest, one_of
from runctl.manifest.job import Wait
from runctl.manifest.quantities import (
    Duration,
    Every,
    Money,
    QuantityError,
    Share,
    Size,
    parse_duration,
    parse_every,
    parse_money,
    parse_share,
    parse_size,
)

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True, eq=False)  # hashed by identity: unions of annotated types need a hash
class Shape:
    """`kind` in a few words for people (`duration`), `schema` for editors."""

    kind: str
    schema: dict[str, Any]


def list_of(item: Any, kind: str) -> Shape:
    """The shape of a list of an annotated type that has a shape itself."""
    shape = next(each for each in item.__metadata__ if isinstance(each, Shape))
    return Shape(kind, {"type": "array", "items": shape.schema})


def refuse(code: LiteralString, message: str, hint: str, label: str = "") -> PydanticCustomError:
    return PydanticCustomError(code, "{message}", {"message": message, "hint": hint, "label": label})


def text_of(value: object, expected: str) -> str:
    if isinstance(value, str):
        return value
    found = "a list" if isinstance(value, list) else "a mapping"
    raise refuse("wrong-type", f"expected {expected}, found {found}", f"write {expected}")


# What people write for "without a limit" where another word says it.
_WITHOUT_LIMIT = frozenset(
    {"never", "none", "no", "off", "false", "disabled", "unlimited", "infinite", "inf", "forever"}
)


def kept_word(word: str, read: Callable[[str], T], expected: str) -> PlainValidator:
    """The word that means "without a limit" as it is, anything else through `read`."""

    def validate(value: object) -> T | str:
        if value == word:
            return word
        text = text_of(value, expected)
        try:
            return read(text)
        except PydanticCustomError as error:
            said = error.context or {}
            hint = f"write `{word}`" if text.lower() in _WITHOUT_LIMIT else f"{said['hint']}, or `{word}`"
            raise refuse(error.type, said["message"], hint) from None

    return PlainValidator(validate)


def _quantity(code: LiteralString, parse: Callable[[str], T], expected: str) -> Callable[[object], T]:
    def read(value: object) -> T:
        try:
            return parse(text_of(value, expected))
        except QuantityError as error:
            raise refuse(code, error.args[0], error.hint) from None

    return read


read_money = _quantity("bad-money", parse_money, "an amount of money, such as `25 USD`")
read_duration = _quantity("bad-duration", parse_duration, "a duration, such as `30m`")
_read_size = _quantity("bad-size", parse_size, "a size, such as `200 GiB`")
_read_every = _quantity("bad-interval", parse_every, "an interval, such as `2 epochs` or `10m`")
_read_share = _quantity("bad-percentage", parse_share, "a percentage, such as `80%`")

_UNIT = "(seconds?|secs?|s|minutes?|mins?|m(?![a-z])|hours?|hrs?|h|days?|d|weeks?|w)"
_DURATION = rf"([0-9]{{1,9}}(\.[0-9]{{1,3}})? ?{_UNIT} ?|[0-9]{{1,9}} ?(milliseconds?|ms) ?)+"
_DIGITS = r"([0-9]{1,12}(\.[0-9]{1,6})?|\.[0-9]{1,6})"
_MONEY = {
    "anyOf": [
        {"type": "string", "pattern": rf"^(\$ ?{_DIGITS}|{_DIGITS} ?(USD|usd|\$)?)$"},
        {"type": "number", "minimum": 0, "maximum": 999_999_999_999},
    ]
}
_DURATION_SCHEMA = {"type": "string", "pattern": f"^{_DURATION}$"}

MoneyText = Annotated[Money, PlainValidator(read_money), Shape("money", _MONEY)]
DurationText = Annotated[Duration, PlainValidator(read_duration), Shape("duration", _DURATION_SCHEMA)]
SizeText = Annotated[
    Size,
    PlainValidator(_read_size),
    Shape("size", {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,9})? ?([kKMGT]i?)?B$"}),
]
EveryText = Annotated[
    Every,
    PlainValidator(_read_every),
    Shape(
        "interval",
        {"type": "string", "pattern": rf"^(0{{0,3}}[1-9][0-9]{{0,8}} ?(epochs?|steps?)|(?=.*[1-9]){_DURATION})$"},
    ),
]
ShareText = Annotated[
    Share,
    PlainValidator(_read_share),
    Shape("percentage", {"type": "string", "pattern": r"^(100(\.0)?|[0-9]{1,2}(\.[0-9])?) ?%$"}),
]
CapText = Annotated[
    Any,
    kept_word("none", read_money, "an amount of money, such as `25 USD`, or `none`"),
    Shape("money or `none`", {"anyOf": [*_MONEY["anyOf"], {"const": "none"}]}),
]
LimitText = Annotated[
    Any,
    kept_word("off", read_duration, "a duration, such as `30m`, or `off`"),
    Shape("duration or `off`", {"anyOf": [_DURATION_SCHEMA, {"const": "off"}]}),
]

_INTEGER = re.compile(r"[-+]?[0-9]{1,9}|0o[0-7]{1,9}|0x[0-9a-fA-F]{1,7}")


def _integer(text: str, least: int, most: int) -> int:
    if _INTEGER.fullmatch(text):
        number = int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        if least <= number <= most:
            return number
    raise refuse("bad-number", f"`{text}` is not a whole number from {least} to {most}", f"write {least} or more")


def whole_number(least: int, most: int) -> tuple[PlainValidator, Shape]:
    expected = f"a whole number from {least} to {most}"
    return (
        PlainValidator(lambda value: _integer(text_of(value, expected), least, most)),
        Shape("whole number", {"type": "integer", "minimum": least, "maximum": most}),
    )


_positive, _positive_shape = whole_number(1, 1_000_000)
_count, _count_shape = whole_number(0, 1_000_000)
Positive = Annotated[int, _positive, _positive_shape]
Count = Annotated[int, _count, _count_shape]
CountOrUnlimited = Annotated[
    Any,
    kept_word("unlimited", lambda text: _integer(text, 0, 1_000_000), "a whole number or `unlimited`"),
    Shape("whole number or `unlimited`", {"anyOf": [_count_shape.schema, {"const": "unlimited"}]}),
]


def refuse_word(text: str, words: Sequence[str]) -> PydanticCustomError:
    near = closest(text, words)
    hint = f"did you mean `{near}`?" if near else f"write {one_of(words)}"
    return refuse("unknown-value", f"`{text}` is not accepted here", hint, f"accepted: {', '.join(words)}")


def word(*words: str) -> tuple[PlainValidator, Shape]:
    """One of a few words, as it is."""

    def read(value: object) -> str:
        text = text_of(value, one_of(words))
        if text not in words:
            raise refuse_word(text, words)
        return text

    return PlainValidator(read), Shape(
        " · ".join(f"`{each}`" for each in words), {"enum": [str(each) for each in words]}
    )


def choice(kind: type[E]) -> tuple[PlainValidator, Shape]:
    """One member of an enumeration."""
    validator, shape = word(*kind)
    read: Callable[[object], Any] = validator.func  # type: ignore[assignment]
    return PlainValidator(lambda value: kind(read(value))), shape


def matching(
    code: LiteralString,
    pattern: str,
    what: str,
    example: str,
    kind: str = "text",
    nearest: Callable[[str], str] = lambda _: "",
) -> tuple[AfterValidator, Shape]:
    """Text of one form; `pattern` is used for the schema as well, and so has to mean the same to ECMAScript.

    `nearest` makes of another text one of that form, which was probably meant; empty if there is none.
    """
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if compiled.fullmatch(text):
            return text
        near = nearest(text)
        hint = f"did you mean `{near}`?" if near else f"write {what}, such as `{example}`"
        raise refuse(code, f"`{text}` is not {what}", hint)

    return AfterValidator(check), Shape(kind, {"type": "string", "pattern": f"^({pattern})$"})


PLAIN_TEXT = Shape("text", {"type": "string"})
VERBATIM = Shape("text, as written", {"type": ["string", "number", "boolean", "null"]})
Text = Annotated[str, PLAIN_TEXT]

ARGV = Shape("list of text, as written", {"type": "array", "items": VERBATIM.schema})
Argv = Annotated[tuple[str, ...], ARGV]


# Paths of the training are relative and stay inside the working directory.


def inside(text: str) -> str:
    """A path below the directory that it starts from; decided on the text alone."""
    if text.startswith("/"):
        raise refuse(
            "path-outside",
            f"`{text}` is an absolute path",
            "write it relative to `workdir`",
            "not inside `workdir`",
        )
    normal = posixpath.normpath(text)
    if normal == ".." or normal.startswith("../"):
        raise refuse(
            "path-outside",
            f"`{text}` leads out of the working directory",
            "only what is inside `workdir` gets to the machine; set `workdir` to a directory above both",
            "not inside `workdir`",
        )
    if normal == ".":
        raise refuse("bad-path", f"`{text}` names the working directory itself", "name a file or directory inside it")
    return text


_RELATIVE = r"(?!/)(?!(\./*)*$)(?!(\.*/)*\.\.(/|$)).+"
RelativePath = Annotated[
    str, AfterValidator(inside), Shape("path inside `workdir`", {"type": "string", "pattern": f"^{_RELATIVE}$"})
]

_S3 = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?"
_FILE = r"file:(//)?/(?!/).*|file:(?![/~]).+"
_URL = re.compile(f"{_S3}|{_FILE}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def _url(text: str) -> str:
    if _URL.fullmatch(text):
        return text
    scheme = _SCHEME.match(text)
    known = scheme is not None and scheme[0] in {"s3:", "file:"}
    why = "is not complete" if known else "has no scheme that is known here"
    hint = "write `s3://bucket/prefix/`, or `file:` and a path on the machine, such as `file:/data/checkpoints`"
    raise refuse("bad-url", f"`{text}` {why}", hint, "" if known else "accepted: `s3:`, `file:`")


Url = Annotated[
    str,
    AfterValidator(_url),
    Shape("URL (`s3:`, `file:`)", {"type": "string", "pattern": f"^({_S3}|{_FILE})$"}),
]


def _resume(text: str) -> str:
    return _url(text) if _SCHEME.match(text) else text


Resume = Annotated[
    str,
    AfterValidator(_resume),
    Shape("`auto` · `never` · path or URL", {"type": "string", "pattern": f"^({_S3}|{_FILE}|[^:]+)$"}),
]

# Names that Linux and macOS share, without those that can't be caught or that the kernel sends for faults.
SIGNALS = [
    "SIGABRT",
    "SIGALRM",
    "SIGCONT",
    "SIGHUP",
    "SIGINT",
    "SIGPROF",
    "SIGQUIT",
    "SIGTERM",
    "SIGTSTP",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
]


def _signal(text: str) -> str:
    if text in {"SIGKILL", "SIGSTOP"}:
        raise refuse(
            "uncatchable-signal",
            f"`{text}` can't be caught, so that nothing could be saved",
            "write `SIGTERM` or `SIGUSR1`",
        )
    if text not in SIGNALS:
        near = closest(text if text.startswith("SIG") else f"SIG{text}", SIGNALS)
        hint = f"did you mean `{near}`?" if near else f"write one of {', '.join(SIGNALS)}"
        raise refuse("unknown-signal", f"`{text}` is not a signal that a training can be sent", hint)
    return text


Signal = Annotated[str, AfterValidator(_signal), Shape("signal", {"enum": SIGNALS})]


def one_or_more(value: object) -> object:
    """A single value where a list may stand."""
    return [value] if isinstance(value, str) else value


OneOrMore = BeforeValidator(one_or_more)

_TRUTH = {"true": "true", "True": "true", "TRUE": "true", "false": "false", "False": "false", "FALSE": "false"}


def _wait(value: object) -> Wait:
    text = text_of(value, "`auto`, `true` or `false`")
    written = _TRUTH.get(text, text)
    if written not in set(Wait):
        hint = f"did you mean `{_BOOLEANS_OF_YAML_11[text.lower()]}`?" if text.lower() in _BOOLEANS_OF_YAML_11 else ""
        raise refuse(
            "unknown-value",
            f"`{text}` is not accepted here",
            hint or "write `auto`, `true` or `false`",
            "accepted: auto, true, false",
        )
    return Wait(written)


_BOOLEANS_OF_YAML_11 = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
WaitText = Annotated[Wait, PlainValidator(_wait), Shape("`auto` · `true` · `false`", {"enum": ["auto", True, False]})]
