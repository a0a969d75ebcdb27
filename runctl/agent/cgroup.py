"""The attempt's control group (Linux, version 2), where the agent may make one.

Whoever is born in it stays in it, whatever becomes of its parents, session, environment and open files. The process
tree and the environment are looked at, too: a group is often not to be had (containers, login sessions).
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Set

PREFIX = "runctl-"
_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def enter(run_id: str) -> bool:
    """Move this process into the attempt's group below its own, which is made for it; whether it is in it now."""
    path = _below_mine(run_id)
    for _ in range(2):  # an empty group may be swept away at any time
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            descriptor = os.open(os.path.join(path, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            os.write(descriptor, b"0")
            return True
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return False


def members(run_id: str) -> Set[int]:
    """The processes in the attempt's group below this process's own, zombies too."""
    path = _below_mine(run_id)
    return _members(path) if path else set()


def remove(run_id: str) -> None:
    """Take away the attempt's group, once it is empty."""
    path = _below_mine(run_id)
    if path:
        _remove(path)


def sweep() -> None:
    """Take away the empty groups below this process's own: of attempts whose guardian couldn't."""
    parent = os.path.dirname(_below_mine("any"))
    try:
        names = os.listdir(parent) if parent else []
    except OSError:
        return
    for name in names:
        if name.startswith(PREFIX):
            _remove(os.path.join(parent, name))


def members_anywhere(run_id: str) -> Set[int]:
    """The processes in an attempt's group, wherever its agent was started."""
    found: Set[int] = set()
    for path in _anywhere(run_id):
        found |= _members(path)
    return found


def remove_anywhere(run_id: str) -> None:
    """Take away an attempt's group, wherever its agent was started, once it is empty."""
    for path in _anywhere(run_id):
        _remove(path)


def _below_mine(run_id: str) -> str:
    """The directory of the attempt's group below this process's own; "" where there are no groups."""
    mount = _mount()
    if not mount or not _SAFE.fullmatch(run_id):
        return ""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if line.startswith("0::/"):
                    return os.path.join(mount, line[4:].rstrip("\n"), PREFIX + run_id)
    except OSError:
        pass
    return ""


def _mount() -> str:
    """Where the hierarchy of version 2 is mounted as a whole; "" where it isn't."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields, _, kind = line.partition(" - ")
                if kind.startswith("cgroup2 "):
                    _, _, _, root, point = fields.split(" ")[:5]
                    if root == "/":
                        return point
    except (OSError, ValueError):
        pass
    return ""


def _anywhere(run_id: str) -> Iterator[str]:
    mount = _mount()
    if mount and _SAFE.fullmatch(run_id):
        for directory, names, _ in os.walk(mount):
            if PREFIX + run_id in names:
                yield os.path.join(directory, PREFIX + run_id)


def _members(path: str) -> Set[int]:
    found: Set[int] = set()
    for directory, _, _ in os.walk(path):  # a training may make groups of its own in it
        try:
            with open(os.path.join(directory, "cgroup.procs"), "rb") as file:
                found.update(int(pid) for pid in file.read().split())
        except (OSError, ValueError):
            continue
    return found - {0}  # what this process's pid namespace can't see


def _remove(path: str) -> None:
    directories: List[str] = [directory for directory, _, _ in os.walk(path)]
    for directory in reversed(directories):
        try:
            os.rmdir(directory)
        except OSError:
            return
