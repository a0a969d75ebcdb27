"""Durable checkpoints as objects: `<prefix>/<uid>/<attempt>/<seq>/` with the files below a directory of the try that
stored them and, written last and only if there is none, `manifest.json`, which names that directory.

So two writers never touch each other's objects, whatever the service makes of conditions; only the manifest decides.
"""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import json
import os
import stat
import time

from runctl.checkpoints import durable
from runctl.checkpoints.durable import MANIFEST, Changed, Damaged, Durable
from runctl.checkpoints.formats import Invalid, list_files
from runctl.checkpoints.objects import (
    Absent,
    Conflict,
    Exists,
    Head,
    Mismatch,
    ObjectStorageError,
    Unavailable,
    Unreachable,
)
from runctl.checkpoints.places import S3
from runctl.checkpoints.storage import Storage
from runctl.checkpoints.verifying import is_inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, TypeVar

    from runctl.checkpoints.objects import Objects, Part

    Json = Dict[str, Any]
    T = TypeVar("T")

MIB = 1024 * 1024
# A smaller file is one put; a larger one goes in parts of this size, or of more where that would be too many.
PART_BYTES = 16 * MIB
MAX_PARTS = 10_000
THREADS = 4
# What an interrupted upload left isn't looked at before: longer than any upload takes.
STALE_SECONDS = 24 * 3600.0
# How often the manifest is put while nobody says whether it has arrived.
DECLARED_TRIES = 5
DECLARED_PAUSE_SECONDS = 1.0
DATA_PREFIX = "data-"
PROBE = ".runctl-probe"
# A key has 1,024 bytes at most; what is before the name of a file gets the rest.
MAX_NAME_BYTES = 700


class Probe:
    """What a bucket does. `conditional`: it refuses to put what was to be absent and isn't; where not, two writers of
    one number may replace each other's manifest. `checksums`: it refuses what doesn't have the checksum that was sent
    along, so the checksum that it tells of an object is that of what it received.
    """

    __slots__ = ("checksums", "conditional")

    def __init__(self, conditional: bool, checksums: bool) -> None:
        self.conditional = conditional
        self.checksums = checksums


