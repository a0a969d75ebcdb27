"""Measure and print the table: `python -m benchmarks [NAME …]`."""

from __future__ import annotations

import argparse
import compileall
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import runctl
from benchmarks import agent, controller, first_line, large, lives, planning, starting, state_writes, validation
from benchmarks.table import Row, Settings, machine, markdown

MEASUREMENTS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "starting": starting.measure,
    "validation": validation.measure,
    "first-line": first_line.measure,
    "agent": agent.measure,
    "controller": controller.measure,
    "planning": planning.measure,
    "lives": lives.measure,
    "state-writes": state_writes.measure,
    "large": large.measure,
}
# What is measured where it is asked for: it needs a GPU.
ON_DEMAND = frozenset(["large"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(MEASUREMENTS)} (default: all but large)"
    )
    parser.add_argument("--rounds", type=int, default=21, help="runs of each command (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="length of a watched training (default: %(default)s)"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path.cwd(),
        help="where files go; its disk is measured (default: here)",
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(MEASUREMENTS):
        parser.error(f"no measurement `{min(unknown)}`: choose from {', '.join(MEASUREMENTS)}")
    compileall.compile_dir(str(Path(runctl.__file__).parent), quiet=2)  # as an installation does
    with tempfile.TemporaryDirectory(dir=args.directory, prefix=".benchmark-") as name:
        settings = Settings(args.rounds, args.minutes, Path(name))
        header = machine(settings.directory)
        names = args.names or [name for name in MEASUREMENTS if name not in ON_DEMAND]
        rows = [row for name in names for row in MEASUREMENTS[name](settings)]
    print("\n".join(header), markdown(rows), sep="\n\n")


if __name__ == "__main__":
    main()
