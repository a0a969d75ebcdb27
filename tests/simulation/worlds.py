"""The kinds of lives that there are, and many of them at once."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice, repeat
from random import Random
from typing import NamedTuple

import msgspec

from .dice import Dice
from .life import Life
from .living import Simulation
from .oracles import Violation
from .rented import RentedLife
from .wide import is_wide

WORLDS: dict[str, type[Life]] = {"local": Life, "rented": RentedLife}
MIXED = "mixed"

# What a run of many lives must have to be worth something: medians of one life's launches and reconciles.
LEAST_LAUNCHES = 1
LEAST_RECONCILES = 40


# What every run of many lives has met at least once: a fault that never strikes tests nothing.
SOMETIMES = (
    "agent killed", "agent and guardian killed", "salvaged", "torn checkpoint", "trainings", "disk full",
    "store full", "power cut", "written in a power cut", "lost in a power cut",
    "store unreadable", "launch refused", "launch lost", "launch answer lost", "crash before a write",
    "crash after a write", "second controller", "controller suspended", "user: apply", "user: stop", "user: cancel",
    "user: delete", "user: edit", "drain cap", "drain duration", "drain deadline", "drain interruption",
    "machines", "no capacity", "no quota", "dies pending", "pends for ever", "never boots", "reclaimed",
    "reclaimed without notice", "machine fails", "partition", "powered off", "power-off hangs", "timer fails",
    "end refused", "throttled", "request lost", "request late", "answer lost", "token known", "stale listing",
    "missing from a listing", "copied", "stopped by hand", "not allowed", "prices unknown", "offer withdrawn",
    "agent held", "copy cut short", "clock step", "machine sleeps", "crash before RunInstances",
    "crash after DescribeInstances", "slow uplink", "storage away", "manifest answer lost",
)  # fmt: skip

# And of lives some of which are wide.
SOMETIMES_WIDE = (
    "another home", "foreign training", "setup fails", "start fails", "out of memory",
    "killed at birth", "slow to leave", "dies unseen", "launcher broken", "wiped by hand", "cloud out of reach",
    "no capacity ever", "forgotten early", "copied for another", "a controller each", "daemonizes", "clean-up refused",
    "host away",
    "user: limits", "user: code", "user: directory", "user: vouch", "user: lift", "user: again", "user: clean up",
)  # fmt: skip

# So many lives, at any seeds, have met all of them.
MANY = 1000

# Each of these is counted for every life; `faults` are those that struck, `seconds` is virtual time.
FIELDS = ("jobs", "launches", "reconciles", "faults", "crash points", "seconds")

# Lives that one process lives before their summary goes to whoever asked.
BATCH = 100


class Summary(msgspec.Struct):
    """Of many lives: how many lives had which figure in each field, what was met how often, and which seeds broke a
    promise, with its report."""

    tallies: dict[str, Counter[int]]
    met: Counter[str]
    broken: list[tuple[int, str]]
    plain: bool
    took: float = 0.0

    @classmethod
    def empty(cls, plain: bool = False) -> Summary:
        """`plain`: none of them is wide."""
        return cls({field: Counter() for field in FIELDS}, Counter(), [], plain)

    def note(self, life: Life) -> None:
        figures = (
            len(life.uids), life.counts["trainings"], life.plans,
            sum(1 for _, what in life.dice.tape if what is True), life.points, int(life.loop.time()),
        )  # fmt: skip
        for field, figure in zip(FIELDS, figures, strict=True):
            self.tallies[field][figure] += 1
        self.met.update(life.counts)

    def add(self, other: Summary) -> None:
        for field in FIELDS:
            self.tallies[field] += other.tallies[field]
        self.met += other.met
        self.broken += other.broken
        self.took += other.took

    @property
    def lives(self) -> int:
        return self.tallies["jobs"].total() + len(self.broken)

    @property
    def jobs(self) -> int:
        """Lifetimes of jobs: a life is of one to three."""
        return sum(figure * times for figure, times in self.tallies["jobs"].items())

    def median(self, field: str) -> int:
        tally = self.tallies[field]
        return next(islice(_sorted(tally), tally.total() // 2, None), 0)

    @property
    def unmet(self) -> list[str]:
        expected = SOMETIMES if self.plain else SOMETIMES + SOMETIMES_WIDE
        return [each for each in expected if not self.met[each]]

    @property
    def hollow(self) -> str:
        """Why these lives prove little; empty if they don't."""
        if self.median("launches") < LEAST_LAUNCHES:
            return f"half of the lives have fewer than {LEAST_LAUNCHES} launches"
        if self.median("reconciles") < LEAST_RECONCILES:
            return f"half of the lives have fewer than {LEAST_RECONCILES} reconciles"
        if self.lives >= MANY and self.unmet:
            return f"nobody has met {', '.join(self.unmet)}"
        return ""


