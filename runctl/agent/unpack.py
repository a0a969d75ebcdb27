"""The agent arrives: files in an archive become the directory that is named after what is in them.

Run on a host out of the archive itself, which is what Python can import from, so that nothing has to be there before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile

from runctl.checkpoints.lasting import make_directories, sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping


def hash_of(files: Mapping[str, bytes]) -> str:
    """SHA-256 over paths and contents, in hex."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def deliver(root: str, name: str, files: Mapping[str, bytes]) -> str:
    """Put these files into `<root>/<name>`, which is returned; `root` is created 0700.

    Atomic and idempotent: one that is there is taken as it is, so it is on the disk before it has its name.
    """
    target = os.path.join(root, name)
    if os.path.isdir(target):
        return target
    make_directories(root)
    building = tempfile.mkdtemp(prefix=".agent-", dir=root)
    try:
        for inner, content in files.items():
            path = os.path.join(building, inner)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        _sync_all(building)
        try:
            os.rename(building, target)
        except OSError:  # another start was faster: its directory has the same content
            if not os.path.isdir(target):
                raise
        sync(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _sync_all(directory: str) -> None:
    for path, _, names in os.walk(directory):
        for name in names:
            sync(os.path.join(path, name))
        sync(path)


def _is_whole(target: str, files: Mapping[str, bytes]) -> bool:
    try:
        for inner, content in files.items():
            with open(os.path.join(target, inner), "rb") as file:
                if file.read() != content:
                    return False
    except OSError:
        return False
    return True


def receive(arguments: List[str]) -> int:
    """The same for an archive that comes on stdin, after its length on a line of its own."""
    source = sys.stdin.buffer
    size = int(source.readline())
    with tempfile.NamedTemporaryFile() as file:
        file.write(source.read(size))
        file.flush()
        return main(file.name, arguments)


def main(archive: str, arguments: List[str]) -> int:
    """`archive` has the files; the arguments are the directory of all agents and the hash that this one must have."""
    root, name = arguments
    os.umask(0o077)
    files: Dict[str, bytes] = {}
    with zipfile.ZipFile(archive) as opened:
        for inner in opened.namelist():
            files[inner] = opened.read(inner)
    if hash_of(files) != name:
        sys.stderr.write("error: what arrived isn't what was sent\n")
        return 1
    try:
        target = os.path.join(root, name)
        if os.path.lexists(target) and not _is_whole(target, files):  # somebody has swept it
            broken = tempfile.mkdtemp(prefix=".broken-", dir=root)
            os.rename(target, os.path.join(broken, name))
            shutil.rmtree(broken, ignore_errors=True)
        deliver(root, name, files)
    except OSError as error:
        sys.stderr.write(f"error: the agent can't be put into `{root}`: {error.strerror}\n")
        return 1
    return 0
