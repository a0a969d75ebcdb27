"""From manifests to jobs in the store: freeze the code, check the script, compare with what is there, submit."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

import msgspec

from runctl.home import Home
from runctl.manifest.job import Job, Platform, SourcedJob
from runctl.planner.intents import anticipate
from runctl.planner.reapply import Decision, Reapply, decide
from runctl.planner.record import Desired, Event, Generation, Phase, Record, Source
from runctl.planner.requests import Apply
from runctl.snapshots.manifest import read_manifest
from runctl.store.interface import Ask, Create, NameTaken, NotFound, Store, Versioned, done
from runctl.workspace.environment import Place, elsewhere, recipe
from runctl.workspace.interpreter import find_interpreter
from runctl.workspace.problems import Finding, Severity
from runctl.workspace.root import find_root, resolve_script
from runctl.workspace.script import check_script, check_travels
from runctl.workspace.snapshot import freeze


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A job whose code is frozen. `findings` are what the checks of the script have to say."""

    sourced: SourcedJob
    source: Source
    findings: tuple[Finding, ...]
    recipe_why: str
    root_reason: str

    @property
    def job(self) -> Job:
        return self.sourced.job


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What applying `prepared` would do, given what the store held a moment ago: `found` is the job as it will be once
    the requests that were open then are answered."""

    prepared: Prepared
    found: Versioned | None
    decision: Decision


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """`asked` is the serial of the request that was put, None if none was needed."""

    name: str
    uid: str
    proposal: Proposal
    asked: int | None = None


def prepare(sourced: SourcedJob, home: Home, environ: Mapping[str, str]) -> Prepared:
    """Find the root, freeze the code, and check the script. Raises `WorkspaceError`; nothing is launched or billed."""
    job = sourced.job
    root = find_root(Path(sourced.base), job.workdir)
    script = resolve_script(root, job.script)
    skip, manifest = (root.workdir / job.checkpoint.dir, home.root), Path(sourced.file).absolute()
    snapshot = freeze(root.root, job.sync_exclude, home.code, skip=skip, manifest=manifest)
    path = environ.get("PATH", os.defpath)
    python = find_interpreter(path)
    source = Source(
        code_hash=snapshot.code_hash,
        files=snapshot.files,
        bytes=snapshot.bytes,
        root=str(root.root),
        workdir=root.workdir_in_root,
        python=python.path if python else None,
        python_version=python.version if python else "",
        path=path,
        uv=shutil.which("uv", path=path),
    )
    place = Place(
        tree=snapshot.tree,
        stored=snapshot.tree,
        code_hash=source.code_hash,
        work=snapshot.tree,
        workdir=source.workdir,
        envs=home.envs,
        path=path,
    )
    made = recipe(place, job.script, job.setup, python, source.uv)
    if job.instance.platform is not Platform.LOCAL:
        made = elsewhere(made)
    checked = check_script(root, script, made.declared, python=python.minor if python else sys.version_info[:2])
    travels = check_travels(root, script, read_manifest(snapshot.path), job.sync_exclude)
    warnings = tuple(
        Finding(severity=Severity.WARNING, code="snapshot", message=text, hint="") for text in snapshot.warnings
    )
    return Prepared(
        sourced=sourced,
        source=msgspec.structs.replace(source, imports=checked.imports),
        findings=(*((travels,) if travels else ()), *checked.findings, *made.findings, *warnings),
        recipe_why=made.why,
        root_reason=root.reason,
    )


def propose(store: Store, prepared: Prepared, now: datetime, *, replace: bool, rerun: bool) -> Proposal:
    """Compare with the job of that name. Reads the store, changes nothing."""
    try:
        found: Versioned | None = _as_asked(store, store.current(prepared.job.name).record.uid, now)
    except NotFound:
        found = None
    decision = decide(found.record if found else None, prepared.job, prepared.source, replace=replace)
    if rerun and found is not None and found.record.outcome is not None:
        decision = Decision(Reapply.CREATE, decision.changes)
    return Proposal(prepared=prepared, found=found, decision=decision)


def _as_asked(store: Store, uid: str, now: datetime) -> Versioned:
    """The job with what was asked of it since. Requests first: one that is answered meanwhile is in the record then."""
    requests = store.requests(uid)
    found = store.get(uid)
    return msgspec.structs.replace(found, record=anticipate(found.record, requests, now))


def submit(
    store: Store, proposals: Sequence[Proposal], owner: str, now: datetime, *, replace: bool = False
) -> list[Submitted]:
    """Create the jobs, or ask for the changes, all in one durable transaction.

    The caller has refused what needs `--replace` or `--rerun`. Raises `NameTaken` if another process created a job
    of that name meanwhile or one is still being deleted, and `StoreUnavailable`.
    """
    for proposal in proposals:
        if proposal.found is not None and proposal.found.record.desired is Desired.DELETED:
            # Superseded, it would be in nobody's list any more, and its attempt and files in nobody's care.
            raise NameTaken(f"`{proposal.prepared.job.name}` is being deleted; apply again when it is gone")
    group = _group(proposals)
    writes: list[Create | Ask] = []
    submitted = []
    for order, proposal in enumerate(proposals):
        job, source, found = proposal.prepared.job, proposal.prepared.source, proposal.found
        if found is None or proposal.decision.kind is Reapply.CREATE:
            record = new_record(job, source, owner, now, group=group, order=order)
            created = Event(at=now, type="Normal", reason="Created", message=f"code {source.code_hash[:12]}")
            writes.append(Create(record, (created,), supersedes=found.record.uid if found else None))
            submitted.append(Submitted(name=job.name, uid=record.uid, proposal=proposal))
            continue
        submitted.append(Submitted(name=job.name, uid=found.record.uid, proposal=proposal))
        if proposal.decision.kind in (Reapply.ATTACH, Reapply.REPORT):
            continue
        request = Apply(at=now, job=job, source=source, generation=found.record.generation.number, replace=replace)
        writes.append(Ask(found.record.uid, request))
    serials = {
        write.uid: number
        for write, receipt in zip(writes, store.apply(writes) if writes else (), strict=True)
        if (number := done(receipt)) and isinstance(write, Ask)
    }
    return [msgspec.structs.replace(each, asked=serials.get(each.uid)) for each in submitted]


def new_record(
    job: Job, source: Source, owner: str, now: datetime, *, group: str | None = None, order: int = 0
) -> Record:
    """The first record of a new run."""
    return Record(
        uid=uuid.uuid4().hex,
        name=job.name,
        owner=owner,
        group=group,
        order=order,
        created_at=now,
        desired=Desired.RUN,
        generations=(Generation(number=1, job=job, source=source, applied_at=now),),
        phase=Phase.PENDING,
    )


def _group(proposals: Sequence[Proposal]) -> str | None:
    """Several jobs of one `apply` are a group, the same one each time they are applied together."""
    if len(proposals) < 2:
        return None
    names = "\n".join(sorted(proposal.prepared.job.name for proposal in proposals))
    return blake2b(names.encode(), digest_size=8).hexdigest()
