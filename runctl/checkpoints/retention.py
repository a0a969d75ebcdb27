"""Which durable checkpoints stay: the newest `keep` of the job, the newest always, and only the highest attempt
prunes.
"""

from __future__ import annotations

import os

from runctl.checkpoints import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List


def _is_part_of(old: durable.Durable, new: durable.Durable) -> bool:
    """Whether one is what the other was before its last files came: a directory that was taken for whole too soon."""
    if (old.attempt, old.manifest.get("name")) != (new.attempt, new.manifest.get("name")):
        return False
    before, after = (
        {(file["path"], file["sha256"]) for file in each.manifest["files"] if isinstance(file, dict)}
        for each in (old, new)
    )
    return before < after


def prune(root: str, uid: str, attempt: int, keep: int) -> List[durable.Durable]:
    """Remove what is beyond the newest `keep`, and earlier states of the newest one; returns what was removed. An
    attempt that isn't the highest removes nothing.

    The manifest goes first: a crash in between leaves something that is no checkpoint, for the next sweep.
    """
    found = durable.list_durable(root, uid)
    if not found or found[-1].attempt > attempt:
        return []
    partial = [old for old in found[:-1] if _is_part_of(old, found[-1])]
    whole = [each for each in found if each not in partial]
    removed = []
    for old in (*partial, *whole[: -max(1, keep)]):
        os.unlink(os.path.join(old.path, durable.MANIFEST))
        durable.sync(old.path)
        doomed = os.path.join(os.path.dirname(old.path), durable.DOOMED_PREFIX + os.path.basename(old.path))
        os.rename(old.path, doomed)
        durable.remove(doomed)
        removed.append(old)
    return removed
