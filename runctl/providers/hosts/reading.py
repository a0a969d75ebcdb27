"""What the facts about an attempt, or about who trains on a host, mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import msgspec

from runctl.agent.hostside import ABLE, GONE, Facts, Watcher, is_below
from runctl.planner.observed import Absent, AttemptSeen, Dead, Ended, Holder, Live, Starting, Unreachable
from runctl.planner.record import AttemptEnd, CheckpointRef, EndReason, Event

# What the agent reports in the ordinary course; everything else it reports is a warning.
QUIET = frozenset(
    {"restored", "training_started", "drain_started", "step_started", "step_finished", "checkpoint_requested"}
)

# No attempt was there for longer, and no clock shows more.
LONGEST_SECONDS = 1e11

Json = dict[str, Any]


class Watchers(msgspec.Struct, frozen=True, kw_only=True):
    """Guardian and agent of an attempt that hasn't ended, as they were at a look; each None before it is known of."""

    guardian: Watcher | None = None
    agent: Watcher | None = None

    @property
    def alive(self) -> tuple[int, ...]:
        return tuple(each.pid for each in (self.guardian, self.agent) if each is not None and each.state != GONE)

    @property
    def gone(self) -> bool:
        """The attempt was claimed, and neither is there any more."""
        return self.guardian is not None and not self.alive

    @property
    def impaired(self) -> bool:
        """One of the two is dead or stopped, so that the other has nobody to end the attempt for it."""
        able = _is_able(self.guardian) and (self.agent is None or _is_able(self.agent))
        return self.guardian is not None and not able

    @property
    def helpless(self) -> bool:
        """Neither can do anything: nobody holds the attempt to its limits."""
        return self.guardian is not None and not (_is_able(self.guardian) or _is_able(self.agent))


def _is_able(watcher: Watcher | None) -> bool:
    return watcher is not None and watcher.state == ABLE


def watchers(facts: Facts) -> Watchers:
    """Who watches the attempt: nobody who would have to do anything once it has ended, or can't be asked for."""
    if facts.exit is not None or facts.unreadable:
        return Watchers()
    return Watchers(guardian=facts.guardian, agent=facts.agent)


def attempt_seen(facts: Facts, now: datetime) -> AttemptSeen:
    """The attempt as of `now` (sampled before the look)."""
    if facts.exit is not None:
        return _ended(facts.exit, facts.journal, now)
    if facts.unreadable:
        return Unreachable(as_of=now, why=facts.unreadable)
    watching = watchers(facts)
    untold = facts.claim is None and facts.state is None
    if facts.state is not None and facts.agent is not None and facts.agent.state != GONE:
        return _live(facts.state, facts.serial, watching.impaired, now)
    if watching.alive or (untold and (facts.left or facts.locked)):
        return Starting(as_of=now, held=watching.impaired)
    if facts.left:
        return Starting(as_of=now)
    # It is absent only if nothing of an agent is there and no process either: a directory that was swept away isn't the
    # end of those that run in it.
    return _dead(facts, now) if facts.traces else Absent(as_of=now)


def facts(answer: object) -> Facts:
    """The facts as another host tells them. Raises ValueError for what isn't such an answer: nothing is known then."""
    match answer:
        case {
            "boot_id": str(boot_id),
            "monotonic": int() | float() as monotonic,
            "wall": int() | float() as wall,
            "serial": int(serial),
            **rest,
        }:
            return Facts(
                boot_id=boot_id,
                monotonic=_clock(monotonic),
                wall=_clock(wall),
                exit=_object(rest.get("exit")),
                claim=_object(rest.get("claim")),
                state=_object(rest.get("state")),
                serial=serial,
                events=tuple(each for each in _objects(rest.get("events")) if whole(each.get("seq")) is not None),
                journal=_objects(rest.get("journal")),
                traces=rest.get("traces") is True,
                unreadable=str(rest.get("unreadable") or ""),
                guardian=_watcher(rest.get("guardian")),
                agent=_watcher(rest.get("agent")),
                left=rest.get("left") is True,
                locked=rest.get("locked") is True,
            )
    raise ValueError("the host's answer isn't one")


def _clock(value: float) -> float:
    found = number(value)
    if found is None or abs(found) > LONGEST_SECONDS:
        raise ValueError("the host's clock shows no time")
    return float(found)


def _object(value: object) -> Json | None:
    if value is None or isinstance(value, dict):
        return value
    raise ValueError("the host's answer has no object where one is to be")


def _objects(value: object) -> tuple[Json, ...]:
    if not isinstance(value, list):
        raise ValueError("the host's answer has no list where one is to be")
    return tuple(each for each in map(_object, value) if each is not None)


def _watcher(value: object) -> Watcher | None:
    match value:
        case None:
            return None
        case [int(pid), "able" | "held" | "gone" as state] if pid >= 0:
            return Watcher(pid, state)
    raise ValueError("the host's answer names no process where one is to be")


def agent_events(lines: Iterable[Json], attempt: int) -> tuple[tuple[int, Event], ...]:
    """The agent's own events with their numbers."""
    found = []
    for line in lines:
        word = str(line.get("event", "agent"))[:64]
        event = Event(
            at=instant(line.get("at")) or datetime.fromtimestamp(0, UTC),
            type="Normal" if word in QUIET else "Warning",
            reason="".join(part.capitalize() for part in word.split("_")),
            message=str(line.get("detail") or "")[:2000],
            attempt=attempt,
        )
        found.append((int(line["seq"]), event))
    return tuple(found)


