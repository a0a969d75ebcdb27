"""Bringing a checkpoint back into a checkpoint directory, verified, before a training goes on from it."""

from __future__ import annotations

import os

from runctl.checkpoints import durable, formats
from runctl.checkpoints.durable import Damaged
from runctl.checkpoints.lasting import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Sequence, Tuple

    Json = Dict[str, Any]

TEMPORARY_PREFIX = ".restoring-"


def restore_durable(source: str, name: str, target_dir: str) -> str:
    """Copy the durable checkpoint `source` into `target_dir`, each file verified against the manifest, and return its
    path: under the name that the manifest has, which may be one that isn't text, else under `name`.

    Raises Damaged, OSError. Until all of it is verified nothing appears under the name.
    """

    def fetch(file: Json, target: str) -> Tuple[int, str]:
        origin = os.path.join(source, durable.DATA, file["path"])
        try:
            size, digest, _ = durable.copy_file(origin, target, known=file["sha256"])
        except (FileNotFoundError, durable.Changed, formats.Invalid):
            raise Damaged(f"`{origin}` is missing or unreadable") from None
        return size, digest

    return restore_files(durable.read_manifest(source), os.path.join(source, durable.DATA), name, target_dir, fetch)


def restore_files(
    manifest: Json, source: str, name: str, target_dir: str, fetch: Callable[[Json, str], Tuple[int, str]]
) -> str:
    """The same from wherever `fetch` gets a file of the manifest; it puts it to a path, on the disk, and returns the
    size and checksum of what is there. `source` is where that is, in words.
    """
    name = _own_name(manifest.get("name")) or name
    building = os.path.join(target_dir, TEMPORARY_PREFIX + name)
    durable.remove(building)
    try:
        for file in manifest["files"]:
            relative = _relative(file.get("path"), name)
            if relative is None:
                raise Damaged(f"`{source}` has a manifest that doesn't describe `{name}`")
            target = os.path.normpath(os.path.join(building, relative))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if fetch(file, target) != (file["bytes"], file["sha256"]):
                origin = os.path.join(source, file["path"])
                raise Damaged(f"`{origin}` is not what was saved: its size or checksum differs from the manifest")
            os.chmod(target, int(file["mode"]) & 0o777 | 0o600)
        return _install(building, name, target_dir)
    finally:
        durable.remove(building)


def restore_plain(source: str, name: str, target_dir: str, kind: str, command: Sequence[str]) -> str:
    """Copy a checkpoint that the user names (a file or directory without a manifest), validated by its format."""
    verdict = formats.validate(source, kind, command)
    if not verdict.valid:
        raise Damaged(f"`{source}` {verdict.detail}")
    final = os.path.join(target_dir, name)
    if os.path.realpath(source) == os.path.realpath(final):
        return final
    building = os.path.join(target_dir, TEMPORARY_PREFIX + name)
    durable.remove(building)
    try:
        members: List[str] = formats.list_files(source) if os.path.isdir(source) else [""]
        for member in members:
            target = os.path.join(building, "content", member) if member else os.path.join(building, "content")
            os.makedirs(os.path.dirname(target), exist_ok=True)
            durable.copy_file(os.path.join(source, member) if member else source, target)
        return _install(building, name, target_dir)
    finally:
        durable.remove(building)


def _own_name(value: object) -> "str | None":
    return value if isinstance(value, str) and value not in ("", ".", "..") and "/" not in value else None


def _relative(path: object, name: str) -> "str | None":
    """A manifest's path as a place below `content`; None for what would lead elsewhere."""
    if not isinstance(path, str) or os.path.isabs(path) or ".." in path.split("/"):
        return None
    if path == name:
        return "content"
    return os.path.join("content", path[len(name) + 1 :]) if path.startswith(name + "/") else None


def _install(building: str, name: str, target_dir: str) -> str:
    """Give the finished copy its name; what had it before makes way."""
    final = os.path.join(target_dir, name)
    content = os.path.join(building, "content")
    if os.path.isdir(final) and not os.path.islink(final):
        os.rename(final, os.path.join(building, "before"))
    elif os.path.isdir(content) and os.path.lexists(final):
        os.unlink(final)
    os.rename(content, final)
    durable.remove(building)
    sync(target_dir)
    return final
