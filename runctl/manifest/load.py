"""The way from the bytes of a file to its jobs and all of its problems. Reads nothing else, raises nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from pydantic import ValidationError

from runctl.manifest.compose import Document, compose
from runctl.manifest.convert import to_job
from runctl.manifest.diagnostics import At, Diagnostic, Finding, Severity, without
from runctl.manifest.job import Job, Position, SourcedJob
from runctl.manifest.matrix import expand
from runctl.manifest.model import Manifest
from runctl.manifest.nodes import Broken, Scalar, Sequence, kind_of
from runctl.manifest.reading import Reading, is_within, read
from runctl.manifest.refusals import finding_of, refused_path, without_value
from runctl.manifest.rules import check
from runctl.manifest.source import Source, decode, start_of_file
from runctl.manifest.support import unsupported

MAX_DIAGNOSTICS = 100
"""Problems of one file that are reported; whoever has more has another kind of file."""

_PLACEHOLDERS = {"name": "unnamed", "script": "unnamed"}


class Loaded(msgspec.Struct, frozen=True):
    """What a file holds.

    `jobs` are those without an error, a matrix expanded. `diagnostics` are all problems in the order of the file.
    `refusals` are what `apply` has to refuse in this version although it is valid.
    """

    jobs: tuple[SourcedJob, ...]
    diagnostics: tuple[Diagnostic, ...]
    refusals: tuple[Diagnostic, ...] = ()


def load(text: bytes, file: str, base: str) -> Loaded:
    """Read a manifest. `file` is its name in diagnostics, `base` the directory that its paths start from."""
    source = decode(text, file)
    if isinstance(source, Diagnostic):
        return Loaded((), (source,))
    jobs: list[SourcedJob] = []
    problems: list[Diagnostic] = []
    refusals: list[Diagnostic] = []
    empty = True
    for document in compose(source):
        empty = False
        found = _Reader(source, document, base)
        found.read()
        jobs += found.jobs
        found.problems.sort(key=lambda each: (each.line, each.column))
        refusals += _shown(found.refusals, found.hidden)
        problems += _shown(found.problems, found.hidden)
    if empty:
        problems.append(
            source.diagnose(
                start_of_file(),
                "empty-file",
                "the file declares no job",
                hint="write at least `name: …` and `script: …`; `runctl init` makes a manifest to start from",
            )
        )
    return Loaded(tuple(jobs), _limited(problems), tuple(refusals))


def _shown(diagnostics: list[Diagnostic], hidden: list[Position]) -> list[Diagnostic]:
    return [without(each, hidden) for each in diagnostics] if hidden else diagnostics


def _limited(problems: list[Diagnostic]) -> tuple[Diagnostic, ...]:
    if len(problems) <= MAX_DIAGNOSTICS:
        return tuple(problems)
    more = len(problems) - MAX_DIAGNOSTICS
    last = msgspec.structs.replace(
        problems[MAX_DIAGNOSTICS],
        code="too-many-problems",
        severity=Severity.ERROR,
        message=f"{more:,} more problems from here on",
        label="",
        hint="correct those above first",
        related=(),
    )
    return (*problems[:MAX_DIAGNOSTICS], last)


class _Reader:
    """One document on its way through model, rules and matrix."""

    def __init__(self, source: Source, document: Document, base: str) -> None:
        self.jobs: list[SourcedJob] = []
        self.refusals: list[Diagnostic] = []
        self.hidden: list[Position] = []
        self.problems = list(document.problems)
        self._source = source
        self._document = document
        self._base = base

    def read(self) -> None:
        root = self._document.root
        if root is None or isinstance(root, Broken):
            return
        if isinstance(root, Scalar | Sequence):
            self.problems.append(
                self._source.diagnose(
                    root.span,
                    "not-a-mapping",
                    f"a job is a mapping of fields, this is {kind_of(root)}",
                    label="not a job",
                    hint="write `name: …` and `script: …`, one field a line",
                    document=self._document.number,
                )
            )
            return
        reading = read(root)
        manifest, refused = self._validated(reading)
        if manifest is None:
            return
        job = to_job(manifest)
        outlined = msgspec.structs.replace(job, matrix=dict.fromkeys(manifest.matrix, "")) if manifest.matrix else job
        for finding in check(outlined, self._base, reading.positions):
            if not _depends_on(finding, refused):
                self._add(finding, reading)
        self._expand(job, manifest, reading)

    def _validated(self, reading: Reading) -> tuple[Manifest | None, list[str]]:
        """The model, and the paths that it refused: without those, so that the rules see the rest."""
        for path in reading.missing:
            self._add(without_value(path), reading)
        silent = [*reading.missing, *reading.broken]
        refused = list(silent)
        try:
            return Manifest.model_validate(reading.data), refused
        except ValidationError as error:
            errors = error.errors(include_url=False)
        for each in errors:
            path = refused_path(each["loc"])
            if not any(is_within(path, one) for one in silent):
                self._add(finding_of(each), reading)
            refused.append(path)
        for path in refused:
            _prune(reading.data, path)
        try:
            return Manifest.model_validate(_PLACEHOLDERS | reading.data), refused
        except ValidationError:
            return None, refused

    def _expand(self, job: Job, manifest: Manifest, reading: Reading) -> None:
        jobs = expand(job, manifest.matrix)
        if isinstance(jobs, Finding):
            self._add(jobs, reading)
            return
        if any(each.severity is Severity.ERROR for each in self.problems):
            return
        self.refusals += [self._diagnose(each, reading) for each in unsupported(job)]
        self.jobs += [
            SourcedJob(
                job=each,
                file=self._source.file,
                base=self._base,
                document=self._document.number,
                positions=reading.positions,
            )
            for each in jobs
        ]

    def _add(self, finding: Finding, reading: Reading) -> None:
        self.problems.append(self._diagnose(finding, reading))

    def _diagnose(self, finding: Finding, reading: Reading) -> Diagnostic:
        if finding.at is At.SECRET:
            self.hidden.append(reading.position(finding.path))
        at_value = finding.at is At.VALUE
        position = reading.position(finding.path) if at_value else reading.key(finding.path)
        return self._source.diagnose(
            position,
            finding.code,
            finding.message,
            label=finding.label,
            hint=finding.hint,
            severity=finding.severity,
            document=self._document.number,
        )


def _depends_on(finding: Finding, refused: Iterable[str]) -> bool:
    """Whether a finding means nothing because what it looks at was refused already."""
    return any(
        is_within(path, one) or is_within(one, path)
        for path in (finding.path, *finding.reads)
        for one in refused
        if one
    )


def _prune(data: Any, path: str) -> None:
    """Take what was refused out of the data: the entry itself, of a list the whole list."""
    names = path.partition("[")[0].split(".")
    for name in names[:-1]:
        data = data.get(name)
        if not isinstance(data, dict):
            return
    data.pop(names[-1], None)


def differing_groups(jobs: tuple[SourcedJob, ...]) -> Iterator[Diagnostic]:
    """An error for each job that is to be applied with others, and names another cap or number for all of them."""
    for field in ("cap", "max_parallel"):
        naming = [each for each in jobs if getattr(each.job.group, field) is not None]
        for each in naming[1:]:
            ours, theirs = getattr(each.job.group, field), getattr(naming[0].job.group, field)
            if ours == theirs:
                continue
            yield _error(
                each,
                f"group.{field}",
                "group-differs",
                f"`group.{field}` is {ours} here, and {theirs} in `{naming[0].job.name}` ({naming[0].file}): "
                "jobs that are applied together are one group",
                f"write the same `group: {{{field}: {theirs}}}` in each of them",
            )


def duplicate_names(jobs: Iterable[SourcedJob]) -> Iterator[Diagnostic]:
    """An error for each job whose name an earlier one has, in this file or another; two from one document can't be."""
    first: dict[str, SourcedJob] = {}
    for each in jobs:
        earlier = first.setdefault(each.job.name, each)
        if earlier is each:
            continue
        there = earlier.positions["name"]
        yield _error(
            each,
            "name",
            "duplicate-name",
            f"two jobs are called `{each.job.name}`; the other is at {earlier.file}:{there.line}:{there.column}",
            "a job is known by its name: give each its own",
        )


def _error(sourced: SourcedJob, path: str, code: str, message: str, hint: str) -> Diagnostic:
    """An error of a job among others, at the place of its field `path`."""
    here = sourced.positions[path]
    return Diagnostic(
        file=sourced.file,
        line=here.line,
        column=here.column,
        end_line=here.end_line,
        end_column=here.end_column,
        code=code,
        severity=Severity.ERROR,
        message=message,
        hint=hint,
        document=sourced.document,
    )
