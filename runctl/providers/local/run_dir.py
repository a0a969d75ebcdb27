"""Run directories on this computer, as commands read them: no controller is asked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from runctl.agent import hostside
from runctl.planner.observed import AttemptSeen
from runctl.providers.hosts import reading
from runctl.providers.hosts import vitals as told
from runctl.providers.hosts.vitals import CheckpointLine, Vitals


def look(run_dir: Path, run_id: str, now: datetime) -> AttemptSeen:
    """The attempt whose run directory this is, as of `now` (sampled before the look)."""
    return reading.attempt_seen(hostside.look(str(run_dir), run_id), now)


def left_behind(run_dir: Path, now: datetime) -> AttemptSeen:
    """What the files alone say of an attempt of which no process is left, as after a power cut."""
    return reading.attempt_seen(hostside.files_alone(str(run_dir)), now)


def vitals(run_dir: Path) -> Vitals | None:
    """None before the agent has written anything."""
    state = hostside.read_json(f"{run_dir}/state.json")
    return None if state is None else told.vitals(state)


def checkpoint_lines(runs: Iterable[tuple[int, Path]]) -> list[CheckpointLine]:
    """All checkpoints of these attempts (number and run directory, in order), by attempt and number."""
    return told.checkpoint_lines((number, hostside.journal(str(run_dir))) for number, run_dir in runs)
