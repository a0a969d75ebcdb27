"""A job with a `matrix` → one job for each combination of its values."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping

import msgspec

from runctl.manifest.diagnostics import Finding
from runctl.manifest.job import Job

MAX_COMBINATIONS = 1000
MAX_NAME = 63

REFERENCE = re.compile(r"\$\{\{\s*matrix\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_NOT_IN_NAME = re.compile(r"[^a-z0-9]+")


def substituted_fields(job: Job) -> Iterator[tuple[str, str]]:
    """Path and text of every value in which `${{ matrix.KEY }}` is replaced."""
    for index, argument in enumerate(job.args):
        yield f"args[{index}]", argument
    for section, values in (("env", job.env), ("labels", job.labels)):
        for name, value in values.items():
            yield f"{section}.{name}", value


def expand(job: Job, matrix: Mapping[str, tuple[str, ...]]) -> list[Job] | Finding:
    """The jobs of all combinations, the last key varying fastest; a job without a matrix is itself.

    A reference to a key that isn't there stays as it is written: `rules.py` reports it.
    """
    if not matrix:
        return [job]
    combinations = math.prod(len(values) for values in matrix.values())
    if combinations > MAX_COMBINATIONS:
        return Finding(
            code="matrix-too-large",
            path="matrix",
            message=f"{combinations:,} combinations, at most {MAX_COMBINATIONS:,} are accepted",
            hint="split it, or leave out values",
        )
    chosen = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]
    names = _names(job.name, chosen)
    if isinstance(names, Finding):
        return names
    return [_member(job, name, values) for name, values in zip(names, chosen, strict=True)]


def _member(job: Job, name: str, values: dict[str, str]) -> Job:
    def replaced(text: str) -> str:
        return REFERENCE.sub(lambda match: values.get(match[1], match[0]), text)

    return msgspec.structs.replace(
        job,
        name=name,
        args=tuple(replaced(each) for each in job.args),
        env={key: replaced(value) for key, value in job.env.items()},
        labels={key: replaced(value) for key, value in job.labels.items()},
        matrix=values,
    )


def _names(name: str, chosen: list[dict[str, str]]) -> list[str] | Finding:
    """`<name>-<values>`, which stays when values are added; `<name>-<number>` where values don't make good names."""
    names = [f"{name}-{'-'.join(_slug(value) for value in values.values())}" for values in chosen]
    good = all(len(each) <= MAX_NAME and not each.endswith("-") and "--" not in each for each in names)
    if good and len(set(names)) == len(names):
        return names
    names = [f"{name}-{number}" for number in range(1, len(chosen) + 1)]
    if len(names[-1]) > MAX_NAME:
        return Finding(
            code="name-too-long",
            path="name",
            message=f"with the number of a combination the name has more than {MAX_NAME} characters",
            hint=f"shorten it to {MAX_NAME - len(str(len(chosen))) - 1} characters",
        )
    return names


def _slug(value: str) -> str:
    return _NOT_IN_NAME.sub("-", value.lower()).strip("-")
