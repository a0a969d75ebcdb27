"""The agent as files: what is copied to a host, and by which hash it is known there. Controller side; not shipped
itself.

The directory is named after the hash of its content, so upgrading runctl never changes the code under a live training.
"""

from __future__ import annotations

import compileall
import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from runctl.checkpoints.lasting import make_directories, sync

ENTRY = "launch.py"
_PACKAGES = ("agent", "checkpoints")
_NOT_SHIPPED = frozenset({"bundle.py"})


@functools.cache
def agent_files() -> dict[str, bytes]:
    """Every file of the agent by its path in the agent's directory. `launch.py` at the top is what is started."""
    root = Path(__file__).resolve().parent.parent
    files = {"runctl/__init__.py": b""}
    for package in _PACKAGES:
        for path in sorted((root / package).glob("*.py")):
            if path.name not in _NOT_SHIPPED:
                files[f"runctl/{package}/{path.name}"] = path.read_bytes()
    files[ENTRY] = files.pop(f"runctl/agent/{ENTRY}")
    return files


@functools.cache
def bundle_hash() -> str:
    """SHA-256 over paths and contents, in hex."""
    digest = hashlib.sha256()
    for name, content in sorted(agent_files().items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def install(root: Path) -> Path:
    """Put the agent below `root` and return its directory, `<root>/<hash>`."""
    return deliver(root, bundle_hash(), agent_files())


def deliver(root: Path, name: str, files: dict[str, bytes]) -> Path:
    """Put these files into `<root>/<name>`, which is returned; `root` is created 0700.

    Atomic and idempotent: one that is there is taken as it is, so it is on the disk before it has its name.
    Byte-compiled for this interpreter, so that a start doesn't compile.
    """
    target = root / name
    if target.is_dir():
        return target
    make_directories(str(root))
    building = Path(tempfile.mkdtemp(prefix=".agent-", dir=root))
    try:
        for inner, content in files.items():
            path = building / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        # The paths in tracebacks are those of the final place.
        compileall.compile_dir(str(building), quiet=2, stripdir=str(building), prependdir=str(target))
        _sync_all(building)
        with contextlib.suppress(OSError):  # another start was faster: its directory has the same content
            os.rename(building, target)
        sync(str(root))
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _sync_all(directory: Path) -> None:
    for path, _, names in os.walk(directory):
        for name in names:
            sync(os.path.join(path, name))
        sync(path)
