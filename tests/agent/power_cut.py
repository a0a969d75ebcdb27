"""Every disk that a power cut may leave of what a piece of code does to files.

`Recorder` lets real code work on a real directory, looks at that directory before each call that may change it, and
keeps beside it what of it would survive: content of a file that was synced, names of a directory that was synced. Each
such moment is a crash point, and `disks_at` lists what may be found after a cut there. Nobody has to name the points,
and code that writes past the intercepted calls (buffered files) is seen at the next one.

Stricter than any one file system: names that weren't synced may survive alone, in order, or not at all; content that
wasn't synced may be there, half there, zeros of the right length, or not there, whatever its name does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import runctl

PRODUCT = str(Path(runctl.__file__).parent)
# Calls before which the directory is looked at. What isn't here is seen at the next that is.
CHANGING = (
    "open", "write", "pwrite", "writev", "copy_file_range", "sendfile", "ftruncate", "truncate", "rename", "replace",
    "link", "unlink", "remove", "mkdir", "rmdir", "symlink", "fsync", "fdatasync",
)  # fmt: skip
SYNCING = ("fsync", "fdatasync")
# A file system's clock moves in steps: a file that changed this recently may change again without its mtime.
CLOCK_STEP_NS = 50_000_000
# Of more names than this that wait to be synced, not each may be the only one that survives, or doesn't.
MANY = 6
# What lies under such a name is never read, only swept: disks that differ in nothing else are judged once.
SCRAP = re.compile(r"\.tmp$|/\.(partial|doomed|restoring|agent)-|/\.exit\.reserve$")


class Found(NamedTuple):
    """A file of a disk; `content` is None for a directory."""

    content: bytes | None
    mtime_ns: int


Disk = tuple[tuple[str, Found], ...]


class Cut(NamedTuple):
    """A disk that may be left, what had been promised by then, and where it was."""

    disk: Disk
    promised: tuple[Any, ...]
    before: str


class Node:
    """A file or directory, whatever its names: what is synced of it, and what it has been since."""

    __slots__ = (
        "content",
        "is_directory",
        "mtime_ns",
        "names",
        "synced",
        "synced_mtime_ns",
        "synced_names",
        "versions",
    )

    def __init__(self, is_directory: bool) -> None:
        self.is_directory = is_directory
        self.content = b""
        self.mtime_ns = 0
        self.synced = b""
        self.synced_mtime_ns = 0
        self.versions: list[bytes] = []
        self.names: dict[str, int] = {}
        self.synced_names: dict[str, int] = {}


class Renaming(NamedTuple):
    """Names that change together or not at all: (directory, name, what it leads to from then on or None)."""

    changes: tuple[tuple[int, str, int | None], ...]


class Recorder:
    """Records what happens below `root` while it is `watching`. What is there before is on the disk."""

    def __init__(self, root: Path, deaf: Callable[[str], bool] = lambda where: False) -> None:
        """`deaf`: which syncs have no effect, by where they are called from; for breaking the product on purpose."""
        self._root = str(root)
        self._deaf = deaf
        self._nodes: dict[int, Node] = {}
        self._ids: dict[int, int] = {}
        self._numbers = itertools.count()
        self._read: dict[int, tuple[int, int, bytes]] = {}
        self._pending: list[Renaming] = []
        self.promised: list[tuple[Any, ...]] = []
        self._seen: set[tuple[Disk, int]] = set()
        self._state: object = None
        self.points = 0
        self.syncs: dict[str, int] = {}
        self.cuts: list[Cut] = []
        self._top = self._identify(os.stat(self._root))
        self._look()
        self._settle_all()

    def promise(self, *what: Any) -> None:
        """Somebody has been told this: from now on it must hold after a cut."""
        self.promised.append(what)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in CHANGING if hasattr(os, name)}
        for name, call in real.items():
            setattr(os, name, self._watched(name, call))
        try:
            yield
            self._point("the end")
        finally:
            for name, call in real.items():
                setattr(os, name, call)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            concerned = self._concerns(name, arguments, options)
            if concerned:
                self._point(f"{name} in {_where()}")
            if concerned and name in SYNCING:
                return self._sync(arguments[0])
            return call(*arguments, **options)

        return watched

    def _concerns(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if name == "open" and not arguments[1] & (os.O_CREAT | os.O_TRUNC):
            return False
        if name == "copy_file_range":
            return True
        first = arguments[0]
        if isinstance(first, int):
            return os.readlink(f"/proc/self/fd/{first}").startswith(self._root)
        return options.get("dir_fd") is not None or os.path.abspath(os.fsdecode(first)).startswith(self._root)

    def _point(self, before: str) -> None:
        """A cut may come here."""
        self._look()
        self.points += 1
        promised = tuple(self.promised)
        for disk in self._disks():
            key = (tuple(each for each in disk if not SCRAP.search(each[0])), len(promised))
            if key not in self._seen:
                self._seen.add(key)
                self.cuts.append(Cut(disk, promised, before))

    # What is there

    def _identify(self, found: os.stat_result) -> int:
        if found.st_ino not in self._ids:
            number = self._ids[found.st_ino] = next(self._numbers)
            self._nodes[number] = Node(stat.S_ISDIR(found.st_mode))
        return self._ids[found.st_ino]

    def _look(self) -> None:
        """Bring the nodes up to date, and note which names have changed."""
        alive: set[int] = set()
        changed: list[tuple[int, str, int | None, int | None]] = []
        queue = [(self._top, self._root)]
        inodes = {os.stat(self._root).st_ino}
        while queue:
            number, path = queue.pop()
            node, names = self._nodes[number], {}
            with os.scandir(path) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    inodes.add(found.st_ino)
                    inner = names[entry.name] = self._identify(found)
                    alive.add(inner)
                    if stat.S_ISDIR(found.st_mode):
                        queue.append((inner, entry.path))
                    else:
                        self._read_again(inner, entry.path, found)
            changed += [
                (number, name, node.names.get(name), names.get(name))
                for name in node.names.keys() | names.keys()
                if node.names.get(name) != names.get(name)
            ]
            node.names = names
        self._ids = {inode: number for inode, number in self._ids.items() if inode in inodes}
        self._pending += _together(changed)

    def _read_again(self, number: int, path: str, found: os.stat_result) -> None:
        node, before = self._nodes[number], self._read.get(number)
        fresh = before is not None and before[:2] == (found.st_mtime_ns, found.st_size)
        if fresh and before is not None and before[2] == b"old":
            return
        with open(path, "rb") as file:
            content = file.read()
        is_old = time.time_ns() - found.st_mtime_ns > CLOCK_STEP_NS
        self._read[number] = (found.st_mtime_ns, found.st_size, b"old" if is_old else b"")
        node.mtime_ns = found.st_mtime_ns
        if content != node.content:
            node.versions.append(content)
            node.content = content

    # What is on the disk

    def _settle_all(self) -> None:
        self._pending = []
        for node in self._nodes.values():
            self._settle(node)

    @staticmethod
    def _settle(node: Node) -> None:
        node.synced, node.synced_mtime_ns, node.versions = node.content, node.mtime_ns, []
        node.synced_names = dict(node.names)

    def _sync(self, descriptor: int) -> None:
        where = _where()
        self.syncs[where] = self.syncs.get(where, 0) + 1
        if self._deaf(where):
            return
        number = self._ids.get(os.fstat(descriptor).st_ino)
        if number is None:
            return  # it has no name any more
        node = self._nodes[number]
        if not node.is_directory:
            node.synced, node.synced_mtime_ns, node.versions = node.content, node.mtime_ns, []
            return
        reached = [each for each in self._pending if any(change[0] == number for change in each.changes)]
        for renaming in reached:
            self._pending.remove(renaming)
            for directory, name, target in renaming.changes:
                _lead(self._nodes[directory].synced_names, name, target)

    # What may be found

    def _disks(self) -> Iterator[Disk]:
        for survivors in _subsets(self._pending):
            files = self._reach(self._names_with(survivors))
            unsynced = [
                number for path, number in files.items() if self._nodes[number].versions and not SCRAP.search(path)
            ]
            extreme = len(survivors) in (0, len(self._pending))
            for contents in itertools.islice(self._contents(unsynced), None if extreme else 2):
                yield self._disk(files, contents)

    def _names_with(self, survivors: list[Renaming]) -> dict[int, dict[str, int]]:
        changed: dict[int, dict[str, int]] = {}
        for renaming in survivors:
            for directory, name, target in renaming.changes:
                names = changed.setdefault(directory, dict(self._nodes[directory].synced_names))
                _lead(names, name, target)
        return changed

    def _reach(self, changed: dict[int, dict[str, int]]) -> dict[str, int]:
        """Paths below the root, and what they lead to."""
        found: dict[str, int] = {}
        queue = [("", self._top)]
        while queue:
            prefix, number = queue.pop()
            for name, inner in changed.get(number, self._nodes[number].synced_names).items():
                found[prefix + name] = inner
                if self._nodes[inner].is_directory:
                    queue.append((f"{prefix}{name}/", inner))
        return found

    def _contents(self, unsynced: list[int]) -> Iterator[dict[int, bytes]]:
        nodes = self._nodes
        yield {}
        if not unsynced:
            return
        current = {number: nodes[number].content for number in unsynced}
        yield current
        for damage in (_half, _zeros):
            yield {number: damage(nodes[number].synced, nodes[number].content) for number in unsynced}
        for number in unsynced:
            for version in (nodes[number].synced, *nodes[number].versions[:-1]):
                yield {**current, number: version}
            if len(unsynced) > 1:
                yield {number: current[number]}

    def _disk(self, files: dict[str, int], contents: dict[int, bytes]) -> Disk:
        disk = []
        for path, number in sorted(files.items()):
            node = self._nodes[number]
            if node.is_directory:
                disk.append((path, Found(None, 0)))
            elif number in contents:
                disk.append((path, Found(contents[number], node.mtime_ns)))
            else:
                disk.append((path, Found(node.synced, node.synced_mtime_ns)))
        return tuple(disk)


def _where() -> str:
    """The callers outside of this module and of the standard library, innermost first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PRODUCT):
            module = file.rpartition("/")[2].removesuffix(".py")
            found.append(f"{module}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found) or "the test"


def _lead(names: dict[str, int], name: str, target: int | None) -> None:
    if target is None:
        names.pop(name, None)
    else:
        names[name] = target


def _together(changed: list[tuple[int, str, int | None, int | None]]) -> list[Renaming]:
    """Changes of names as the file system made them: what lost one name and got another was renamed."""
    lost = {before: (directory, name) for directory, name, before, after in changed if after is None}
    moved = {lost[after]: (directory, name) for directory, name, _, after in changed if after in lost}
    targets = set(moved.values())
    found = []
    for directory, name, _, after in changed:
        if (directory, name) in moved:
            continue
        changes = [(directory, name, after)]
        if (directory, name) in targets:
            changes += [(*source, None) for source, target in moved.items() if target == (directory, name)]
        found.append(Renaming(tuple(changes)))
    # What is made comes before what is taken away: an order in which each of them makes sense.
    return sorted(found, key=lambda renaming: renaming.changes[0][2] is None)


def _subsets(pending: list[Renaming]) -> Iterator[list[Renaming]]:
    """Which of the names that weren't synced survive: those before some moment, one alone, or all but one."""
    count = len(pending)
    first = max(0, count - MANY)
    yield []
    for end in range(max(1, first), count + 1):
        yield pending[:end]
    for index in range(max(1, first), count):
        yield [pending[index]]
        if index < count - 1:
            yield pending[:index] + pending[index + 1 :]
    if count > 1:
        yield pending[1:]


def _half(synced: bytes, content: bytes) -> bytes:
    """Of what was written since, the first half arrived; of a file written anew, too."""
    pairs = enumerate(zip(synced, content, strict=False))
    same = next((index for index, (was, now) in pairs if was != now), min(len(synced), len(content)))
    middle = (same + len(content)) // 2
    return content[:middle] + synced[middle : len(content)]


def _zeros(synced: bytes, content: bytes) -> bytes:
    """The new length arrived, what was written since didn't."""
    return synced[: len(content)].ljust(len(content), b"\0")


@contextlib.contextmanager
def unsynced() -> Iterator[None]:
    """Syncs cost nothing here: what is looked at is gone at once."""
    real = {name: getattr(os, name) for name in SYNCING}
    for name in real:
        setattr(os, name, lambda _descriptor: None)
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)


def lay_out(disk: Disk, root: Path) -> None:
    """Make `root` that disk and nothing else."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    prefix = f"{root}/"
    for path, found in disk:
        if found.content is None:
            os.mkdir(prefix + path)
            continue
        descriptor = os.open(prefix + path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, found.content)
        os.close(descriptor)
        os.utime(prefix + path, ns=(found.mtime_ns, found.mtime_ns))
