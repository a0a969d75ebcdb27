"""What differs between two snapshots."""

from __future__ import annotations

import msgspec

from runctl.snapshots.manifest import Manifest


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Paths, sorted. A file whose mode alone differs is `modified`."""

    added: tuple[str, ...]
    modified: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.modified or self.removed)


def changed_files(old: Manifest, new: Manifest) -> Changes:
    """What a plan shows when the code of a job has changed."""
    before = {entry.path: (entry.kind, entry.sha256) for entry in old.entries}
    after = {entry.path: (entry.kind, entry.sha256) for entry in new.entries}
    return Changes(
        added=tuple(path for path in after if path not in before),
        modified=tuple(path for path, value in after.items() if path in before and before[path] != value),
        removed=tuple(path for path in before if path not in after),
    )
