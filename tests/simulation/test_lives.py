"""Lifetimes of jobs in a world that fails: no promise is broken, the same seed gives the same life, and the simulation
misses each safeguard that is taken out.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from runctl.planner import launching, machines, ordering, releasing, renting, seeing
from runctl.planner import plan as planning
from runctl.planner.actions import Launch, Plan, Rent
from runctl.planner.money import affordable
from runctl.planner.observed import GroupSeen, InstanceSeen
from runctl.planner.passing import Pass
from runctl.planner.record import Record
from runctl.planner.rental import Ending, Offer, Release, Rental
from runctl.planner.renting import request
from runctl.providers.aws.cloud import Ec2
from runctl.reconciler import controller
from runctl.reconciler.controller import Controller, Held
from runctl.reconciler.grouping import Groups
from runctl.reconciler.renting import Renting

from . import living, wide
from .host import Host
from .life import FAULTS
from .living import Simulation
from .node import MemoryStore
from .oracles import Violation
from .version import version
from .worlds import SOMETIMES, SOMETIMES_WIDE, WORLDS, Summary, live, sweep


@pytest.mark.parametrize(("world", "seeds"), [("local", (101, 58)), ("rented", (7,))])
def test_a_controller_dies_at_every_point(world: str, seeds: tuple[int, ...]) -> None:
    """Before an effect, after it but before its answer, after that but before it is noted; and at two of them."""
    found = sweep(world, seeds, pairs=10)
    assert found.broken == []
    assert found.points > 80


def test_plain_lives_are_not_asked_for_what_only_wide_ones_meet() -> None:
    """A minute of plain lives is hollow for what they lack themselves; every fault of wide lives has its mark."""
    assert Summary.empty(plain=True).unmet == list(SOMETIMES)
    assert Summary.empty().unmet == [*SOMETIMES, *SOMETIMES_WIDE]
    assert wide.FAULTS.keys() <= set(SOMETIMES_WIDE)
    assert wide.FAULTS.keys().isdisjoint(SOMETIMES)


def test_the_same_seed_is_the_same_life() -> None:
    """Whatever the process, its hash seed and its addresses."""
    code = (
        "from simulation.living import Simulation\nfrom simulation.worlds import MIXED, kind_of\n"
        "with Simulation() as simulation:\n"
        " print([simulation.life(seed, kind=kind_of(MIXED, seed)).digest for seed in (2, 3)])"
    )
    digests = set()
    for hash_seed in range(20):
        environ = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def _no_money_granted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ordering, "_money", lambda *_: None)


def _checkpoints_are_not_taken_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seeing, "_checkpoint", lambda step, *_: step)


def _earlier_attempts_cost_nothing(patch: pytest.MonkeyPatch) -> None:
    def forgetful(record: Record, *others: Any) -> timedelta | None:
        return affordable(msgspec.structs.replace(record, ledger=()), *others)

    patch.setattr(ordering, "affordable", forgetful)


def _late_effects_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seeing, "LATE_EFFECT", seeing.LATE_EFFECT * -10)


def _a_token_of_its_own_for_each_sending(patch: pytest.MonkeyPatch) -> None:
    built, sendings = Ec2._request, itertools.count()

    def unkeyed(self: Ec2, record: Record, rental: Rental) -> dict[str, Any]:
        return {**built(self, record, rental), "ClientToken": f"{rental.token}{next(sendings)}"}

    patch.setattr(Ec2, "_request", unkeyed)


def _one_token_for_all_choices(patch: pytest.MonkeyPatch) -> None:
    def first(record: Record, attempt: int, choice: int, offer: Offer, group: GroupSeen, now: datetime) -> Rental:
        token = request(record, attempt, 0, offer, group, now).token
        return msgspec.structs.replace(request(record, attempt, choice, offer, group, now), token=token)

    patch.setattr(launching, "request", first)


def _absence_is_evidence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machines, "_absence_counts_from", lambda rental: rental.asked_at)
    patch.setattr(machines, "MISSING_FOR", timedelta(0))


def _an_end_that_was_asked_for_is_a_release(patch: pytest.MonkeyPatch) -> None:
    end = releasing._end

    def hasty(step: Pass, rental: Rental, why: Ending) -> Pass:
        step = end(step, rental, why)
        for each in step.record.unreleased:
            if each.token == rental.token and each.ends_asked:
                step = machines._release(step, each, Release.TERMINATED, step.now)
        return step

    patch.setattr(releasing, "_end", hasty)


def _nothing_is_reserved(patch: pytest.MonkeyPatch) -> None:
    def boundless(*arguments: Any) -> Rental:
        return msgspec.structs.replace(request(*arguments), not_after=None, reserved=0)

    patch.setattr(launching, "request", boundless)


def _requests_are_sent_at_any_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(renting, "RENT_WINDOW", renting.RENT_WINDOW * 1000)


def _late_requests_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machines, "LATE_RENTAL", timedelta(0))


def _machines_are_not_released(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "release", lambda step: step)


def _whoever_writes_last_is_right(patch: pytest.MonkeyPatch) -> None:
    def only_there(self: MemoryStore, uid: str, version: int, epoch: int) -> None:
        self.get(uid)

    patch.setattr(MemoryStore, "_check", only_there)


def _leases_are_not_asked_for(patch: pytest.MonkeyPatch) -> None:
    async def take(self: Controller, uid: str) -> Held:
        found = self._store.get(uid)
        held = self._held[uid] = Held(found.epoch, found)
        return held

    patch.setattr(Controller, "_take", take)


def _two_at_once_on_a_machine(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Host, "holder", property(lambda self: None, lambda self, holder: None), raising=False)


def _strays_are_not_cared_for(patch: pytest.MonkeyPatch) -> None:
    listed = machines._listed

    def known(step: Pass, seen: InstanceSeen, as_of: datetime) -> Pass:
        return step if machines._rental_of(step, seen) is None else listed(step, seen, as_of)

    patch.setattr(machines, "_listed", known)


def _what_moved_away_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Renting, "_cloud", lambda self, record: self._clouds.get(record.job.instance.platform))


def _what_is_spent_comes_back(patch: pytest.MonkeyPatch) -> None:
    seen_by = Groups.seen_by

    def hopeful(self: Groups, record: Record, now: datetime) -> GroupSeen:
        return msgspec.structs.replace(seen_by(self, record, now), spent=0)

    patch.setattr(Groups, "seen_by", hopeful)


def _effects_come_before_intents(patch: pytest.MonkeyPatch) -> None:
    persist = Controller._persist

    async def late(self: Controller, held: Held, made: Plan, seen: GroupSeen) -> None:
        for action in made.actions:
            if isinstance(action, Launch | Rent):
                await self._execute(held, action)
        await persist(self, held, made, seen)

    patch.setattr(Controller, "_persist", late)


def _members_reserve_beside_one_another(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(controller, "reserves_more", lambda *_: False)


class Ablation(NamedTuple):
    """`seeds` of `world` are the lives within which the lack of it is found; `wide` is the share of them that are."""

    take_out: Callable[[pytest.MonkeyPatch], None]
    world: str
    seeds: range
    wide: float = 0.0  # what else happens there makes others hard to see


ABLATIONS = {
    "granted limits": Ablation(_no_money_granted, "local", range(200)),
    "durable checkpoints in the record": Ablation(_checkpoints_are_not_taken_over, "local", range(200)),
    "waiting for late effects": Ablation(_late_effects_are_not_waited_for, "local", range(300)),
    "what earlier attempts have cost": Ablation(_earlier_attempts_cost_nothing, "local", range(450, 600)),
    "client token": Ablation(_a_token_of_its_own_for_each_sending, "rented", range(50)),
    "a token for each zone": Ablation(_one_token_for_all_choices, "rented", range(35, 45)),
    "must_see": Ablation(_absence_is_evidence, "rented", range(50)),
    "seen terminated": Ablation(_an_end_that_was_asked_for_is_a_release, "rented", range(50)),
    "reserve and ceiling": Ablation(_nothing_is_reserved, "rented", range(80, 90)),
    "launch_before": Ablation(_requests_are_sent_at_any_time, "rented", range(15, 25)),
    "late requests": Ablation(_late_requests_are_not_waited_for, "rented", range(118, 123)),
    "release": Ablation(_machines_are_not_released, "rented", range(10, 15)),
    "compare-and-set": Ablation(_whoever_writes_last_is_right, "rented", range(2422, 2426)),
    "lease": Ablation(_leases_are_not_asked_for, "local", range(1885, 1890)),
    "host lock": Ablation(_two_at_once_on_a_machine, "local", range(10)),
    "launch intent": Ablation(_effects_come_before_intents, "rented", range(155, 160)),
    "strays": Ablation(_strays_are_not_cared_for, "rented", range(10, 20)),
    "machines of a job that moved": Ablation(_what_moved_away_is_forgotten, "rented", range(130, 135)),
    "version of a group": Ablation(_members_reserve_beside_one_another, "rented", range(30, 35), wide=1.0),
    "what is spent in a group": Ablation(_what_is_spent_comes_back, "rented", range(190, 195)),
}


@pytest.mark.parametrize("safeguard", ABLATIONS)
def test_a_safeguard_that_is_missing_is_missed(safeguard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken out from the test's side, it is found to be missing by what happens in the world, within these lives."""
    ablation = ABLATIONS[safeguard]
    ablation.take_out(monkeypatch)
    monkeypatch.setattr(living, "lint", lambda *_: [])
    monkeypatch.setattr(wide, "WIDE", ablation.wide)
    with Simulation() as simulation, pytest.raises(Violation):
        for seed in ablation.seeds:
            simulation.life(seed, kind=WORLDS[ablation.world])


