"""A plan as JSON; its text is the planner's own (`planner/preview.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from runctl.manifest.quantities import decimal_money
from runctl.planner.preview import Preview
from runctl.reconciler.applying import Proposal


def document(proposals: Sequence[Proposal], previews: Sequence[Preview]) -> dict[str, Any]:
    """What `plan -o json` prints, and the first line of `apply -o json`."""
    return {
        "type": "plan",
        "version": 1,
        "changed": any(each.changed for each in previews),
        "jobs": [_job(proposal, shown) for proposal, shown in zip(proposals, previews, strict=True)],
    }


def _job(proposal: Proposal, shown: Preview) -> dict[str, Any]:
    prepared, record = proposal.prepared, proposal.found.record if proposal.found else None
    return {
        "name": shown.name,
        "action": proposal.decision.kind.value,
        "summary": shown.headline,
        "changed": shown.changed,
        "uid": record.uid if record else None,
        "generation": record.generation.number if record else None,
        "code_hash": prepared.source.code_hash,
        "cost": {
            "currency": "USD",
            "worst_case": decimal_money(shown.worst_case) if shown.worst_case is not None else None,
        },
        "changes": [
            {"path": each.path, "before": each.before, "after": each.after, "effect": each.effect.value}
            for each in shown.diff
        ],
        "warnings": list(shown.warnings),
        "details": dict(shown.lines),
        "job": msgspec.to_builtins(prepared.job),
    }
