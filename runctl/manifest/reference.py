"""The documentation's table of fields. `python -m runctl.manifest.reference` prints `docs/manifest.md`."""

from __future__ import annotations

import sys

from runctl.manifest.catalogue import Entry, catalogue

_HEAD = """\
# The manifest

A manifest is YAML: one job a document, several documents a file. Two fields are enough:

```yaml
name: first
script: train.py
```

Unknown fields are errors, and so are fields without a value. `runctl validate` reports all problems of all files' text,
`runctl explain FIELD` shows one field of this page, and `schemas/job.v1.json` is the same for editors.

## How values are read

- **Nothing is guessed from how a value looks.** `args`, `env`, `labels`, `launcher` and `matrix` take what is written:
  `1e-4`, `no`, `010`, `2026-01-01` and `~` reach the script as those characters. A quoted value is its content.
- **Booleans are YAML 1.2's**: `true` and `false`. `yes`, `no`, `on` and `off` are words.
- **Anchors, aliases and `<<` work.** Tags of one's own (`!x`), duplicate keys and keys that aren't text are errors.
- **Commands** (`setup`, `hooks`, `checkpoint.format`) are argv lists. A line of text is split by POSIX quoting
  rules, and there is never a shell: `&&`, `|`, `>`, `;`, `$` and wildcards are refused.
- **Paths**: `workdir` is relative to the manifest's directory; all others are relative to `workdir` and stay inside it.
- **URLs**: `s3://bucket/prefix/`, or `file:` with a path that is absolute or relative to `workdir`, taken literally.
- **Money** is US dollars, **sizes** are powers of 1024 (`GiB`) or 1000 (`GB`), **durations** need a unit.
- A file has at most 1 MiB, 1,000 documents and 100,000 values, with aliases counted as what they stand for.

## Every field

"""
_TABLE = "| field | kind | default | why | meaning |\n|---|---|---|---|---|\n"


def reference() -> str:
    return _HEAD + _TABLE + "".join(_row(each) for each in catalogue())


def _row(entry: Entry) -> str:
    meaning = entry.description + (f" Only on {', '.join(entry.platforms)}." if entry.platforms else "")
    default = "required" if entry.required else entry.default
    cells = (f"`{entry.path}`", entry.kind, default, entry.why, meaning)
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
