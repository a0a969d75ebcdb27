"""Reading a run directory: what the agent's files and the process table say of an attempt.

The files were written by an agent of ours, but beside a training that may write there, too: whatever doesn't have
the expected shape is treated as not there.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from runctl.agent.files import parse_lines
from runctl.agent.leftovers import SALVAGED, is_run_held
from runctl.agent.processes import STOPPED, Process, boot_id, look_for, orphans, programs, table
from runctl.agent.record import TRAINING_STARTED
from runctl.planner.observed import Absent, AttemptSeen, Dead, Ended, Live, Starting, Unreachable
from runctl.planner.record import AttemptEnd, CheckpointRef, EndReason, Event

# No file of the agent comes near this; a larger one was written by somebody else.
MAX_FILE = 4 * 1024 * 1024

# What guardian and agent leave behind once they have begun.
TRACES = ("claim.json", "state.json", "checkpoints.jsonl", "events.jsonl")

# What the agent reports in the ordinary course; everything else it reports is a warning.
QUIET = frozenset(
    {"restored", "training_started", "drain_started", "step_started", "step_finished", "checkpoint_requested"}
)

Json = dict[str, Any]


class Watchers(msgspec.Struct, frozen=True, kw_only=True):
    """Guardian and agent of an attempt that hasn't ended, as they were at a look; each None before it is known of.

    They have written their identities down; `guardian` and `agent` are the processes of these, or False when that is
    gone.
    """

    guardian: Process | Literal[False] | None = None
    agent: Process | Literal[False] | None = None

    @property
    def alive(self) -> tuple[int, ...]:
        return tuple(each.pid for each in (self.guardian, self.agent) if each)

    @property
    def gone(self) -> bool:
        """The attempt was claimed, and neither is there any more."""
        return self.guardian is False and not self.agent

    @property
    def impaired(self) -> bool:
        """One of the two is dead or stopped, so that the other has nobody to end the attempt for it."""
        able = _is_able(self.guardian) and (self.agent is None or _is_able(self.agent))
        return self.guardian is not None and not able

    @property
    def helpless(self) -> bool:
        """Neither can do anything: nobody holds the attempt to its limits."""
        return self.guardian is not None and not (_is_able(self.guardian) or _is_able(self.agent))


def look(run_dir: Path, run_id: str, now: datetime) -> tuple[AttemptSeen, Watchers]:
    """The attempt whose run directory this is, as of `now` (sampled before the look)."""
    exit_record = read_json(run_dir / "exit.json")
    if exit_record is not None:
        return _ended(exit_record, run_dir, now), Watchers()
    claim, state = read_json(run_dir / "claim.json"), read_json(run_dir / "state.json")
    if claim is None and state is None:
        return _untold(run_dir, run_id, now)
    # The state names the guardian, too: a claim that was lost or damaged since hides nothing.
    watchers = _watchers(_object(claim).get("guardian") or _object(state).get("guardian"), state, run_dir)
    if state is not None and watchers.agent:
        return _live(state, run_dir, watchers.impaired, now), watchers
    if watchers.guardian:
        return Starting(as_of=now, held=watchers.impaired), watchers
    # Both are gone. The exit record may have been written between the two looks.
    seen = left_behind(run_dir, now)
    if isinstance(seen, Ended):
        return seen, Watchers()
    return (Starting(as_of=now) if orphans(run_id, table()) else seen), watchers


def left_behind(run_dir: Path, now: datetime) -> AttemptSeen:
    """What the files alone say of an attempt of which no process is left, as after a power cut."""
    exit_record = read_json(run_dir / "exit.json")
    if exit_record is not None:
        return _ended(exit_record, run_dir, now)
    if not any(os.path.lexists(run_dir / name) for name in TRACES):
        return Absent(as_of=now)
    return _dead(read_json(run_dir / "claim.json") or {}, read_json(run_dir / "state.json"), run_dir, now)


def may_have_unsaved(run_dir: Path) -> bool:
    """Whether an attempt found dead may have saved something that nobody has looked through since."""
    if os.path.lexists(run_dir / SALVAGED):
        return False
    state = read_json(run_dir / "state.json")
    if state is None or state.get("training") is not None:
        return True
    # After a power cut the state may be one of before the training; events are synced.
    return any(line.get("event") == TRAINING_STARTED for line in read_lines(run_dir / "events.jsonl"))


def _is_able(process: Process | Literal[False] | None) -> bool:
    return process is not None and process is not False and process.state != STOPPED


def _watchers(guardian: object, state: Json | None, run_dir: Path) -> Watchers:
    """Who watches the attempt, by what they have written of themselves; by their command lines where that is gone."""
    if guardian is not None and state is not None:
        return Watchers(guardian=look_for(guardian) or False, agent=look_for(state.get("agent")) or False)
    found = programs(str(run_dir))
    return Watchers(
        guardian=(look_for(guardian) if guardian is not None else found.get("--guardian")) or False,
        agent=found.get("--agent"),
    )


def _untold(run_dir: Path, run_id: str, now: datetime) -> tuple[AttemptSeen, Watchers]:
    """An attempt of which neither claim nor state tells anything. It is absent only if nothing of an agent is there and
    no process either: a directory that was swept away isn't the end of those that run in it, and a file that can't be
    read (too many open files, say) isn't a file that isn't there."""
    for path in (run_dir / name for name in TRACES if os.path.lexists(run_dir / name)):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                return Unreachable(as_of=now, why=f"`{path}`: {error.strerror}"), Watchers()
    watchers = _watchers(None, None, run_dir)
    if watchers.alive or orphans(run_id, table()) or is_run_held(str(run_dir)):
        return Starting(as_of=now, held=watchers.impaired), watchers
    return left_behind(run_dir, now), watchers


def agent_events(run_dir: Path, after: int, attempt: int) -> tuple[tuple[int, Event], ...]:
    """The agent's own events with a number above `after`, in order. A torn last line is left for the next look."""
    found = []
    for line in read_lines(run_dir / "events.jsonl"):
        seq = line.get("seq")
        if not isinstance(seq, int) or seq <= after:
            continue
        word = str(line.get("event", "agent"))[:64]
        event = Event(
            at=instant(line.get("at")) or datetime.fromtimestamp(0, UTC),
            type="Normal" if word in QUIET else "Warning",
            reason="".join(part.capitalize() for part in word.split("_")),
            message=str(line.get("detail") or "")[:2000],
            attempt=attempt,
        )
        found.append((seq, event))
    return tuple(found)


