"""The heavy part of keeping checkpoints, done in short-lived forks of the agent: validate, copy, prune, restore.

Imports what the agent itself can't afford (hashlib, zipfile, shutil) where it is needed: in the fork.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, FrozenSet

    from runctl.agent.spec import Spec
    from runctl.agent.watch import Candidate

    Json = Dict[str, Any]
    Report = Callable[[Json], None]


def settle(
    spec: Spec, candidate: Candidate, facts: Json, keep: int, doubted: FrozenSet[str]
) -> Callable[[Report], None]:
    """Validate a candidate and, if it is whole, copy it durably and prune. Reports `verdict`, then `durable`, then
    `pruned`; `withdrawn` before a verdict that tells something about the last one, too. `doubted`: the formats that
    can't tell whether it is whole, if it was being written when the training or the machine ended.
    """

    def work(report: Report) -> None:
        from runctl.checkpoints import durable, formats, retention

        path = os.path.join(spec.checkpoint.dir, candidate.name)
        verdict = formats.validate(path, spec.checkpoint.format, spec.checkpoint.command)
        if verdict.valid and verdict.format in doubted:
            detail = "may be torn: it was being written when the training ended, and its format can't tell"
            verdict = formats.Verdict(False, verdict.format, detail)
            if verdict.format == "directory":
                old = retention.withdraw(spec.checkpoint.destination, spec.uid, spec.attempt, path)
                if old is not None:
                    report({"withdrawn": old.seq})
        report({"verdict": {"valid": verdict.valid, "format": verdict.format, "detail": verdict.detail}})
        if not verdict.valid:
            return
        root = spec.checkpoint.destination
        try:
            manifest = durable.store(path, root, {**facts, "format": verdict.format})
        except durable.Changed:
            report({"changed": True})
            return
        except formats.Invalid as error:
            report({"verdict": {"valid": False, "format": verdict.format, "detail": str(error)}})
            return
        stored = durable.directory(root, spec.uid, spec.attempt, candidate.seq)
        report({"durable": {"path": stored, "bytes": manifest["bytes"], "sha256": durable.checksum(manifest)}})
        for old in retention.prune(root, spec.uid, spec.attempt, keep):
            report({"pruned": {"attempt": old.attempt, "seq": old.seq}})

    return work


def _newest_good(source: str, name: str, target_dir: str, report: Report) -> str:
    """Restore a durable checkpoint, or the newest before it that is whole, saying so as `damaged` with what is gone on
    from as `instead`. Raises Damaged.
    """
    from runctl.checkpoints import durable, restoring

    try:
        return restoring.restore_durable(source, name, target_dir)
    except durable.Damaged as error:
        first = error
    job, attempt, seq = source.rsplit("/", 2)
    root, uid = os.path.split(job)
    for each in reversed(durable.list_durable(root, uid)):
        if (each.attempt, each.seq) >= (int(attempt), int(seq)):
            continue
        before = str(each.manifest.get("name"))
        try:
            path = restoring.restore_durable(each.path, before, target_dir)
        except durable.Damaged:
            continue
        instead = f"`{before}` of attempt {each.attempt}, the newest whole one before it"
        facts = {fact: each.manifest.get(fact) for fact in ("at", "bytes", "step", "epoch")}
        found = {**facts, "attempt": each.attempt, "seq": each.seq, "name": before, "durable_path": each.path}
        report({"damaged": f"{first}; going on from {instead}", "instead": found})
        return path
    raise first


def prepare(spec: Spec) -> Callable[[Report], None]:
    """Before the start: sweep torn copies, make sure that copies can be made, restore. Reports `numbered` (up to where
    copies of this attempt are numbered, where a start of it that left no other trace has made some) and, at last,
    `restored` (a path or "").
    """

    def work(report: Report) -> None:
        from runctl.checkpoints import durable, restoring

        checkpoint = spec.checkpoint
        try:
            durable.make_directory(checkpoint.destination, spec.uid, spec.attempt)
            durable.sweep(checkpoint.destination, spec.uid, spec.attempt)
        except OSError as error:
            report({"failed": f"the destination of checkpoints can't be written: {error}"})
            return
        there = durable.numbers(checkpoint.destination, spec.uid, spec.attempt)
        if there:
            report({"numbered": there[-1]})
        wanted = checkpoint.restore
        if wanted is None:
            report({"restored": ""})
            return
        try:
            if wanted.kind == "plain":
                path = restoring.restore_plain(
                    wanted.source, wanted.name, checkpoint.dir, checkpoint.format, checkpoint.command
                )
            else:
                path = _newest_good(wanted.source, wanted.name, checkpoint.dir, report)
        except durable.Damaged as error:
            report({"failed": f"the checkpoint to go on from can't be used: {error}"})
        except OSError as error:
            report({"failed": f"the checkpoint to go on from can't be restored: {error}"})
        else:
            report({"restored": path})

    return work
