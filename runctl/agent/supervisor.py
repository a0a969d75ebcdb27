"""The agent: a loop that wakes for an exit, for output, or each second, and asks the policy what to do."""

from __future__ import annotations

import os
import signal
import sys

from runctl.agent import activity as life
from runctl.agent import clocks, policy, processes, record
from runctl.agent import training as running
from runctl.agent.beats import Beats
from runctl.agent.child import CannotStart, Helper
from runctl.agent.ending import Ending
from runctl.agent.files import ExitRecord, Journal
from runctl.agent.hooks import HookRun
from runctl.agent.keeper import Keeper, RestoreFailed
from runctl.agent.orders import OrdersFile
from runctl.agent.output import COALESCE_SECONDS, Output
from runctl.agent.progress import Progress
from runctl.agent.space import Space
from runctl.agent.spec import read_spec
from runctl.agent.steps import Preparation, SetupFailed
from runctl.agent.wakeups import WakeUps
from runctl.agent.watch import CutOff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set

    from runctl.agent.clocks import Now

    Json = Dict[str, Any]

TICK_SECONDS = 1.0
# While something short is waited for: a step, a drain, an end.
BRISK_SECONDS = 0.1
LOST_KILL_SECONDS = 30.0


def supervise(run_dir: str, umask: int, guardian_pipe: int, run_lock: int, host_lock: int, beats: int) -> int:
    """Run the attempt of a run directory to its end. The two locks are held by being open."""
    for descriptor in (guardian_pipe, run_lock, host_lock, beats):
        os.set_inheritable(descriptor, False)
    agent = Supervisor(run_dir, umask, guardian_pipe, host_lock, Beats(beats))
    try:
        agent.run()
    except BaseException as error:
        # A defect, or an exhausted machine: nothing may run unwatched, and no exit code may be made up.
        sys.excepthook(type(error), error, error.__traceback__)
        agent.lose(f"the agent failed: {type(error).__name__}: {error}")
        return 1
    return 0


