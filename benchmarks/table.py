"""Rows of results, and the machine that they are true of."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple


class Settings(NamedTuple):
    """`rounds`: how often each thing is measured; `minutes`: length of the trainings that are watched;
    `directory`: where files are written (the disk that is measured)."""

    rounds: int
    minutes: float
    directory: Path


class Row(NamedTuple):
    """`result` and `target` in the same unit; `base` is what a ratio was taken against, in absolute numbers."""

    what: str
    result: str
    target: str
    base: str


def machine(directory: Path) -> list[str]:
    """What the numbers depend on, without anything that names the machine."""
    cpu = platform.processor() or platform.machine()
    memory = ""
    if sys.platform == "linux":
        models = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        cpu = models[0] if models else cpu
        total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
        memory = f", {int(total.split()[1]) / 2**20:.0f} GiB memory"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("typer", "pydantic", "PyYAML", "msgspec"))
    return [
        f"- {cpu}, {os.cpu_count()} cores{memory}; {platform.system()} {platform.release().split('-')[0]}",
        f"- {platform.python_implementation()} {platform.python_version()}; {libraries}",
        f"- files on {filesystem(directory)}; load at the start {os.getloadavg()[0]:.1f}",
    ]


def filesystem(directory: Path) -> str:
    """The kind of file system that holds the directory, as the kernel's table of mounts names it."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "an unknown file system"
    here = str(directory.resolve())
    rows = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    under = [(len(point), kind) for point, kind in rows if here == point or here.startswith(point.rstrip("/") + "/")]
    return max(under)[1]


def markdown(rows: Iterable[Row]) -> str:
    lines = ["| what | result | target | measured against |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {row.what} | {row.result} | {row.target} | {row.base} |" for row in rows])
