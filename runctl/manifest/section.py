"""A section of the manifest as a pydantic model, and a field with its documentation."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticUndefined


def described(
    description: str,
    *,
    default: Any = PydanticUndefined,
    says: str = "",
    why: str = "",
    examples: tuple[Any, ...] = (),
    platforms: tuple[str, ...] = (),
    alias: str | None = None,
) -> Any:
    """A field with its documentation: `says` is the default in words where the value alone doesn't tell it, `why`
    the reason for it; `platforms` are those on which the field means something, all if empty."""
    extra: dict[str, Any] = {"says": says, "why": why, "platforms": list(platforms)}
    return Field(default, description=description, examples=list(examples), json_schema_extra=extra, alias=alias)


class Section(BaseModel):
    """A mapping of the manifest; its docstring is the section's description."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, protected_namespaces=())
