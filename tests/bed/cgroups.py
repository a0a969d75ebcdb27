"""The control group of a host: its memory, and whether its processes get any time. Version 1 and 2."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PARENT = "runctl-bed"
# A group whose last process has just gone is busy for a moment.
EMPTY_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Cgroup:
    """`groups` are its directories: one with version 2, one for each controller with version 1."""

    memory: Path
    freezer: Path

    @property
    def groups(self) -> list[Path]:
        return sorted({self.memory, self.freezer})

    @property
    def is_unified(self) -> bool:
        return self.memory == self.freezer

    def make(self, memory_bytes: int) -> None:
        for group in self.groups:
            group.mkdir(parents=True, exist_ok=True)
        if self.is_unified:
            (self.memory / "memory.max").write_text(str(memory_bytes))
            with suppress(OSError):  # not where swap isn't accounted
                (self.memory / "memory.swap.max").write_text("0")
            return
        (self.memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
        with suppress(OSError):
            (self.memory / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))

    def freeze(self) -> None:
        self._set_frozen("1", "FROZEN")

    def thaw(self) -> None:
        self._set_frozen("0", "THAWED")

    def _set_frozen(self, flag: str, state: str) -> None:
        """Returns when it is so."""
        if self.is_unified:
            (self.freezer / "cgroup.freeze").write_text(flag)
        else:
            (self.freezer / "freezer.state").write_text(state)
        end = time.monotonic() + EMPTY_WITHIN_S
        while time.monotonic() < end:
            if self.is_unified:
                words = (self.freezer / "cgroup.events").read_text().split()
                if words[words.index("frozen") + 1] == flag:
                    return
            elif (self.freezer / "freezer.state").read_text().strip() == state:
                return
            time.sleep(0.01)
        raise TimeoutError(f"{self.freezer} isn't {state}")

    def pids(self) -> list[int]:
        found: set[int] = set()
        for group in self.groups:
            with suppress(FileNotFoundError):
                found |= {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
        return sorted(found)

    def remove(self) -> None:
        for group in self.groups:
            remove(group)


def cgroup(region: str, host: str) -> Cgroup:
    """The group of a host, not made yet."""
    name = f"{PARENT}/{region}/{host}"
    memory, freezer = roots()
    return Cgroup(memory / name, freezer / name)


def roots() -> tuple[Path, Path]:
    """Of memory and of the freezer; the same one with version 2."""
    if (ROOT / "memory").is_dir():
        return ROOT / "memory", ROOT / "freezer"
    return ROOT, ROOT


def prepare(region: str) -> None:
    """Make the groups above a region's hosts."""
    for root in sorted(set(roots())):
        for group in (root, root / PARENT, root / PARENT / region):
            group.mkdir(exist_ok=True)
            control = group / "cgroup.subtree_control"
            if control.exists():
                control.write_text("+memory")


def left(region: str) -> list[Path]:
    """The groups of a region that are there, the innermost first."""
    found: list[Path] = []
    for root in sorted(set(roots())):
        top = root / PARENT / region
        if top.is_dir():
            found += [each for each in top.iterdir() if each.is_dir()]
            found.append(top)
    return found


def tidy() -> None:
    """Take away what is above all regions, when the last one has gone."""
    for root in set(roots()):
        with suppress(OSError):
            (root / PARENT).rmdir()


def remove(group: Path) -> None:
    """Raises `TimeoutError` while there are processes in it."""
    end = time.monotonic() + EMPTY_WITHIN_S
    while time.monotonic() < end:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise TimeoutError(f"{group} isn't empty")
