"""The project's whole check, in one command: style, types, layers, coverage, tests.

Stops after the first stage that fails and shows its output. pytest's own closing line comes last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
# Most tests wait for processes most of the time: more workers than the two cores that this is planned for.
WORKERS = "10"
PURE_TESTS = ["tests/manifest", "tests/planner"]
AGENTLESS_TESTS = [
    f"tests/{name}"
    for name in ("store", "reconciler", "providers", "transports", "checkpoints", "workspace", "examples", "simulation")
]
# Many machines at once, which leave little of the processor to others: beside nothing that is timed.
KILLS = "tests/acceptance/test_kills.py"


class Stage(NamedTuple):
    """`told`: how many of the first lines that it prints are shown when it succeeds."""

    name: str
    argv: list[str]
    told: int = 0


def tool(name: str, *args: str) -> list[str]:
    """A tool of the environment that this script runs in, never another one from PATH."""
    return [str(TOOLS / name), *args]


# Whatever has a stage of its own.
IGNORED = [f"--ignore={path}" for path in (KILLS, *PURE_TESTS, *AGENTLESS_TESTS)]

# Lines of stages that are run side by side: what is pure or doesn't wait takes what the others leave of the processor.
STATIC = [
    Stage("ruff check", tool("ruff", "check", "--quiet", "--output-format", "concise")),
    Stage("ruff format", tool("ruff", "format", "--check", "--quiet")),
    Stage("layers", tool("lint-imports", "--no-cache")),
    Stage("types", tool("mypy")),
]
# Pure code is held to every branch by its own tests alone; no other test is traced. Nor are property tests: no branch
# may hang on what they happen to find, and what generates their examples has far more lines than the code.
PURE = [
    Stage(
        "tests of manifest and planner",
        ["nice", *tool("coverage", "run", "-m", "pytest", "-q", "-m", "not hypothesis", *PURE_TESTS)],
    ),
    Stage("their branch coverage", tool("coverage", "report")),
    Stage("their property tests", ["nice", *tool("pytest", "-q", "-m", "hypothesis", *PURE_TESTS)]),
]
# One test at a time to each worker: the longest ones stand side by side and would all be dealt to the same one.
# Plugins that none of them uses aren't loaded into each: one imports its whole library as a worker ends.
DEALT = ["-n", WORKERS, "--dist", "load", "--maxschedchunk", "1"]
EVERYTHING = tool("pytest", "-q", *DEALT, "-p", "no:anyio", "-p", "no:hypothesispytest", *IGNORED)
# Once, before many workers would each compile all tests at the same time.
COMPILING = Stage("collection", ["nice", *tool("pytest", "-q", "--collect-only", *IGNORED)])
KILLING = [Stage("two hundred kills", tool("pytest", "-q", "-n", "2", KILLS))]
# In seconds: other lives each time, so that the promises are asked about worlds that nobody has thought of. They take
# what the tests that wait leave, and are over before these.
LIVES = Stage(
    "simulated lives",
    ["nice", "-n", "19", *tool("python", "-m", "tests.simulation", "--plain", "--seconds", "60")],
    told=2,
)
UNTIMED = [Stage("tests without an agent", ["nice", *tool("pytest", "-q", "-n", "2", *AGENTLESS_TESTS)])]


def environment() -> dict[str, str]:
    """The tests start the program hundreds of times: without byte code each start compiles it anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run_line(stages: list[Stage], failed: Event) -> None:
    """Run the stages in order until one fails, here or in the other line."""
    for stage in stages:
        if failed.is_set():
            return
        started = time.monotonic()
        done = subprocess.run(
            stage.argv,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode != 0:
            failed.set()
            sys.stdout.write(done.stdout.decode(errors="replace"))
            print(f"failed: {stage.name} (`{' '.join(stage.argv)}`, exit code {done.returncode})", flush=True)
        else:
            told = "".join(f"; {line}" for line in done.stdout.decode(errors="replace").splitlines()[: stage.told])
            print(f"ok: {stage.name} ({time.monotonic() - started:.0f} s){told}", flush=True)


def begin(stages: list[Stage], failed: Event) -> Thread:
    line = Thread(target=run_line, args=(stages, failed))
    line.start()
    return line


def main() -> None:
    failed = Event()
    for line in [begin(stages, failed) for stages in ([*STATIC, *UNTIMED], [*PURE, COMPILING], KILLING)]:
        line.join()
    if failed.is_set():
        raise SystemExit(1)
    lives = begin([LIVES], failed)
    code = subprocess.call(EVERYTHING, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL)
    lives.join()
    raise SystemExit(code or int(failed.is_set()))


if __name__ == "__main__":
    main()
