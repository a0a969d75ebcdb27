"""The project's whole check, in one command: style, types, layers, coverage, tests.

Stops at the first stage that fails and shows its output. pytest's own closing line comes last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
WORKERS = "2"


class Stage(NamedTuple):
    name: str
    argv: list[str]


def tool(name: str, *args: str) -> list[str]:
    """A tool of the environment that this script runs in, never another one from PATH."""
    return [str(TOOLS / name), *args]


# One line of stages after the other; the two lines run side by side, one on each core.
STATIC = [
    Stage("ruff check", tool("ruff", "check", "--quiet")),
    Stage("ruff format", tool("ruff", "format", "--check", "--quiet")),
    Stage("layers", tool("lint-imports", "--no-cache")),
    Stage("types", tool("mypy")),
]
# Pure code is held to every branch by its own tests alone; the run of everything comes after, and is not traced.
PURE = [
    Stage(
        "tests of manifest and planner",
        tool("coverage", "run", "-m", "pytest", "-q", "tests/manifest", "tests/planner"),
    ),
    Stage("their branch coverage", tool("coverage", "report")),
]
EVERYTHING = tool("pytest", "-q", "-n", WORKERS, "--dist", "worksteal")


def environment() -> dict[str, str]:
    """The tests start the program hundreds of times: without byte code each start compiles it anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def start(stage: Stage, output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        stage.argv, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )


def run_side_by_side(lines: list[list[Stage]]) -> None:
    """Run each line of stages in order, the lines at the same time; the first failure ends all of them."""
    waiting = [list(line) for line in lines]
    running: dict[int, tuple[Stage, float, IO[bytes], subprocess.Popen[bytes]]] = {}
    while running or any(waiting):
        for index, line in enumerate(waiting):
            if index not in running and line:
                stage, output = line.pop(0), tempfile.TemporaryFile()
                running[index] = (stage, time.monotonic(), output, start(stage, output))
        time.sleep(0.05)
        for index, (stage, started, output, process) in list(running.items()):
            if process.poll() is None:
                continue
            del running[index]
            if process.returncode != 0:
                for *_, other in running.values():
                    other.kill()
                    other.wait()
                output.seek(0)
                sys.stdout.buffer.write(output.read())
                print(f"failed: {stage.name} (`{' '.join(stage.argv)}`, exit code {process.returncode})", flush=True)
                raise SystemExit(1)
            output.close()
            print(f"ok: {stage.name} ({time.monotonic() - started:.0f} s)", flush=True)


def main() -> None:
    run_side_by_side([STATIC, PURE])
    raise SystemExit(subprocess.call(EVERYTHING, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL))


if __name__ == "__main__":
    main()