class Supervisor:
    def __init__(self, run_dir: str, umask: int, guardian_pipe: int, host_lock: int, beats: Beats) -> None:
        self.started = clocks.now()
        self.spec = read_spec(run_dir)
        self.umask = umask
        self._guardian = os.getppid()
        self._host_lock = host_lock
        self._me = processes.identity(os.getpid())
        self._guardian_identity = processes.identity(self._guardian)
        self.record = ExitRecord(run_dir)
        self._state_file = record.StateFile(run_dir)
        self.events = Journal(os.path.join(run_dir, "events.jsonl"), "seq")
        self.orders = OrdersFile(run_dir)
        self.orders.refresh()
        self.output = Output(run_dir, self.spec.segment_bytes)
        self.activity = life.Activity()
        self.progress = Progress(self.spec.progress_path)
        self.keeper = Keeper(self.spec, self.event)
        self.space = Space(run_dir, self.spec.checkpoint.dir, self.spec.checkpoint.destination)
        self.seen = policy.Observed()
        self.training: Optional[running.Training] = None
        self.training_wall = 0.0
        self.env: Dict[str, str] = {}
        self.preparation: Optional[Preparation] = None
        self.hook_runs: List[HookRun] = []
        self.ending: Optional[Ending] = None
        self.finished = False
        self._dirty = True
        self._step_wait = 0.0
        self._due = 0.0
        self._read_again_at = 0.0
        self._told_lost_output = 0
        self._complaint: Optional[str] = None
        self._wakeups = WakeUps(guardian_pipe)
        self._beats = beats

    def run(self) -> None:
        self._wakeups.catch_signals(self._on_interrupt)
        self._begin()
        while not self.finished:
            woken = self._sleep()
            now = clocks.now()
            if woken or now.active >= self._due:
                self.turn(now)
            else:  # output alone is written down, and looked at with the rest when that is due
                self._read_output(now)

    def turn(self, now: Now) -> None:
        """One look at everything, and what follows from it."""
        self._step_wait = TICK_SECONDS
        self._beats.beat(now, policy.money_left(self.orders.current, self.started, now))
        processes.reap(self._on_exit)
        # One that died before this process had looked at its parent is known by its pipe alone.
        if self._wakeups.guardian_is_gone or os.getppid() != self._guardian:
            self.lose("the guardian died")
            return
        self._read_output(now)
        if self.preparation is not None and self.seen.phase == "preparing":
            self._prepare(self.preparation, now)
        if self.orders.refresh():
            self._dirty = True
        self._complain_about_orders()
        self._look(now)
        self._decide(now)
        if self.seen.phase == "training" and self.seen.drain is not None and self.seen.drain.killed:
            self._kill_all(now)  # again, until the last of it is gone
        for hook in self.hook_runs:
            hook.poll(now)
        if self.ending is not None:
            self._brisk()
            self.finished = self.ending.poll(now)
        self._write_state(now)
        self.events.flush()
        self._due = now.active + self._step_wait

    # Wake-ups

    def _on_interrupt(self) -> None:
        self.seen.interrupted = True

    def _sleep(self) -> bool:
        """Until something happens or is due; whether it was something other than output."""
        active = clocks.now().active
        until_due, until_read = self._due - active, self._read_again_at - active
        if until_read > 0 and self.output.reader >= 0:
            # Output is not even polled for: it would wake the agent for each line.
            return self._wakeups.sleep(min(until_due, until_read), -1)
        return self._wakeups.sleep(until_due, self.output.reader)

    def look_again(self) -> None:
        """Take the next turn at once."""
        self._step_wait = 0.0

    def _brisk(self) -> None:
        self._step_wait = min(self._step_wait, BRISK_SECONDS)

    # Preparing

    def _begin(self) -> None:
        now = clocks.now()
        if self.record.exists():
            self.finished = True
            return
        try:
            secrets = running.take_secrets(self.spec)
        except KeyError as error:
            self.end_early("start_failed", f"the secret `{error.args[0]}` is not in the environment of the start", now)
            return
        self.env = running.environment(self.spec, secrets)
        self.preparation = Preparation(self.spec, self.env, self.umask, now)

    def _prepare(self, preparation: Preparation, now: Now) -> None:
        self._brisk()
        before = preparation.step
        try:
            if not preparation.poll(now):
                self._dirty = self._dirty or preparation.step != before
                return
            restoring = self.keeper.restoring
            path = self.keeper.prepare(now)
            if path is None:
                self._dirty = self._dirty or self.keeper.restoring != restoring
                return
        except SetupFailed as error:
            self.end_early("setup_failed", str(error), now)
            return
        except RestoreFailed as error:
            self.end_early("start_failed", str(error), now)
            return
        # Limits may have been reached meanwhile, and a start that is cancelled at once would only cost.
        self._decide(now)
        if self.seen.phase == "preparing":
            self._start(path, now)

    def _start(self, restored: str, now: Now) -> None:
        argv = list(self.spec.argv)
        env = {**self.env, **running.deadline_variable(self.orders.current, self.started, now)}
        if restored:
            env["RUNCTL_RESUME_FROM"] = restored
            if self.spec.checkpoint.resume_arg is not None:
                argv += [self.spec.checkpoint.resume_arg, restored]
        try:
            writer = self.output.open_pipe()
            self.training = running.Training(self.spec, argv, env, writer, self.umask, self._host_lock)
        except CannotStart as error:
            self.end_early("start_failed", f"the training {error}", now)
            return
        finally:
            self.output.close_writer()
        self.preparation = None
        self.seen.phase = "training"
        self.seen.training_since = now.active
        self.training_wall = now.wall
        self.progress.begin(now)
        self.event(record.TRAINING_STARTED, f"pid {self.training.pid}")
        self._run_hooks("after_start", self.spec.hooks.after_start, now)

    def end_early(self, reason: str, detail: str, now: Now) -> None:
        """End an attempt whose training never ran."""
        if self.preparation is not None:
            self.preparation.kill()
        self._end(reason, detail, now)

    # What happens

    def event(self, kind: str, detail: str) -> None:
        self.events.append({"at": clocks.now().wall, "event": kind, "detail": detail})
        self._dirty = True

    def _on_exit(self, pid: int, status: int) -> None:
        now = clocks.now()
        if self.training is not None and pid == self.training.pid:
            self.training.status = status
            drain = self.seen.drain
            if self.training.exit_code != 0 or drain is not None:
                good = (0, 128 + self.spec.stop_signal)
                self.keeper.cut_off = CutOff(now.wall, answered=self.training.exit_code in good)
            reason = "exited" if drain is None else drain.reason
            self._end(reason, record.exit_detail(self.training), now)
        elif self.preparation is not None and pid == self.preparation.pid:
            try:
                self.preparation.on_exit(status)
            except SetupFailed as error:
                if self.seen.drain is None:
                    self.end_early("setup_failed", str(error), now)
        else:
            for hook in self.hook_runs:
                if hook.pid == pid:
                    hook.on_exit(status)
        self._dirty = True

    def _read_output(self, now: Now) -> None:
        if self.output.reader < 0 or now.active < self._read_again_at:
            return
        filling = self.output.pump()
        if self.output.fresh:
            self.activity.log_at = now.active
            self._read_again_at = 0.0 if filling else now.active + COALESCE_SECONDS
            self._dirty = True
        if self.output.lost > self._told_lost_output * 2:
            self._told_lost_output = self.output.lost
            self.event("output_lost", f"output.log can't be written: {self.output.error}; the training goes on")

    def _look(self, now: Now) -> None:
        """Bring what the policy sees up to date."""
        seen, keeper = self.seen, self.keeper
        if seen.phase != "preparing":
            writing = self.training is not None and (self.ending is None or self.ending.leaves_running)
            if keeper.poll(now, self.orders.current.limits.keep, writing, self._time_left(now)):
                self._dirty = True
            self._step_wait = min(self._step_wait, keeper.wait(now))
        if seen.phase == "training":
            for text in self.space.look(now.active, keeper.newest_bytes):
                self.event("disk_low", text)
            if self.activity.sample(now, self.orders.current.limits, self.spared(), life.has_gpu):
                self._dirty = True
            if self.progress.look(self.output, keeper.newest_path, now):
                self.activity.progress_at = now.active
                self._dirty = True
        self.activity.hear_gpu(now)
        if keeper.noticed_at is not None:
            self.activity.checkpoint_at = max(self.activity.checkpoint_at or 0.0, keeper.noticed_at)
        if keeper.durable_at != seen.durable_at:
            seen.overdue_told = 0
            if seen.asked_at is not None and (keeper.durable_at or 0.0) >= seen.asked_at:
                seen.asked_at = None
        seen.durable_at = keeper.durable_at
        seen.complete_at = keeper.complete_at
        seen.saved = keeper.seen
        seen.last_copy = keeper.last_copy
        seen.busy_at = self.activity.busy_at
        seen.alive_at = self.activity.alive_at
        seen.intervals = self.progress.intervals(self.spec, now)
        if seen.intervals >= 1 and seen.interval_over_at is None:
            seen.interval_over_at = now.active

    def _time_left(self, now: Now) -> Optional[float]:
        if self.seen.drain is None:
            return policy.money_left(self.orders.current, self.started, now)
        return policy.time_left(self.orders.current, self.seen.drain, self.started, now)

    def _complain_about_orders(self) -> None:
        if self.orders.complaint != self._complaint:
            self._complaint = self.orders.complaint
            if self._complaint is not None:
                self.event("orders_refused", self._complaint)

    # What to do

    def _decide(self, now: Now) -> None:
        # Each round changes what is observed; the policy is stable after a few, and this bounds a defect of it.
        for _ in range(8):
            step = policy.step(self.spec, self.orders.current, self.seen, self.started, now)
            if not step.actions:
                break
            for action in step.actions:
                self._apply(action, now)
            if self.ending is not None and self.finished:
                break
        self._step_wait = min(self._step_wait, step.wait)
        if self.seen.drain is not None:
            self._brisk()

    def _apply(self, action: policy.Action, now: Now) -> None:
        seen = self.seen
        self._dirty = True
        if isinstance(action, policy.BeginDrain):
            seen.drain = policy.Drain(action.reason, now.active, now.wall, action.budget)
            self.event("drain_started", action.reason)
            if seen.phase == "training":
                self._run_hooks("before_stop", self.spec.hooks.before_stop, now)
        elif isinstance(action, policy.Escalate):
            if seen.drain is not None:
                seen.drain.reason = action.reason
        elif isinstance(action, policy.AskForCheckpoint):
            if seen.drain is not None:
                seen.drain.asked = True
                self.keeper.told_to_end()
            else:
                seen.asked_at = now.active
            self.keeper.ask(action.reason, now.wall + action.seconds, now)
            if self.training is not None and self.spec.checkpoint.signal is not None:
                self.training.send(self.spec.checkpoint.signal, "leader")
        elif isinstance(action, policy.SendSignal):
            if seen.drain is not None:
                if seen.drain.left_at_signal is None:
                    self.keeper.told_to_end()
                    seen.drain.left_at_signal = policy.time_left(self.orders.current, seen.drain, self.started, now)
                seen.drain.grouped = seen.drain.grouped or action.to == "group"
            if self.training is not None:
                self.training.send(self.spec.stop_signal, action.to)
                self.training.send(signal.SIGCONT, "group")  # one that is held can't save
        elif isinstance(action, policy.KillAll):
            self._kill_all(now)
        elif isinstance(action, policy.Abandon):
            if self.ending is not None:
                self.ending.abandon()
        elif isinstance(action, policy.Warn):
            if action.event == "checkpoint_overdue":
                seen.overdue_told += 1
            elif seen.saved:
                seen.few_told = True
            else:
                seen.ignored_told = True
            self.event(action.event, action.detail)
        else:
            policy.unreachable(action)

    def _kill_all(self, now: Now) -> None:
        drain = self.seen.drain
        if self.training is None:
            if drain is not None:
                drain.killed = True
                self.end_early(drain.reason, f"ended before the training started: {drain.reason}", now)
            return
        if drain is not None and not drain.killed:
            drain.killed = True
            self.training.killed = True
        processes.kill_attempt(os.getpid(), self.spec.run_id, self.spared(), 0.0, self._on_exit)

    def _run_hooks(self, point: str, commands: List[List[str]], now: Now) -> None:
        hook = HookRun(point, commands, self.spec, self.env, self.umask, self.event)
        self.hook_runs.append(hook)
        hook.poll(now)

    def _end(self, reason: str, detail: str, now: Now) -> None:
        if self.ending is not None:
            return
        self.seen.phase = "ending"
        self._dirty = True
        self.ending = Ending(self, reason, detail, now)
        self._step_wait = 0.0

    def lose(self, detail: str) -> None:
        """End at once what nobody can vouch for any more."""
        self.finished = True
        if self.record.exists():
            return
        if self.training is not None:
            self.training.killed = True
        died_at = clocks.now().wall
        gone = processes.kill_attempt(os.getpid(), self.spec.run_id, set(), LOST_KILL_SECONDS, lambda *_: None)
        if self.training is not None:
            self._salvage(died_at)
        self.write_exit("lost", detail, gone, clocks.now())

    def _salvage(self, died_at: float) -> None:
        from runctl.agent import leftovers, salvage

        self.keeper.cut_off = CutOff(died_at)
        left = policy.money_left(self.orders.current, self.started, clocks.now())
        seconds = leftovers.salvage_seconds(self.spec.checkpoint.grace, left)
        salvage.finish(self.keeper, self.orders.current.limits.keep, seconds)
        self.events.flush()

    # What is said

    def spared(self) -> Set[int]:
        """Children of the agent that are not the training's."""
        helpers: List[Optional[Helper]] = [self.keeper.helper, self.activity.gpu_helper]
        found = {helper.pid for helper in helpers if helper is not None}
        return found | {hook.pid for hook in self.hook_runs if hook.pid is not None}

    def write_exit(self, reason: str, detail: str, gone: bool, now: Now) -> None:
        value = record.ending(
            self.spec,
            self.training,
            self.started,
            now,
            reason=reason,
            detail=detail,
            gone=gone,
            checkpoints=self.keeper.state(),
        )
        self.record.write(value)

    def write_ended(self, now: Now) -> None:
        self.seen.phase = "ended"
        self._state_file.force()
        self._write_state(now)

    def _write_state(self, now: Now) -> None:
        phase = self.seen.phase
        if phase == "ending" or (self.seen.drain is not None and phase == "training"):
            phase = "draining"
        if self._state_file.is_due(phase, self._dirty, now):
            self._dirty = False
            self._state_file.write(self._state(phase, now))

    def _state(self, phase: str, now: Now) -> Json:
        training, drain, orders = self.training, self.seen.drain, self.orders.current
        left = self._time_left(now) or 0.0
        return {
            "version": record.VERSION,
            "run_id": self.spec.run_id,
            "attempt": self.spec.attempt,
            "epoch": orders.epoch,
            "serial": orders.serial,
            "agent": self._me,
            "guardian": self._guardian_identity,
            "phase": phase,
            "step": None if self.preparation is None else self.preparation.step or self.keeper.restoring,
            "started_at": self.started.wall,
            "heartbeat": now.wall,
            "monotonic": now.active,
            "active": now.active - self.started.active,
            "training": None if training is None else {**training.identity, "started_at": self.training_wall},
            "drain": record.drain_state(drain, left, now),
            "checkpoints": self.keeper.state(),
            "resumed_instead": self.keeper.resumed_instead,
            "progress": self.progress.state(now),
            "activity": self.activity.state(now),
            "output": {"start": 0, "end": self.output.end},
        }
