"""Copies a stored snapshot to where an attempt runs it, and verifies each byte on the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

from runctl.snapshots.copying import copy_file
from runctl.snapshots.errors import SnapshotError
from runctl.snapshots.manifest import LINK, TREE, read_manifest
from runctl.snapshots.stored import discard, make_parents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

    from runctl.snapshots.manifest import Entry, Manifest


def materialize(snapshot: str, target: str) -> Manifest:
    """Make `target` a copy of the snapshot stored at `snapshot`, whole or not at all; returns what is in it.

    `target` doesn't exist yet, or is an empty directory; its parent exists. Raises SnapshotError when the stored files
    aren't the ones that were frozen (then they leave the store), or can't be copied: `target` is as it was.
    """
    manifest = read_manifest(snapshot)
    try:
        building = tempfile.mkdtemp(prefix=f".{os.path.basename(target)}-", dir=os.path.dirname(target))
    except OSError as error:
        raise _cannot(target, error) from None
    try:
        _copy(manifest, f"{snapshot}/{TREE}", building)
        os.rename(building, target)
    except _Damaged as error:
        # Sizes and dates may look right: whoever freezes the tree next must not take it for whole.
        with contextlib.suppress(OSError):
            discard(snapshot)
        raise SnapshotError(
            f"the stored snapshot is damaged: {error}",
            "nothing was started; apply the job again from its tree to store the snapshot anew",
        ) from None
    except OSError as error:
        raise _cannot(target, error) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return manifest


class _Damaged(Exception):
    """A stored file isn't what its snapshot says; `args[0]` says which."""


def _copy(manifest: Manifest, tree: str, building: str) -> None:
    made = {""}
    links: List[Entry] = []
    for entry in manifest.entries:
        if entry.kind == LINK:
            links.append(entry)
            continue
        make_parents(building, entry.path, made)
        source, copy = (os.fsencode(f"{top}/{entry.path}") for top in (tree, building))
        try:
            arrived = copy_file(source, copy, entry.mode)
        except FileNotFoundError:
            raise _Damaged(f"`{tree}/{entry.path}` is missing") from None
        if arrived != (entry.size, entry.sha256):
            raise _Damaged(f"`{tree}/{entry.path}` is not the file that was frozen")
    # Last, so that no file is ever written through one.
    for entry in links:
        make_parents(building, entry.path, made)
        os.symlink(entry.target or "", f"{building}/{entry.path}")


def _cannot(target: str, error: OSError) -> SnapshotError:
    return SnapshotError(
        f"the code can't be copied to `{target}`: {error.strerror}",
        "nothing was started; check permissions and free space",
    )