def holder(held_by: Json, home_runs: str) -> Holder:
    """Who trains on a host, as he has written himself down; `home_runs`: where run directories of ours lie there."""
    run_id, agent = str(held_by.get("run_id", "")), held_by.get("agent")
    pid = agent.get("pid") if isinstance(agent, dict) else None
    return Holder(
        job=str(held_by.get("job", "unknown"))[:63],
        uid=run_id.rpartition("-")[0],
        run_id=run_id,
        pid=pid if isinstance(pid, int) else 0,
        since=instant(held_by.get("since")),
        ours=is_below(str(held_by.get("run_dir", "")), home_runs),
    )


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
        bytes=whole(value.get("bytes")) or 0,
        step=whole(value.get("step")),
        epoch=whole(value.get("epoch")),
    )


def whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """A plausible number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e18 or not math.isfinite(value):
        return None
    return value


def _seconds(value: object) -> float:
    return min(max(0.0, float(number(value) or 0)), LONGEST_SECONDS)


def mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _live(state: Json, serial: int, held: bool, now: datetime) -> AttemptSeen:
    phase = state.get("phase")
    started = instant(state.get("started_at"))
    if started is None or phase not in ("preparing", "training", "draining", "ended"):
        return Starting(as_of=now)
    checkpoints = mapping(state.get("checkpoints"))
    return Live(
        as_of=now,
        phase=cast(Literal["preparing", "training", "draining", "ended"], phase),
        step=_text(state.get("step")),
        started_at=started,
        training_at=instant(mapping(state.get("training")).get("started_at")),
        drain=_text(mapping(state.get("drain")).get("reason")),
        active=_seconds(state.get("active")),
        durable=whole(checkpoints.get("durable")) or 0,
        newest=checkpoint_ref(checkpoints.get("newest_durable")),
        serial=serial,
        heartbeat=instant(state.get("heartbeat")) or started,
        held=held,
        resumed_instead=checkpoint_ref(state.get("resumed_instead")),
    )


def _ended(record: Json, journal: Iterable[Json], now: datetime) -> AttemptSeen:
    try:
        reason = EndReason(str(record.get("reason")))
    except ValueError:
        reason = EndReason.LOST
    code = whole(record.get("exit_code"))
    signal = whole(record.get("signal"))
    if reason is EndReason.EXITED and code is None and signal is None:
        reason = EndReason.LOST
    if reason is EndReason.LOST:
        code = signal = None
    durable = whole(mapping(record.get("checkpoints")).get("durable")) or 0
    newest = checkpoint_ref(record.get("newest_durable"))
    if reason is EndReason.LOST:
        newest, durable = _told_or_noted(newest, durable, journal)
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
        active=_seconds(record.get("active")),
        durable=durable,
        newest=newest,
        held_by=_text(mapping(record.get("holder")).get("job")),
    )


def _dead(facts: Facts, now: datetime) -> AttemptSeen:
    claim, state = facts.claim or {}, facts.state or {}
    checkpoints = mapping(state.get("checkpoints"))
    newest = checkpoint_ref(checkpoints.get("newest_durable"))
    newest, durable = _told_or_noted(newest, whole(checkpoints.get("durable")) or 0, facts.journal)
    started = instant(state.get("started_at")) or instant(claim.get("claimed_at"))
    last_seen = instant(state.get("heartbeat")) or instant(claim.get("claimed_at"))
    told = state.get("heartbeat") is not None
    silent_for = _since(state, "agent", facts) if told else _since(claim, "guardian", facts)
    active = _seconds(state.get("active"))
    return Dead(
        as_of=now,
        started_at=started,
        last_seen=last_seen,
        latest=latest(started, last_seen, active, silent_for, now),
        active=active,
        durable=durable,
        newest=newest,
    )


def _since(word: Json, who: str, facts: Facts) -> float | None:
    """How many seconds ago this was written, in which the host was awake; None if that was before it was started."""
    monotonic, now = word.get("monotonic"), facts.monotonic
    if isinstance(monotonic, bool) or not isinstance(monotonic, int | float) or not 0 <= monotonic <= now:
        return None
    return now - monotonic if mapping(word.get(who)).get("boot_id") == facts.boot_id else None


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


def _told_or_noted(told: CheckpointRef | None, count: int, journal: Iterable[Json]) -> tuple[CheckpointRef | None, int]:
    """The newest durable checkpoint by what state or exit record tell and the agent's journal notes, and how many there
    were. Each line of the journal is on the disk before anybody hears of it, while the state is written now and then:
    it may still tell of one that was withdrawn or pruned since."""
    durable: dict[tuple[int, int], CheckpointRef] = {}
    if told is not None:
        durable[told.attempt, told.seq] = told
    noted = 0
    for line in journal:
        ref = checkpoint_ref(line)
        if line.get("status") in ("pruned", "invalid"):
            durable = {key: kept for key, kept in durable.items() if key != (line.get("attempt"), line.get("seq"))}
        elif line.get("status") == "durable" and ref is not None:
            durable[ref.attempt, ref.seq] = ref
            noted += 1
    return (durable[max(durable)] if durable else None), max(count, noted)
