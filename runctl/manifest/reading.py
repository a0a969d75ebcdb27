"""A document's nodes → plain data for the model, and the place of every part by its dotted path."""

from __future__ import annotations

from typing import Any

import msgspec

from runctl.manifest.job import Position
from runctl.manifest.nodes import Broken, Mapping, Node, Scalar, Sequence, is_null

VERBATIM_SECTIONS = frozenset({"args", "env", "labels", "launcher", "matrix"})
"""Where a value is what was written, `~` and `null` too; elsewhere a field without a value is an error."""


class Reading(msgspec.Struct, frozen=True):
    """`positions` has a scalar's value, a section's key and an item's start; `keys` has the key of each entry.

    The path of the document itself is the empty text. `missing` lists fields that are written without a value,
    `broken` those whose value has been reported already; both are left out of `data`.
    """

    data: dict[str, Any]
    positions: dict[str, Position]
    keys: dict[str, Position]
    missing: list[str]
    broken: list[str]

    def position(self, path: str) -> Position:
        """The place of a field, or of the nearest section around it that is written."""
        return self.positions[self._written(path, self.positions)]

    def key(self, path: str) -> Position:
        found = self._written(path, self.positions)
        return self.keys.get(found, self.positions[found])

    def _written(self, path: str, known: dict[str, Position]) -> str:
        while path not in known:
            path = parent_of(path)
        return path


def parent_of(path: str) -> str:
    """`a.b[2]` → `a.b` → `a` → the document."""
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def is_within(path: str, outer: str) -> bool:
    """Whether a path is `outer` or below it."""
    return path == outer or outer == "" or (path.startswith(outer) and path[len(outer)] in ".[")


def read(root: Mapping) -> Reading:
    reading = Reading({}, {}, {}, [], [])
    reading.positions[""] = next((span for span, _value in root.entries.values()), root.span)
    for name, (span, value) in root.entries.items():
        reading.keys[name] = span
        _entry(
            reading, reading.data, name, name, span, value, name in VERBATIM_SECTIONS and not isinstance(value, Scalar)
        )
    return reading


def _entry(
    reading: Reading, data: dict[str, Any], name: str, path: str, key: Position, value: Node, verbatim: bool
) -> None:
    if type(value) is Scalar:
        if not verbatim and is_null(value):
            reading.positions[path] = key
            reading.missing.append(path)
            return
        reading.positions[path] = value.span
        data[name] = value.text
    elif type(value) is Broken:
        reading.positions[path] = key
        reading.broken.append(path)
    else:
        reading.positions[path] = key
        data[name] = _collection(reading, value, path, verbatim)


def _collection(reading: Reading, node: Node, path: str, verbatim: bool) -> Any:
    if isinstance(node, Mapping):
        data: dict[str, Any] = {}
        for name, (span, value) in node.entries.items():
            below = f"{path}.{name}"
            reading.keys[below] = span
            _entry(reading, data, name, below, span, value, verbatim)
        return data
    items: list[Any] = []
    assert isinstance(node, Sequence)
    for index, item in enumerate(node.items):
        below = f"{path}[{index}]"
        reading.positions[below] = item.span
        if type(item) is Scalar:
            if not verbatim and is_null(item):
                reading.missing.append(below)
            items.append(item.text)
        elif type(item) is Broken:
            reading.broken.append(below)
            items.append("")
        else:
            items.append(_collection(reading, item, below, verbatim))
    return items
