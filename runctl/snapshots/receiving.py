"""A snapshot arrives on a host: what it lacks is asked for, comes as one stream, and is checked file by file.

The other side (`providers/hosts/sending.py`) first sends the manifest, after its length on a line of its own. It is
told what is wanted, as one JSON line: `{"wanted": [[entry, offset], …]}` by the entries' places in the manifest, in
order. Then it sends these files' bytes from their offsets on, one after the other, as one zlib stream; and is told the
end: `{"stored": true}` or `{"error": "…"}`. What has arrived is kept: after a cut the rest is asked for.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import zlib

from runctl.snapshots.copying import copy_file, hash_file
from runctl.snapshots.errors import SnapshotError
from runctl.snapshots.manifest import LINK, NAME, TREE, from_json, read_manifest
from runctl.snapshots.stored import is_whole, make_parents, publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import BufferedReader
    from typing import Any, BinaryIO, Dict, Iterable, List, Set, Tuple

    from runctl.snapshots.manifest import Entry, Manifest

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
# Whoever has sent nothing for so long is gone, whatever his connection says, or waits for another who is; this process
# ends then, so that it keeps nobody from sending the same.
SILENCE_SECONDS = 60
# Of older snapshots, the newest are looked through for files that needn't travel.
OLDER = 20


def main(store: str, name: str) -> int:
    """Receive the snapshot of that name over stdin and stdout."""
    source, sink = open(0, "rb", closefd=False), sys.stdout.buffer
    signal.alarm(SILENCE_SECONDS)
    try:
        size = int(source.readline(32))
        if not 0 <= size <= MAX_MANIFEST_BYTES:
            raise ValueError("a manifest is too long")
        manifest = from_json(_exactly(source, size), name, "what was sent")
        os.makedirs(store, mode=0o700, exist_ok=True)
        _receive(store, manifest, source, sink)
        _say(sink, stored=True)
    except (OSError, SnapshotError, ValueError, EOFError, zlib.error) as error:
        _say(sink, error=f"{error}" or type(error).__name__)
        return 1
    return 0


def _receive(store: str, manifest: Manifest, source: BufferedReader, sink: BinaryIO) -> None:
    building = f"{store}/.receiving-{manifest.code_hash}"
    os.makedirs(building, mode=0o700, exist_ok=True)
    lock = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until whoever else receives it has it, or is cut off
        if is_whole(f"{store}/{manifest.code_hash}", manifest):
            if os.path.isdir(building) and not os.listdir(building):
                os.rmdir(building)
            _say(sink, wanted=[])
            return
        os.makedirs(building, mode=0o700, exist_ok=True)
        files = _Files(building, manifest)
        wanted = files.wanted(_older(store))
        _say(sink, wanted=[[index, offset] for index, offset in wanted])
        files.take(wanted, _Inflated(source))
        files.link()
        shutil.rmtree(files.partial, ignore_errors=True)
        os.sync()  # of what has its name, a power cut takes nothing back
        publish(building, store, manifest)
    finally:
        os.close(lock)


def _older(store: str) -> Dict[str, str]:
    """Files of the store's newest snapshots, by their hash."""
    found: Dict[str, str] = {}
    try:
        names = [entry for entry in os.scandir(store) if not entry.name.startswith(".")]
        newest = sorted(names, key=lambda entry: entry.stat().st_mtime, reverse=True)[:OLDER]
    except OSError:
        return found
    for each in newest:
        try:
            entries = read_manifest(each.path).entries
        except SnapshotError:
            continue
        for entry in entries:
            if entry.kind != LINK:
                found.setdefault(entry.sha256, f"{each.path}/{TREE}/{entry.path}")
    return found


