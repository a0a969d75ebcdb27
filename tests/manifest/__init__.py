"""The manifest: pure, so that every claim here is text in, values or texts out."""

from __future__ import annotations

from runctl.manifest.job import Job
from runctl.manifest.load import Loaded, load
from runctl.manifest.render import render

FIRST = "name: a\nscript: a.py\n"


def loaded(text: str | bytes, base: str = "/project") -> Loaded:
    return load(text if isinstance(text, bytes) else text.encode(), "job.yaml", base)


def job(text: str) -> Job:
    """The one job of a manifest with two fields and `text`, without a problem."""
    found = loaded(FIRST + text)
    assert found.diagnostics == (), render(found.diagnostics)
    (only,) = found.jobs
    return only.job


def problems(text: str | bytes, base: str = "/project") -> list[tuple[str, int, int]]:
    """Code, line and column of every problem."""
    return [(each.code, each.line, each.column) for each in loaded(text, base).diagnostics]


def codes(text: str) -> list[str]:
    """The codes for two fields and `text`."""
    return [each.code for each in loaded(FIRST + text).diagnostics]
