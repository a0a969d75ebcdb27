"""Durable checkpoints in directories of this machine, or of whatever is mounted there."""

from __future__ import annotations

from runctl.checkpoints import durable, restoring, retention, verifying
from runctl.checkpoints.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    Json = Dict[str, Any]


class FileStorage(Storage):
    """Locations are absolute paths where `root` is one."""

    def __init__(self, root: str) -> None:
        self.root = root

    def location(self, uid: str, attempt: int, seq: int) -> str:
        return durable.directory(self.root, uid, attempt, seq)

    def prepare(self, uid: str, attempt: int) -> None:
        durable.make_directory(self.root, uid, attempt)

    def store(self, source: str, facts: Json) -> Json:
        return durable.store(source, self.root, facts)

    def numbers(self, uid: str, attempt: int) -> List[int]:
        return durable.numbers(self.root, uid, attempt)

    def list(self, uid: str) -> List[durable.Durable]:
        return durable.list_durable(self.root, uid)

    def read_manifest(self, location: str) -> Json:
        return durable.read_manifest(location)

    def verify(self, location: str) -> Json:
        return verifying.verify(location)

    def restore(self, location: str, name: str, target_dir: str) -> str:
        return restoring.restore_durable(location, name, target_dir)

    def remove(self, old: durable.Durable) -> None:
        retention.remove(old)

    def sweep(self, uid: str, attempt: int, now: float) -> List[str]:
        """At once, whatever is the time: an attempt's directory has one writer, and those before it are over."""
        return durable.sweep(self.root, uid, attempt)
