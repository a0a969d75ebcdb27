"""A directory of snapshots: `<store>/<hash>/tree` and `<store>/<hash>/manifest.json`. One appears whole or not at all,
and is never changed afterwards.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile

from runctl.snapshots.errors import SnapshotError
from runctl.snapshots.manifest import LINK, NAME, TREE, read_manifest, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Set

    from runctl.snapshots.manifest import Manifest


def is_whole(stored: str, manifest: Manifest) -> bool:
    """Whether this snapshot is there. A damaged one (a power cut, a stray hand) is removed, to be stored anew."""
    try:
        if read_manifest(stored) != manifest:
            raise SnapshotError("another manifest", "")
        for entry in manifest.entries:
            info = os.lstat(f"{stored}/{TREE}/{entry.path}")
            expected = stat.S_ISLNK if entry.kind == LINK else stat.S_ISREG
            if not expected(info.st_mode) or (entry.kind != LINK and info.st_size != entry.size):
                raise SnapshotError("another file", "")
    except (SnapshotError, OSError):
        discard(stored)
        return False
    return True


def discard(stored: str) -> None:
    """Take a damaged snapshot out of the store, so that its tree is stored anew. Raises OSError."""
    if os.path.lexists(stored):
        aside = tempfile.mkdtemp(prefix=".damaged-", dir=os.path.dirname(stored))
        try:
            os.rename(stored, os.path.join(aside, "snapshot"))
        except FileNotFoundError:
            pass  # another has done so
        shutil.rmtree(aside, ignore_errors=True)


def make_parents(tree: str, path: str, made: Set[str]) -> None:
    """Make the directories above `path` in `tree`; `made` remembers those that are there."""
    parent = path.rpartition("/")[0]
    if parent not in made:
        make_parents(tree, parent, made)
        os.mkdir(f"{tree}/{parent}", 0o700)
        made.add(parent)


def publish(building: str, store: str, manifest: Manifest) -> str:
    """Complete the snapshot whose tree is in `building`, and give it its name. Who comes second with the same content
    finds it taken: just as good. Raises OSError."""
    handle = os.open(f"{building}/{NAME}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(to_json(manifest))
        file.flush()
        os.fsync(handle)
    stored = f"{store}/{manifest.code_hash}"
    try:
        os.rename(building, stored)
    except OSError:
        if not os.path.exists(f"{stored}/{NAME}"):
            raise
        return stored
    parent = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
    return stored
