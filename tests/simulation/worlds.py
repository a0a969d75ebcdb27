"""The kinds of lives that there are, and many of them at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import msgspec

from .life import Life, Simulation
from .oracles import Violation
from .rented import RentedLife

WORLDS: dict[str, type[Life]] = {"local": Life, "rented": RentedLife}
MIXED = "mixed"

# What a run of many lives must have to be worth something: medians of one life's launches and reconciles.
LEAST_LAUNCHES = 1
LEAST_RECONCILES = 40


class Story(NamedTuple):
    """What one life was: how often its jobs were launched and planned, how many faults struck, how long it took."""

    launches: int
    reconciles: int
    faults: int
    points: int
    seconds: float


class Summary(msgspec.Struct):
    """Of many lives: their stories, what was met how often, and which seeds broke a promise."""

    stories: list[Story] = []
    met: Counter[str] = Counter()
    broken: list[tuple[int, str]] = []
    took: float = 0.0

    def add(self, other: Summary) -> None:
        self.stories += other.stories
        self.met += other.met
        self.broken += other.broken
        self.took += other.took

    def median(self, field: str) -> float:
        values = sorted(getattr(story, field) for story in self.stories)
        return float(values[len(values) // 2]) if values else 0.0

    @property
    def hollow(self) -> str:
        """Why these lives prove little; empty if they don't."""
        if self.median("launches") < LEAST_LAUNCHES:
            return f"half of the lives have fewer than {LEAST_LAUNCHES} launches"
        if self.median("reconciles") < LEAST_RECONCILES:
            return f"half of the lives have fewer than {LEAST_RECONCILES} reconciles"
        return ""


def kind_of(world: str, seed: int) -> type[Life]:
    """Of mixed lives every other one is of rented machines."""
    return WORLDS["rented" if seed % 2 else "local"] if world == MIXED else WORLDS[world]


def story(life: Life) -> Story:
    return Story(
        launches=life.counts["trainings"],
        reconciles=life.plans,
        faults=sum(1 for _, what in life.dice.tape if what is True),
        points=life.points,
        seconds=life.loop.time(),
    )


def live(world: str, seeds: Iterable[int]) -> Summary:
    """Live each of them, in this process."""
    summary = Summary(stories=[], met=Counter(), broken=[])
    began = time.perf_counter()
    with Simulation() as simulation:
        for seed in seeds:
            try:
                life = simulation.life(seed, kind=kind_of(world, seed))
            except Violation as violation:
                summary.broken.append((seed, str(violation)))
            else:
                summary.stories.append(story(life))
                summary.met.update(life.counts)
    summary.took = time.perf_counter() - began
    return summary


def live_many(world: str, seeds: range, processes: int) -> Summary:
    """The same, divided among so many processes."""
    cuts = [seeds.start + len(seeds) * n // processes for n in range(processes + 1)]
    parts = [(world, range(first, last)) for first, last in pairwise(cuts)]
    whole = Summary(stories=[], met=Counter(), broken=[])
    with ProcessPoolExecutor(processes) as pool:
        for summary in pool.map(live, *zip(*parts, strict=True)):
            whole.add(summary)
    return whole


def histogram(values: Iterable[float]) -> str:
    """`0-9: 12, 10-19: 40, …`: in ten steps of equal width, those that are empty left out."""
    listed = sorted(values)
    if not listed:
        return "nothing"
    width = max(1, -(-int(listed[-1] + 1) // 10))
    steps = Counter(int(value) // width for value in listed)
    return ", ".join(f"{n * width}-{n * width + width - 1}: {count}" for n, count in sorted(steps.items()))
