"""Freezes a tree: its files are copied once into a store, under the hash of what was copied.

A snapshot is `<store>/<hash>/tree` and `<store>/<hash>/manifest.json`. It appears whole or not at all, is never changed
afterwards, and an unchanged tree is recognised by reading it, without copying anything.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from runctl.manifest.quantities import format_size
from runctl.manifest.recognising import Recognition, recognise
from runctl.snapshots import stored
from runctl.snapshots.copying import copy_file, hash_file
from runctl.snapshots.manifest import EXECUTABLE, FILE, LINK, TREE, Entry, Manifest, of_entries
from runctl.workspace.ignore import Found, Listing, list_files
from runctl.workspace.problems import SnapshotError

MAX_FILES = 20_000
MAX_BYTES = 1 << 30
_COUNTED_AT_MOST = 5 * MAX_FILES
"""How far a tree that is too big is walked, so that the error can say what makes it so."""
_NAMED_AT_MOST = 5
_LOOKED_AT = 1 << 20
"""Bytes of a YAML file that are searched for a manifest's `apiVersion`: no manifest is bigger."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of the disk that is written to: reading doesn't end so."""
_TRIES = 3
"""How often a tree is read again that loses files while it is being read."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A stored snapshot: `path` is its directory, `files` and `bytes` what is in it. `warnings` are for the plan."""

    code_hash: str
    files: int
    bytes: int
    path: Path
    warnings: tuple[str, ...] = ()

    @property
    def tree(self) -> Path:
        return self.path / TREE


class _Changing(Exception):
    """A file was there when the tree was listed, and not when it was read."""


_Reader = Callable[[bytes, str, int], tuple[int, str]]
"""(source, path in the tree, mode) → (size, sha256)."""


def freeze(
    root: Path,
    exclude: tuple[str, ...],
    store: Path,
    *,
    skip: tuple[Path, ...] = (),
    manifest: Path | None = None,
) -> Snapshot:
    """Store the files of `root` that belong to a job, unless the store has them already.

    `exclude` are `sync.exclude`'s patterns, relative to the root; `skip` are directories that are never entered (the
    store itself never is). `manifest`, the job's own, isn't code, nor is any file that says of itself that it is one:
    they may be changed, a cap raised, without a job becoming a job of other code. A file that changes meanwhile is
    stored as it was copied, and hashed as it was copied. Raises SnapshotError and TreeError, naming every file that is
    in the way, and OSError where the store's disk is full.
    """
    skipped = tuple(str(path) for path in (store, *skip))
    for _ in range(_TRIES):
        listing = list_files(root, exclude, skip=skipped, limit=_COUNTED_AT_MOST)
        listing = _without_manifests(root, listing, manifest)
        _check_limits(listing)
        try:
            frozen, warnings = _read_tree(root, listing, lambda source, path, mode: hash_file(source))
            if not stored.is_whole(f"{store}/{frozen.code_hash}", frozen):
                frozen = _copy_tree(root, listing, store)
        except _Changing:
            continue
        return Snapshot(
            code_hash=frozen.code_hash,
            files=len(frozen.entries),
            bytes=frozen.bytes,
            path=store / frozen.code_hash,
            warnings=(*listing.warnings, *warnings),
        )
    raise SnapshotError(
        f"files of `{root}` vanish while it is being read",
        "stop what is writing there, or leave its directory out with `sync.exclude`",
    )


def _without_manifests(root: Path, listing: Listing, own: Path | None) -> Listing:
    """The listing without the job's own manifest, and without what says of itself that it is one."""
    top = os.path.realpath(root)
    place = os.path.join(os.path.realpath(own.parent), own.name) if own is not None else None

    def is_code(file: Found) -> bool:
        path = os.path.join(top, os.fsdecode(file.path))
        return path != place and not _declares(path, file)

    return msgspec.structs.replace(listing, files=tuple(file for file in listing.files if is_code(file)))


def _declares(path: str, file: Found) -> bool:
    if not stat.S_ISREG(file.mode) or recognise(path, b"") is Recognition.OTHER_NAME:
        return False
    try:
        with open(path, "rb", opener=_plainly) as content:
            return recognise(path, content.read(_LOOKED_AT)) is Recognition.MANIFEST
    except OSError:
        return False  # whoever copies it says what is wrong with it


def _plainly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _check_limits(listing: Listing) -> None:
    size = sum(file.size for file in listing.files)
    if len(listing.files) <= MAX_FILES and size <= MAX_BYTES:
        return
    weigh_count = len(listing.files) > MAX_FILES
    weight: Counter[str] = Counter()
    for file in listing.files:
        parts = os.fsdecode(file.path).split("/")
        directory = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
        weight[directory + ("/" if len(parts) > 1 else "")] += 1 if weigh_count else file.size
    biggest = ", ".join(
        f"`{name}` ({f'{count} files' if weigh_count else format_size(count)})"
        for name, count in weight.most_common(_NAMED_AT_MOST)
    )
    more = "more than " if len(listing.files) > _COUNTED_AT_MOST else ""
    raise SnapshotError(
        f"the tree is too big to travel with a job: {more}{len(listing.files)} files, {format_size(size)} "
        f"(at most {MAX_FILES} files and {format_size(MAX_BYTES)}); the biggest parts are {biggest}",
        'leave data and results out with `sync.exclude: ["data/"]` or a `.runctlignore`: scripts may read elsewhere',
    )


