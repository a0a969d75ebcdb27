"""A plan in a file: `plan --out` writes it, `apply --plan` applies it as it stands, or refuses: the world moved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from runctl.cli.errors import Failure
from runctl.cli.exit_codes import ExitCode
from runctl.cli.manifests import STDIN, read
from runctl.home import Home
from runctl.planner.reapply import Decision
from runctl.reconciler.applying import Prepared, Proposal, prepare, propose
from runctl.store.interface import Store
from runctl.workspace.problems import WorkspaceError

VERSION = 1


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One job of the plan. `uid` and `generation` are those of the job that it was compared with, if there was one."""

    prepared: Prepared
    decision: Decision
    uid: str | None
    generation: int | None


class SavedPlan(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    home: str
    replace: bool
    rerun: bool
    jobs: tuple[Planned, ...]


def save(path: str, home: Home, proposals: Sequence[Proposal], *, replace: bool, rerun: bool) -> None:
    """Write the plan, mode 0600. It holds the names of secrets, no values."""
    jobs = tuple(
        Planned(
            prepared=each.prepared,
            decision=each.decision,
            uid=each.found.record.uid if each.found else None,
            generation=each.found.record.generation.number if each.found else None,
        )
        for each in proposals
    )
    plan = SavedPlan(version=VERSION, home=str(home.root), replace=replace, rerun=rerun, jobs=jobs)
    text = msgspec.json.format(msgspec.json.encode(plan), indent=1)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text + b"\n")


def refuse_inside_code(path: str, home: Home, proposals: Sequence[Proposal]) -> None:
    """Remove the plan again and end with 2 if it changed the very code that it is about: it could never be applied."""
    for each in proposals:
        prepared = each.prepared
        if not Path(path).resolve().is_relative_to(Path(prepared.source.root).resolve()):
            continue
        if prepare(prepared.sourced, home, os.environ).source.code_hash != prepared.source.code_hash:
            Path(path).unlink()
            raise Failure(
                ExitCode.INVALID,
                f"`{path}` would become a part of the code of `{prepared.job.name}`",
                now="it was not written",
                hint="name a place outside of the project, or one that `.gitignore` or `.runctlignore` leaves out",
            )


def load(path: str) -> SavedPlan:
    try:
        plan = msgspec.json.decode(Path(path).read_bytes(), type=SavedPlan)
    except OSError as error:
        raise Failure(ExitCode.INVALID, f"`{path}` can't be read: {(error.strerror or '').lower()}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        hint = "write it with `runctl plan job.yaml --out FILE`"
        raise Failure(ExitCode.INVALID, f"`{path}` is not a saved plan: {error}", hint=hint) from None
    if plan.version != VERSION:
        raise Failure(ExitCode.INVALID, f"`{path}` is a plan of another version of runctl", hint="plan again")
    return plan


def proposals_of(plan: SavedPlan, home: Home, store: Store) -> list[Proposal]:
    """The plan's proposals, if each still means what it meant. Raises a `Failure` that names what moved."""
    if plan.home != str(home.root):
        raise _moved(f"it was made for the home `{plan.home}`, this one is `{home.root}`")
    return [_still(each, plan, home, store) for each in plan.jobs]


def _still(planned: Planned, plan: SavedPlan, home: Home, store: Store) -> Proposal:
    name = planned.prepared.job.name
    _same_manifest(planned.prepared)
    try:
        now = prepare(planned.prepared.sourced, home, os.environ)
    except WorkspaceError as error:
        raise _moved(f"`{name}`: {error}") from None
    if now.source.code_hash != planned.prepared.source.code_hash:
        old, new = planned.prepared.source.code_hash[:12], now.source.code_hash[:12]
        raise _moved(f"the code of `{name}` was {old}, it is {new}")
    proposal = propose(store, planned.prepared, datetime.now(UTC), replace=plan.replace, rerun=plan.rerun)
    found = proposal.found.record if proposal.found else None
    if (found.uid if found else None) != planned.uid:
        raise _moved(f"`{name}` is another run now" if found else f"`{name}` is gone")
    if found is not None and found.generation.number != planned.generation:
        raise _moved(f"`{name}` was at generation {planned.generation}, it is at {found.generation.number}")
    if proposal.decision != planned.decision:
        raise _moved(f"applying `{name}` meant `{planned.decision.kind}`, it means `{proposal.decision.kind}` now")
    return proposal


def _same_manifest(prepared: Prepared) -> None:
    """The manifest still says what it said, as far as it can be read again."""
    sourced = prepared.sourced
    if sourced.file == STDIN:
        return
    jobs = {each.job.name: each.job for each in read([sourced.file]).jobs}
    if jobs.get(sourced.job.name) != sourced.job:
        raise _moved(f"the manifest of `{sourced.job.name}` (`{sourced.file}`) has changed")


def _moved(what: str) -> Failure:
    return Failure(
        ExitCode.INVALID, f"the world has moved since the plan was made: {what}", now="nothing was changed",
        hint="plan again, and look at it",
    )  # fmt: skip
