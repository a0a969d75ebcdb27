"""Hooks: the user's commands at fixed points of an attempt, one after the other, each time-limited. A hook that
fails is an
event and nothing more."""

from __future__ import annotations

import os

from runctl.agent import processes
from runctl.agent.child import CannotStart, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Optional

    from runctl.agent.clocks import Now
    from runctl.agent.spec import Spec


class HookRun:
    """The commands of one point (`after_start`, …) in a row. `poll` moves it on; it is never waited for."""

    def __init__(
        self,
        point: str,
        commands: List[List[str]],
        spec: Spec,
        env: Dict[str, str],
        umask: int,
        complain: Callable[[str, str], None],
    ) -> None:
        self._point = point
        self._queue = list(commands)
        self._spec = spec
        self._env = env
        self._umask = umask
        self._complain = complain
        self._argv: List[str] = []
        self._since = 0.0
        self.pid: Optional[int] = None

    def poll(self, now: Now) -> bool:
        """Whether all are done."""
        if self.pid is not None:
            if now.active - self._since <= self._spec.hooks.timeout:
                return False
            self.kill()
            self._say(f"was ended after its limit of {self._spec.hooks.timeout:g} s")
            self.pid = None
        while self.pid is None and self._queue:
            self._begin(now)
        return self.pid is None

    def on_exit(self, status: int) -> None:
        self.pid = None
        if os.WIFSIGNALED(status):
            self._say(f"was killed by signal {os.WTERMSIG(status)}")
        elif status != 0:
            self._say(f"exited with {os.WEXITSTATUS(status)}; its output is in hooks.log")

    def kill(self) -> None:
        if self.pid is not None:
            for target in (-self.pid, self.pid):
                processes.signal_one(target, 9)

    def stop(self) -> None:
        """End what runs and start nothing more."""
        self._queue = []
        self.kill()

    def _begin(self, now: Now) -> None:
        self._argv = self._queue.pop(0)
        self._since = now.active
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            log = os.open(os.path.join(self._spec.run_dir, "hooks.log"), flags, 0o600)
            try:
                self.pid = spawn(self._argv, self._spec.cwd, self._env, log, self._umask, self._spec.run_id)
            finally:
                os.close(log)
        except (CannotStart, OSError) as error:
            self._say(str(error))

    def _say(self, what: str) -> None:
        self._complain("hook_failed", f"{self._point} `{self._argv[0]}` {what}")
