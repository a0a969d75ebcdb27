"""What the model refuses, as findings: pydantic's own complaints in our words, ours as they are."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from runctl.manifest.catalogue import Entry, catalogue, children, without_indices
from runctl.manifest.diagnostics import At, Finding, closest, one_of
from runctl.manifest.written import item, items, scalar, split

_KEY = "[key]"
_ARGV = ("args", "launcher")
# The field of a section that a single value is most likely meant for.
_MEANT = {
    "checkpoint": ("every",),
    "cost": ("cap",),
    "group": ("max_parallel", "cap"),
    "instance": ("platform",),
    "limits": ("duration",),
    "retry": ("failures", "interruptions"),
    "stop": ("signal",),
}
_EXPECTED = {"string_type": "text", "tuple_type": "a list", "dict_type": "a mapping", "model_type": "a mapping"}


def refused_path(location: tuple[int | str, ...]) -> str:
    """`("args", 2)` → `args[2]`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != _KEY:
            path += f".{part}" if path else part
    return path


def finding_of(error: ErrorDetails) -> Finding:
    path, context = refused_path(error["loc"]), error.get("ctx", {})
    match error["type"]:
        case "missing":
            return _missing(path)
        case "extra_forbidden":
            return _unknown(path, error["input"])
        case "string_type" | "tuple_type" | "dict_type" | "model_type" as kind:
            return _wrong_type(path, _EXPECTED[kind], error["input"])
        case code:
            return Finding(
                code=code,
                path=path,
                message=context["message"],
                label=context["label"],
                hint=context["hint"],
                at=At.KEY if error["loc"][-1] == _KEY else At.VALUE,
            )


def without_value(path: str) -> Finding:
    """A field that is written without a value."""
    item = path.endswith("]")
    return Finding(
        code="missing-value",
        path=path,
        message="an item without a value" if item else f"`{_name(path)}` has no value",
        label="nothing is written here",
        hint="write a value, or remove the line" + ("" if item else " to get the default"),
        at=At.KEY,
    )


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _missing(path: str) -> Finding:
    section, _, name = path.rpartition(".")
    entry = next((each for each in catalogue() if each.path == without_indices(path)), None)
    example = f"{name}: {entry.examples[0]}" if entry else f"{name}: …"
    return Finding(
        code="missing-field",
        path=section,
        message=f"`{name}` is missing",
        label=f"`{section}` needs it" if section else "a job needs it",
        hint=f"add it, such as `{example}`",
        at=At.KEY,
    )


def _unknown(path: str, value: Any) -> Finding:
    section, _, name = path.rpartition(".")
    known = [each.name for each in children(without_indices(section).removesuffix("[]"))]
    near = closest(name, known)
    if name == "spot" and section in ("", "instance"):
        capacity = f"capacity: {'on-demand' if value == 'false' else 'spot'}"
        hint = f"did you mean `{capacity}`?" if section else f"did you mean `instance: {{{capacity}}}`?"
    elif near is not None:
        hint = f"did you mean `{near}`?"
    else:
        elsewhere = [each.path for each in catalogue() if each.name == name and "[]" not in each.path]
        hint = f"did you mean `{elsewhere[0]}`?" if elsewhere else f"accepted: {', '.join(known or ['command'])}"
    return Finding(
        code="unknown-field",
        path=path,
        message=f"unknown field `{name}`",
        label=f"not a field of `{section}`" if section else "not a field of a job",
        hint=hint,
        at=At.KEY,
    )


def _as_list(path: str, value: str) -> str:
    """How text that stands for a list would be written as one: arguments are taken apart as a shell would."""
    name = _name(path)
    entry = next((each for each in catalogue() if each.path == path), None)
    if entry is not None and entry.section is not None:
        return f"write a list, such as `{name}: [{{{', '.join(_example(each) for each in children(path))}}}]`"
    words = split(value) if path in _ARGV else [value]
    if words is None:
        return f"close the quote, and write a list, such as `{name}: {items(('--epochs', '30'))}`"
    return f"write it in brackets, `{name}: {items(words)}`, or one item a line behind `- `"


def _example(entry: Entry) -> str:
    example = entry.examples[0]
    return f"{entry.name}: {items(example) if isinstance(example, list) else item(example)}"


def _meant_field(entry: Entry, value: Any) -> str:
    """The field of the section that takes this value; empty if none of the likely ones does."""
    if entry.section is None or entry.repeated or not isinstance(value, str):
        return ""
    for name in _MEANT.get(entry.path, ()):
        try:
            entry.section.model_validate({name: value})
        except ValidationError:
            continue
        return name
    return ""


def _wrong_type(path: str, expected: str, value: Any) -> Finding:
    found = "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "a mapping"
    if expected == "text" and found == "a mapping":
        hint = "quote the value if its `: ` belongs to it"
    elif expected == "a list" and found == "text":
        hint = _as_list(path, value)
    elif expected != "a mapping":
        hint = f"write {expected}"
    else:
        wanted = without_indices(path).removesuffix("[]")
        entry = next((each for each in catalogue() if each.path == wanted), None)
        names = [each.name for each in children(entry.path)] if entry and entry.section else []
        meant = _meant_field(entry, value) if entry is not None else ""
        if meant:
            hint = f"did you mean `{_name(path)}: {{{meant}: {scalar(value)}}}`?"
        elif names:
            hint = f"its {'field is' if len(names) == 1 else 'fields are'} {one_of(names)}"
        else:
            hint = f"write {expected}"
    return Finding(
        code="wrong-type",
        path=path,
        message=f"`{_name(path)}` is {expected}, not {found}",
        label=f"expected {expected}",
        hint=hint,
    )
