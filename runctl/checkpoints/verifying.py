"""Looking whether a durable copy is still what was saved."""

from __future__ import annotations

import os

from runctl.checkpoints import durable
from runctl.checkpoints.durable import Damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    Json = Dict[str, Any]


def verify(path: str) -> Json:
    """Read all of the copy and compare it with its manifest, which is returned. Raises Damaged, OSError."""
    manifest = durable.read_manifest(path)
    for file in manifest["files"]:
        if not isinstance(file, dict) or not is_inside(file.get("path")):
            raise Damaged(f"`{path}` has a manifest that names something outside of it")
        inner = os.path.join(path, durable.DATA, file["path"])
        try:
            descriptor = os.open(inner, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Damaged(f"`{inner}` can't be read: {error.strerror}") from None
        try:
            found = durable.digest_of(descriptor)
        finally:
            os.close(descriptor)
        if found != (file.get("bytes"), file.get("sha256")):
            raise Damaged(f"`{inner}` is not what was saved: its size or checksum differs from the manifest")
    return manifest


def is_inside(path: object) -> bool:
    """Whether a path in a manifest stays below where the files are."""
    return isinstance(path, str) and bool(path) and not os.path.isabs(path) and ".." not in path.split("/")
