"""Files of the run directory that are either whole or not there: JSON, append-only journals, the reserved exit
record.
"""

from __future__ import annotations

import json
import os
import stat

from runctl.checkpoints.lasting import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

# What is read here may have been written by anyone: more than this is not ours.
MAX_JSON_BYTES = 4 * 1024 * 1024
EXIT_RESERVE_BYTES = 64 * 1024
# Events that could not be written (a full disk) are kept and tried again; more than this many are not.
MAX_UNWRITTEN = 200


def complain(text: str) -> None:
    """Say something to `agent.log`, unless the disk is full: nobody may end for not being able to complain."""
    try:
        os.write(2, text.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


def read_file(path: str, most: int = -1) -> bytes:
    """The content of a plain file, or its first bytes. Raises OSError, and ValueError for what isn't one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is not a plain file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def read_json(path: str) -> Json:
    """The JSON object in a file. Raises OSError, or ValueError when it isn't one (or is larger than 4 MiB)."""
    return parse_json(read_file(path, MAX_JSON_BYTES + 1))


def parse_json(text: bytes) -> Json:
    """The JSON object that a file holds. Raises ValueError."""
    if len(text) > MAX_JSON_BYTES:
        raise ValueError("is larger than 4 MiB")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def parse_lines(data: bytes) -> List[Json]:
    """The objects of JSON Lines; what isn't one is left out."""
    found = []
    for line in data.split(b"\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def encode(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_json(path: str, value: Json) -> None:
    """Replace a file by this JSON so that a reader, or the next boot, sees all of it or the one before."""
    temporary = _write_temporary(path, encode(value))
    os.rename(temporary, path)
    sync(os.path.dirname(path))


def replace_json(path: str, value: Json) -> None:
    """As `write_json`, but for what no crash of the machine needs to survive: no fsync that a busy disk could stall."""
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, encode(value))
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def create_json(path: str, value: Json) -> bool:
    """Create a file whole; False if it exists. One of several that try at once gets True."""
    temporary = _write_temporary(path, encode(value))
    try:
        return _link_once(temporary, path)
    finally:
        _discard(temporary)


def _write_temporary(path: str, data: bytes) -> str:
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    return temporary


def _link_once(source: str, path: str) -> bool:
    """Give a finished file a name unless that is taken. It may lose the one that it has."""
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: the exclusive create is what decides there
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        os.rename(source, path)
    sync(os.path.dirname(path))
    return True


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


class ExitRecord:
    """`exit.json` on space that was allocated at the start, so that a full disk can't hide an exit code."""

    def __init__(self, run_dir: str) -> None:
        self.path = os.path.join(run_dir, "exit.json")
        self._reserve = os.path.join(run_dir, ".exit.reserve")

    def reserve(self) -> None:
        descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, b"\0" * EXIT_RESERVE_BYTES)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def exists(self) -> bool:
        """Whether an end is recorded. What is no file isn't one, and what is no JSON: where there are no hard links, a
        writer that died at once left an empty file.
        """
        try:
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                return False
            read_json(self.path)
        except ValueError:
            return False
        except OSError:
            return os.path.lexists(self.path)
        return True

    def write(self, value: Json) -> bool:
        """Write it once; False if another process has."""
        if os.path.lexists(self.path) and not self.exists():
            os.rename(self.path, f"{self.path}.{os.getpid()}.bad")
        data = encode(value)
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return create_json(self.path, value)
        try:
            write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
            return _link_once(self._reserve, self.path)
        except OSError:  # a copy-on-write file system needs new blocks even so: give it the reserved ones
            os.unlink(self._reserve)
            return create_json(self.path, value)
        finally:
            os.close(descriptor)
            self.release()

    def release(self) -> None:
        _discard(self._reserve)


class Journal:
    """Appends one JSON object a line, fsynced. A line that couldn't be written (a full disk) is tried again later,
    in order.
    """

    def __init__(self, path: str, counter: str) -> None:
        self._path = path
        self._counter = counter
        self._count = 0
        self._named = False
        self._unwritten: List[bytes] = []

    def resume(self) -> List[Json]:
        """Go on where another process, which is dead, was stopped: its lines, without one that it couldn't finish. What
        isn't a file is moved out of the way.
        """
        try:
            if not stat.S_ISREG(os.lstat(self._path).st_mode):
                os.rename(self._path, f"{self._path}.{os.getpid()}.bad")
            with open(os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as file:
                whole, _, torn = file.read().rpartition(b"\n")
                if torn:
                    file.truncate(len(whole) + 1 if whole else 0)
        except OSError:
            return []
        lines = parse_lines(whole)
        counts = [line[self._counter] for line in lines if isinstance(line.get(self._counter), int)]
        self._count = max(counts, default=0)
        return lines

    def append(self, value: Json) -> Json:
        self._count += 1
        line = {self._counter: self._count, **value}
        if len(self._unwritten) < MAX_UNWRITTEN:
            self._unwritten.append(encode(line))
        self.flush()
        return line

    def flush(self) -> None:
        if not self._unwritten:
            return
        descriptor: Optional[int] = None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            if not self._named:  # first: what is in a file is lost with its name
                sync(os.path.dirname(self._path))
                self._named = True
            size = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, b"".join(self._unwritten))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)  # no half line stays behind
                raise
        except OSError:
            return
        finally:
            if descriptor is not None:
                os.close(descriptor)
        self._unwritten = []
