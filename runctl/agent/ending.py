"""From the exit of the training to the exit record: leftovers gone, output read, last checkpoint durable, hooks run."""

from __future__ import annotations

import os

from runctl.agent import policy, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from runctl.agent.clocks import Now
    from runctl.agent.hooks import HookRun
    from runctl.agent.supervisor import Supervisor

# What a training leaves running when it ends by itself (workers, savers) has this long after the stop signal.
LINGER_SECONDS = 2.0
# What SIGKILL can't end within this is in uninterruptible sleep.
KILL_SECONDS = 30.0


class Ending:
    """The stages of an end. `poll` moves on; nothing here waits."""

    def __init__(self, agent: Supervisor, reason: str, detail: str, now: Now) -> None:
        self._agent = agent
        self._reason = reason
        self._detail = detail
        self._since = now.active
        self._asked = False
        self._killing_since: Optional[float] = None
        self._gone: Optional[bool] = None
        self._hooks: Optional[HookRun] = None
        self._abandoned = False

    @property
    def leaves_running(self) -> bool:
        """Processes of the training may still be there, and write."""
        return self._gone is None

    def abandon(self) -> None:
        """The time is over: what is still under way is given up."""
        self._abandoned = True

    def poll(self, now: Now) -> bool:
        """Whether the exit record is written."""
        agent = self._agent
        if self._gone is None:
            if self._end_leftovers(now):
                agent.look_again()  # what was saved last is settled now, and the keeper has not looked since
            return False
        if agent.output.open:
            while agent.output.pump():
                pass
            agent.output.close()
        if agent.training is not None and not agent.keeper.settled and not self._abandoned:
            return False
        agent.keeper.stop(now)
        if self._hooks is None:
            agent.progress.look_last(agent.output, agent.keeper.newest_path, now)
            agent._run_hooks("before_terminate", agent.spec.hooks.before_terminate, now)
            self._hooks = agent.hook_runs[-1]
        if any(hook.pid is not None for hook in agent.hook_runs) and not self._abandoned:
            return False
        for hook in agent.hook_runs:
            hook.stop()
        # Hooks may have left something running, too.
        gone = processes.kill_attempt(os.getpid(), agent.spec.run_id, set(), KILL_SECONDS, agent._on_exit)
        agent.write_ended(now)
        agent.write_exit(self._reason, self._detail, gone, now)
        return True

    def _end_leftovers(self, now: Now) -> bool:
        """End what the training left running; whether that is over."""
        agent, waited = self._agent, now.active - self._since
        alive = processes.attempt_processes(os.getpid(), agent.spec.run_id, agent.spared())
        if not alive:
            self._gone = True
            return True
        if not self._asked:
            self._asked = True
            for pid in alive:
                processes.signal_one(pid, agent.spec.stop_signal)
        if self._may_go_on(waited, now):
            return False
        if self._killing_since is None:
            self._killing_since = now.active
        self._gone = processes.kill_attempt(os.getpid(), agent.spec.run_id, agent.spared(), 0.0, agent._on_exit) or None
        if self._gone is None and now.active - self._killing_since >= KILL_SECONDS:
            self._gone = False
        return self._gone is not None

    def _may_go_on(self, waited: float, now: Now) -> bool:
        """Whether what is left may still end by itself. In a drain it has the grace: it may be the training, whose
        wrapper died of the signal while it saves.
        """
        agent, drain = self._agent, self._agent.seen.drain
        if self._abandoned:
            return False
        if drain is None:
            return waited < LINGER_SECONDS
        left = policy.time_left(agent.orders.current, drain, agent.started, now)
        return not drain.killed and left > policy.copy_reserve(drain.budget, agent.keeper.last_copy)
