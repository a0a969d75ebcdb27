"""Rules between fields, each a small pure function.

A rule is an error where the job couldn't do what its manifest says, a warning where something that is written has
no effect. What a single field accepts is the model's; what depends on files, prices or machines is asked elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from runctl.manifest.diagnostics import Finding
from runctl.manifest.job import Job
from runctl.manifest.rules import combinations, environment, machine, money, saving
from runctl.manifest.rules.rule import Written


def check(job: Job, base: str, written: Written) -> Iterator[Finding]:
    """All findings of all rules. `base` is the directory that `workdir` starts from."""
    for each in (machine, money, saving, environment, combinations):
        for rule in each.RULES:
            yield from rule(job, written)
    yield from saving.upload_in_workdir(job, base)
