"""`runctl explain`: what a field means, from the same source as the schema."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

from runctl.manifest.catalogue import Entry, catalogue, children, without_indices
from runctl.manifest.diagnostics import closest

_WIDTH = 80
_ALL_PLATFORMS = "all"


class UnknownField(LookupError):
    """No such field; `args[0]` says so, `hint` what was probably meant."""

    def __init__(self, path: str, hint: str) -> None:
        super().__init__(f"no field `{path}` in a manifest")
        self.hint = hint


def explain(path: str = "", columns: int | None = None) -> str:
    """The documentation of a field, or the list of all fields for the empty path. Raises UnknownField.

    Lines of a list are cut at `columns`; None cuts nothing.
    """
    if not path:
        width = max(len(each.path) for each in catalogue())
        return "".join(_cut(f"{each.path:<{width}}  {_first_sentence(each)}", columns) for each in catalogue())
    entry = _find(path)
    lines = [f"{entry.path}  ({entry.kind})", "", *textwrap.wrap(entry.description, _WIDTH), ""]
    lines += [f"{label + ':':<11}{text}" for label, text in _facts(entry) if text]
    if entry.examples:
        lines += ["", "examples:"]
        for example in entry.examples:
            lines += textwrap.indent(_as_yaml(entry, example), "  ").splitlines()
    if entry.section is not None:
        lines += ["", "fields:"]
        for each in children(entry.path):
            lines += [f"  {each.path}", *_wrapped(_first_sentence(each)), *_wrapped(f"default: {_default(each)}")]
    return "\n".join(lines).rstrip() + "\n"


def _find(path: str) -> Entry:
    wanted = without_indices(path.strip().strip("."))
    for entry in catalogue():
        if wanted in (entry.path, entry.path.replace("[]", "")):
            return entry
    paths = [each.path for each in catalogue()]
    last = [each for each in paths if each.rpartition(".")[2] == wanted.rpartition(".")[2]]
    near = last[0] if last else closest(wanted, paths)
    raise UnknownField(path, f"did you mean `{near}`?" if near else "`runctl explain` lists all fields")


def _facts(entry: Entry) -> list[tuple[str, str]]:
    accepted = entry.schema.get("enum", ())
    return [
        ("default", _default(entry)),
        ("why", entry.why),
        ("accepted", ", ".join(str(each).lower() if isinstance(each, bool) else str(each) for each in accepted)),
        ("platforms", ", ".join(entry.platforms) or _ALL_PLATFORMS),
    ]


def _as_yaml(entry: Entry, example: Any) -> str:
    outer, _, name = entry.path.rpartition(".")
    if outer.endswith("[]"):
        # What the item needs beside this field, so that it can be copied as it stands.
        needed = [each for each in children(outer.removesuffix("[]")) if each.required or each.name == name]
        example = {each.name: example if each.name == name else each.examples[0] for each in needed}
    else:
        outer = entry.path
    for name in reversed(outer.split(".")):
        example = {name.removesuffix("[]"): [example] if name.endswith("[]") else example}
    style = None if any(isinstance(each, list | dict) for each in example.values()) else False
    return yaml.safe_dump(example, sort_keys=False, default_flow_style=style, allow_unicode=True)


def _default(entry: Entry) -> str:
    return "none, it has to be given" if entry.required else entry.default


def _first_sentence(entry: Entry) -> str:
    return entry.description.partition(". ")[0].removesuffix(".")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")


def _cut(line: str, columns: int | None) -> str:
    return (line if columns is None or len(line) <= columns else line[: max(columns - 2, 1)] + " …") + "\n"
