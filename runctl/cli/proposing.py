"""From manifests to proposals: what `plan` shows and `apply` does. Refuses here what can't be applied as asked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from runctl.cli.errors import Failure, shown
from runctl.cli.exit_codes import ExitCode
from runctl.cli.manifests import Read, show
from runctl.cli.streams import clean, hint, say
from runctl.home import Home
from runctl.manifest.diagnostics import Diagnostic, Excerpt, Severity
from runctl.manifest.job import SourcedJob
from runctl.planner.observed import MachineSeen
from runctl.planner.preview import Preview, preview
from runctl.planner.reapply import Effect, Reapply
from runctl.reconciler.applying import Prepared, Proposal, prepare, propose
from runctl.snapshots.manifest import read_manifest
from runctl.store.interface import Store
from runctl.workspace.changes import changed_files
from runctl.workspace.problems import Finding, RootError, ScriptError, SnapshotError, WorkspaceError
from runctl.workspace.problems import Severity as FindingSeverity

# These launch something, so that the training's secrets are needed.
# Of files that have changed, so many are named.
NAMED_AT_MOST = 8

LAUNCHES = frozenset([Reapply.CREATE, Reapply.RESUME, Reapply.REPLACE])


def propose_all(store: Store, home: Home, found: Read, *, replace: bool, rerun: bool) -> list[Proposal]:
    """Freeze the code and compare. Shows every problem of every job, and ends with 2 if one of them is an error."""
    prepared = [each for sourced in found.jobs if (each := _prepared(sourced, found, home)) is not None]
    if len(prepared) < len(found.jobs):
        raise shown(ExitCode.INVALID)
    now = datetime.now(UTC)
    proposals = [propose(store, each, now, replace=replace, rerun=rerun) for each in prepared]
    if rerun:
        refuse_rerun(proposals)
    return proposals


def refuse_rerun(proposals: Sequence[Proposal]) -> None:
    """End with 2 if a job that `--rerun` is asked for isn't finished: nothing of it may be left behind."""
    for each in proposals:
        if each.found is not None and each.found.record.outcome is None:
            name, phase = each.prepared.job.name, each.found.record.phase
            raise Failure(
                ExitCode.INVALID,
                f"`{name}` isn't finished ({phase}): `--rerun` starts a new run of a job that is",
                now="nothing was changed",
                hint=f"without `--rerun` it goes on; `runctl cancel {name}` ends it for good",
            )


def preview_of(proposal: Proposal, now: datetime, machine: MachineSeen | None = None) -> Preview:
    prepared, found = proposal.prepared, proposal.found
    record = found.record if found is not None else None
    return preview(record, prepared.job, prepared.source, proposal.decision, prepared.recipe_why, now, machine)


def _changed_files(home: Home, proposal: Proposal) -> Iterator[str]:
    """The files that make the code another one; none where the old snapshot can't be read any more."""
    if proposal.found is None:
        return
    hashes = proposal.found.record.generation.source.code_hash, proposal.prepared.source.code_hash
    try:
        found = changed_files(*(read_manifest(home.code / each) for each in hashes))
    except SnapshotError:
        return
    named = [
        *(f"modified: {path}" for path in found.modified),
        *(f"new: {path}" for path in found.added),
        *(f"removed: {path}" for path in found.removed),
    ]
    yield from named[:NAMED_AT_MOST]
    if len(named) > NAMED_AT_MOST:
        yield f"and {len(named) - NAMED_AT_MOST} more"


