"""The JSON of a job: a contract, additive only (docs/json.md)."""

from __future__ import annotations

from typing import Any

from runctl.cli.render.words import stamp
from runctl.cli.sight import Sight
from runctl.manifest.quantities import decimal_money
from runctl.planner.record import Attempt, CheckpointRef, Event, Record
from runctl.planner.reminders import standing

Json = dict[str, Any]


def document(sight: Sight) -> Json:
    """One job as `status -o json` shows it."""
    record = sight.record
    outcome, stopped = record.outcome, record.stopped
    return {
        "name": record.name,
        "uid": record.uid,
        "generation": record.generation.number,
        "phase": record.phase.value,
        "outcome": outcome.type.value if outcome else None,
        "exit_code": outcome.exit_code if outcome else None,
        "signal": outcome.signal if outcome else None,
        "reason": outcome.reason if outcome else (stopped.reason.value if stopped else None),
        "message": outcome.message if outcome else (stopped.message if stopped else None),
        "group": record.group,
        "labels": record.job.labels,
        "spec": _spec(record),
        "created_at": stamp(record.created_at),
        "finished_at": stamp(outcome.at) if outcome else None,
        "waiting_for": sight.waiting_for or None,
        "controller": {"pid": sight.controller.pid, "what": sight.controller.what} if sight.controller else None,
        "conditions": [
            {
                "type": each.type.value,
                "status": each.status,
                "reason": each.reason,
                "message": each.message,
                "last_transition_time": stamp(each.last_transition_time),
                "observed_generation": each.observed_generation,
            }
            for each in record.conditions
        ],
        "attempts": [_attempt(record, each) for each in record.attempts],
        "cost": cost(sight),
        "warnings": list(standing(record, sight.now)),
        "progress": _progress(sight),
        "checkpoints": {"count": sight.durable, "newest": _checkpoint(sight.checkpoint)},
    }


def _spec(record: Record) -> Json:
    """What runs, of the newest generation. Secrets are named in the manifest, and their values are nowhere."""
    job, source = record.job, record.generation.source
    return {
        "script": job.script,
        "args": list(job.args),
        "env": dict(job.env),
        "secrets": [secret.name for secret in job.secrets],
        "code": {
            "hash": source.code_hash,
            "files": source.files,
            "bytes": source.bytes,
            "root": source.root,
            "workdir": source.workdir,
        },
    }


def cost(sight: Sight) -> Json:
    """Amounts are decimal strings; null is not known (a machine without a price) or not there (no cap)."""
    cap = sight.record.job.cost.cap
    return {
        "currency": "USD",
        "cap": decimal_money(cap.micros) if cap else None,
        "spent": decimal_money(sight.spent) if sight.priced else None,
        "projected": decimal_money(sight.projected) if sight.priced and sight.projected is not None else None,
    }


def event(each: Event) -> Json:
    return {
        "at": stamp(each.at),
        "type": each.type,
        "reason": each.reason,
        "message": each.message,
        "attempt": each.attempt,
    }


def _attempt(record: Record, attempt: Attempt) -> Json:
    machine = next((i.machine for i in record.ledger if i.attempt == attempt.number), None)
    end = attempt.end
    return {
        "number": attempt.number,
        "generation": attempt.generation,
        "machine": machine or record.generation_of(attempt).job.instance.platform.value,
        "started_at": stamp(attempt.started_at),
        "training_at": stamp(attempt.training_at),
        "ended_at": stamp(attempt.ended_at),
        "exit_code": end.exit_code if end else None,
        "signal": end.signal if end else None,
        "reason": end.reason.value if end else None,
        "detail": end.detail if end else None,
        "resumed_from": _checkpoint(attempt.resume),
        "code_hash": record.generation_of(attempt).source.code_hash,
    }


def _checkpoint(ref: CheckpointRef | None) -> Json | None:
    if ref is None:
        return None
    return {
        "name": ref.name,
        "path": ref.path,
        "attempt": ref.attempt,
        "step": ref.step,
        "epoch": ref.epoch,
        "bytes": ref.bytes,
        "at": stamp(ref.at),
        "durable": True,
    }


def _progress(sight: Sight) -> Json | None:
    told = sight.progress
    if told is None:
        return None
    return {
        "fraction": told.fraction,
        "epoch": told.epoch,
        "epochs": told.epochs,
        "step": told.step,
        "steps": told.steps,
        "loss": told.loss,
        "metrics": told.metrics,
        "eta_seconds": round(told.eta.total_seconds()) if told.eta is not None else None,
        "at": stamp(told.at),
        "source": told.source,
    }
