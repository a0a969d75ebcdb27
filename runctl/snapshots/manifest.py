"""What a snapshot holds, as a value: its files and the hash over them."""

from __future__ import annotations

import hashlib
import json
import os
from typing import NamedTuple

from runctl.snapshots.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Optional, Tuple

VERSION = 1
NAME = "manifest.json"
TREE = "tree"

FILE, EXECUTABLE, LINK = "file", "executable", "link"
KINDS = (FILE, EXECUTABLE, LINK)

_AGAIN = "apply the job again from its tree to store the snapshot anew"


class Entry(NamedTuple):
    """One file: `path` relative to the root; `kind` one of KINDS; `sha256` of its content, or of the target for a link;
    `size` in bytes."""

    path: str
    kind: str
    size: int
    sha256: str
    target: Optional[str] = None

    @property
    def mode(self) -> int:
        return 0o700 if self.kind == EXECUTABLE else 0o600


class Manifest(NamedTuple):
    """A snapshot's entries sorted by path, and the hash over them that is its name."""

    code_hash: str
    entries: Tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries)


def of_entries(entries: Iterable[Entry]) -> Manifest:
    """The manifest of these entries, whatever their order. Equal trees have equal hashes, on every machine."""
    entries = sorted(entries, key=lambda entry: entry.path.encode())
    digest = hashlib.sha256(b"runctl snapshot %d\n" % VERSION)
    for entry in entries:
        # A path can't contain a NUL, so no two different lists have the same bytes.
        digest.update(f"{entry.path}\0{entry.kind}\0{entry.sha256}\n".encode())
    return Manifest(digest.hexdigest(), tuple(entries))


def to_json(manifest: Manifest) -> bytes:
    entries = [entry._asdict() for entry in manifest.entries]
    return json.dumps({"version": VERSION, "code_hash": manifest.code_hash, "entries": entries}, indent=1).encode()


def from_json(text: bytes, name: str, where: str) -> Manifest:
    """The manifest of the snapshot of that name, checked against itself; `where` is told of one that isn't one.

    Raises SnapshotError: without a readable manifest there is no snapshot.
    """
    try:
        found = json.loads(text)
        version, code_hash = found["version"], found["code_hash"]
        entries = [_entry(each) for each in found["entries"]] if version == VERSION else []
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise SnapshotError(f"`{where}` can't be read: {type(error).__name__}: {error}", _AGAIN) from None
    if version != VERSION:
        raise SnapshotError(
            f"`{where}` is of version {version}, and this runctl reads version {VERSION}",
            "use the runctl that wrote it, or apply the job again",
        )
    manifest = of_entries(entries)
    if not manifest.code_hash == code_hash == name:
        raise SnapshotError(f"`{where}` is damaged: it doesn't have the hash that it is stored under", _AGAIN)
    for entry in manifest.entries:
        parts = entry.path.split("/")
        if entry.path.startswith("/") or not all(parts) or ".." in parts or "." in parts or "\0" in entry.path:
            raise SnapshotError(f"`{where}` is damaged: `{entry.path}` leads out of the tree", _AGAIN)
        if entry.kind == LINK and hashlib.sha256((entry.target or "").encode()).hexdigest() != entry.sha256:
            raise SnapshotError(f"`{where}` is damaged: `{entry.path}` links elsewhere than it did", _AGAIN)
    return manifest


def _entry(value: Dict[str, Any]) -> Entry:
    """Raises KeyError, TypeError and ValueError for what isn't one."""
    path, kind, size, sha256, target = (value[name] for name in ("path", "kind", "size", "sha256", "target"))
    texts = (path, kind, sha256, *(() if target is None else (target,)))
    if not all(isinstance(text, str) for text in texts) or kind not in KINDS:
        raise TypeError("an entry isn't one")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError("a size isn't one")
    return Entry(path, kind, size, sha256, target)


def read_manifest(snapshot: str | os.PathLike[str]) -> Manifest:
    """The manifest of the snapshot stored at this directory. Raises SnapshotError."""
    snapshot = os.fspath(snapshot)
    path = f"{snapshot}/{NAME}"
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        raise SnapshotError(f"there is no snapshot at `{snapshot}`: it has no `{NAME}`", _AGAIN) from None
    except OSError as error:
        raise SnapshotError(f"`{path}` can't be read: {error}", _AGAIN) from None
    return from_json(text, os.path.basename(snapshot), path)
