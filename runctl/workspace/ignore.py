"""Which files of a tree belong to a job: git's ignore rules, and runctl's on top of them.

From the strongest to the weakest: `sync.exclude`, `.runctlignore` (deepest first), being tracked by git, `.gitignore`
(deepest first), `.git/info/exclude`, git's global excludes, and DERIVED. The first of them that has a matching
pattern decides; within one file the last pattern that matches. What lies below an excluded directory can't be
brought back. Inside a nested repository or submodule its own git rules hold, and not those around it, as in git.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from enum import Enum, auto

import msgspec

from runctl.workspace import repository
from runctl.workspace.problems import TreeError
from runctl.workspace.rules import Rule, RuleList

DERIVED = b"__pycache__/"
"""What Python writes beside code by merely running it: without this, trying a script by hand would change its hash."""

_MAX_IGNORE_FILE = 16 << 20


class Found(msgspec.Struct, frozen=True):
    """A file or symlink of the tree: its path from the root, and what lstat says."""

    path: bytes
    mode: int
    size: int


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """`files` are sorted by path. `warnings` say what was left out though no rule says so."""

    files: tuple[Found, ...]
    warnings: tuple[str, ...]

    def paths(self) -> list[str]:
        return [os.fsdecode(file.path) for file in self.files]


class _Scope(msgspec.Struct, frozen=True, kw_only=True):
    """The rules in force in a directory, each group from the strongest list to the weakest.

    `prefix` is where the innermost repository starts, with its slash. With `only_tracked` the directory itself is
    excluded by git's rules, and what git tracks below it is all that counts.
    """

    manifest: tuple[RuleList, ...] = ()
    own: tuple[RuleList, ...] = ()
    git: tuple[RuleList, ...] = ()
    tracked: repository.Tracked = repository.Tracked()
    prefix: bytes = b""
    ignore_case: bool = False
    only_tracked: bool = False


def list_files(
    root: str | os.PathLike[str],
    exclude: tuple[str, ...],
    *,
    skip: tuple[str, ...] = (),
    limit: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Listing:
    """The files of the tree at `root` that belong to a job.

    `exclude` are patterns as in an ignore file at the root; `skip` are absolute directories that are never entered
    (runctl's own state). The walk ends early when more than `limit` files are found. Raises TreeError naming what
    can't be read.
    """
    top = os.fsencode(os.path.realpath(root))
    walk = _Walk(top, tuple(os.fsencode(os.path.realpath(path)) for path in skip), environ)
    walk.run(exclude, limit)
    walk.files.sort(key=lambda file: file.path)
    return Listing(files=tuple(walk.files), warnings=tuple(walk.warnings))


def explain(
    root: str | os.PathLike[str],
    path: str,
    exclude: tuple[str, ...],
    *,
    environ: Mapping[str, str] = os.environ,
) -> Rule | None:
    """The rule by which `path` (of a file, relative to the root) doesn't belong to a job; None where none does."""
    walk = _Walk(os.fsencode(root), (), environ)
    scope = walk.outermost(exclude)
    parts = os.fsencode(path).split(b"/")
    above: Rule | None = None
    for depth in range(len(parts)):
        directory = b"/".join(parts[:depth])
        scope = walk.enter(scope, directory, {entry.name for entry in walk.scan(directory)})
        verdict, rule = _decide(scope, b"/".join(parts[: depth + 1]), is_directory=depth + 1 < len(parts))
        if verdict is _Verdict.DROP:
            return rule or above
        if verdict is _Verdict.DROP_UNTRACKED:
            above = rule or above
            scope = msgspec.structs.replace(scope, only_tracked=True)
    return None


class _Verdict(Enum):
    KEEP = auto()
    DROP = auto()
    DROP_UNTRACKED = auto()
    """An excluded directory with files in it that git tracks."""


def _decide(scope: _Scope, path: bytes, *, is_directory: bool) -> tuple[_Verdict, Rule | None]:
    """What the rules say of `path`, and the rule that excluded it (None where that was a directory's above)."""
    name = path[path.rfind(b"/") + 1 :]
    allowed = False
    for rules in (*scope.manifest, *scope.own):
        if (rule := rules.match(path, name, is_directory)) is not None:
            if not rule.negated:
                return _Verdict.DROP, rule
            allowed = True
            break
    below = path[len(scope.prefix) :]
    if below in (scope.tracked.links if is_directory else scope.tracked.files):
        return _Verdict.KEEP, None
    excluded, cause = scope.only_tracked, None
    if not excluded and not allowed:
        cause = next((rule for rules in scope.git if (rule := rules.match(path, name, is_directory)) is not None), None)
        excluded = cause is not None and not cause.negated
    if not excluded:
        return _Verdict.KEEP, None
    tracked_below = is_directory and below in scope.tracked.parents
    return (_Verdict.DROP_UNTRACKED if tracked_below else _Verdict.DROP), cause


class _Walk:
    def __init__(self, root: bytes, skip: tuple[bytes, ...], environ: Mapping[str, str]) -> None:
        self._root = root
        self._skip = skip
        self._environ = environ
        self.files: list[Found] = []
        self.warnings: list[str] = []

    def run(self, exclude: tuple[str, ...], limit: int | None) -> None:
        pending = [(b"", self.outermost(exclude))]
        while pending and (limit is None or len(self.files) <= limit):
            directory, scope = pending.pop()
            entries = self.scan(directory)
            names = {entry.name for entry in entries}
            if directory and b"pyvenv.cfg" in names and directory[len(scope.prefix) :] not in scope.tracked.parents:
                continue  # a virtual environment: built for this machine, never source
            scope = self.enter(scope, directory, names)
            prefix = directory + b"/" if directory else b""
            for entry in entries:
                if (entry.name.lower() if scope.ignore_case else entry.name) == b".git":
                    continue
                path = prefix + entry.name
                is_directory = entry.is_dir(follow_symlinks=False)
                verdict, _ = _decide(scope, path, is_directory=is_directory)
                if verdict is _Verdict.DROP:
                    continue
                if not is_directory:
                    self._take(entry, path)
                elif os.path.join(self._root, path) not in self._skip:
                    only_tracked = verdict is _Verdict.DROP_UNTRACKED
                    inner = msgspec.structs.replace(scope, only_tracked=True) if only_tracked else scope
                    pending.append((path, inner))

    def _take(self, entry: os.DirEntry[bytes], path: bytes) -> None:
        try:
            info = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return  # removed since it was listed
        if stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
            self.files.append(Found(path, info.st_mode, info.st_size))
        else:
            self.warnings.append(f"`{os.fsdecode(path)}` is left out: it is neither a file nor a symlink")

    def scan(self, directory: bytes) -> list[os.DirEntry[bytes]]:
        try:
            with os.scandir(os.path.join(self._root, directory)) as entries:
                return list(entries)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and directory:
                return []  # removed since it was listed
            raise TreeError(
                f"directory `{os.fsdecode(directory or self._root)}` can't be read: {error.strerror}",
                "make it readable, or leave it out with `sync.exclude`",
            ) from None

    def outermost(self, exclude: tuple[str, ...]) -> _Scope:
        rules = RuleList("\n".join(exclude).encode("utf-8", "surrogateescape"), "sync.exclude", b"", ignore_case=False)
        scope = _Scope(manifest=(rules,) if rules else ())
        return self._in_repository(scope, b"", repository.open_repository(self._root))

    def enter(self, scope: _Scope, directory: bytes, names: set[bytes]) -> _Scope:
        """The scope inside `directory`, which holds `names`: with the repository and the ignore files there."""
        if directory and b".git" in names:
            inner = repository.open_repository(os.path.join(self._root, directory))
            scope = self._in_repository(scope, directory, inner) if inner is not None else scope
        prefix = directory + b"/" if directory else b""
        here = os.path.join(self._root, prefix)
        if b".runctlignore" in names:
            rules = self._load(here + b".runctlignore", prefix, scope.ignore_case, os.O_NOFOLLOW)
            scope = msgspec.structs.replace(scope, own=(*rules, *scope.own))
        if b".gitignore" in names:
            rules = self._load(here + b".gitignore", prefix, scope.ignore_case, os.O_NOFOLLOW)
            scope = msgspec.structs.replace(scope, git=(*rules, *scope.git))
        return scope

    def _in_repository(self, scope: _Scope, directory: bytes, repo: repository.Repository | None) -> _Scope:
        """The scope at the top of `repo` (or of a tree without one). The git rules of the tree around it end here."""
        prefix = directory + b"/" if directory else b""
        config = repository.read_config(repo, self._environ)
        tracked = repository.Tracked()
        everywhere: list[RuleList] = []
        if repo is not None:
            try:
                tracked = repository.read_tracked(repo, config.hash_size)
            except repository.DamagedIndex as error:
                self.warnings.append(
                    f"git's index in `{os.fsdecode(repo.git_dir)}` can't be read ({error}): "
                    "ignored files are left out, tracked or not"
                )
            everywhere += self._load(os.path.join(repo.common_dir, b"info/exclude"), prefix, config.ignore_case, 0)
        if config.excludes_file is not None:
            everywhere += self._load(config.excludes_file, prefix, config.ignore_case, 0)
        everywhere.append(RuleList(DERIVED, "built in", prefix, ignore_case=False))
        return msgspec.structs.replace(
            scope,
            git=tuple(everywhere),
            tracked=tracked,
            prefix=prefix,
            ignore_case=config.ignore_case,
            only_tracked=False,
        )

    def _load(self, path: bytes, prefix: bytes, ignore_case: bool, flags: int) -> tuple[RuleList, ...]:
        """The rules of an ignore file. Inside the tree git follows no symlink to one; what it can't read is none."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                why = "it is a symlink, and git follows none" if error.errno == errno.ELOOP else error.strerror
                self.warnings.append(f"the rules in `{os.fsdecode(path)}` don't count: {why}")
            return ()
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            return ()
        with open(handle, "rb") as file:
            text = file.read(_MAX_IGNORE_FILE)
        source = os.path.relpath(path, self._root) if path.startswith(self._root + b"/") else path
        rules = RuleList(text, os.fsdecode(source), prefix, ignore_case=ignore_case)
        return (rules,) if rules else ()
