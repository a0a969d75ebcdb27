"""The JSON schema of a manifest (draft 2020-12), for editors and other programs.

`python -m runctl.manifest.schema` prints it; `schemas/job.v1.json` is that text. What it accepts and `load` refuses
is limited to rules between fields and to a few bounds that a pattern can't say (a duration over ten years).
"""

from __future__ import annotations

import json
import sys
from typing import Any

from runctl.manifest.catalogue import Entry, children

SCHEMA_ID = "urn:runctl:job.v1"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    return {
        "$schema": _DIALECT,
        "$id": SCHEMA_ID,
        "title": "runctl job",
        "description": "A training job: the machine, the script, its checkpoints and what it may cost.",
        **_object(""),
    }


def schema_text() -> str:
    """The schema as it stands in `schemas/job.v1.json`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _object(path: str) -> dict[str, Any]:
    fields = children(path)
    return {
        "type": "object",
        "properties": {each.name: _property(each) for each in fields},
        "required": [each.name for each in fields if each.required],
        "additionalProperties": False,
    }


def _property(entry: Entry) -> dict[str, Any]:
    notes: dict[str, Any] = {"description": _description(entry)}
    if entry.section is not None:
        below = _object(entry.path)
        notes |= {"type": "array", "items": below} if entry.repeated else below
    return {**notes, **entry.schema, **({"examples": list(entry.examples)} if entry.examples else {})}


def _description(entry: Entry) -> str:
    text = entry.description
    if entry.default and entry.section is None:
        text += f" Default: {entry.default}."
    if entry.platforms:
        text += f" Only on {', '.join(entry.platforms)}."
    return text


if __name__ == "__main__":
    sys.stdout.write(schema_text())
