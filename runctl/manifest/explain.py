"""`runctl explain`: what a field means, from the same source as the schema."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
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


def explain(path: str = "") -> str:
    """The documentation of a field, or the list of all fields for the empty path. Raises UnknownField."""
    if not path:
        return _listing(catalogue(), "")
    entry = _find(path)
    lines = [f"{entry.path}  ({entry.kind})", "", *textwrap.wrap(entry.description, _WIDTH), ""]
    lines += [f"{label + ':':<11}{text}" for label, text in _facts(entry) if text]
    if entry.examples:
        lines += ["", "examples:"]
        for example in entry.examples:
            lines += textwrap.indent(_as_yaml(entry, example), "  ").splitlines()
    if entry.section is not None:
        lines += ["", "fields:", _listing(children(entry.path), "  ").rstrip()]
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
        ("default", "none, it has to be given" if entry.required else entry.default),
        ("why", entry.why),
        ("accepted", ", ".join(str(each).lower() if isinstance(each, bool) else str(each) for each in accepted)),
        ("platforms", ", ".join(entry.platforms) or _ALL_PLATFORMS),
    ]


def _as_yaml(entry: Entry, example: Any) -> str:
    for name in reversed(entry.path.split(".")):
        example = {name.removesuffix("[]"): [example] if name.endswith("[]") else example}
    return yaml.safe_dump(example, sort_keys=False, default_flow_style=None, allow_unicode=True)


def _listing(entries: Sequence[Entry], indent: str) -> str:
    width = max(len(each.path) for each in entries)
    return "".join(f"{indent}{each.path:<{width}}  {_first_sentence(each.description)}\n" for each in entries)


def _first_sentence(text: str) -> str:
    return textwrap.shorten(text.partition(". ")[0].removesuffix("."), _WIDTH, placeholder=" …")
