"""What appears in the checkpoint directory: candidates, and when they may be taken as whole.

The directory is read when its own mtime says that names have changed; besides, only the newest few are looked at. A
directory of ten thousand costs as much as it changes.
"""

from __future__ import annotations

import os
import stat
import time

from runctl.checkpoints import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

    Json = Dict[str, Any]
    Key = Tuple[int, ...]

# Of what is new at once, so many are looked at; the others are older, and would be pruned at once.
HOT = 64
# So many of those that are done are looked at again, for a script that writes over its last one.
HOT_DONE = 4
# A candidate that hasn't changed for this long is stable.
STABLE_SECONDS = 1.0
# A directory gets its files one after the other, and doesn't say which is the last: the same for a directory, at first
# and at most.
SETTLING_SECONDS = 10.0
LONGEST_SETTLING = 300.0
# Between two readings of the directory so many times the CPU time of the last one: a bound on the share of a core.
DUTY = 100
LONGEST_REST = 5.0
# A directory that was changed this recently may be changed again within the resolution of its mtime.
RACY_SECONDS = 1.5
MAX_WALK = 20_000
# What nobody syncs is on the disk after this: Linux writes back what is 30 s old, every 5 s, and its file systems
# commit every 5 s to 30 s.
UNWRITTEN_SECONDS = 60.0
# Of these, one that lacks its end looks like a whole one.
UNPROVEN = frozenset(("opaque", "pickle", "directory"))
# Nor do these say of each byte that it is the one that was written: after a power cut a size may be right, and the
# content zeros.
UNSUMMED = UNPROVEN | {"npy", "json", "safetensors"}
# Formats that say themselves whether they are whole, so that waiting isn't needed.
SELF_PROVING = frozenset(("torch", "zip", "npz", "safetensors"))


class CutOff:
    """An end that may have come in the middle of a save, `at` that wall-clock instant. `answered`: the training ended
    by itself and well when it was told to, so that what it began to save only then is whole. `machine`: the machine
    went down with it.
    """

    __slots__ = ("answered", "at", "machine")

    def __init__(self, at: float, answered: bool = False, machine: bool = False) -> None:
        self.at = at
        self.answered = answered
        self.machine = machine


class Candidate:
    """One version of a file or directory that may be a checkpoint. Instants are of the active clock."""

    __slots__ = (
        "answers",
        "at",
        "changed_at",
        "followed",
        "given_up",
        "key",
        "kind",
        "mtime",
        "name",
        "noticed_at",
        "renamed",
        "retry_at",
        "seq",
        "size",
        "stable",
        "tried",
        "tries",
    )  # fmt: skip

    def __init__(self, name: str, kind: str, key: Key, mtime: float, size: int, renamed: bool, seq: int) -> None:
        self.name = name
        self.kind = kind
        self.key = key
        self.mtime = mtime
        self.size = size
        self.renamed = renamed
        self.seq = seq
        self.at = 0.0  # wall clock
        self.noticed_at = 0.0
        self.changed_at = 0.0
        self.stable = STABLE_SECONDS  # so long without a change, and it is whole
        self.answers = False  # begun when the training had been told to end: its last save
        self.followed = False  # a directory, and a newer one was begun since: nothing more comes into this one
        self.tried = False  # validated while fresh, and not valid then
        self.tries = 0  # of copying
        self.retry_at = 0.0
        self.given_up: Optional[str] = None

    def is_ready(self, now: float, still_writing: bool) -> bool:
        if now < self.retry_at:
            return False
        if not still_writing or self.followed or now - self.changed_at >= self.stable:
            return True
        return not self.tried and (self.kind in SELF_PROVING or self.renamed)

    @property
    def proven(self) -> bool:
        """More than time says that it is whole."""
        return self.renamed or self.followed

    def may_be_torn(self, end: Optional[CutOff]) -> bool:
        """Whether it may have been under way when the training ended."""
        return bool(self.doubted(end))

    def doubted(self, end: Optional[CutOff]) -> FrozenSet[str]:
        """The formats of which it is believed to be whole only by what it proves itself, for how the training ended."""
        if end is None:
            return frozenset()
        if end.machine and self.mtime > end.at - UNWRITTEN_SECONDS:
            return UNSUMMED
        if self.proven or (end.answered and self.answers) or self.mtime <= end.at - self.stable:
            return frozenset()
        return UNPROVEN

    @property
    def ready_at(self) -> float:
        """When it is stable, or to be tried again."""
        return max(self.retry_at, self.changed_at + self.stable)

    @property
    def order(self) -> Tuple[float, int, str]:
        """Newest last."""
        return (self.mtime, names.step_of(self.name) or names.epoch_of(self.name) or 0, self.name)