def _read_tree(root: Path, listing: Listing, read: _Reader) -> tuple[Manifest, list[str]]:
    """The manifest of the listed files, each of them given to `read`, and warnings."""
    top = os.path.realpath(os.fsencode(root))
    entries: list[Entry] = []
    links: list[Entry] = []
    broken: list[str] = []
    for file in listing.files:
        source = top + b"/" + file.path
        try:
            path = file.path.decode()
        except UnicodeDecodeError:
            broken.append(f"`{file.path.decode('ascii', 'backslashreplace')}` has a name that is not UTF-8")
            continue
        try:
            if stat.S_ISLNK(file.mode):
                links.append(_link(top, file, source))
                continue
            entry = Entry(path, EXECUTABLE if file.mode & stat.S_IXUSR else FILE, 0, "")
            size, sha256 = read(source, path, entry.mode)
            entries.append(entry._replace(size=size, sha256=sha256))
        except (FileNotFoundError, NotADirectoryError):
            raise _Changing from None
        except UnicodeDecodeError:
            broken.append(f"`{path}` links to a name that is not UTF-8")
        except _Outside as error:
            broken.append(f"`{path}` links to `{error}`, outside the root")
        except PermissionError:
            broken.append(f"`{path}` can't be read: permission denied")
        except OSError as error:
            if error.errno in _FULL:
                raise
            broken.append(f"`{path}` can't be read: {error.strerror}")
    if broken:
        shown = "; ".join(broken[:20]) + (f"; and {len(broken) - 20} more" if len(broken) > 20 else "")
        raise SnapshotError(
            f"the tree can't be frozen: {shown}",
            "make them readable and inside the root, or leave them out with `sync.exclude`",
        )
    return of_entries([*entries, *links]), _dangling(top, links, {entry.path for entry in (*entries, *links)})


class _Outside(Exception):
    """A symlink leads out of the root; `args[0]` is where to."""


def _link(top: bytes, file: Found, source: bytes) -> Entry:
    """The entry of a symlink, its target relative and inside the root, so that a copy of the tree links to itself."""
    target = os.readlink(source)
    real = os.path.realpath(source)
    if real != top and not real.startswith(top + b"/"):
        raise _Outside(os.fsdecode(real))
    if target.startswith(b"/") or _climbs_out(os.path.dirname(file.path), target):
        target = os.path.relpath(real, os.path.dirname(source))
    return Entry(file.path.decode(), LINK, 0, hashlib.sha256(target).hexdigest(), target.decode())


def _climbs_out(directory: bytes, target: bytes) -> bool:
    depth = directory.count(b"/") + 1 if directory else 0
    for part in target.split(b"/"):
        depth += -1 if part == b".." else 0 if part in (b"", b".") else 1
        if depth < 0:
            return True
    return False


def _dangling(top: bytes, links: list[Entry], paths: set[str]) -> list[str]:
    directories = {path[:cut] for path in paths for cut in range(len(path)) if path[cut] == "/"} | {"."}
    warnings = []
    for link in links:
        real = os.path.relpath(os.path.realpath(os.path.join(top, link.path.encode())), top)
        if os.fsdecode(real) not in paths and os.fsdecode(real) not in directories:
            warnings.append(f"`{link.path}` links to `{link.target}`, which doesn't travel with the job")
    return warnings


def _copy_tree(root: Path, listing: Listing, store: Path) -> Manifest:
    """Copy the listed files into the store. What is being built has a name that no reader looks at."""
    try:
        os.makedirs(store, mode=0o700, exist_ok=True)
        building = tempfile.mkdtemp(prefix=".building-", dir=store)
    except OSError as error:
        raise SnapshotError(
            f"`{store}` can't be written: {error.strerror}", "check its permissions and free space"
        ) from None
    try:
        tree = os.path.join(building, TREE)
        os.mkdir(tree, 0o700)
        made = {""}

        def copy(source: bytes, path: str, mode: int) -> tuple[int, str]:
            stored.make_parents(tree, path, made)
            return copy_file(source, os.fsencode(f"{tree}/{path}"), mode)

        manifest, _ = _read_tree(root, listing, copy)
        for entry in manifest.entries:
            if entry.kind == LINK and entry.target is not None:
                stored.make_parents(tree, entry.path, made)
                os.symlink(entry.target, f"{tree}/{entry.path}")
        stored.publish(building, str(store), manifest)
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(error.errno, error.strerror, str(store)) from None
        raise SnapshotError(
            f"the snapshot can't be stored in `{store}`: {error.strerror}", "check its permissions and free space"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return manifest
