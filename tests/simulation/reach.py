"""Which branches of the planner lives take, and which none of them does."""

from __future__ import annotations

import ast
import gc
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import coverage

from runctl.reconciler import applying, controller, grouping

from . import living
from .worlds import Summary, live

PLANNER = Path(__file__).parents[2] / "runctl" / "planner"

# What no controller runs while it cares for a job, by module or function.
BESIDES = {
    "lint": "the judge's own word on each plan",
    "preview": "what `plan` and `apply` print before anything is asked for",
    "reminders.standing": "the warnings that `status` prints",
    "reminders.unheard": "the same, of hosts that can't be asked",
}


class Branch(NamedTuple):
    """From one line of a module to another one; 0: out of the function."""

    module: str
    line: int
    to: int

    def __str__(self) -> str:
        return f"runctl/planner/{self.module}.py:{self.line} -> {self.to or 'exit'}"

    @property
    def text(self) -> tuple[str, str]:
        """The two lines, without what they are indented by: they outlive an edit above them."""
        lines = (PLANNER / f"{self.module}.py").read_text().splitlines()
        return lines[self.line - 1].strip(), lines[self.to - 1].strip() if self.to else "exit"


class Reach(NamedTuple):
    """Of how many branches which ones weren't taken, a few of the lives that take all the others (twice, where more
    than one does), and what else the lives had to tell."""

    branches: int
    missed: tuple[Branch, ...]
    few: tuple[int, ...]
    found: Summary


def reach(world: str, seeds: Iterable[int]) -> Reach:
    """Live these lives and watch the planner."""
    measured = coverage.Coverage(
        data_file=None, config_file=False, branch=True, timid=False, include=[f"{PLANNER}/*.py"], messages=False
    )
    # Its modules were imported before: what they did then is none of the lives'.
    measured.set_option("run:disable_warnings", ["already-imported", "module-not-measured"])
    with watched(measured):
        found = live(world, _each_apart(measured, seeds))
    for _ in range(3):  # what is buried is collected here, and not among whatever comes next
        gc.collect()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    branches, missed, takers = 0, [], _takers(measured)
    by: dict[int, set[Branch]] = {}
    for path, told in sorted(files.items()):
        module = Path(path).stem
        apart = _besides(module)
        taken = _branches(module, told["executed_branches"], apart)
        left = _branches(module, told["missing_branches"], apart)
        branches += len(taken) + len(left)
        missed += left
        for branch in taken:
            for seed in takers.get(branch, ()):
                by.setdefault(seed, set()).add(branch)
    return Reach(branches, tuple(missed), few(by), found)


def _each_apart(measured: coverage.Coverage, seeds: Iterable[int]) -> Iterator[int]:
    for seed in seeds:
        measured.switch_context(str(seed))
        yield seed


def _takers(measured: coverage.Coverage) -> dict[Branch, list[int]]:
    """Which lives go from one line to another one, be that a branch or the only way."""
    data = measured.get_data()
    takers: dict[Branch, list[int]] = {}
    for seed in data.measured_contexts() - {""}:
        data.set_query_context(seed)
        for path in data.measured_files():
            for line, to in data.arcs(path) or ():
                takers.setdefault(Branch(Path(path).stem, line, max(0, to)), []).append(int(seed))
    data.set_query_contexts(None)
    return takers


def few(takes: Mapping[int, Set[Branch]], times: int = 2) -> tuple[int, ...]:
    """Lives in which each branch is taken that often, or as often as in all of them: always the one that adds most."""
    lacking = {
        branch: min(times, count) for branch, count in Counter(chain.from_iterable(takes.values())).items()
    }  # fmt: skip
    left, chosen = dict(takes), []
    while any(lacking.values()):
        best = max(left, key=lambda seed: (sum(lacking[branch] > 0 for branch in left[seed]), -seed))
        chosen.append(best)
        for branch in left.pop(best):
            lacking[branch] = max(0, lacking[branch] - 1)
    return tuple(sorted(chosen))


@contextmanager
def watched(measured: coverage.Coverage) -> Iterator[None]:
    """Traced is what asks the planner, and nothing beside it: the world has far more lines than the planner."""
    asks: tuple[tuple[Any, str], ...] = (
        (living, "plan"), (applying, "anticipate"), (applying, "decide"), (grouping, "committed"),
        (controller, "reserves_more"),
    )  # fmt: skip
    originals = [getattr(module, name) for module, name in asks]
    before = sys.gettrace()
    measured.start()
    tracer = sys.gettrace()
    sys.settrace(before)
    for (module, name), original in zip(asks, originals, strict=True):
        setattr(module, name, _traced(tracer, original))
    try:
        yield
    finally:
        for (module, name), original in zip(asks, originals, strict=True):
            setattr(module, name, original)
        sys.settrace(tracer)
        measured.stop()


def _traced(tracer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """Starting and stopping the measurement for each call would take longer than the call."""

    def traced(*arguments: Any, **named: Any) -> Any:
        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            return original(*arguments, **named)
        finally:
            sys.settrace(before)

    return traced


def _branches(module: str, pairs: list[list[int]], apart: set[int]) -> list[Branch]:
    return [Branch(module, line, max(0, to)) for line, to in pairs if line not in apart]


def _besides(module: str) -> set[int]:
    """The lines of a module that are none of a life's."""
    text = (PLANNER / f"{module}.py").read_text()
    if module in BESIDES:
        return set(range(1, len(text.splitlines()) + 1))
    return {
        line
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and f"{module}.{node.name}" in BESIDES
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
