"""Durable copies: `<root>/<uid>/<attempt>/<seq>/` with the files under `data/` and, written last, `manifest.json`.

Without a manifest a directory is no checkpoint. An attempt writes under its own number only, and nothing that has
a manifest
is ever written again.
"""

from __future__ import annotations

import errno
import json
import os
import stat

from runctl.checkpoints.formats import Invalid, list_files
from runctl.checkpoints.lasting import make_directories, sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Json = Dict[str, Any]

VERSION = 1
MANIFEST = "manifest.json"
DATA = "data"
CHUNK = 4 * 1024 * 1024
# Small enough for a core's own cache.
HASHED_AT_ONCE = 256 * 1024
# A checksum that takes less than some hundredths of a second isn't worth a thread.
HASHED_BESIDE = 16 * 1024 * 1024
# Bytes from which on OpenSSL is loaded to digest them.
LOADED_FOR = 1024 * 1024
MAX_MANIFEST = 64 * 1024 * 1024
PARTIAL_PREFIX = ".partial-"
DOOMED_PREFIX = ".doomed-"


class Changed(Exception):
    """The checkpoint changed while it was copied; the copy was given up."""


class Damaged(Exception):
    """A durable copy that is not what its manifest says; `args[0]` says how."""


class Durable:
    """One durable checkpoint as its manifest tells it."""

    __slots__ = ("attempt", "manifest", "path", "seq")

    def __init__(self, path: str, attempt: int, seq: int, manifest: Json) -> None:
        self.path = path
        self.attempt = attempt
        self.seq = seq
        self.manifest = manifest


def directory(root: str, uid: str, attempt: int, seq: int) -> str:
    return os.path.join(root, uid, f"{attempt:06d}", f"{seq:06d}")


def make_directory(root: str, uid: str, attempt: int) -> None:
    """Make the directory of an attempt's copies, with names that a power cut doesn't take back. Raises OSError."""
    make_directories(os.path.dirname(directory(root, uid, attempt, 0)), levels=3)


def store(source: str, root: str, facts: Json) -> Json:
    """Copy a file or directory durably, verified by reading back; returns its manifest.

    `facts` are job, uid, attempt, seq, name, step, epoch, at and format. Raises OSError (a full disk), Changed,
    Invalid; nothing is left then.
    """
    target = directory(root, facts["uid"], facts["attempt"], facts["seq"])
    parent = os.path.dirname(target)
    if not os.path.isdir(parent):
        make_directory(root, facts["uid"], facts["attempt"])
    if os.path.lexists(os.path.join(target, MANIFEST)):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    building = os.path.join(parent, f"{PARTIAL_PREFIX}{facts['seq']:06d}")
    remove(building)
    remove(target)
    try:
        files = _copy_all(source, os.path.join(building, DATA), facts["name"])
        os.rename(building, target)
    except BaseException:
        remove(building)
        raise
    manifest = manifest_of(facts, files)
    try:
        sync(parent)
        _write(os.path.join(target, MANIFEST), manifest)
    except BaseException:
        remove(target)
        raise
    return manifest


def manifest_of(facts: Json, files: List[Json]) -> Json:
    return {"version": VERSION, **facts, "files": files, "bytes": sum(file["bytes"] for file in files)}


def checksum(manifest: Json) -> str:
    """One checksum for the whole: the file's own, or that over the list of them."""
    files: List[Json] = manifest["files"]
    if len(files) == 1:
        return str(files[0]["sha256"])
    lines = "".join(f"{file['sha256']}  {file['path']}\n" for file in files).encode("utf-8", "surrogateescape")
    digest = _sha256(len(lines))
    digest.update(lines)
    return str(digest.hexdigest())