def _sorted(tally: Counter[int]) -> Iterator[int]:
    for figure in sorted(tally):
        yield from repeat(figure, tally[figure])


def kind_of(world: str, seed: int) -> type[Life]:
    """Of mixed lives every other one is of rented machines."""
    return WORLDS["rented" if seed % 2 else "local"] if world == MIXED else WORLDS[world]


def live(world: str, seeds: Iterable[int], plain: bool = False) -> Summary:
    """Live each of them, in this process; `plain`: those that are wide are left out."""
    summary = Summary.empty(plain)
    began = time.process_time()
    with Simulation() as simulation:
        for seed in seeds:
            if plain and is_wide(Dice(seed)):
                continue
            try:
                summary.note(simulation.life(seed, kind=kind_of(world, seed)))
            except Violation as violation:
                summary.broken.append((seed, str(violation)))
    summary.took = time.process_time() - began
    return summary


def live_many(
    world: str, seeds: range, processes: int, until: float = float("inf"), plain: bool = False
) -> Iterator[Summary]:
    """The same in batches, divided among so many processes; each batch's summary, in the order of the seeds, as soon as
    it is there. None is begun once the monotonic clock is past `until`."""
    starts = iter(range(0, len(seeds), BATCH))
    running: deque[Future[Summary]] = deque()
    with ProcessPoolExecutor(processes) as pool:
        while True:
            while len(running) < processes and time.monotonic() < until and (start := next(starts, None)) is not None:
                running.append(pool.submit(live, world, seeds[start : start + BATCH], plain))
            if not running:
                return
            yield running.popleft().result()


class Sweep(NamedTuple):
    """`points`: how many crash points the lives had; `lives`: how many were lived for them; `broken`: what broke."""

    points: int
    lives: int
    broken: list[str]


def sweep(world: str, seeds: Iterable[int], pairs: int) -> Sweep:
    """The life of each seed once more for each of its crash points, and for so many pairs of them. The second point of
    a pair may be one of what the first crash has led to.
    """
    points, lives, broken = 0, 0, []
    with Simulation() as simulation:
        for seed in seeds:
            kind = kind_of(world, seed)
            there = simulation.life(seed, kind=kind).points
            chance = Random(seed)
            twice = [frozenset(chance.sample(range(1, there + 1), 2)) for _ in range(pairs if there > 1 else 0)]
            for crash_at in (*(frozenset({point}) for point in range(1, there + 1)), *twice):
                lives += 1
                try:
                    simulation.life(seed, crash_at, kind=kind)
                except Violation as violation:
                    broken.append(str(violation))
            points += there
    return Sweep(points, lives, broken)


def histogram(tally: Counter[int]) -> str:
    """`0-9: 12, 10-19: 40, …`: in ten steps of equal width, those that are empty left out."""
    if not tally:
        return "nothing"
    width = max(1, -(-(max(tally) + 1) // 10))
    steps: Counter[int] = Counter()
    for figure, times in tally.items():
        steps[figure // width] += times
    return ", ".join(f"{n * width}-{n * width + width - 1}: {count}" for n, count in sorted(steps.items()))
