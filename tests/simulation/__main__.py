"""`python -m tests.simulation --seeds N`: live many lives, or one again, and tell what was met.

--seeds N [--first S] [--processes P]   N lives from seed S on
    --save FILE                         the same, noted in FILE, and gone on with from there the next time
--seconds T [--first S]                 as many lives as fit into T seconds, from S or a seed that nobody has lived
--seed S [--crash-at K,L]               one life, with its log
--sweep S [--seeds N] [--pairs P]       the lives of N seeds from S on (one), once more for each of their crash points,
                                        and for P pairs of them (20)
--plain                                 without the lives that are wide (wide.py)
--shrink S                              the fewest kinds of faults with which the life of seed S still breaks a promise
--reach --seeds N [--first S]           N lives, and the branches of the planner that none of them took
--world local|rented|mixed              where the jobs run: on a machine of the user's, or on rented ones
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulation.life import FAULTS, Life
from simulation.living import Simulation
from simulation.oracles import Violation
from simulation.reach import reach
from simulation.saved import CannotGoOn, begin, save
from simulation.worlds import BATCH, FIELDS, MIXED, WORLDS, Summary, histogram, kind_of, live_many, sweep

# Far more than can be lived in any number of seconds that somebody waits for.
MOST_LIVES = 100_000_000


def main() -> int:
    # Of a node that died at once some tasks were never begun.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Lives of jobs, simulated.")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--first", type=int)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--crash-at", type=lambda text: frozenset(map(int, text.split(","))), default=frozenset())
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--sweep", type=int)
    parser.add_argument("--shrink", type=int)
    parser.add_argument("--reach", action="store_true")
    parser.add_argument("--world", choices=(*WORLDS, MIXED), default=MIXED)
    asked = parser.parse_args()
    if asked.sweep is not None:
        return _sweep(asked.world, range(asked.sweep, asked.sweep + (asked.seeds or 1)), asked.pairs)
    one = next((seed for seed in (asked.seed, asked.shrink) if seed is not None), 0)
    kind = kind_of(asked.world, one)
    with Simulation() as simulation:
        if asked.seed is not None:
            return _one(simulation, kind, asked.seed, asked.crash_at)
        if asked.shrink is not None:
            return _shrink(simulation, kind, asked.shrink)
    if asked.seconds is not None:
        first = int(time.time()) * 1000 if asked.first is None else asked.first
        return _many(
            asked.world,
            range(first, first + MOST_LIVES),
            asked.processes,
            time.monotonic() + asked.seconds,
            asked.plain,
        )
    first = asked.first or 0
    if asked.reach:
        return _reach(asked.world, range(first, first + (asked.seeds or 300)))
    seeds = range(first, first + (asked.seeds or 1000))
    try:
        return _many(asked.world, seeds, asked.processes, plain=asked.plain, path=asked.save)
    except CannotGoOn as error:
        parser.error(str(error))


def _one(simulation: Simulation, kind: type[Life], seed: int, crash_at: frozenset[int]) -> int:
    try:
        life = simulation.life(seed, crash_at, kind=kind)
    except Violation as broken:
        print(broken)
        return 1
    for at, words in life.log:
        print(f"{at:9.3f} {words}")
    print(f"{dict(sorted(life.counts.items()))}; {life.points} crash points; digest {life.digest}")
    return 0


def _many(
    world: str,
    seeds: range,
    processes: int,
    until: float = float("inf"),
    plain: bool = False,
    path: Path | None = None,
) -> int:
    run = None if path is None else begin(path, world, seeds.start, plain)
    found = Summary.empty(plain) if run is None else run.summary
    left = seeds if run is None else range(run.next, seeds.stop)
    for batch in live_many(world, left, processes, until, plain):
        for seed, violation in batch.broken:
            # The first ones in full, at once: a long run may be watched, or end early.
            print(violation if len(found.broken) < 3 else f"{violation.splitlines()[0]} (seed {seed})", flush=True)
        found.add(batch)
        if run is not None and path is not None:
            run = save(path, run, found, min(run.next + BATCH, seeds.stop))
    speed = f"{found.lives / found.took:.0f} lives, {found.jobs / found.took:.0f} jobs a second of a core"
    print(f"{world}, seeds from {seeds.start} on{', plain' if plain else ''}: {found.lives} lives of {found.jobs} jobs")
    print(f"{len(found.broken)} broke a promise; {speed}")
    for field in FIELDS:
        print(f"{field} of a life: median {found.median(field)}; {histogram(found.tallies[field])}")
    for what, count in sorted(found.met.items()):
        print(f"{count:9} {what}")
    if found.hollow:
        print(found.hollow)
    return 1 if found.broken or found.hollow else 0


def _reach(world: str, seeds: range) -> int:
    reached = reach(world, seeds)
    for seed, violation in reached.found.broken:
        print(f"{violation.splitlines()[0]} (seed {seed})")
    for branch in reached.missed:
        line, to = branch.text
        print(f"{branch}    {line} => {to}")
    taken = reached.branches - len(reached.missed)
    print(f"{taken} of {reached.branches} branches taken by {len(seeds)} lives in {reached.found.took:.0f} s")
    print(f"these {len(reached.few)} take them all, twice where more than one does: {', '.join(map(str, reached.few))}")
    return 1 if reached.missed or reached.found.broken else 0


def _sweep(world: str, seeds: range, pairs: int) -> int:
    found = sweep(world, seeds, pairs)
    for violation in found.broken:
        print(violation, flush=True)
    print(f"{world}, seeds {seeds.start} to {seeds.stop - 1}: {found.points} crash points, {pairs} pairs of each life")
    print(f"{found.lives} lives, {len(found.broken)} of them broke a promise")
    return 1 if found.broken else 0


def _shrink(simulation: Simulation, kind: type[Life], seed: int) -> int:
    silenced: frozenset[str] = frozenset()
    for fault in FAULTS:
        try:
            simulation.life(seed, silenced=silenced | {fault}, kind=kind)
        except Violation:
            silenced |= {fault}
    print(f"seed {seed}: enough are {', '.join(sorted(set(FAULTS) - silenced)) or 'no faults at all'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
