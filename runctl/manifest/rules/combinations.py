"""Lists of commands, and the keys of a matrix."""

from __future__ import annotations

from collections.abc import Iterator

from runctl.manifest.diagnostics import At, Finding, Severity
from runctl.manifest.job import Job
from runctl.manifest.matrix import REFERENCE, substituted_fields
from runctl.manifest.rules.rule import Rule, Written
from runctl.manifest.written import items


def _single_words(job: Job, written: Written) -> Iterator[Finding]:
    """`[pip, install, x]` where a list of commands is meant to stand: three commands of one word."""
    lists = {
        "setup": job.setup.commands,
        "hooks.after_start": job.hooks.after_start,
        "hooks.before_stop": job.hooks.before_stop,
        "hooks.before_terminate": job.hooks.before_terminate,
    }
    for path, commands in lists.items():
        if len(commands) > 1 and all(len(each) == 1 for each in commands) and f"{path}[0][0]" not in written:
            yield Finding(
                code="commands-of-one-word",
                path=path,
                message=f"these are {len(commands)} commands of one word each",
                hint=f"for one command write `[{items(each[0] for each in commands)}]`",
                severity=Severity.WARNING,
            )


def _matrix(job: Job, written: Written) -> Iterator[Finding]:
    """`job` is not expanded yet: its `matrix` names the keys."""
    used: set[str] = set()
    for path, text in substituted_fields(job):
        for match in REFERENCE.finditer(text):
            used.add(match[1])
            if match[1] not in job.matrix:
                known = ", ".join(f"`{each}`" for each in job.matrix)
                yield Finding(
                    code="unknown-matrix-key",
                    path=path,
                    message=f"`{match[0]}` names no key of `matrix`",
                    hint=f"its keys are {known}" if known else f"add `matrix: {{{match[1]}: […]}}`",
                    reads=("matrix",),
                )
    for key in job.matrix:
        if key not in used:
            yield Finding(
                code="unused-matrix-key",
                path=f"matrix.{key}",
                message=f"no argument, variable or label uses `matrix.{key}`: its jobs would all be alike",
                hint=f"write `${{{{ matrix.{key} }}}}` where its value belongs",
                severity=Severity.WARNING,
                at=At.KEY,
                reads=("args", "env", "labels"),
            )


RULES: tuple[Rule, ...] = (
    _single_words,
    _matrix,
)
