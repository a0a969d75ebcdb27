"""Which durable checkpoints stay: the newest `keep` of the job, the newest always, and only the highest attempt
prunes.
"""

from __future__ import annotations

import os

from runctl.checkpoints import durable
from runctl.checkpoints.formats import list_files
from runctl.checkpoints.lasting import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Set, Tuple


def _files(found: durable.Durable) -> Set[Tuple[str, str]]:
    """Paths with their checksums."""
    return {(file["path"], file["sha256"]) for file in found.manifest["files"] if isinstance(file, dict)}


def _is_part_of(old: durable.Durable, new: durable.Durable) -> bool:
    """Whether one is what the other was before its last files came: a directory that was taken for whole too soon."""
    if (old.attempt, old.manifest.get("name")) != (new.attempt, new.manifest.get("name")):
        return False
    return _files(old) < _files(new)


def beyond(found: List[durable.Durable], attempt: int, keep: int) -> List[durable.Durable]:
    """What doesn't stay of a job's checkpoints, oldest first: all beyond the newest `keep`, and earlier states of the
    newest one. An attempt that isn't the highest removes nothing. The newest doesn't count while it is `unproven`: it
    may turn out not to be whole.
    """
    if not found or found[-1].attempt > attempt:
        return []
    partial = [old for old in found[:-1] if _is_part_of(old, found[-1])]
    whole = [each for each in found if each not in partial]
    stays = max(1, keep) + (1 if found[-1].manifest.get("unproven") else 0)
    return [*partial, *whole[:-stays]]


def taken_too_soon(found: List[durable.Durable], attempt: int, source: str) -> Optional[durable.Durable]:
    """The newest of a job's checkpoints if the directory `source`, which isn't whole itself, shows that it was taken
    too soon: every file of it is there, unchanged, and others have come since.
    """
    if not found or found[-1].attempt != attempt or found[-1].manifest.get("name") != os.path.basename(source):
        return None
    newest = found[-1]
    members = list_files(source)
    if len(members) <= len(newest.manifest["files"]):
        return None
    now = {(os.path.join(os.path.basename(source), each), _digest(os.path.join(source, each))) for each in members}
    return newest if _files(newest) < now else None


def _digest(path: str) -> str:
    """Of what a link leads to, too: `list_files` has made sure that this is inside."""
    descriptor = os.open(os.path.realpath(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return durable.digest_of(descriptor)[1]
    finally:
        os.close(descriptor)


def remove(old: durable.Durable) -> None:
    """The manifest goes first: a crash in between leaves something that is no checkpoint, for the next sweep."""
    os.unlink(os.path.join(old.path, durable.MANIFEST))
    sync(old.path)
    doomed = os.path.join(os.path.dirname(old.path), durable.DOOMED_PREFIX + os.path.basename(old.path))
    os.rename(old.path, doomed)
    durable.remove(doomed)
