"""Instants of one clock as another one shows them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def shifted(value: T, by: timedelta) -> T:
    """The same value with every instant in it that much later."""
    return value if not by else _shifted(value, by)


def _shifted(value: Any, by: timedelta) -> Any:
    match value:
        case datetime():
            try:
                return value + by
            except OverflowError:
                return value
        case tuple():
            return tuple(_shifted(each, by) for each in value)
        case msgspec.Struct():
            found = ((name, getattr(value, name)) for name in value.__struct_fields__)
            return msgspec.structs.replace(value, **{name: _shifted(each, by) for name, each in found})
    return value
