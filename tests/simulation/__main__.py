"""`python -m tests.simulation --seeds N`: live many lives, or one again, and tell what was met.

--seed S [--crash-at K]   one life, with its log
--seeds N [--first S]     N lives from seed S on
--sweep S                 the life of seed S, once more for each of its crash points
--shrink S                the fewest kinds of faults with which the life of seed S still breaks a promise
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
# What is buried was never ended: its `finally` blocks run when it is collected, and every port refuses them.
sys.unraisablehook = lambda *_: None

from simulation.life import FAULTS, Simulation  # noqa: E402
from simulation.oracles import Violation  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Lives of jobs, simulated.")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--crash-at", type=int, default=0)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--sweep", type=int)
    parser.add_argument("--shrink", type=int)
    asked = parser.parse_args()
    with Simulation() as simulation:
        if asked.seed is not None:
            return _one(simulation, asked.seed, asked.crash_at)
        if asked.sweep is not None:
            return _sweep(simulation, asked.sweep)
        if asked.shrink is not None:
            return _shrink(simulation, asked.shrink)
        return _many(simulation, range(asked.first, asked.first + (asked.seeds or 1000)))


def _one(simulation: Simulation, seed: int, crash_at: int) -> int:
    try:
        life = simulation.life(seed, crash_at)
    except Violation as broken:
        print(broken)
        return 1
    for at, words in life.log:
        print(f"{at:9.3f} {words}")
    print(f"{dict(sorted(life.counts.items()))}; {life.points} crash points; digest {life.digest}")
    return 0


def _many(simulation: Simulation, seeds: range) -> int:
    met: Counter[str] = Counter()
    broken: list[int] = []
    looks: list[int] = []
    began = time.perf_counter()
    for seed in seeds:
        try:
            life = simulation.life(seed)
        except Violation as violation:
            broken.append(seed)
            print(violation if len(broken) == 1 else f"{violation.what} (seed {seed})", flush=True)
        else:
            met.update(life.counts)
            looks.append(life.looks)
    took = time.perf_counter() - began
    print(f"seeds {seeds.start} to {seeds.stop - 1}: {len(broken)} broke a promise; {len(seeds) / took:.0f} lives/s")
    print("reconciles of a live attempt, median:", sorted(looks)[len(looks) // 2] if looks else 0)
    for what, count in sorted(met.items()):
        print(f"{count:9} {what}")
    return 1 if broken else 0


def _sweep(simulation: Simulation, seed: int) -> int:
    points, broken = simulation.life(seed).points, 0
    for point in range(1, points + 1):
        try:
            simulation.life(seed, crash_at=point)
        except Violation as violation:
            broken += 1
            print(violation, flush=True)
    print(f"seed {seed}: {points} crash points, {broken} of them broke a promise")
    return 1 if broken else 0


def _shrink(simulation: Simulation, seed: int) -> int:
    silenced: frozenset[str] = frozenset()
    for kind in FAULTS:
        try:
            simulation.life(seed, silenced=silenced | {kind})
        except Violation:
            silenced |= {kind}
    print(f"seed {seed}: enough are {', '.join(sorted(set(FAULTS) - silenced)) or 'no faults at all'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
