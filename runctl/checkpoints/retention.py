"""Which durable checkpoints stay: the newest `keep` of the job, the newest always, and only the highest attempt
prunes.
"""

from __future__ import annotations

import os

from runctl.checkpoints import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List


def prune(root: str, uid: str, attempt: int, keep: int) -> List[durable.Durable]:
    """Remove what is beyond the newest `keep`; returns what was removed. An attempt that isn't the highest removes
    nothing.

    The manifest goes first: a crash in between leaves something that is no checkpoint, for the next sweep.
    """
    found = durable.list_durable(root, uid)
    if not found or found[-1].attempt > attempt:
        return []
    removed = []
    for old in found[: -max(1, keep)]:
        os.unlink(os.path.join(old.path, durable.MANIFEST))
        durable.sync(old.path)
        doomed = os.path.join(os.path.dirname(old.path), durable.DOOMED_PREFIX + os.path.basename(old.path))
        os.rename(old.path, doomed)
        durable.remove(doomed)
        removed.append(old)
    return removed
