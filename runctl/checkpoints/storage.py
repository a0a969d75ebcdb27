"""Where durable checkpoints are kept: one protocol, and what is the same in every implementation of it.

A checkpoint is there from the moment its manifest is, which is written last, and whole for as long. Its `location` is
text for people and records: a path, or `s3://bucket/prefix/uid/attempt/seq`.
"""

from __future__ import annotations

from runctl.checkpoints import retention
from runctl.checkpoints.durable import Damaged
from runctl.checkpoints.places import S3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from runctl.checkpoints.durable import Durable

    Json = Dict[str, Any]

MOST_ATTEMPTS = 999_999


class Storage:
    """The durable checkpoints below one destination. What can't be reached raises OSError from every method."""

    def location(self, uid: str, attempt: int, seq: int) -> str:
        raise NotImplementedError

    def prepare(self, uid: str, attempt: int) -> None:
        """Make sure that an attempt can store, as far as that can be known before."""
        raise NotImplementedError

    def store(self, source: str, facts: Json) -> Json:
        """Copy a file or directory durably, read back; returns its manifest.

        `facts` are job, uid, attempt, seq, name, step, epoch, at and format. Raises OSError, Changed, Invalid: then no
        checkpoint of that number appears, but for an answer that was lost, of which the error says so;
        FileExistsError: it has one already, which is left as it is.
        """
        raise NotImplementedError

    def already_stored(self, facts: Json) -> Optional[Json]:
        """The manifest of that number if it is of these very facts: what an earlier store may have written whose answer
        was lost, and which is why another one is refused.
        """
        location = self.location(facts["uid"], facts["attempt"], facts["seq"])
        try:
            manifest = self.read_manifest(location)
        except Damaged:
            return None
        return manifest if all(manifest.get(name) == value for name, value in facts.items()) else None

    def numbers(self, uid: str, attempt: int) -> List[int]:
        """Those that copies of an attempt have, whole or torn."""
        raise NotImplementedError

    def list(self, uid: str) -> List[Durable]:
        """The durable checkpoints of a job, oldest first. What has no readable manifest is none."""
        raise NotImplementedError

    def read_manifest(self, location: str) -> Json:
        """Raises Damaged."""
        raise NotImplementedError

    def verify(self, location: str) -> Json:
        """Read all of one and compare it with its manifest, which is returned. Raises Damaged."""
        raise NotImplementedError

    def restore(self, location: str, name: str, target_dir: str) -> str:
        """Bring one into a directory, each file verified, and return its path, as `restoring.restore_durable` does.
        Raises Damaged.
        """
        raise NotImplementedError

    def remove(self, old: Durable) -> None:
        """The manifest first: a crash in between leaves something that is no checkpoint, for the next sweep."""
        raise NotImplementedError

    def sweep(self, uid: str, attempt: int, now: float) -> List[str]:
        """Remove what has no manifest, in this attempt and those before; returns where that was. `now` is the wall
        clock's instant, for a storage in which others may be writing.
        """
        raise NotImplementedError

    def prune(self, uid: str, attempt: int, keep: int) -> List[Durable]:
        """Remove what `retention.beyond` names; returns it."""
        removed = retention.beyond(self.list(uid), attempt, keep)
        for old in removed:
            self.remove(old)
        return removed

    def withdraw(self, uid: str, attempt: int, source: str) -> Optional[Durable]:
        """Remove the newest one if `retention.taken_too_soon` says so; returns it."""
        newest = retention.taken_too_soon(self.list(uid), attempt, source)
        if newest is not None:
            self.remove(newest)
        return newest


def open_storage(destination: str, client: Optional[str] = None) -> Storage:
    """The storage at a path, a `file:` URL or an `s3://` URL. `client` is the directory of the S3 client that was
    delivered here. Raises OSError.
    """
    if destination.startswith(S3):
        from runctl.checkpoints import s3_client
        from runctl.checkpoints.s3_storage import S3Storage

        bucket, _, prefix = destination[len(S3) :].partition("/")
        return S3Storage(s3_client.connect(bucket, client), prefix)
    from runctl.checkpoints.file_storage import FileStorage

    return FileStorage(_path(destination))


def empty(place: str, client: Optional[str] = None) -> None:
    """Remove all of a job's checkpoints from `<destination>/<uid>`, torn ones and uploads included. Raises OSError."""
    destination, uid = place.rsplit("/", 1)
    storage = open_storage(destination, client)
    for each in storage.list(uid):
        storage.remove(each)
    storage.sweep(uid, MOST_ATTEMPTS, float("inf"))  # whoever empties it knows that nobody writes any more


def _path(destination: str) -> str:
    if not destination.startswith("file:"):
        return destination
    path = destination[len("file:") :]
    return path[2:] if path.startswith("///") else path
