"""Telling manifests from other YAML, without the model: what only looks for them needn't load that."""

from __future__ import annotations

import re
from enum import StrEnum


class Recognition(StrEnum):
    """What a file in a directory is to runctl; the value is the note for one that is skipped."""

    MANIFEST = "a manifest"
    OTHER_NAME = "not named `*.yaml` or `*.yml`"
    OTHER_CONTENT = "no `apiVersion: runctl/…` at its top level"


_DECLARED = re.compile(rb"""^(?:\xef\xbb\xbf)?(?:\{\s*|---\s+)?["']?apiVersion["']?\s*:\s*["']?runctl/""", re.MULTILINE)

_FIELDS = (re.compile(rb"^name[ \t]*:", re.MULTILINE), re.compile(rb"^script[ \t]*:", re.MULTILINE))


def looks_like_a_job(text: bytes) -> bool:
    """Whether a file that isn't recognised has the two fields of a job at its top level."""
    return all(each.search(text) for each in _FIELDS)


def recognise(name: str, text: bytes) -> Recognition:
    """Whether a file that was found in a directory is a manifest, also one with errors. Needn't see all of the text."""
    if not name.endswith((".yaml", ".yml")):
        return Recognition.OTHER_NAME
    return Recognition.MANIFEST if _DECLARED.search(text) else Recognition.OTHER_CONTENT
