"""What a YAML document is made of, with the place of every part."""

from __future__ import annotations

import re

import msgspec

from runctl.manifest.job import Position


class Scalar(msgspec.Struct, frozen=True, gc=False):
    """`text` is the source of a plain scalar (`1e-4`, `no`, `010`), the content of a quoted or block one.

    `plain` says whether it could be something other than text: unquoted and without a tag.
    """

    text: str
    plain: bool
    span: Position


class Sequence(msgspec.Struct):
    items: list[Node]
    span: Position
    size: int = 1


class Mapping(msgspec.Struct):
    """`entries` maps a key to its place and its value; `size` counts nodes with aliases expanded."""

    entries: dict[str, tuple[Position, Node]]
    span: Position
    size: int = 1


class Broken(msgspec.Struct, frozen=True):
    """A value that has been reported already; nothing more is said about it."""

    span: Position
    size: int = 1


Node = Scalar | Sequence | Mapping | Broken

# YAML 1.2.2, 10.3.2: the core schema. Only nulls and keys are looked at: every other scalar stays text until the
# field that it belongs to reads it.
NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_NOT_TEXT = re.compile(
    r"~|null|Null|NULL||true|True|TRUE|false|False|FALSE"
    r"|[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def is_null(scalar: Scalar) -> bool:
    return scalar.plain and scalar.text in NULLS


def is_text(scalar: Scalar) -> bool:
    """Whether YAML 1.2 reads the scalar as text (`no`, `on`, `12:30` are; `true`, `1e3`, `~` aren't)."""
    return not scalar.plain or _NOT_TEXT.fullmatch(scalar.text) is None


def kind_of(node: Scalar | Sequence) -> str:
    """The node in a sentence: `a list`."""
    return "text" if isinstance(node, Scalar) else "a list"
