"""All chance of a life: one seed, a stream of its own for each kind of draw, and a tape of what was drawn.

A new kind moves none of the others. A kind that is silenced draws as before, and never says yes: so a failing life is
made smaller without becoming another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Dice:
    def __init__(self, seed: int, silenced: frozenset[str] = frozenset()) -> None:
        self.seed = seed
        self.silenced = silenced
        self.tape: list[tuple[str, object]] = []
        self._streams: dict[str, Random] = {}

    def _stream(self, kind: str) -> Random:
        stream = self._streams.get(kind)
        if stream is None:
            digest = blake2b(f"{self.seed}/{kind}".encode(), digest_size=8).digest()
            stream = self._streams[kind] = Random(int.from_bytes(digest, "big"))
        return stream

    def chance(self, kind: str, probability: float) -> bool:
        """Whether a fault of this kind happens now. It is only taped when it does."""
        if self._stream(kind).random() >= probability or kind in self.silenced:
            return False
        self.tape.append((kind, True))
        return True

    def between(self, kind: str, low: float, high: float) -> float:
        return low + (high - low) * self._stream(kind).random()

    def pick(self, kind: str, items: Sequence[T]) -> T:
        return items[int(self._stream(kind).random() * len(items))]

    def whole(self, kind: str, low: int, high: int) -> int:
        return low + int(self._stream(kind).random() * (high - low + 1))


class Weather:
    """Which faults exist in this life, and how often: half of the kinds don't, so that lives differ in kind."""

    def __init__(self, dice: Dice, kinds: dict[str, float], without: frozenset[str] = frozenset()) -> None:
        self._dice = dice
        self.calm = False
        self._strength = {
            kind: most * dice.between(f"strength of {kind}", 0.1, 1.0)
            if kind not in without and dice.between(f"is there {kind}", 0, 1) < 0.5
            else 0.0
            for kind, most in kinds.items()
        }

    def strikes(self, kind: str) -> bool:
        """Whether this fault happens here and now."""
        strength = self._strength[kind]
        return strength > 0 and not self.calm and self._dice.chance(kind, strength)