class S3Storage(Storage):
    """`probed` is what an earlier probe of the bucket has found: without it the first store asks again."""

    def __init__(
        self,
        objects: Objects,
        prefix: str,
        probed: Optional[Probe] = None,
        part_bytes: int = PART_BYTES,
        threads: int = THREADS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._objects = objects
        self._prefix = prefix.strip("/")
        self._probed = probed
        self._part_bytes = part_bytes
        self._threads = threads
        self._pause = pause

    def _key(self, *components: str) -> str:
        return "/".join([self._prefix, *components] if self._prefix else components)

    def _directory(self, uid: str, attempt: int, seq: int) -> str:
        return self._key(uid, f"{attempt:06d}", f"{seq:06d}")

    def _say(self, key: str) -> str:
        return f"{S3}{self._objects.bucket}/{key}"

    def location(self, uid: str, attempt: int, seq: int) -> str:
        return self._say(self._directory(uid, attempt, seq))

    def _key_of(self, location: str) -> str:
        start = self._say("")
        if not location.startswith(start):
            raise Damaged(f"`{location}` is not in the bucket `{self._objects.bucket}`")
        return location[len(start) :]

    # Before

    def prepare(self, uid: str, attempt: int) -> None:
        self.probe()

    def probe(self) -> Probe:
        """Put one small object, which stays, so that the bucket shows what it does; once for each storage."""
        if self._probed is None:
            key, body = self._key(PROBE), b"Written by runctl to see whether this bucket refuses to overwrite it.\n"
            self._probed = Probe(self._refuses_again(key, body), self._refuses_mismatch(key + "-checksum", body))
        return self._probed

    def _refuses_again(self, key: str, body: bytes) -> bool:
        for _ in range(2):
            try:
                self._objects.create(key, body, _hex(body))
            except (Exists, Conflict):
                return True
        return False

    def _refuses_mismatch(self, key: str, body: bytes) -> bool:
        try:
            self._objects.put(key, body, _hex(b"something else"))
        except Mismatch:
            return True
        return False

    # Store

    def store(self, source: str, facts: Json) -> Json:
        directory = self._directory(facts["uid"], facts["attempt"], facts["seq"])
        if self._has(f"{directory}/{MANIFEST}"):
            raise _exists(self._say(directory))
        self.probe()
        data = DATA_PREFIX + os.urandom(8).hex()
        upload = _Upload(self._objects, f"{directory}/{data}/")
        try:
            files = self._store_all(source, facts["name"], upload)
        except BaseException:
            upload.remove()
            raise
        manifest = {**durable.manifest_of(facts, files), "data": data}
        try:
            self._declare(directory, json.dumps(manifest, separators=(",", ":")).encode())
        except FileExistsError:
            upload.remove()
            raise
        return manifest

    def _store_all(self, source: str, name: str, upload: _Upload) -> List[Json]:
        before = durable.fingerprint(source)
        is_directory = stat.S_ISDIR(os.stat(source, follow_symlinks=False).st_mode)
        small: List[Tuple[str, str]] = []
        large: List[Tuple[str, str]] = []
        for member in list_files(source) if is_directory else [""]:
            origin = os.path.realpath(os.path.join(source, member) if member else source)
            path = os.path.join(name, member) if member else name
            (small if os.stat(origin).st_size < self._part_bytes else large).append((origin, path))
        calls = (functools.partial(self._store_file, origin, path, upload, 1) for origin, path in small)
        files = list(_in_order(self._threads, calls))
        files += [self._store_file(origin, path, upload, self._threads) for origin, path in large]
        if durable.fingerprint(source) != before:
            raise Changed(name)
        return sorted(files, key=lambda file: str(file["path"]))

    def _store_file(self, origin: str, path: str, upload: _Upload, threads: int) -> Json:
        """Put one file, and look at what has arrived; its entry in the manifest."""
        reader = os.open(origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(reader)
            if not stat.S_ISREG(found.st_mode):
                raise Invalid(f"`{origin}` is not a regular file")
            key = upload.key_of(path)
            put = self._put_whole if found.st_size < self._part_bytes else self._put_parts
            digest, expected = put(reader, found.st_size, key, upload, threads)
            after = os.fstat(reader)
        finally:
            os.close(reader)
        if (after.st_size, after.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            raise Changed(path)
        self._check(key, found.st_size, digest, expected)
        return {"path": path, "bytes": found.st_size, "sha256": digest, "mode": stat.S_IMODE(found.st_mode)}

    def _put_whole(self, reader: int, size: int, key: str, upload: _Upload, threads: int) -> Tuple[str, str]:
        body = _read(reader, 0, size)
        digest = hashlib.sha256(body)
        upload.keys.append(key)
        try:
            self._objects.put(key, body, digest.hexdigest())
        except Mismatch:
            raise self._arrived_different(key) from None
        return digest.hexdigest(), _base64(digest.digest())

    def _put_parts(self, reader: int, size: int, key: str, upload: _Upload, threads: int) -> Tuple[str, str]:
        """In parts, each read once, so that what is hashed is what is sent."""
        length = part_length(size, self._part_bytes)
        whole = hashlib.sha256()
        upload.keys.append(key)
        begun = upload.begin(key)

        def put(number: int, body: bytes) -> Part:
            return self._objects.put_part(key, begun, number, body, _hex(body))

        def calls() -> Iterator[Callable[[], Part]]:
            for number, start in enumerate(range(0, size, length), 1):
                body = _read(reader, start, min(length, size - start))
                whole.update(body)
                yield functools.partial(put, number, body)

        try:
            parts = list(_in_order(threads, calls()))
        except Mismatch:
            raise self._arrived_different(key) from None
        except Absent:
            raise self._ended_elsewhere(key) from None
        self._complete(key, begun, parts)
        digests = b"".join(bytes.fromhex(part.sha256) for part in parts)
        return whole.hexdigest(), _base64(hashlib.sha256(digests).digest())

    def _complete(self, key: str, begun: str, parts: List[Part]) -> None:
        """What is there tells whether it was done where the answer was lost: to send all of it again would be dear."""
        try:
            self._objects.complete(key, begun, parts)
        except Absent:
            if not self._has(key):
                raise self._ended_elsewhere(key) from None
        except (Unreachable, Unavailable):
            if not self._has(key):
                raise

    def _ended_elsewhere(self, key: str) -> OSError:
        return OSError(errno.EIO, f"the upload of `{self._say(key)}` was ended by somebody else")

    def _arrived_different(self, key: str) -> OSError:
        return OSError(errno.EIO, f"`{self._say(key)}` arrived different from what was sent")

    def _check(self, key: str, size: int, digest: str, expected: str) -> None:
        """See that the object is what was sent: by the service's own checksum, if that is one, else by reading it."""
        head = self._head(key)
        if head is not None and head.size == size:
            if self.probe().checksums and head.sha256 == expected:
                return
            try:
                if self._digest(key, size) == digest:
                    return
            except Damaged:
                pass
        raise OSError(errno.EIO, f"`{self._say(key)}` reads back different from what was written")

    def _declare(self, directory: str, body: bytes) -> None:
        """Put the manifest. Raises FileExistsError if another one is there; every other error leaves open whether this
        one still arrives.
        """
        key = f"{directory}/{MANIFEST}"
        for tried in range(1, DECLARED_TRIES + 1):
            try:
                self._objects.create(key, body, _hex(body))
                break
            except Exists:
                break  # by somebody else, or by us: the answer may have been lost
            except (Conflict, Unreachable, Unavailable) as error:
                if tried == DECLARED_TRIES:
                    why = str(error) or "other writes of it are under way"
                    raise OSError(errno.EIO, f"whether `{self._say(key)}` was written isn't known: {why}") from None
                self._pause(DECLARED_PAUSE_SECONDS * tried)
            except Mismatch:
                raise self._arrived_different(key) from None
        try:
            there = self._objects.get(key, 0, len(body) + 1)
        except Absent:  # a service that doesn't know yet what it was just given
            raise OSError(errno.EIO, f"whether `{self._say(key)}` was written isn't known: it isn't found") from None
        if there != body:
            raise _exists(self._say(directory))

    # Look

    def _head(self, key: str) -> Optional[Head]:
        try:
            return self._objects.head(key)
        except Absent:
            return None

    def _has(self, key: str) -> bool:
        return self._head(key) is not None

    def _numbered(self, prefix: str) -> Iterator[Tuple[int, int, str, float]]:
        """Attempt, number, the rest of the key and the instant of each object of a job below that prefix."""
        for entry in self._objects.list(prefix):
            found = self._parse(entry.key)
            if found is not None:
                yield (*found, entry.modified)

    def _parse(self, key: str) -> Optional[Tuple[int, int, str]]:
        inside = key[len(self._prefix) + 1 :] if self._prefix else key
        components = inside.split("/", 3)
        if len(components) < 4 or not all(each.isdigit() and len(each) == 6 for each in components[1:3]):
            return None
        return int(components[1]), int(components[2]), components[3]

    def numbers(self, uid: str, attempt: int) -> List[int]:
        prefix = self._key(uid, f"{attempt:06d}") + "/"
        return sorted({seq for _, seq, _, _ in self._numbered(prefix)})

    def list(self, uid: str) -> List[Durable]:
        found = []
        declared = {(number, seq) for number, seq, name, _ in self._numbered(self._key(uid) + "/") if name == MANIFEST}
        for attempt, seq in sorted(declared):
            location = self.location(uid, attempt, seq)
            try:
                found.append(Durable(location, attempt, seq, self.read_manifest(location)))
            except Damaged:
                continue
        return found

    def read_manifest(self, location: str) -> Json:
        key = f"{self._key_of(location)}/{MANIFEST}"
        try:
            content = self._objects.get(key, 0, durable.MAX_MANIFEST)
        except Absent:
            raise Damaged(f"`{location}` is no durable checkpoint: it has no manifest") from None
        manifest = durable.parse_manifest(content, location)
        data = manifest.get("data")
        if not isinstance(data, str) or not data.startswith(DATA_PREFIX) or "/" in data:
            raise Damaged(f"`{location}` has a manifest that doesn't say where its files are")
        return manifest

    def _files_of(self, location: str, manifest: Json) -> Iterator[Tuple[Json, str]]:
        """Each file of a manifest with its key."""
        for file in manifest["files"]:
            size = file.get("bytes") if isinstance(file, dict) else None
            if not isinstance(size, int) or size < 0 or not is_inside(file.get("path")):
                raise Damaged(f"`{location}` has a manifest that names something outside of it")
            yield file, f"{self._key_of(location)}/{manifest['data']}/{_name_of(file['path'])}"

    def verify(self, location: str) -> Json:
        manifest = self.read_manifest(location)
        for file, key in self._files_of(location, manifest):
            head = self._head(key)
            if head is None:
                raise Damaged(f"`{self._say(key)}` is missing")
            if head.size != file["bytes"] or self._digest(key, head.size) != file.get("sha256"):
                raise Damaged(
                    f"`{self._say(key)}` is not what was saved: its size or checksum differs from the manifest"
                )
        return manifest

    def _pieces(self, key: str, size: int) -> Iterator[bytes]:
        """All of an object, of which the size is known. Raises Damaged."""
        starts = range(0, size, self._part_bytes)
        lengths = [min(self._part_bytes, size - start) for start in starts]
        calls = (functools.partial(self._objects.get, key, start, length) for start, length in zip(starts, lengths))
        try:
            for length, piece in zip(lengths, _in_order(self._threads, calls)):
                if len(piece) != length:
                    raise Damaged(f"`{self._say(key)}` is shorter than the manifest says")
                yield piece
        except Absent:
            raise Damaged(f"`{self._say(key)}` is missing") from None

    def _digest(self, key: str, size: int) -> str:
        digest = hashlib.sha256()
        for piece in self._pieces(key, size):
            digest.update(piece)
        return digest.hexdigest()

    # Restore

    def restore(self, location: str, name: str, target_dir: str) -> str:
        from runctl.checkpoints import restoring

        manifest = self.read_manifest(location)
        keys = {file["path"]: key for file, key in self._files_of(location, manifest)}
        data = f"{location}/{manifest['data']}"
        return restoring.restore_files(
            manifest, data, name, target_dir, lambda file, target: self._fetch(keys[file["path"]], file, target)
        )

    def _fetch(self, key: str, file: Json, target: str) -> Tuple[int, str]:
        """Download to the disk; size and checksum of what came. Raises OSError if the disk keeps something else."""
        head = self._head(key)
        if head is None or head.size != file["bytes"]:
            raise Damaged(
                f"`{self._say(key)}` is {'missing' if head is None else 'not what was saved: its size differs'}"
            )
        writer = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            digest = hashlib.sha256()
            for piece in self._pieces(key, head.size):
                digest.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(writer, view) :]
            os.fsync(writer)
            durable.forget_cache(writer)
            came = (head.size, digest.hexdigest())
            if durable.digest_of(writer) != came:
                raise OSError(errno.EIO, f"`{target}` reads back different from what was written")
            return came
        finally:
            os.close(writer)

    # Remove

    def remove(self, old: Durable) -> None:
        directory = self._key_of(old.path)
        self._objects.delete([f"{directory}/{MANIFEST}"])
        # Only what is its own: somebody may be storing the same number again.
        data = f"{directory}/{old.manifest['data']}/"
        self._objects.delete([entry.key for entry in self._objects.list(data)])

    def sweep(self, uid: str, attempt: int, now: float, stale_seconds: float = STALE_SECONDS) -> List[str]:
        """Only on behalf of the highest attempt, and only what is older than a day."""
        prefix = self._key(uid) + "/"
        tries: Dict[Tuple[int, int, str], List[Tuple[str, float]]] = {}
        manifests = set()
        for entry in self._objects.list(prefix):
            found = self._parse(entry.key)
            if found is None:
                continue
            number, seq, rest = found
            if number > attempt:
                return []
            data, inside, _ = rest.partition("/")
            if rest == MANIFEST:
                manifests.add((number, seq))
            elif inside:
                tries.setdefault((number, seq, data), []).append((entry.key, entry.modified))
        return [
            *self._end_stale_uploads(prefix, attempt, now - stale_seconds),
            *self._remove_stale(uid, tries, manifests, now - stale_seconds),
        ]

    def _end_stale_uploads(self, prefix: str, attempt: int, before: float) -> List[str]:
        ended = []
        for entry in list(self._objects.uploads(prefix)):
            found = self._parse(entry.key)
            if found is not None and found[0] <= attempt and entry.modified < before:
                self._objects.abort(entry.key, entry.upload)
                ended.append(self._say(entry.key))
        return ended

    def _remove_stale(
        self,
        uid: str,
        tries: Dict[Tuple[int, int, str], List[Tuple[str, float]]],
        manifests: "set[Tuple[int, int]]",
        before: float,
    ) -> List[str]:
        removed = []
        for (number, seq, data), entries in sorted(tries.items()):
            if any(modified >= before for _, modified in entries):
                continue
            location = self.location(uid, number, seq)
            if (number, seq) in manifests:
                try:
                    if self.read_manifest(location)["data"] == data:
                        continue
                except Damaged:
                    continue  # not to be judged: nobody knows what it named
            self._objects.delete([key for key, _ in entries])
            removed.append(f"{location}/{data}")
        return removed


class _Upload:
    """What one try to store has put so far, so that it can be taken away again."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix
        self.keys: List[str] = []
        self._begun: List[Tuple[str, str]] = []

    def key_of(self, path: str) -> str:
        return self._prefix + _name_of(path)

    def begin(self, key: str) -> str:
        upload = self._objects.begin(key)
        self._begun.append((key, upload))
        return upload

    def remove(self) -> None:
        """As far as it goes: a sweep does the rest."""
        try:
            for key, upload in self._begun:
                self._objects.abort(key, upload)
            self._objects.delete(self.keys)
        except ObjectStorageError:
            pass


def part_length(size: int, least: int) -> int:
    """Bytes of each part, in whole MiB where they are more than the least."""
    return least if size <= least * MAX_PARTS else -(-size // (MAX_PARTS * MIB)) * MIB


def _in_order(threads: int, calls: Iterator[Callable[[], T]]) -> Iterator[T]:
    """The results of the calls, in their order, with so many under way at a time and none begun ahead of that. When it
    is left, none is under way any more.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: List[Future[T]] = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) >= threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for each in waiting:
                each.cancel()


def _read(reader: int, start: int, length: int) -> bytes:
    """Raises Changed if there is less."""
    pieces, done = [], 0
    while done < length:
        piece = os.pread(reader, length - done, start + done)
        if not piece:
            raise Changed("it became shorter while it was read")
        pieces.append(piece)
        done += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _name_of(path: str) -> str:
    """What the key of a file ends with: its path, where that is printable text that nothing on the way changes."""
    if path.isprintable() and "%" not in path and "\\" not in path:
        name = path
    else:
        name = "".join(
            chr(byte) if 0x20 < byte < 0x7F and byte not in b"%\\" else f"%{byte:02X}" for byte in os.fsencode(path)
        )
    return name if len(name.encode()) <= MAX_NAME_BYTES else f"%sha256/{_hex(os.fsencode(path))}"


def _hex(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _exists(location: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), location)