def refuse_unapplicable(home: Home, proposals: Sequence[Proposal], command: str) -> None:
    """End with 2 if a job needs `--replace` or `--rerun`, saying what differs and the command that would do it."""
    needy = [each for each in proposals if each.decision.kind in (Reapply.NEEDS_REPLACE, Reapply.NEEDS_RERUN)]
    for each in needy:
        name, kind = each.prepared.job.name, each.decision.kind
        rerun = kind is Reapply.NEEDS_RERUN
        live = each.found is not None and each.found.record.live is not None
        state = (
            "is finished" if rerun else "has an attempt of the old spec" if live else "is to go on with the old spec"
        )
        say(clean(f"error: `{name}` {state}, and what changed needs a new {'run' if rerun else 'attempt'}"))
        for change in each.decision.changes:
            mark = "!" if change.effect is Effect.RELAUNCH else "~"
            say(
                clean(
                    f"  {mark} {change.path}: {change.before or 'unset'} → {change.after or 'unset'} ({change.effect})"
                )
            )
            if change.path == "code":
                for line in _changed_files(home, each):
                    say(clean(f"      {line}"))
        say("  now:   nothing was changed")
        goes_on = "saves, ends it and goes on from there" if live else "goes on from its checkpoint with the new spec"
        flag, means = ("--rerun", "starts a new run") if rerun else ("--replace", goes_on)
        hint(f"`{command} {flag}` {means}")
    if needy:
        raise shown(ExitCode.INVALID)


def missing_secrets(proposals: Sequence[Proposal]) -> list[str]:
    """The names of secrets that a training which would start needs, and that aren't in the environment."""
    return sorted(
        {
            secret.name
            for each in proposals
            if each.decision.kind in LAUNCHES
            for secret in each.prepared.job.secrets
            if secret.source is None and secret.name not in os.environ
        }
    )


def refuse_without_secrets(proposals: Sequence[Proposal]) -> None:
    """End with 10 if one of them is missing."""
    missing = missing_secrets(proposals)
    if missing:
        named = ", ".join(f"`{each}`" for each in missing)
        raise Failure(
            ExitCode.PERMISSION,
            f"not in the environment: {named}",
            cause="the manifest names them in `secrets`; their values are handed to the training and stored nowhere",
            now="nothing was started",
            hint=f"set them and apply again: `export {missing[0]}=…`",
        )


def _prepared(sourced: SourcedJob, found: Read, home: Home) -> Prepared | None:
    """None when there is an error, which has been shown."""
    try:
        prepared = prepare(sourced, home, os.environ)
    except WorkspaceError as error:
        show([found.diagnose(sourced, _field(error), "workspace", str(error), error.hint)])
        return None
    show([_diagnostic(each, sourced, found) for each in prepared.findings])
    failed = any(each.severity is FindingSeverity.ERROR for each in prepared.findings)
    return None if failed else prepared


def _field(error: WorkspaceError) -> str:
    """The field of the manifest that is to blame."""
    if isinstance(error, ScriptError):
        return "script"
    return "workdir" if isinstance(error, RootError) else "name"


def _diagnostic(finding: Finding, sourced: SourcedJob, found: Read) -> Diagnostic:
    """A finding at its own place if it has one, else at the line of `script`."""
    severity = Severity.ERROR if finding.severity is FindingSeverity.ERROR else Severity.WARNING
    at = found.diagnose(sourced, "script", finding.code, finding.message, finding.hint)
    if finding.file is None or finding.line is None:
        place = f"{finding.file}: " if finding.file else ""
        return Diagnostic(
            file=at.file, line=at.line, column=at.column, end_line=at.end_line, end_column=at.end_column, code=at.code,
            severity=severity, message=place + finding.message, hint=finding.hint, excerpt=at.excerpt,
        )  # fmt: skip
    column = finding.column or 1
    return Diagnostic(
        file=finding.file,
        line=finding.line,
        column=column,
        end_line=finding.line,
        end_column=column + 1,
        code=finding.code,
        severity=severity,
        message=finding.message,
        label=f"script of job `{sourced.job.name}` ({at.file}:{at.line}:{at.column})",
        hint=finding.hint,
        excerpt=Excerpt(finding.excerpt.rstrip("\n")[:500]) if finding.excerpt is not None else None,
    )
