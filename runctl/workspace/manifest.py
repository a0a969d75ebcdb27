"""What a snapshot holds, as a value: its files, the hash over them, and what differs between two."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path

import msgspec

from runctl.workspace.problems import SnapshotError

VERSION = 1


class Kind(StrEnum):
    FILE = "file"
    EXECUTABLE = "executable"
    LINK = "link"


class Entry(msgspec.Struct, frozen=True):
    """One file: `path` relative to the root; `sha256` of its content, or of the target for a link; `size` in bytes."""

    path: str
    kind: Kind
    size: int
    sha256: str
    target: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot's entries sorted by path, and the hash over them that is its name."""

    version: int = VERSION
    code_hash: str
    entries: tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries)


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Paths, sorted. A file whose mode alone differs is `modified`."""

    added: tuple[str, ...]
    modified: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.modified or self.removed)


def of_entries(entries: list[Entry]) -> Manifest:
    """The manifest of these entries, whatever their order. Equal trees have equal hashes, on every machine."""
    entries = sorted(entries, key=lambda entry: entry.path.encode())
    digest = hashlib.sha256(b"runctl snapshot %d\n" % VERSION)
    for entry in entries:
        # A path can't contain a NUL, so no two different lists have the same bytes.
        digest.update(f"{entry.path}\0{entry.kind}\0{entry.sha256}\n".encode())
    return Manifest(code_hash=digest.hexdigest(), entries=tuple(entries))


def changed_files(old: Manifest, new: Manifest) -> Changes:
    """What a plan shows when the code of a job has changed."""
    before = {entry.path: (entry.kind, entry.sha256) for entry in old.entries}
    after = {entry.path: (entry.kind, entry.sha256) for entry in new.entries}
    return Changes(
        added=tuple(path for path in after if path not in before),
        modified=tuple(path for path, value in after.items() if path in before and before[path] != value),
        removed=tuple(path for path in before if path not in after),
    )


def read_manifest(snapshot: Path) -> Manifest:
    """The manifest of the snapshot stored at this directory, checked against itself and the directory's name.

    Raises SnapshotError: without a readable manifest there is no snapshot.
    """
    path = snapshot / "manifest.json"
    again = "apply the job again from its tree to store the snapshot anew"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise SnapshotError(f"there is no snapshot at `{snapshot}`: it has no `manifest.json`", again) from None
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        raise SnapshotError(f"`{path}` can't be read: {error}", again) from None
    if manifest.version != VERSION:
        raise SnapshotError(
            f"`{path}` is of version {manifest.version}, and this runctl reads version {VERSION}",
            "use the runctl that wrote it, or apply the job again",
        )
    if of_entries(list(manifest.entries)).code_hash != manifest.code_hash or snapshot.name != manifest.code_hash:
        raise SnapshotError(f"`{path}` is damaged: it doesn't have the hash that it is stored under", again)
    for entry in manifest.entries:
        parts = entry.path.split("/")
        if entry.path.startswith("/") or not all(parts) or ".." in parts or "." in parts or "\0" in entry.path:
            raise SnapshotError(f"`{path}` is damaged: `{entry.path}` leads out of the tree", again)
        if entry.kind is Kind.LINK and hashlib.sha256((entry.target or "").encode()).hexdigest() != entry.sha256:
            raise SnapshotError(f"`{path}` is damaged: `{entry.path}` links elsewhere than it did", again)
    return manifest