class _Files:
    """The files of a snapshot that is being put together: whole ones below `tree`, begun ones beside it by number."""

    def __init__(self, building: str, manifest: Manifest) -> None:
        self.tree, self.partial = f"{building}/{TREE}", f"{building}/partial"
        for path in (self.tree, self.partial):
            os.makedirs(path, mode=0o700, exist_ok=True)
        if os.path.lexists(f"{building}/{NAME}"):  # of an earlier try, which got no further
            os.unlink(f"{building}/{NAME}")
        self._entries = manifest.entries
        self._made: Set[str] = {""}

    def wanted(self, older: Dict[str, str]) -> List[Tuple[int, int]]:
        """Which files have to travel, and from which byte on; the others are put in their places."""
        found = []
        for index, entry in enumerate(self._entries):
            if entry.kind == LINK or self._is_there(entry) or self._copied(entry, older.get(entry.sha256)):
                continue
            found.append((index, self._begun(index, entry)))
        return found

    def _is_there(self, entry: Entry) -> bool:
        path = f"{self.tree}/{entry.path}"
        try:
            if hash_file(os.fsencode(path)) == (entry.size, entry.sha256):
                return True
            os.unlink(path)
        except FileNotFoundError:
            pass
        return False

    def _copied(self, entry: Entry, source: str | None) -> bool:
        """Whether an older snapshot's file is the same, and could be taken."""
        if source is None:
            return False
        target = self._place(entry)
        try:
            if copy_file(os.fsencode(source), os.fsencode(target), entry.mode) == (entry.size, entry.sha256):
                return True
            os.unlink(target)
        except FileNotFoundError:
            pass
        return False

    def _begun(self, index: int, entry: Entry) -> int:
        try:
            size = os.lstat(f"{self.partial}/{index}").st_size
        except OSError:
            return 0
        return size if size < entry.size else 0

    def take(self, wanted: Iterable[Tuple[int, int]], stream: _Inflated) -> None:
        for index, offset in wanted:
            entry, path = self._entries[index], f"{self.partial}/{index}"
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if offset else os.O_TRUNC)
            with open(os.open(path, flags, entry.mode), "r+b") as file:
                digest = hashlib.sha256()
                for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
                    digest.update(chunk)
                for chunk in stream.pieces(entry.size - offset):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != entry.sha256:
                os.unlink(path)
                raise ValueError(f"`{entry.path}` isn't what was to come: send it again")
            os.chmod(path, entry.mode)
            os.rename(path, self._place(entry))
        stream.end()

    def link(self) -> None:
        """Last, so that no file is ever written through one."""
        for entry in self._entries:
            if entry.kind == LINK:
                place = self._place(entry)
                if os.path.lexists(place):  # of an earlier try
                    os.unlink(place)
                os.symlink(entry.target or "", place)

    def _place(self, entry: Entry) -> str:
        try:
            make_parents(self.tree, entry.path, self._made)
        except FileExistsError:  # of an earlier try
            os.makedirs(os.path.dirname(f"{self.tree}/{entry.path}"), mode=0o700, exist_ok=True)
        return f"{self.tree}/{entry.path}"


class _Inflated:
    """What a zlib stream holds, as so many bytes as are asked for."""

    def __init__(self, source: BufferedReader) -> None:
        self._source = source
        self._inflate = zlib.decompressobj()

    def pieces(self, size: int) -> Iterable[bytes]:
        while size > 0:
            piece = self._piece(min(size, CHUNK_BYTES))
            size -= len(piece)
            yield piece

    def _piece(self, most: int) -> bytes:
        while True:
            data = self._inflate.unconsumed_tail
            if not data:
                data = self._source.read1(CHUNK_BYTES)
                signal.alarm(SILENCE_SECONDS)
                if not data:
                    raise EOFError("the connection was cut; what has arrived is kept")
            piece = self._inflate.decompress(data, most)
            if piece:
                return piece
            if self._inflate.eof:
                raise ValueError("less was sent than was to come")

    def end(self) -> None:
        """Nothing may be left but the stream's own end."""
        while not self._inflate.eof:
            data = self._inflate.unconsumed_tail or self._source.read1(CHUNK_BYTES)
            if not data:
                raise EOFError("the connection was cut; what has arrived is kept")
            if self._inflate.decompress(data, 1):
                raise ValueError("more was sent than was to come")


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise EOFError("the connection was cut")
    return data


def _say(sink: BinaryIO, **value: Any) -> None:
    sink.write(json.dumps(value).encode() + b"\n")
    sink.flush()