class Watch:
    """Finds candidates. `pending` are those that wait for their turn, `seen` counts all that were noticed."""

    def __init__(self, directory: str, format_kind: str) -> None:
        self._directory = directory
        self._format = format_kind
        self._known: Set[int] = set()
        self._done: Dict[str, Key] = {}
        self._done_changed_at: Dict[str, float] = {}
        self.settling = SETTLING_SECONDS  # of directories: longer once the script has shown that it takes longer
        self._directory_mtime: Optional[int] = None
        self._next_read = 0.0
        self._recognised = False
        self._before_the_word: Optional[Set[int]] = None
        self.pending: Dict[str, Candidate] = {}
        self.seen = 0
        self.skipped = 0

    def baseline(self) -> None:
        """Take what is there now as nobody's checkpoint."""
        for name, found in self._entries():
            self._known.add(_mark(name, found))
            key = self._key(name, found)
            if key is not None:
                self._done[name] = key
        self._trim_done()

    def resume(self, seen: int, settled: Dict[str, float], newest: Optional[str], began: float) -> None:
        """Go on where another watch was stopped, which had counted `seen`. `settled` has the wall-clock instants at
        which it had noticed what it was done with. Only what is newer than that, than the training's beginning, and
        than `newest`, the newest that is durable, is looked at.
        """
        self.seen = seen
        floor = began
        if newest is not None:
            floor = settled[newest]
            found = self._stat(newest)
            key = None if found is None else self._key(newest, found)
            if found is not None and key is not None:
                floor = min(floor, _changed_ns(found, key) / 1e9)
        for name, found in self._entries():
            key = self._key(name, found)
            if key is None or _changed_ns(found, key) / 1e9 <= max(floor, settled.get(name, floor)):
                self._known.add(_mark(name, found))

    def look(self, wall: float, now: float, force: bool) -> bool:
        """Bring `pending` up to date; whether anything is new."""
        changed = self._look(wall, now, force)
        directories = [candidate for candidate in self.pending.values() if candidate.kind == "directory"]
        newest = max((candidate.mtime for candidate in directories), default=0.0)
        for candidate in directories:
            # It stays so when the newer one is done with, and waits no more.
            candidate.followed = candidate.followed or candidate.mtime < newest
        return changed

    def _look(self, wall: float, now: float, force: bool) -> bool:
        changed = self._look_at_hot(wall, now)
        try:
            mtime = os.stat(self._directory).st_mtime_ns
        except OSError:
            return changed
        racy = time.time() - mtime / 1e9 < RACY_SECONDS
        if not force and (now < self._next_read or (mtime == self._directory_mtime and not racy)):
            return changed
        began = time.process_time()
        changed = self._read(wall, now) or changed
        self._directory_mtime = mtime
        self._next_read = now + min(LONGEST_REST, DUTY * (time.process_time() - began))
        return changed

    def mark(self) -> None:
        """The training is told to end now: what is there by now was begun before."""
        self._before_the_word = {hash(name) for name, _ in self._entries()}

    def done(self, candidate: Candidate) -> None:
        """That version needs no more attention."""
        if self.pending.get(candidate.name) is candidate:
            del self.pending[candidate.name]
        self._done.pop(candidate.name, None)
        self._done[candidate.name] = candidate.key
        self._done_changed_at[candidate.name] = candidate.changed_at
        self._trim_done()

    def touched(self, candidate: Candidate, now: float) -> None:
        """It changed while it was looked at: wait until it is stable."""
        candidate.changed_at = now
        candidate.tried = True

    def drop_superseded(
        self, keep: int, busy: Optional[Candidate], now: float, still_writing: bool, cut_off: Optional[CutOff]
    ) -> List[Candidate]:
        """Of those that wait, let go of what has `keep` newer ones that can be copied: retention would remove it at
        once. One that can't be judged yet, or may be torn, supersedes nothing: else a script that saves faster than its
        files settle would never have a durable checkpoint.
        """
        dropped: List[Candidate] = []
        newer = 0
        for candidate in sorted(
            (c for c in self.pending.values() if c is not busy), key=lambda c: c.order, reverse=True
        ):
            if newer >= keep:
                self.done(candidate)
                dropped.append(candidate)
            elif candidate.may_be_torn(cut_off):
                continue
            elif candidate.tries or candidate.is_ready(now, still_writing):
                newer += 1
        return dropped

    def take_skipped(self) -> int:
        count, self.skipped = self.skipped, 0
        return count

    def _entries(self) -> Iterator[Tuple[str, os.stat_result]]:
        """What may be a candidate by its name, one at a time: ten thousand stat results would be ten megabytes."""
        try:
            entries = os.scandir(self._directory)
        except OSError:
            return
        with entries:
            for entry in entries:
                if names.is_temporary(entry.name) or names.is_sidecar(entry.name) or entry.is_symlink():
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone since
                yield entry.name, found

    def _read(self, wall: float, now: float) -> bool:
        fresh: List[Tuple[str, os.stat_result]] = []
        marks: Set[int] = set()
        older = 0
        for name, found in self._entries():
            mark = _mark(name, found)
            marks.add(mark)
            if mark not in self._known and name not in self.pending:
                fresh.append((name, found))
                if len(fresh) >= 2 * HOT:
                    older += _keep_newest(fresh)
        older += _keep_newest(fresh)
        self.seen += older
        self.skipped += older
        taken = False
        for name, found in fresh:
            outcome = self._take(name, found, wall, now)
            taken = taken or outcome is True
            if outcome is None:
                marks.discard(_mark(name, found))
        self._known = marks
        if self._recognised:
            self._forget_unrecognised()
        return taken or older > 0

    def _take(self, name: str, found: os.stat_result, wall: float, now: float) -> Optional[bool]:
        """Make a candidate of an entry: True; False: it is none; None: it can't be said yet."""
        kind = self._kind(name, found)
        if kind is None:
            return None
        if kind == "none":
            return False
        key = self._key(name, found)
        if key is None:
            return None
        if self._done.get(name) == key:
            return False
        self.seen += 1
        changed = _changed_ns(found, key)
        # A rename sets the ctime alone; writing sets both.
        renamed = found.st_ctime_ns > changed
        candidate = Candidate(name, kind, key, changed / 1e9, key[2], renamed, self.seen)
        candidate.at, candidate.noticed_at, candidate.changed_at = wall, now, now
        candidate.stable = self.settling if kind == "directory" else STABLE_SECONDS
        candidate.answers = self._before_the_word is not None and hash(name) not in self._before_the_word
        self.pending[name] = candidate
        if kind not in ("opaque", "json", "pickle"):
            self._recognised = True
        return True

    def _kind(self, name: str, found: os.stat_result) -> Optional[str]:
        """The kind of candidate, `none`, or None while it can't be told."""
        if stat.S_ISDIR(found.st_mode):
            if names.is_sidecar_directory(name) or self._format not in ("auto", "directory", "command"):
                return "none"
            return "directory"
        if not stat.S_ISREG(found.st_mode) or self._format == "directory":
            return "none"
        if found.st_size == 0:
            return None
        if self._format == "command":
            return "command"
        kind = names.kind_of(name)
        if kind == "unknown":
            try:
                kind = names.kind_by_content(os.path.join(self._directory, name))
            except OSError:
                return None
        if self._format in ("torch", "safetensors", "npz"):
            others = {"torch": ("safetensors", "npz", "npy", "json"), "safetensors": ("torch", "npz", "npy", "json")}
            return "none" if kind in others.get(self._format, ("torch", "safetensors", "json")) else self._format
        if kind in ("opaque", "json", "npy") and self._recognised:
            return "none"
        return kind

    def _key(self, name: str, found: os.stat_result) -> Optional[Key]:
        """What changes when the content does: inode, files, bytes, newest change. None for an empty directory."""
        if not stat.S_ISDIR(found.st_mode):
            return (found.st_ino, 1, found.st_size, found.st_mtime_ns)
        return _walk(os.path.join(self._directory, name), found.st_ino)

    def _look_at_hot(self, wall: float, now: float) -> bool:
        changed = False
        for candidate in list(self.pending.values()):
            found = self._stat(candidate.name)
            key = None if found is None else self._key(candidate.name, found)
            if found is None:
                del self.pending[candidate.name]  # the script's own rotation
                changed = True
            elif key is not None and key != candidate.key:
                if candidate.kind == "directory":
                    candidate.stable = self._learn(candidate.key, key, now - candidate.changed_at)
                candidate.key, candidate.size, candidate.mtime = key, key[2], key[3] / 1e9
                candidate.changed_at, candidate.noticed_at, candidate.at = now, now, wall
                candidate.followed = False
                candidate.renamed = found.st_ctime_ns > _changed_ns(found, key)
                candidate.tried = candidate.kind not in SELF_PROVING and not candidate.renamed
                self._known.add(_mark(candidate.name, found))
        for name, done in list(self._done.items()):
            if name in self.pending:
                continue
            found = self._stat(name)
            key = None if found is None else self._key(name, found)
            if found is None:
                del self._done[name]
            elif key is not None and key != done and self._take(name, found, wall, now):
                if name in self._done_changed_at and self.pending[name].kind == "directory":
                    gap = now - self._done_changed_at[name]
                    self.pending[name].stable = self._learn(done, key, gap)
                self._known.add(_mark(name, found))
                changed = True
        return changed

    def _learn(self, before: Key, after: Key, gap: float) -> float:
        """How long a directory has to be unchanged from now on. One that got more files was not whole before, however
        long that was ago: this script takes its time between two files.
        """
        if after[1] > before[1]:
            self.settling = min(LONGEST_SETTLING, max(self.settling, 2 * gap))
        return self.settling

    def _stat(self, name: str) -> Optional[os.stat_result]:
        try:
            found = os.stat(os.path.join(self._directory, name), follow_symlinks=False)
        except OSError:
            return None
        return None if stat.S_ISLNK(found.st_mode) else found

    def _forget_unrecognised(self) -> None:
        """Files of no known format are checkpoints only where there are no others."""
        for name in [n for n, c in self.pending.items() if c.kind in ("opaque", "json")]:
            del self.pending[name]
            self.seen -= 1

    def _trim_done(self) -> None:
        while len(self._done) > HOT_DONE:
            name = next(iter(self._done))
            del self._done[name]
            self._done_changed_at.pop(name, None)


def _keep_newest(fresh: List[Tuple[str, os.stat_result]]) -> int:
    """Let go of all but the newest; how many were let go of. Sorted oldest first afterwards."""
    fresh.sort(key=lambda item: item[1].st_mtime_ns)
    older = max(0, len(fresh) - HOT)
    del fresh[:older]
    return older


def _changed_ns(found: os.stat_result, key: Key) -> int:
    """When the content was last changed, in nanoseconds of the wall clock."""
    return max(found.st_mtime_ns, key[3])


def _mark(name: str, found: os.stat_result) -> int:
    return hash((name, found.st_ino, found.st_mtime_ns, 0 if stat.S_ISDIR(found.st_mode) else found.st_size))


def _walk(path: str, inode: int) -> Optional[Key]:
    files, size, newest, queue = 0, 0, 0, [path]
    while queue and files < MAX_WALK:
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    newest = max(newest, found.st_mtime_ns)
                    if stat.S_ISDIR(found.st_mode):
                        queue.append(entry.path)
                    else:
                        files += 1
                        size += found.st_size
        except OSError:
            continue
    return (inode, files, size, newest) if files else None
