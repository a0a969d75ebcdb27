"""What the agent says: `state.json` and `exit.json` as values."""

from __future__ import annotations

import os

from runctl.agent.files import complain, replace_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    from runctl.agent.clocks import Now
    from runctl.agent.policy import Drain
    from runctl.agent.spec import Spec
    from runctl.agent.training import Training

    Json = Dict[str, Any]

VERSION = 1
HEARTBEAT_SECONDS = 15.0
STATE_SECONDS = 1.0
# The event of it: on the disk before anything that the training saves is durable.
TRAINING_STARTED = "training_started"


class StateFile:
    """`state.json`: written at once when the phase changes, within a second of other news, else as a heartbeat."""

    def __init__(self, run_dir: str) -> None:
        self._path = os.path.join(run_dir, "state.json")
        self._written_at = -STATE_SECONDS
        self._written_phase = ""

    def force(self) -> None:
        """Let the next write be due whatever has been written."""
        self._written_phase = ""

    def is_due(self, phase: str, news: bool, now: Now) -> bool:
        """Whether to write now; the caller does when it is."""
        since = now.active - self._written_at
        due = phase != self._written_phase or since >= HEARTBEAT_SECONDS or (news and since >= STATE_SECONDS)
        if due:
            self._written_at, self._written_phase = now.active, phase
        return due

    def write(self, state: Json) -> None:
        try:
            replace_json(self._path, state)
        except OSError as error:
            complain(f"state.json can't be written: {error}")


def drain_state(drain: Optional[Drain], left: float, now: Now) -> Optional[Json]:
    if drain is None:
        return None
    return {"reason": drain.reason, "since": drain.since_wall, "until": now.wall + max(0.0, left)}


def ending(
    spec: Spec,
    training: Optional[Training],
    started: Now,
    now: Now,
    *,
    reason: str,
    detail: str,
    gone: bool,
    checkpoints: Json,
) -> Json:
    """The value of `exit.json`. A reason of `lost` never comes with an exit code."""
    known = training is not None and reason != "lost"
    return {
        "version": VERSION,
        "run_id": spec.run_id,
        "attempt": spec.attempt,
        "reason": reason,
        "exit_code": training.exit_code if training is not None and known else None,
        "signal": training.signal if training is not None and known else None,
        "detail": detail,
        "training_started": training is not None,
        "started_at": started.wall,
        "ended_at": now.wall,
        "active": now.active - started.active,
        "oom": training is not None and training.out_of_memory,
        "killed": training is not None and training.killed,
        "descendants_gone": gone,
        "newest_durable": checkpoints["newest_durable"],
        "checkpoints": {name: checkpoints[name] for name in ("seen", "durable", "invalid")},
    }


def exit_detail(training: Training) -> str:
    if training.out_of_memory:
        return "the kernel killed the training: the machine ran out of memory"
    if training.signal is not None:
        return f"the training was killed by signal {training.signal}"
    return f"the training exited with {training.exit_code}"