def test_a_violation_says_how_to_live_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed, commit, phase, what happened last, and the one command."""
    broken = ABLATIONS["host lock"]
    broken.take_out(monkeypatch)
    monkeypatch.setattr(living, "lint", lambda *_: [])
    monkeypatch.setattr(wide, "WIDE", 0.0)
    (seed, report), *_ = live("local", broken.seeds).broken
    _, place, *log, again = report.splitlines()
    assert place.startswith(f"seed {seed}, {version()}, storm, at ")
    assert log[0].endswith("controller 0 starts")
    assert again == f"again: python -m tests.simulation --world local --seed {seed}"


def test_a_silenced_fault_never_strikes() -> None:
    """A life can be made calmer fault by fault, and stays the same life otherwise."""
    with Simulation() as simulation:
        quiet = simulation.life(89, silenced=frozenset(FAULTS))
    assert not any(each.startswith("crash") or "killed" in each for each in quiet.counts)


# Lives that broke a promise once, and what was wrong with the product.
REGRESSIONS = {
    (
        "local",
        2495,
    ): "a launch with a late effect counted as refused, as its second sending was: nobody cared for it",
    ("local", 2970): "the same, and the next attempt began at zero beside what it had made durable",
    ("rented", 300049): "two jobs that tried every offer sent more requests at once than EC2 takes",
    ("local", 1001844): "a controller that had slept asked a job to make room for one that was gone",
    ("local", 7030): "a cap that was raised and lowered again before a controller came was held at its highest",
    ("local", 13776): "an attempt that was vouched for before anybody had noted its start wasn't billed",
    ("rented", 665): "a copy of a machine with the tags of a job that rests: each controller cared for others alone",
    ("rented", 2003307): "a controller that had slept cared for ever for a job that another had removed meanwhile",
    ("rented", 30010643): "an attempt started again on a machine that was wiped numbered its checkpoints from 1",
    (
        "local",
        40038750,
    ): "a controller that had slept removed the directories of an attempt that another had started",
    ("local", 50092570): "a cap that was lowered while nobody knew that the agent had died made its death cheaper",
    ("rented", 60088919): "three controllers, each within its own share, asked for machines more often than EC2 allows",
    ("rented", 60102763): "an attempt that was started again on a wiped machine began anew, beside its own checkpoints",
    ("rented", 1004631): "a machine that three listings in a row lacked counted as gone, and was billed",
}


@pytest.mark.parametrize(("world", "seed"), REGRESSIONS)
def test_what_broke_once(world: str, seed: int) -> None:
    with Simulation() as simulation:
        simulation.life(seed, kind=WORLDS[world])