def _copy_all(source: str, data: str, name: str) -> List[Json]:
    before = fingerprint(source)
    is_directory = stat.S_ISDIR(os.stat(source, follow_symlinks=False).st_mode)
    members = list_files(source) if is_directory else [""]
    files = []
    for member in members:
        relative = os.path.join(name, member) if member else name
        target = os.path.join(data, relative)
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        origin = os.path.join(source, member) if member else source
        size, digest, mode = copy_file(origin, target)
        files.append({"path": relative, "bytes": size, "sha256": digest, "mode": mode})
    # With the directory above: a manifest whose `data` a power cut takes back would vouch for nothing.
    for directory_path, _, _ in os.walk(os.path.dirname(data)):
        sync(directory_path)
    if fingerprint(source) != before:
        raise Changed(name)
    return files


def fingerprint(path: str) -> Tuple[object, ...]:
    """Changes when any file of a checkpoint does."""
    found = os.stat(path, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        return (found.st_ino, found.st_size, found.st_mtime_ns)
    marks: List[object] = []
    for member in list_files(path):
        inner = os.stat(os.path.join(path, member), follow_symlinks=False)
        marks.append((member, inner.st_ino, inner.st_size, inner.st_mtime_ns))
    return tuple(marks)


def copy_file(source: str, target: str, known: Optional[str] = None) -> Tuple[int, str, int]:
    """Copy one file, to disk, and compare what is read back from there; returns its size, checksum and mode.

    A link is copied as what it leads to: `list_files` has made sure that this is inside. `known` is the checksum that
    the source should have: a copy that has it proves itself, and the source isn't read a second time. Raises OSError,
    Changed, Invalid.
    """
    source = os.path.realpath(source)
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(reader)
        if not stat.S_ISREG(found.st_mode):
            raise Invalid(f"`{source}` is not a regular file")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        writer = os.open(target, flags, 0o600)
        try:
            beside = known is None and found.st_size >= HASHED_BESIDE
            digest_of_source = _digest_beside(reader) if beside else lambda: digest_of(reader)
            _transfer(reader, writer, found.st_size)
            os.fsync(writer)
            forget_cache(writer)
            actual = digest_of(writer)
            expected = actual if actual == (found.st_size, known) else digest_of_source()
            after = os.fstat(reader)
        finally:
            os.close(writer)
    finally:
        os.close(reader)
    if (after.st_size, after.st_mtime_ns) != (found.st_size, found.st_mtime_ns) or actual[0] != found.st_size:
        raise Changed(source)
    if expected != actual:
        raise OSError(errno.EIO, f"`{target}` reads back different from what was written")
    return actual[0], actual[1], stat.S_IMODE(found.st_mode)


def _digest_beside(descriptor: int) -> Callable[[], Tuple[int, str]]:
    """Begin to hash a file in a thread: a checksum takes a core longer than the copy takes the disk. Returns what waits
    for it. The thread has a descriptor of its own, so that nobody has to wait for it who has failed meanwhile.
    """
    import threading

    own = os.dup(descriptor)
    found: List[Tuple[int, str]] = []
    failed: List[OSError] = []

    def work() -> None:
        try:
            found.append(digest_of(own))
        except OSError as error:
            failed.append(error)
        finally:
            os.close(own)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result() -> Tuple[int, str]:
        thread.join()
        for error in failed:
            raise error
        return found[0]

    return result


def _transfer(reader: int, writer: int, size: int) -> None:
    """Copy in the kernel where it can (and share blocks where the file system can), else by reading and writing."""
    done = 0
    copy_range = getattr(os, "copy_file_range", None)
    while copy_range is not None and done < size:
        try:
            count = copy_range(reader, writer, min(size - done, 1 << 30))
        except OSError as error:
            if error.errno not in (
                errno.EXDEV,
                errno.ENOSYS,
                errno.EINVAL,
                errno.EOPNOTSUPP,
                errno.EPERM,
                errno.ETXTBSY,
            ):
                raise
            break
        if count == 0:
            break
        done += count
    os.lseek(reader, done, os.SEEK_SET)
    os.lseek(writer, done, os.SEEK_SET)
    while True:
        chunk = os.read(reader, CHUNK)
        if not chunk:
            return
        view = memoryview(chunk)
        while view:
            view = view[os.write(writer, view) :]


def forget_cache(descriptor: int) -> None:
    """So that reading back asks the disk and not the memory."""
    if hasattr(os, "posix_fadvise"):
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass


def _sha256(size: int) -> Any:
    """What digests so many bytes: for a few the interpreter's own, since loading OpenSSL takes longer than they do (as
    in the standard library's `random`); it is slower by half an order of magnitude for many.
    """
    if size < LOADED_FOR:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]

            return sha256()
        except ImportError:  # has another name since Python 3.12
            pass
    import hashlib

    return hashlib.sha256()


