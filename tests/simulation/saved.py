"""A run of many lives that goes on where it was left: it is longer than anybody waits for."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import msgspec

from .version import code
from .worlds import Summary


class CannotGoOn(Exception):
    """What was saved is of other lives; the message says how they differ."""


class Run(msgspec.Struct, kw_only=True):
    """Lives from seed `first` up to `next`, which is the first one that isn't lived yet. `code` is a checksum of
    what was run: lives of other code are other lives. `took`: seconds of a core."""

    code: str
    world: str
    plain: bool
    first: int
    next: int
    tallies: dict[str, dict[int, int]]
    met: dict[str, int]
    broken: list[tuple[int, str]]
    took: float

    @property
    def summary(self) -> Summary:
        return Summary(
            tallies={field: Counter(tally) for field, tally in self.tallies.items()},
            met=Counter(self.met), broken=list(self.broken), plain=self.plain, took=self.took,
        )  # fmt: skip


def begin(path: Path, world: str, first: int, plain: bool) -> Run:
    """The run that `path` holds, or a new one if it isn't there. Raises CannotGoOn."""
    empty = Summary.empty(plain)
    new = Run(
        code=code(), world=world, plain=plain, first=first, next=first, tallies=dict(empty.tallies),
        met={}, broken=[], took=0.0,
    )  # fmt: skip
    if not path.exists():
        return new
    try:
        old = msgspec.json.decode(path.read_bytes(), type=Run)
    except msgspec.DecodeError as error:
        raise CannotGoOn(f"{path}: {error}") from None
    for field in ("code", "world", "plain", "first"):
        was, asked = getattr(old, field), getattr(new, field)
        if was != asked:
            raise CannotGoOn(f"{path}: {field} was {was}, and is {asked} now: give another file")
    return old


def save(path: Path, run: Run, summary: Summary, lived_up_to: int) -> Run:
    """Note what has been lived so far; whatever ends the process, the file is the old one or the new one."""
    run = msgspec.structs.replace(
        run, next=lived_up_to, tallies={field: dict(tally) for field, tally in summary.tallies.items()},
        met=dict(summary.met), broken=summary.broken, took=summary.took,
    )  # fmt: skip
    written = path.with_name(f"{path.name}.new")
    written.write_bytes(msgspec.json.encode(run) + b"\n")
    os.replace(written, path)
    return run
