"""The model's fields as a list of entries: the one source of the JSON schema, `explain` and the documentation."""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import Any, get_args

import msgspec
from pydantic.fields import FieldInfo

from runctl.manifest.fields import Shape
from runctl.manifest.model import Manifest
from runctl.manifest.section import Section


class Entry(msgspec.Struct, frozen=True):
    """One field. `path` has `[]` for the items of a list (`inputs[].from`); `default` is in words, empty if required.

    `section` is the model of a mapping, or of a list's items (`repeated`), else None; `schema` is empty then.
    """

    path: str
    description: str
    kind: str
    schema: dict[str, Any]
    required: bool
    default: str
    why: str
    examples: tuple[Any, ...]
    platforms: tuple[str, ...]
    section: type[Section] | None
    repeated: bool

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


@cache
def catalogue() -> tuple[Entry, ...]:
    """Every field, sections before what is in them, in the order of the manifest."""
    return tuple(_entries(Manifest, ""))


def children(path: str) -> list[Entry]:
    """The fields of a section; of the manifest itself, if the path is empty."""
    start = path and f"{path}."
    entry = next((each for each in catalogue() if each.path == path), None)
    if entry is not None and entry.repeated:
        start = f"{path}[]."
    return [each for each in catalogue() if each.path.startswith(start) and "." not in each.path[len(start) :]]


def without_indices(path: str) -> str:
    """`inputs[0].from` → `inputs[].from`."""
    return re.sub(r"\[\d+\]", "[]", path)


def _entries(model: type[Section], prefix: str) -> list[Entry]:
    found: list[Entry] = []
    for name, info in model.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        section, repeated = _section_of(info.annotation)
        found.append(_entry(path, info, section, repeated))
        if section is not None:
            found += _entries(section, f"{path}[]." if repeated else f"{path}.")
    return found


def _entry(path: str, info: FieldInfo, section: type[Section] | None, repeated: bool) -> Entry:
    assert isinstance(info.json_schema_extra, dict)
    extra: dict[str, Any] = info.json_schema_extra
    if section is not None:
        shape = Shape("list of mappings" if repeated else "section", {})
    else:
        shape = _shape_of(info)
    return Entry(
        path=path,
        description=info.description or (section.__doc__ if section else "") or "",
        kind=shape.kind,
        schema=shape.schema,
        required=info.is_required(),
        default=_default(info, extra["says"], section),
        why=extra["why"],
        examples=tuple(info.examples or ()),
        platforms=tuple(extra["platforms"]),
        section=section,
        repeated=repeated,
    )


def _section_of(annotation: Any) -> tuple[type[Section] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    inner = get_args(annotation)[:1]
    if (
        getattr(annotation, "__origin__", None) is tuple
        and isinstance(inner[0], type)
        and issubclass(inner[0], Section)
    ):
        return inner[0], True
    return None, False


def _shape_of(info: FieldInfo) -> Shape:
    """The outermost shape of the annotation; that of `X | None` is X's."""
    marks = [*info.metadata]
    for alternative in get_args(info.annotation):
        marks += getattr(alternative, "__metadata__", ())
    return next(each for each in marks if isinstance(each, Shape))


def _default(info: FieldInfo, says: str, section: type[Section] | None) -> str:
    if says or info.is_required():
        return says
    if section is not None:
        return "as below"
    value = info.default.value if isinstance(info.default, Enum) else info.default
    return f"`{value}`"