def digest_of(descriptor: int) -> Tuple[int, str]:
    """Size and SHA-256 of all that the file holds. Leaves its position alone."""
    digest, size = _sha256(os.fstat(descriptor).st_size), 0
    while True:
        chunk = os.pread(descriptor, HASHED_AT_ONCE, size)
        if not chunk:
            return size, digest.hexdigest()
        digest.update(chunk)
        size += len(chunk)


def _write(path: str, value: Json) -> None:
    temporary = path + ".tmp"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(value, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    sync(os.path.dirname(path))


def remove(path: str) -> None:
    """Remove a file, or a directory with all that is in it; no link is followed. Without `shutil`: to import it would
    take longer.
    """
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.lexists(path):
        for directory_path, directories, files in os.walk(path, topdown=False, onerror=_raise):
            for name in files:
                os.unlink(os.path.join(directory_path, name))
            for name in directories:
                inner = os.path.join(directory_path, name)
                (os.unlink if os.path.islink(inner) else os.rmdir)(inner)
        os.rmdir(path)


def _raise(error: OSError) -> None:
    raise error


def read_manifest(path: str) -> Json:
    """The manifest of a durable copy. Raises Damaged."""
    try:
        with open(os.path.join(path, MANIFEST), "rb") as file:
            content = file.read(MAX_MANIFEST)
    except OSError as error:
        raise Damaged(f"`{path}` is no durable checkpoint: its manifest can't be read ({error.strerror})") from None
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: str) -> Json:
    """What is written in the manifest of the checkpoint at that place. Raises Damaged."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise Damaged(f"`{path}` is no durable checkpoint: its manifest is no JSON") from None
    if not isinstance(value, dict) or value.get("version") != VERSION or not isinstance(value.get("files"), list):
        raise Damaged(f"`{path}` has a manifest of another version")
    return value


def list_durable(root: str, uid: str) -> List[Durable]:
    """The durable checkpoints of a job, oldest first. What has no readable manifest is none."""
    found = []
    for attempt in _numbered(os.path.join(root, uid)):
        for seq in _numbered(os.path.join(root, uid, f"{attempt:06d}")):
            path = directory(root, uid, attempt, seq)
            try:
                found.append(Durable(path, attempt, seq, read_manifest(path)))
            except Damaged:
                continue
    return found


def numbers(root: str, uid: str, attempt: int) -> List[int]:
    """Those that copies of an attempt have, whole or torn."""
    return _numbered(os.path.dirname(directory(root, uid, attempt, 0)))


def _numbered(path: str) -> List[int]:
    try:
        return sorted(int(name) for name in os.listdir(path) if name.isdigit() and len(name) == 6)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_there(path: str) -> bool:
    """Raises OSError where that can't be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sweep(root: str, uid: str, attempt: int) -> List[str]:
    """Remove what copies that were torn by a crash left behind, in this attempt and those before; returns the paths."""
    removed = []
    for number in _numbered(os.path.join(root, uid)):
        if number > attempt:
            continue
        parent = os.path.join(root, uid, f"{number:06d}")
        for name in os.listdir(parent):
            path = os.path.join(parent, name)
            torn = name.isdigit() and not _is_there(os.path.join(path, MANIFEST))
            if torn or name.startswith((PARTIAL_PREFIX, DOOMED_PREFIX)):
                remove(path)
                removed.append(path)
    return removed