def read_json(path: Path) -> Json | None:
    """The object in the file; None if it isn't there or isn't one."""
    data = _read(path, MAX_FILE + 1)
    if data is None or len(data) > MAX_FILE:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_lines(path: Path) -> list[Json]:
    """The objects of a JSON Lines file, without a torn last line and what isn't an object."""
    return parse_lines((_read(path) or b"").rpartition(b"\n")[0])


def _read(path: Path, most: int = -1) -> bytes | None:
    """The content of a regular file; None of anything else that may lie in its place, and of what can't be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def instant(value: object) -> datetime | None:
    """Seconds since the epoch as an instant."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def checkpoint_ref(value: object) -> CheckpointRef | None:
    """A checkpoint as the agent writes it; None unless it is durable."""
    if not isinstance(value, dict) or not isinstance(value.get("durable_path"), str):
        return None
    at, seq, attempt = instant(value.get("at")), value.get("seq"), value.get("attempt")
    if at is None or not isinstance(seq, int) or not isinstance(attempt, int):
        return None
    return CheckpointRef(
        attempt=attempt,
        seq=seq,
        name=str(value.get("name", "")),
        path=value["durable_path"],
        at=at,
        bytes=_whole(value.get("bytes")) or 0,
        step=_whole(value.get("step")),
        epoch=_whole(value.get("epoch")),
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _live(state: Json, run_dir: Path, held: bool, now: datetime) -> AttemptSeen:
    phase = state.get("phase")
    started = instant(state.get("started_at"))
    if started is None or phase not in ("preparing", "training", "draining", "ended"):
        return Starting(as_of=now)
    checkpoints = _object(state.get("checkpoints"))
    orders = read_json(run_dir / "orders.json")
    return Live(
        as_of=now,
        phase=cast(Literal["preparing", "training", "draining", "ended"], phase),
        step=_text(state.get("step")),
        started_at=started,
        training_at=instant(_object(state.get("training")).get("started_at")),
        drain=_text(_object(state.get("drain")).get("reason")),
        active=_number(state.get("active")),
        durable=_whole(checkpoints.get("durable")) or 0,
        newest=checkpoint_ref(checkpoints.get("newest_durable")),
        serial=_whole(orders.get("serial")) or 0 if orders else 0,
        heartbeat=instant(state.get("heartbeat")) or started,
        held=held,
        resumed_instead=checkpoint_ref(state.get("resumed_instead")),
    )


def _ended(record: Json, run_dir: Path, now: datetime) -> AttemptSeen:
    try:
        reason = EndReason(str(record.get("reason")))
    except ValueError:
        reason = EndReason.LOST
    code = _whole(record.get("exit_code"))
    signal = _whole(record.get("signal"))
    if reason is EndReason.EXITED and code is None and signal is None:
        reason = EndReason.LOST
    if reason is EndReason.LOST:
        code = signal = None
    durable = _whole(_object(record.get("checkpoints")).get("durable")) or 0
    newest = checkpoint_ref(record.get("newest_durable"))
    if reason is EndReason.LOST:
        newest, durable = _told_or_noted(newest, durable, run_dir)
    return Ended(
        as_of=now,
        end=AttemptEnd(
            reason=reason,
            detail=str(record.get("detail") or "")[:2000],
            exit_code=code,
            signal=signal,
            oom=record.get("oom") is True,
            training_started=record.get("training_started") is True,
        ),
        started_at=instant(record.get("started_at")),
        ended_at=instant(record.get("ended_at")) or now,
        active=_number(record.get("active")),
        durable=durable,
        newest=newest,
        held_by=_text(_object(record.get("holder")).get("job")),
    )


def _dead(claim: Json, state: Json | None, run_dir: Path, now: datetime) -> AttemptSeen:
    state = state or {}
    checkpoints = _object(state.get("checkpoints"))
    newest = checkpoint_ref(checkpoints.get("newest_durable"))
    newest, durable = _told_or_noted(newest, _whole(checkpoints.get("durable")) or 0, run_dir)
    started = instant(state.get("started_at")) or instant(claim.get("claimed_at"))
    last_seen = instant(state.get("heartbeat")) or instant(claim.get("claimed_at"))
    silent_for = _since(state, "agent") if state.get("heartbeat") is not None else _since(claim, "guardian")
    active = _number(state.get("active"))
    return Dead(
        as_of=now,
        started_at=started,
        last_seen=last_seen,
        latest=latest(started, last_seen, active, silent_for, now),
        active=active,
        durable=durable,
        newest=newest,
    )


def _since(word: Json, who: str) -> float | None:
    """How many seconds ago this was written, in which the machine was awake; None if that was before it was started."""
    monotonic, now = word.get("monotonic"), time.monotonic()
    if isinstance(monotonic, bool) or not isinstance(monotonic, int | float) or not 0 <= monotonic <= now:
        return None
    return now - monotonic if _object(word.get(who)).get("boot_id") == boot_id() else None


def latest(
    started: datetime | None, last_seen: datetime | None, active: float, silent_for: float | None, now: datetime
) -> datetime | None:
    """The instant of the look by the clock of the last word. One that was written in the future makes it no later than
    what the attempt was there for, awake."""
    if started is None or last_seen is None or silent_for is None:
        return None
    try:
        there = max(now, started + timedelta(seconds=active + silent_for))
        return min(last_seen + timedelta(seconds=silent_for), there)
    except (OverflowError, ValueError):
        return None


def _told_or_noted(told: CheckpointRef | None, count: int, run_dir: Path) -> tuple[CheckpointRef | None, int]:
    """The newest durable checkpoint by what state or exit record tell and the agent's journal notes, and how many there
    were. Each line of the journal is on the disk before anybody hears of it, while the state is written now and then:
    it may still tell of one that was withdrawn or pruned since."""
    durable: dict[tuple[int, int], CheckpointRef] = {}
    if told is not None:
        durable[told.attempt, told.seq] = told
    noted = 0
    for line in read_lines(run_dir / "checkpoints.jsonl"):
        ref = checkpoint_ref(line)
        if line.get("status") in ("pruned", "invalid"):
            durable = {key: kept for key, kept in durable.items() if key != (line.get("attempt"), line.get("seq"))}
        elif line.get("status") == "durable" and ref is not None:
            durable[ref.attempt, ref.seq] = ref
            noted += 1
    return (durable[max(durable)] if durable else None), max(count, noted)
