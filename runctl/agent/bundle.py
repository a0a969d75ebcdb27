"""The agent as files: what is copied to a host, and by which hash it is known there. Controller side; not shipped
itself.

The directory is named after the hash of its content, so upgrading runctl never changes the code under a live training.
"""

from __future__ import annotations

import functools
import io
import marshal
import sys
import zipfile
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

from runctl.agent.unpack import deliver, hash_of

ENTRY = "launch.py"
_PACKAGES = ("agent", "checkpoints", "snapshots")
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
    """The name of these files."""
    return hash_of(agent_files())


@functools.cache
def archive() -> bytes:
    """The files as a zip archive, which Python can import from."""
    return zipped(agent_files())


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Files by their paths as a zip archive: the same bytes each time."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in sorted(files.items()):
            opened.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def install(root: Path) -> Path:
    """Put the agent below `root` and return its directory, `<root>/<hash>`."""
    target = root / bundle_hash()
    return target if target.is_dir() else Path(deliver(str(root), target.name, {**agent_files(), **_compiled()}))


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
