"""One training per host: an `flock` at a fixed local path, the same for every home and user.

The lock is a property of open descriptors: guardian, agent and training hold the same one, so it is free only when all
are gone. The text in the file says who, for people; the `flock` is the truth.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import sys
import time

from runctl.agent import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

DIRECTORY_VARIABLE = "RUNCTL_HOST_LOCK_DIR"
DIRECTORIES = ("/var/tmp", "/run/lock", "/tmp")
# A probe (`is somebody there?`) may hold the lock for an instant.
PATIENCE_SECONDS = 1.0
RETRY_SECONDS = 0.05
MAX_SLOTS = 1024
MAX_HOLDER_BYTES = 64 * 1024
NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs")
)


class Busy(Exception):
    """Another training holds the host; `holder` is what it wrote about itself, or None."""

    def __init__(self, holder: Optional[Json]) -> None:
        super().__init__("another training holds this machine")
        self.holder = holder


class LockUnusable(Exception):
    """The lock file can't be opened, or isn't a plain file; `args[0]` says why."""


def directory() -> str:
    """Where this host's lock lives. Raises LockUnusable."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return chosen
    for candidate in DIRECTORIES:
        if os.path.isdir(candidate) and network_file_system(candidate) is None:
            return candidate
    raise LockUnusable(f"none of {', '.join(DIRECTORIES)} is a directory on a local file system")


def network_file_system(path: str) -> Optional[str]:
    """The kind of the network file system that a path is on, None if it is on a local one. Known on Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split()
                mount = fields[1]
                inside = real == mount or real.startswith(mount.rstrip("/") + "/")
                if len(fields) > 2 and inside and len(mount) >= len(best):
                    best, kind = mount, fields[2]
    except OSError:
        return None
    return kind if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.ssh") else None


def path_of(slot: int) -> str:
    """Slot 0 is the host's main lock; `busy: share` uses those from 1."""
    return os.path.join(directory(), f"runctl-host.{slot}.lock" if slot else "runctl-host.lock")


class HostLock:
    """A held lock; `descriptor` is what keeps it."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path

    def write_holder(self, holder: Json) -> None:
        write_holder(self.descriptor, holder)


def write_holder(descriptor: int, holder: Json) -> None:
    """Say who holds it; an empty object when everything of the holder is gone. A full disk costs only the text."""
    try:
        data = json.dumps(holder).encode() + b"\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
    except OSError:
        pass


def acquire(busy: str) -> HostLock:
    """Take the host for one training. `refuse`: the main lock, with every slot free. `share`: the first free one.

    Raises Busy, LockUnusable.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return _acquire_shared() if busy == "share" else _acquire_alone()
        except Busy:
            if time.monotonic() >= until:
                raise
        time.sleep(RETRY_SECONDS)


def _acquire_alone() -> HostLock:
    lock = _try(path_of(0))
    try:
        removed = _holder_of_a_removed_lock()
        if removed is not None:
            raise Busy(removed)
        for slot in _used_slots():
            os.close(_try(path_of(slot)).descriptor)
    except BaseException:
        os.close(lock.descriptor)
        raise
    return lock


def _acquire_shared() -> HostLock:
    for slot in range(MAX_SLOTS):
        try:
            return _try(path_of(slot))
        except Busy as error:
            busy = error
    raise busy


def _used_slots() -> List[int]:
    found = []
    for name in os.listdir(directory()):
        middle = name[len("runctl-host.") : -len(".lock")]
        if name == f"runctl-host.{middle}.lock" and middle.isdigit() and 0 < int(middle) < MAX_SLOTS:
            found.append(int(middle))
    return sorted(found)


def _try(path: str) -> HostLock:
    """Lock a path at once, or raise Busy. What was locked is what the path names: it may be unlinked in between."""
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held, named = os.fstat(descriptor), os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            os.close(descriptor)
            continue
        except OSError as error:
            holder = read_holder(descriptor)
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise Busy(holder) from None
            raise LockUnusable(f"`{path}` can't be locked: {error.strerror}") from None
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
            return HostLock(descriptor, path)
        os.close(descriptor)


def _open(path: str) -> int:
    # Without O_CREAT first: in a sticky directory the kernel refuses O_CREAT on another user's file
    # (fs.protected_regular).
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            return _plain(os.open(path, flags), path)
        except FileNotFoundError:
            pass
        old = os.umask(0)
        try:
            return _plain(os.open(path, flags | os.O_CREAT, 0o666), path)
        finally:
            os.umask(old)
    except OSError as error:
        raise LockUnusable(f"`{path}` can't be opened: {error.strerror}") from None


def _plain(descriptor: int, path: str) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LockUnusable(f"`{path}` is not a plain file")
    return descriptor


def read_holder(descriptor: int) -> Optional[Json]:
    """What the holder wrote, None if it is nothing that can be read. Anybody may write here: for showing only."""
    try:
        value = json.loads(os.pread(descriptor, MAX_HOLDER_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value else None


def _holder_of_a_removed_lock() -> Optional[Json]:
    """Who trains under a lock file that somebody has deleted (`/tmp` is swept): this user's trainings still hold it
    open. Linux only.
    """
    if not processes.LINUX:
        return None
    prefix = os.path.join(os.path.realpath(directory()), "runctl-host.")
    for name in os.listdir("/proc"):
        if not name.isdigit() or not any(
            entry.startswith(processes.RUN_ID_VARIABLE + "=") for entry in processes.environment_of(int(name))
        ):
            continue
        try:
            for number in os.listdir(f"/proc/{name}/fd"):
                target = os.readlink(f"/proc/{name}/fd/{number}")
                if target.startswith(prefix) and target.endswith(".lock (deleted)"):
                    with open(f"/proc/{name}/fd/{number}", "rb") as file:
                        return read_holder(file.fileno()) or {}
        except OSError:
            continue
    return None


def recorded_holders() -> List[Json]:
    """What the lock and every slot of this host say about their holders, dead or alive, each with the lock's `path`."""
    found = []
    for slot in (0, *_used_slots()):
        try:
            descriptor = os.open(path_of(slot), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        holder = read_holder(descriptor)
        os.close(descriptor)
        if holder is not None:
            found.append({**holder, "path": path_of(slot)})
    return found
