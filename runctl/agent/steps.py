"""Preparation: the steps of the spec, one after the other, before the training starts."""

from __future__ import annotations

import fcntl
import os

from runctl.agent import processes
from runctl.agent.child import CannotStart, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional

    from runctl.agent.clocks import Now
    from runctl.agent.spec import Spec, Step

# Of the output of a step that failed, so much is looked at, and told.
LAST_BYTES = 4096
MAX_WORDS = 300


class SetupFailed(Exception):
    """A step failed; `args[0]` says which, and why."""


class Preparation:
    """Runs the steps. `poll` moves it on; it is never waited for."""

    def __init__(self, spec: Spec, env: Dict[str, str], umask: int, started: Now) -> None:
        self._queue: List[Step] = list(spec.steps)
        self._spec = spec
        self._env = env
        self._umask = umask
        self._started = started.active
        self._step: Optional[Step] = None
        self._step_started = 0.0
        self._lock = -1
        self.pid: Optional[int] = None

    @property
    def step(self) -> Optional[str]:
        return None if self._step is None else self._step.name

    def poll(self, now: Now) -> bool:
        """Whether all steps are done. Raises SetupFailed."""
        while True:
            if self._step is None:
                if not self._queue:
                    return True
                self._step = self._queue.pop(0)
                self._step_started = now.active
            self._check_time(self._step, now)
            if self.pid is not None or not self._begin(self._step):
                return False

    def on_exit(self, status: int) -> None:
        """The step's process has ended. Raises SetupFailed."""
        step, self.pid = self._step, None
        if step is None:
            return
        if status != 0:
            how = f"was killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""
            how = how or f"exited with {os.WEXITSTATUS(status)}"
            raise SetupFailed(f"step `{step.name}` {how}: {self._last_words() or 'it printed nothing'}")
        self._finish()

    def _last_words(self) -> str:
        """The last line of what the steps printed, which mostly says why."""
        try:
            with open(os.path.join(self._spec.run_dir, "setup.log"), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return next((line.strip()[:MAX_WORDS] for line in reversed(lines) if line.strip()), "")

    def kill(self) -> None:
        if self.pid is not None:
            for target in (-self.pid, self.pid):
                processes.signal_one(target, 9)

    def _begin(self, step: Step) -> bool:
        """Start the step, or skip it (True). False: it runs, or its lock is waited for."""
        if self._is_made(step):
            self._finish()
            return True
        if step.lock is not None and self._lock < 0:
            if not self._take_lock(step.lock):
                return False
            if self._is_made(step):  # made while the lock was waited for
                self._finish()
                return True
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(os.path.join(self._spec.run_dir, "setup.log"), flags, 0o600)
        try:
            self.pid = spawn(step.argv, step.cwd, {**self._env, **step.env}, log, self._umask, self._spec.run_id)
        except CannotStart as error:
            raise SetupFailed(f"step `{step.name}` {error}") from None
        finally:
            os.close(log)
        return False

    @staticmethod
    def _is_made(step: Step) -> bool:
        return step.unless is not None and os.path.exists(step.unless)

    def _take_lock(self, path: str) -> bool:
        try:
            if path:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupFailed(f"the lock `{path}` can't be opened: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def _check_time(self, step: Step, now: Now) -> None:
        limits = ((step.timeout, self._step_started, "its"), (self._spec.setup_timeout, self._started, "the setup's"))
        for limit, since, whose in limits:
            if limit is not None and now.active - since > limit:
                self.kill()
                raise SetupFailed(
                    f"step `{step.name}` ran into {whose} limit of {limit:g} s; its output is in setup.log"
                )

    def _finish(self) -> None:
        self._step = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
