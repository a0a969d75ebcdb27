"""The heavy part of keeping checkpoints, done in short-lived forks of the agent: validate, copy, prune, restore.

Imports what the agent itself can't afford (hashlib, zipfile, shutil) where it is needed: in the fork.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, FrozenSet, List, Optional

    from runctl.agent.spec import Spec
    from runctl.agent.watch import Candidate
    from runctl.checkpoints.durable import Durable

    Json = Dict[str, Any]
    Report = Callable[[Json], None]


# Before the start, between tries to reach a storage that can't be just now.
PATIENCE_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


def settle(
    spec: Spec, candidate: Candidate, facts: Json, keep: int, doubted: FrozenSet[str]
) -> Callable[[Report], None]:
    """Validate a candidate and, if it is whole, copy it durably and prune. Reports `verdict`, then `durable`, then
    `pruned`; `withdrawn` before a verdict that tells something about the last one, too. `doubted`: the formats that
    can't tell whether it is whole, if it was being written when the training or the machine ended.
    """

    def work(report: Report) -> None:
        from runctl.checkpoints import durable, formats
        from runctl.checkpoints.storage import open_storage

        path = os.path.join(spec.checkpoint.dir, candidate.name)
        verdict = formats.validate(path, spec.checkpoint.format, spec.checkpoint.command)
        if verdict.valid and verdict.format in doubted:
            detail = "may be torn: it was being written when the training ended, and its format can't tell"
            verdict = formats.Verdict(False, verdict.format, detail)
            if verdict.format == "directory":
                storage = open_storage(spec.checkpoint.destination, spec.checkpoint.client)
                old = storage.withdraw(spec.uid, spec.attempt, path)
                if old is not None:
                    report({"withdrawn": old.seq})
        report({"verdict": {"valid": verdict.valid, "format": verdict.format, "detail": verdict.detail}})
        if not verdict.valid:
            return
        storage = open_storage(spec.checkpoint.destination, spec.checkpoint.client)
        stated = {**facts, "format": verdict.format}
        try:
            manifest = storage.store(path, stated)
        except durable.Changed:
            report({"changed": True})
            return
        except formats.Invalid as error:
            report({"verdict": {"valid": False, "format": verdict.format, "detail": str(error)}})
            return
        except FileExistsError:
            # An earlier try may have stored it, and its answer was lost.
            found = storage.already_stored(stated)
            if found is None:
                raise
            manifest = found
        stored = storage.location(spec.uid, spec.attempt, candidate.seq)
        report({"durable": {"path": stored, "bytes": manifest["bytes"], "sha256": durable.checksum(manifest)}})
        for old in storage.prune(spec.uid, spec.attempt, keep):
            report({"pruned": {"attempt": old.attempt, "seq": old.seq}})

    return work


def _newest_good(source: str, name: str, target_dir: str, client: Optional[str], report: Report) -> str:
    """Restore a durable checkpoint, or the newest before it that is whole, saying so as `damaged` with what is gone on
    from as `instead`. Raises Damaged.
    """
    from runctl.checkpoints import durable
    from runctl.checkpoints.places import split
    from runctl.checkpoints.storage import open_storage

    try:
        destination, uid, attempt, seq = split(source)
    except ValueError:
        raise durable.Damaged(f"`{source}` is no place of a durable checkpoint") from None
    storage = open_storage(destination, client)
    try:
        return storage.restore(source, name, target_dir)
    except durable.Damaged as error:
        first = error
    for each in reversed(storage.list(uid)):
        if (each.attempt, each.seq) >= (attempt, seq):
            continue
        before = str(each.manifest.get("name"))
        try:
            path = storage.restore(each.path, before, target_dir)
        except durable.Damaged:
            continue
        instead = f"`{before}` of attempt {each.attempt}, the newest whole one before it"
        report({"damaged": f"{first}; going on from {instead}", "instead": _facts_of(each)})
        return path
    raise first


def prepare(spec: Spec) -> Callable[[Report], None]:
    """Before the start: make sure that copies can be made, sweep torn ones, restore. Reports `numbered` (up to where
    copies of this attempt are numbered, where a start of it that left no other trace has made some), `collide` (why two
    writers might overwrite each other's copies), `before` and `instead` (what that start had stored, which is gone on
    from) and, at last, `restored` (a path or "").
    """

    def work(report: Report) -> None:
        from runctl.checkpoints import durable, restoring

        checkpoint = spec.checkpoint
        try:
            there = _patiently(lambda: _ready(spec, report))
        except OSError as error:
            report({"failed": f"the destination of checkpoints can't be written: {error}"})
            return
        if there:
            report({"numbered": there[-1]})
        wanted = checkpoint.restore
        try:
            stored = _stored_before(spec) if there and checkpoint.go_on else None
            if stored is not None:
                name, facts = str(stored.manifest.get("name")), _facts_of(stored)
                report({"before": f"going on from `{name}`, which an earlier start of it had stored", "instead": facts})
                path = _patiently(lambda: _newest_good(stored.path, name, checkpoint.dir, checkpoint.client, report))
            elif wanted is None:
                path = ""
            elif wanted.kind == "plain":
                path = restoring.restore_plain(
                    wanted.source, wanted.name, checkpoint.dir, checkpoint.format, checkpoint.command
                )
            else:
                path = _patiently(
                    lambda: _newest_good(wanted.source, wanted.name, checkpoint.dir, checkpoint.client, report)
                )
        except durable.Damaged as error:
            report({"failed": f"the checkpoint to go on from can't be used: {error}"})
        except OSError as error:
            report({"failed": f"the checkpoint to go on from can't be restored: {error}"})
        else:
            report({"restored": path})

    return work


def _stored_before(spec: Spec) -> Optional[Durable]:
    """The newest copy of this very attempt: of a start that left nothing else on its machine, which was wiped since."""
    from runctl.checkpoints.storage import open_storage

    storage = open_storage(spec.checkpoint.destination, spec.checkpoint.client)
    mine = [each for each in storage.list(spec.uid) if each.attempt == spec.attempt]
    return mine[-1] if mine else None


def _facts_of(copy: Durable) -> Json:
    facts = {fact: copy.manifest.get(fact) for fact in ("name", "at", "bytes", "step", "epoch")}
    return {**facts, "attempt": copy.attempt, "seq": copy.seq, "durable_path": copy.path}


def _ready(spec: Spec, report: Report) -> List[int]:
    """Numbers that copies of this attempt have already. Raises OSError where none can be made."""
    from runctl.checkpoints.s3_storage import S3Storage
    from runctl.checkpoints.storage import open_storage

    storage = open_storage(spec.checkpoint.destination, spec.checkpoint.client)
    storage.prepare(spec.uid, spec.attempt)
    if isinstance(storage, S3Storage) and not storage.probe().conditional:
        why = "ignores conditional writes: two writers of one attempt could overwrite each other's checkpoints"
        report({"collide": f"{spec.checkpoint.destination} {why}"})
    try:
        storage.sweep(spec.uid, spec.attempt, time.time())
    except OSError:
        if not isinstance(storage, S3Storage):
            raise  # a role may store without being allowed to look for what uploads have left
    return storage.numbers(spec.uid, spec.attempt)


def _patiently(work: Callable[[], Any]) -> Any:
    """Its result. A service that is away for a moment costs no attempt."""
    from runctl.checkpoints.objects import Unavailable, Unreachable

    for seconds in PATIENCE_SECONDS:
        try:
            return work()
        except (Unavailable, Unreachable):
            time.sleep(seconds)
    return work()


def survey(spec: Spec) -> Callable[[Report], None]:
    """Which copies of the attempt there are: reports `numbers` of all, and each that is whole as `copy`, its
    location, its attempt's number, its own and its manifest; `surveyed` at last.
    """

    def work(report: Report) -> None:
        from runctl.checkpoints import durable
        from runctl.checkpoints.places import S3
        from runctl.checkpoints.storage import open_storage

        destination, uid, attempt = spec.checkpoint.destination, spec.uid, spec.attempt
        storage = open_storage(destination, spec.checkpoint.client)
        report({"numbers": storage.numbers(uid, attempt)})
        directory = os.path.dirname(durable.directory(destination, uid, attempt, 0))
        if not (destination.startswith(S3) or os.path.isdir(directory)):
            return  # a destination that isn't mounted has lost nothing
        for each in storage.list(uid):
            if each.attempt == attempt:
                report({"copy": [each.path, each.attempt, each.seq, each.manifest]})
        report({"surveyed": True})

    return work
