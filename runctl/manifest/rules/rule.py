"""What a rule is: a job, and the paths that its manifest writes, to findings."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

from runctl.manifest.diagnostics import At, Finding, Severity
from runctl.manifest.job import Job

Written = Container[str]
Rule = Callable[[Job, Written], Iterator[Finding]]


def no_effect(path: str, why: str) -> Finding:
    """The warning for a field that is written in vain."""
    return Finding(
        code="no-effect",
        path=path,
        message=f"`{path}` has no effect: {why}",
        hint="remove it",
        severity=Severity.WARNING,
        at=At.KEY,
        reads=("instance.platform", "instance.host", "cost.cap", "checkpoint.resume"),
    )
