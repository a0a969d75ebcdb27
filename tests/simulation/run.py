"""An attempt on a machine: the model of an agent's loop around the real policy, its guardian, and the user's script.

What is written down here is the world's truth: who lived from when to when, what was saved, which code was returned.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from runctl.agent import policy
from runctl.agent.clocks import Now
from runctl.agent.ending import LINGER_SECONDS
from runctl.agent.orders import Limits as AgentLimits
from runctl.agent.orders import Orders as AgentOrders
from runctl.agent.orders import parse_orders
from runctl.planner.actions import Launch
from runctl.planner.observed import AttemptSeen, Dead, Ended, Live, Starting
from runctl.planner.record import AttemptEnd, CheckpointRef, EndReason, Event, Record
from runctl.providers.hosts.reading import latest
from runctl.providers.hosts.spec import orders_json

from . import oracles
from .oracles import LONGEST_HELD
from .training import Save, Training

if TYPE_CHECKING:
    from .host import Host, Timer

# An agent tries a storage that doesn't answer again after this.
STORAGE_RETRY = 5.0
# As the real one, it sleeps whole milliseconds.
LEAST_TURN = 0.001


class Run:
    """One attempt's run directory and processes."""

    def __init__(self, host: Host, record: Record, launch: Launch, epoch: int) -> None:
        self.host, self.life = host, host.life
        self.key = (record.uid, launch.attempt.number)
        self.name = record.name
        job = launch.generation.job
        self.shares = job.instance.busy.value == "share"
        self.spec = host.spec(job.checkpoint.grace.seconds, job.checkpoint.every.n, job.stop.to)
        self.resume = launch.attempt.resume
        self.current = AgentOrders(0, 0, AgentLimits(), None)
        self.orders = parse_orders(orders_json(launch.attempt.orders, epoch))
        self.agent = self.guardian = True
        self.is_held = self.was_held = False
        # Steps whose saves were on their way to where they last when the power went.
        self.lost_on_way: set[int] = set()
        self.seen = policy.Observed()
        self.started, self.boot = host.now(), host.boots
        self.began = self.life.loop.time()
        self.over: float | None = None
        self.training: Training | None = None
        self.training_at: float | None = None
        self.exit: dict[str, Any] | None = None
        self.waiting: list[Save] = []
        self.copying: Save | None = None
        # What is in the storage, and what of it the agent knows to be there.
        self.stored: list[Save] = []
        # Where the same attempt was started before, and left no trace on the machine, it is numbered on from.
        self.numbered = max((seq for *of, seq in self.life.durable if tuple(of) == self.key), default=0)
        self.durable: list[Save] = []
        self.heartbeat, self.heartbeat_active = self.started.wall, self.started.active
        # It was cut off before what it wrote about itself was synced.
        self.is_blank = self.oom = False
        self.events: list[Event] = []
        self._turning: Any = None

    @property
    def alive(self) -> bool:
        return self.agent or self.guardian or (self.training is not None and self.training.alive)

    @property
    def stamp(self) -> tuple[object, ...]:
        """Differs from what it was when a file of the run has been written, or somebody has died."""
        return self.heartbeat, len(self.durable), self.agent, self.guardian, self.exit is None

    def later(self, seconds: float, what: Callable[[], None]) -> Timer:
        return self.host.later(seconds, what)

    # Its life

    def begin(self) -> None:
        self.host.runs[self.key] = self
        holder = self.host.holder
        if holder is not None and not self.shares:
            self.end("refused", f"attempt {holder.key[1]} of `{holder.name}` holds this machine", started=False)
            self.exit = {**(self.exit or {}), "held_by": holder.name}
            return
        self.host.holders.append(self)
        oracles.not_beside_a_foreign_training(self.life, self)
        if self.life.meets("killed at birth"):
            self.agent = self.guardian = False
            self.is_blank = True
            self._gone()
            return
        self.later(self.life.dice.between("preparing", 0.05, 5.0), self._prepared)
        self.turn()

    def _prepared(self) -> None:
        if not self.agent or self.exit is not None or self.seen.drain is not None:
            return
        if self.resume is not None and self.life.storage_is_away:
            self.later(STORAGE_RETRY, self._prepared)
            return
        for fault, reason in (("setup fails", "setup_failed"), ("start fails", "start_failed")):
            if self.life.meets(fault):
                self.end(reason, "as the world would have it")
                return
        self._train()

    def _train(self) -> None:
        now = self.host.now()
        self.seen.phase, self.seen.training_since = "training", now.active
        self.seen.busy_at = self.seen.alive_at = now.active
        self.training_at = now.wall
        self.training = Training(self, self.life.kind_of(self.key), self.life.step_of(self.resume))
        self.life.say("training", *self.key, "starts at", self.training.first)
        self._tell("Normal", "TrainingStarted", "")
        self.life.trains(self)
        self.turn()

    def turn(self) -> None:
        """One turn of the agent: orders, policy, actions."""
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None
        if not self.agent or self.is_held or self.exit is not None:
            return
        now = self.host.now()
        self.heartbeat, self.heartbeat_active = now.wall, now.active
        if self.orders.epoch >= self.current.epoch and self.orders.serial > self.current.serial:
            self.current = self.orders
        if self.training is not None and self.training.alive and not self.training.hangs:
            self.seen.busy_at = self.seen.alive_at = now.active
        wait = 0.0
        for _ in range(8):
            step = policy.step(self.spec, self.current, self.seen, self.started, now)
            wait = step.wait
            if not step.actions:
                break
            for action in step.actions:
                self._apply(action, now)
            if self.exit is not None:
                return
        self._turning = self.later(max(LEAST_TURN, wait), self.turn)

    def _apply(self, action: Any, now: Now) -> None:
        seen, training = self.seen, self.training
        match action:
            case policy.BeginDrain():
                self.life.count(f"drain {action.reason}")
                seen.drain = policy.Drain(action.reason, now.active, now.wall, action.budget)
                if self.life.wide:
                    self.life.users.sees_it_drain(self)
            case policy.Escalate():
                assert seen.drain is not None
                seen.drain.reason = action.reason
            case policy.AskForCheckpoint():
                if seen.drain is not None:
                    seen.drain.asked = True
                else:
                    seen.asked_at = now.active
                if training is not None:
                    training.asked()
            case policy.SendSignal():
                assert seen.drain is not None
                if seen.drain.left_at_signal is None:
                    seen.drain.left_at_signal = policy.time_left(self.current, seen.drain, self.started, now)
                seen.drain.grouped = seen.drain.grouped or action.to == "group"
                if training is not None:
                    training.terminate()
            case policy.KillAll():
                assert seen.drain is not None
                seen.drain.killed = True
                if training is None:
                    self.end(seen.drain.reason, "before the training started")
                else:
                    training.kill()
            case policy.Abandon():
                self._close()
            case policy.Warn():
                self._tell("Warning", "".join(map(str.capitalize, action.event.split("_"))), action.detail)
                seen.overdue_told += action.event == "checkpoint_overdue"
                seen.ignored_told = seen.ignored_told or action.event != "checkpoint_overdue"

    def _tell(self, type_: Literal["Normal", "Warning"], reason: str, detail: str) -> None:
        """Events of an agent's own. In a life that isn't wide they are none."""
        if self.life.wide:
            at = datetime.fromtimestamp(self.host.now().wall, UTC)
            self.events.append(Event(at=at, type=type_, reason=reason, message=detail, attempt=self.key[1]))

    def told(self, after: int) -> tuple[tuple[int, Event], ...]:
        return tuple(enumerate(self.events[after:], after + 1))

    # What the training does

    def saved(self, save: Save) -> None:
        """A file has its final name: noticed within a second, copied one after the other, the newest first."""
        self.waiting.append(save)
        self.later(self.life.dice.between("noticing", 0.0, 1.0), self._copy)

    def _copy(self) -> None:
        if not self.agent or self.is_held or self.copying is not None or not self.waiting or self.exit is not None:
            return
        save = max(self.waiting, key=lambda each: each.step)
        self.waiting.remove(save)
        self.seen.saved += 1
        if not save.whole:
            self.life.count("torn checkpoint")
            self._settled()
            return
        self.seen.complete_at = self.host.now().active
        self.copying = save
        self.later(self.life.copy_seconds(), self._copied)
        self.turn()

    def _cut_short(self) -> None:
        """What was copied isn't what was saved: that is found out, and it is copied once more."""
        if self.agent and self.copying is not None and self.exit is None:
            self.later(self.life.copy_seconds(), self._copied)

    def _copied(self) -> None:
        if not self.agent or self.copying is None or self.exit is not None:
            return
        if self.is_held:
            self.later(0.5, self._copied)
            return
        if self.life.storage_is_away:
            self.later(STORAGE_RETRY, self._copied)
            return
        if self.life.meets("manifest answer lost"):
            self._store(self.copying)
            self.later(self.life.dice.between("manifest sent again", 0.1, 5.0), self._copied)
            return
        if self.life.meets("copy cut short"):
            self.later(self.life.dice.between("copied again", 0.1, 5.0), self._cut_short)
            return
        save, self.copying = self.copying, None
        self.waiting = [each for each in self.waiting if each.step > save.step]
        self.keep(save)
        self.seen.durable_at = self.host.now().active
        self.seen.overdue_told, self.seen.asked_at = 0, None
        self._settled()

    def _settled(self) -> None:
        self._copy()
        if self.copying is None and self.training is not None and not self.training.alive:
            self._close()
        else:
            self.turn()

    def keep(self, save: Save) -> None:
        """Copied, verified, and known to be."""
        self.durable.append(self._store(save))

    def _store(self, save: Save) -> Save:
        """Its manifest is written, unless it is there already."""
        stored = next((each for each in self.stored if each.step == save.step), None)
        if stored is None:
            stored = msgspec.structs.replace(save, seq=self.numbered + 1, at=self.host.now().wall)
            self.numbered += 1
            self.stored.append(stored)
            self.life.became_durable(self.key, stored)
        return stored

    def leader_exited(self) -> None:
        """Something of the training is left, which the agent ends when it has had a moment."""
        if self.agent:
            self.life.count("daemonizes")
            self.seen.phase = "ending"
            self.later(self.life.dice.between("lingers for", 0.05, LINGER_SECONDS), self._end_leftovers)

    def _end_leftovers(self) -> None:
        assert self.training is not None
        if self.agent and self.is_held:
            self.later(0.5, self._end_leftovers)
        elif self.agent:
            self.training.kill()

    def ended(self) -> None:
        """The training is gone, by itself or not."""
        if not self.agent:
            return
        if self.is_held and not self.host.life.weather.calm:
            self.later(0.5, self.ended)
            return
        self.seen.phase = "ending"
        self._copy()
        if self.copying is None:
            self._close()
        else:
            self.turn()

    def _close(self) -> None:
        training = self.training
        assert training is not None
        if training.alive:
            training.kill()
        reason = "exited" if self.seen.drain is None else self.seen.drain.reason
        self.end(reason, "", code=training.code, signal=training.signal)

    def end(
        self, reason: str, detail: str, code: int | None = None, signal: int | None = None, started: bool = True
    ) -> None:
        """The exit record is written, and nobody is left."""
        if self.exit is not None:
            return
        now = self.host.now()
        self.exit = {
            "reason": reason, "detail": detail, "code": code, "signal": signal, "at": now.wall,
            "started": self.started.wall if started else None, "active": now.active - self.started.active,
            "trained": self.training is not None,
        }  # fmt: skip
        self.agent = self.guardian = False
        self._gone()
        self.life.say("attempt", *self.key, "ends", reason, code)
        self.host.emptied(self)

    def _gone(self) -> None:
        self.over = self.life.loop.time()
        if self.host is self.life.host and self.life.meets("slow to leave"):
            # Its last process has written down the end, and has the lock for a moment more.
            self.life.later(self.life.dice.between("leaves after", 0.1, 8.0), self._leave)
        else:
            self._leave()
        self.life.happened()

    def _leave(self) -> None:
        self.host.holders = [each for each in self.host.holders if each is not self]

    # What is done to it

    def kill_agent(self) -> None:
        """Its guardian sees that, ends the rest, salvages what was saved whole, and knows no exit code."""
        if not self.agent or self.exit is not None:
            return
        self.agent = False
        self.life.count("agent killed")
        self.life.say("agent", *self.key, "killed")
        if self.training is not None:
            self.training.kill()
        if self.guardian:
            self.later(0.2, self._lose)
        if self.life.wide:
            self.life.users.sees_it_die(self)
        self.life.happened()

    def hold_agent(self) -> None:
        """It is stopped for a while, and enforces nothing: its guardian does, and ends it if that lasts."""
        if not self.agent or self.exit is not None or self.is_held:
            return
        self.is_held = self.was_held = True
        self.life.count("agent held")
        self.later(self.life.dice.between("held for", 0.5, 120.0), self._resume)
        grant = self.current.limits.money_until
        money_left = LONGEST_HELD if grant is None else grant - self.host.now().wall - self.spec.checkpoint.grace
        self.later(max(0.0, min(LONGEST_HELD, money_left)), self._end_held)

    def _resume(self) -> None:
        self.is_held = False
        self.turn()
        self._copy()

    def _end_held(self) -> None:
        if self.is_held:
            self.is_held = False
            self.kill_agent()

    def kill_both(self) -> None:
        if self.exit is None and self.agent:
            self.guardian = False
            self.life.count("agent and guardian killed")
            self.kill_agent()
            self._gone()

    def die_unseen(self) -> None:
        """Both are killed while nobody can read what is on the disk: too many files are open, say."""
        if self.exit is None and self.agent:
            self.life.count("dies unseen")
            self.life.host.unreadable_for(self.life.dice.between("unreadable for", 5.0, 60.0))
            self.kill_both()

    def out_of_memory(self) -> None:
        """The kernel ends the training, and nobody else."""
        training = self.training
        if training is not None and training.alive and not training.is_leaderless and self.seen.drain is None:
            self.life.count("out of memory")
            self.oom = True
            training.kill()

    def _lose(self) -> None:
        if self.guardian and self.exit is None:
            self.salvage()
            self.end("lost", "the agent was killed")

    def interrupt(self) -> None:
        """Its host is about to go, and says so."""
        if self.agent and self.exit is None:
            self.seen.interrupted = True
            self.turn()

    def cut(self) -> None:
        """The power is off: nothing runs any more, and nothing is written down."""
        if self.exit is not None:
            return
        self.lost_on_way |= {each.step for each in (*self.waiting, self.copying) if each is not None}
        if not self.alive:
            return
        self.agent = self.guardian = False
        if self.training is not None:
            self.training.kill()
        self.life.say("attempt", *self.key, "is cut off")
        self._gone()

    def salvage(self) -> None:
        self.durable += [each for each in self.stored if each not in self.durable]
        known = self.durable[-1].step if self.durable else -1
        saves = [each for each in (*self.waiting, self.copying) if each is not None and each.whole]
        newest = max(saves, key=lambda each: each.step, default=None)
        self.waiting, self.copying = [], None
        if newest is not None and newest.step > known:
            self.life.count("salvaged")
            self.keep(newest)

    # What its files say

    def look(self, now: datetime) -> AttemptSeen:
        newest = self.life.ref(self.key, self.durable[-1]) if self.durable else None
        if self.exit is not None:
            told = self.exit
            end = AttemptEnd(
                reason=EndReason(told["reason"]), detail=told["detail"], exit_code=told["code"],
                signal=told["signal"], training_started=told["trained"], oom=self.oom,
            )  # fmt: skip
            return Ended(
                as_of=now, end=end, started_at=instant(told["started"]), ended_at=instant(told["at"]) or now,
                active=told["active"], durable=len(self.durable), newest=newest, held_by=told.get("held_by"),
            )  # fmt: skip
        if self.agent:
            drain, phase = self.seen.drain, self.seen.phase
            return Live(
                as_of=now, phase="draining" if drain or phase == "ending" else phase,  # type: ignore[arg-type]
                step=None, started_at=instant(self.started.wall) or now, training_at=instant(self.training_at),
                drain=drain.reason if drain else None, active=self.host.now().active - self.started.active,
                durable=len(self.durable), newest=newest, serial=self.orders.serial,
                heartbeat=instant(self.heartbeat) or now, held=self.is_held,
            )  # fmt: skip
        if self.guardian:
            return Starting(as_of=now)
        self.salvage()
        newest = self.life.ref(self.key, self.durable[-1]) if self.durable else None
        if self.is_blank:
            return Dead(as_of=now, started_at=None, last_seen=None, active=0.0, durable=0, newest=None)
        active, silent_for = self.heartbeat_active - self.started.active, None
        if self.host.boots == self.boot:
            silent_for = self.host.now().active - self.heartbeat_active
        started, last_seen = instant(self.started.wall), instant(self.heartbeat)
        return Dead(
            as_of=now, started_at=started, last_seen=last_seen, active=active, durable=len(self.durable), newest=newest,
            latest=latest(started, last_seen, active, silent_for, now),
        )  # fmt: skip


def instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def ref_of(uid: str, attempt: int, save: Save) -> CheckpointRef:
    return CheckpointRef(
        attempt=attempt, seq=save.seq, name=f"step-{save.step}", path=f"{uid}/{attempt}/{save.seq}",
        at=instant(save.at) or datetime.fromtimestamp(0, UTC), bytes=1, step=save.step,
    )  # fmt: skip
