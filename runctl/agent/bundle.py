"""The agent as files: what is copied to a host, and by which hash it is known there. Controller side; not shipped
itself.

The directory is named after the hash of its content, so upgrading runctl never changes the code under a live training.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import marshal
import os
import shutil
import sys
import tempfile
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

from runctl.checkpoints.lasting import make_directories, sync

ENTRY = "launch.py"
_PACKAGES = ("agent", "checkpoints")
_NOT_SHIPPED = frozenset({"bundle.py"})
# PEP 552: byte code that is known by a hash of its source, which is not looked at when it is imported.
_UNCHECKED_HASH = 0b01


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
    target = root / bundle_hash()
    return target if target.is_dir() else deliver(root, target.name, {**agent_files(), **_compiled()})


def _compiled() -> dict[str, bytes]:
    """The byte code for this interpreter, so that a start doesn't compile, by its path beside the sources. As this
    package's own cache has it, where there is one: to compile it all takes a tenth of a second. It isn't compared with
    its source again, which never changes in a directory that is named after it. An import sets the paths in tracebacks.
    """
    around = Path(__file__).resolve().parent.parent.parent
    found = {}
    for name, content in agent_files().items():
        folder, _, module = name.removesuffix(".py").rpartition("/")
        if name == ENTRY:
            continue
        # The package itself is another one there: empty.
        code = SourceFileLoader(module, str(around / name)).get_code(module) if content else compile(b"", name, "exec")
        head = MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + source_hash(content)
        found[f"{folder}/__pycache__/{module}.{sys.implementation.cache_tag}.pyc"] = head + marshal.dumps(code)
    return found


def deliver(root: Path, name: str, files: dict[str, bytes]) -> Path:
    """Put these files into `<root>/<name>`, which is returned; `root` is created 0700.

    Atomic and idempotent: one that is there is taken as it is, so it is on the disk before it has its name.
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
