"""Turns for those who would all ask at once for what is answered a few times a second."""

from __future__ import annotations

from runctl.providers.interface import Allowance

# A turn that wasn't taken is kept for so long; whoever comes later gets a new one.
HOLDS_SECONDS = 30.0
# A key's own turns are no closer: several controllers share one service, and none knows of the others' turns.
ALONE_SECONDS = 2.0


class Turns:
    """One turn a key, in the order in which they ask: some at once, the others `allowance.seconds` apart.

    Instants are seconds of a clock that never goes back. (The generic cell rate algorithm, with appointments.)
    """

    def __init__(self, allowance: Allowance) -> None:
        self._between = allowance.seconds
        self._ahead = allowance.seconds * (allowance.burst - 1)
        self._next = float("-inf")
        self._given: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    def turn(self, key: str, now: float) -> float:
        """When the turn of `key` is, now or later. It is kept until it is taken or given back."""
        given = self._given.get(key)
        if given is None or now > given + HOLDS_SECONDS:
            alone = self._taken.get(key, float("-inf")) + ALONE_SECONDS
            given = self._given[key] = max(now, self._book(now) - self._ahead, alone)
        return given

    def take(self, key: str, now: float) -> None:
        """What the turn was for is done now, with or without one."""
        if self._given.pop(key, None) is None:
            self._book(now)
        self._taken = {each: at for each, at in self._taken.items() if at > now - ALONE_SECONDS}
        self._taken[key] = now

    def give_back(self, key: str) -> None:
        if self._given.pop(key, None) is not None:
            self._next -= self._between

    def _book(self, now: float) -> float:
        booked = max(now, self._next)
        self._next = booked + self._between
        return booked
