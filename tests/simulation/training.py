"""What the user's script does: steps, saves, and an answer to being asked to stop. Some behave, others don't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from .run import Run

SIGKILL, SIGTERM = 9, 15


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """`steps` in all, one each `pace` seconds, a save of `saving` seconds after each `every` (0: never). What
    `daemonizes` leaves something in the background when it exits by itself."""

    steps: int
    pace: float
    every: int
    saving: float
    on_term: Literal["save", "exit", "ignore", "die"]
    when_asked: bool
    code: int = 0
    hangs_at: int | None = None
    torn: int = 0
    daemonizes: bool = False


class Save(msgspec.Struct, frozen=True):
    """A checkpoint: which step is in it. `torn`: not whole."""

    step: int
    whole: bool
    seq: int = 0
    at: float = 0.0


class Training:
    def __init__(self, run: Run, kind: Kind, first: int) -> None:
        self.run, self.kind, self.first = run, kind, first
        self.alive = True
        self.is_leaderless = False
        self.code: int | None = None
        self.signal: int | None = None
        self.began = run.host.active()
        self._last_save = first
        self._events: list[Any] = []
        self._saves = 0
        self._leaving = False
        self._go_on()

    @property
    def hangs(self) -> bool:
        return self.kind.hangs_at is not None and self.step >= self.kind.hangs_at

    @property
    def step(self) -> int:
        """How far it is by now."""
        kind = self.kind
        end = kind.steps if kind.hangs_at is None else min(kind.steps, kind.hangs_at)
        return min(end, self.first + int((self.run.host.active() - self.began + 1e-9) / kind.pace))

    def _go_on(self) -> None:
        kind, step = self.kind, self.step
        ahead = [kind.steps]
        if kind.every:
            ahead.append((self._last_save // kind.every + 1) * kind.every)
        at = min(ahead)
        if kind.hangs_at is not None and at >= kind.hangs_at:
            return
        wait = self.began + (at - self.first) * kind.pace - self.run.host.active()
        due = self._save if at < kind.steps else self._finish
        self._later(max(0.0, wait), due)
        assert step <= kind.steps

    def _later(self, seconds: float, what: Any) -> None:
        self._events.append(self.run.later(seconds, what))

    def _save(self) -> None:
        if not self.alive or self._leaving:
            return
        step = self._last_save = self.step
        self._later(self.kind.saving, lambda: self._saved(step))
        self._go_on()

    def _saved(self, step: int) -> None:
        if not self.alive:
            return
        self._saves += 1
        whole = not (self.kind.torn and self._saves % self.kind.torn == 0)
        self.run.life.saved(self.run.key, step, whole)
        self.run.saved(Save(step, whole))

    def _finish(self) -> None:
        if self.alive and not self._leaving:
            self._exit(self.kind.code)

    def _exit(self, code: int | None, signal: int | None = None) -> None:
        for event in self._events:
            event.cancel()
        self.code, self.signal = code, signal
        self.run.life.say("training", *self.run.key, "exits", code, signal, "at step", self.step)
        self.run.life.happened()
        if self.kind.daemonizes and signal != SIGKILL:
            self.is_leaderless = True
            self.run.leader_exited()
        else:
            self.alive = False
            self.run.ended()

    def asked(self) -> None:
        if self.alive and self.kind.when_asked and not self.hangs and not self.is_leaderless:
            step = self.step
            self._later(self.kind.saving, lambda: self._saved(step))

    def terminate(self) -> None:
        if not self.alive or self._leaving or self.is_leaderless or self.kind.on_term == "ignore" or self.hangs:
            return
        match self.kind.on_term:
            case "die":
                self._exit(None, SIGTERM)
            case "exit":
                self._leaving = True
                self._later(0.05, lambda: self._exit(0))
            case "save":
                self._leaving = True
                step = self.step
                self._later(self.kind.saving, lambda: self._saved(step))
                self._later(self.kind.saving + 0.01, lambda: self._exit(0))

    def kill(self) -> None:
        """Whatever there is of it; its code is its leader's."""
        if self.alive and self.is_leaderless:
            self.alive = False
            self.run.life.happened()
            self.run.ended()
        elif self.alive:
            self._exit(None, SIGKILL)
