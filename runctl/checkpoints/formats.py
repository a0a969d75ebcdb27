"""Whether a checkpoint is whole: by its format's own structure and checksums. Nothing in it is executed or
unpickled, and what
it claims about its own size is not believed. Zips and arrays are judged in `archives`: what reads them takes as long to
import as all else that a fork of the agent does with a small checkpoint.
"""

from __future__ import annotations

import json
import os
import stat
import struct

from runctl.checkpoints import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, List, Optional, Sequence, Tuple

MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit
MAX_JSON = 256 * 1024 * 1024
MAX_FILES = 200_000
MAX_DEPTH = 32
COMMAND_SECONDS = 600.0
SAFETENSORS_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4,
}  # fmt: skip


class Invalid(Exception):
    """Not a whole checkpoint of that format; `args[0]` says why."""


class Verdict:
    """What validation found. `detail` is why not, or a note."""

    __slots__ = ("detail", "format", "valid")

    def __init__(self, valid: bool, kind: str, detail: Optional[str]) -> None:
        self.valid = valid
        self.format = kind
        self.detail = detail


def validate(path: str, kind: str, command: Sequence[str] = ()) -> Verdict:
    """Judge a file or directory as that kind of checkpoint.

    `auto` finds the kind by name and content; else `torch`, `safetensors`, `npz`, `directory`, `command` (an argv,
    in which
    `{}` is the path). Raises OSError when it can't be read at all.
    """
    is_directory = stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode)
    try:
        if kind == "command":
            return Verdict(True, "command", _run_command(path, command))
        if is_directory:
            if kind not in ("auto", "directory"):
                raise Invalid(f"is a directory, not a {kind} file")
            return Verdict(True, "directory", _check_directory(path))
        if kind == "directory":
            raise Invalid("is a file, not a directory")
        with _open(path) as file:
            return _check_file(file, os.path.basename(path), kind)
    except Invalid as error:
        return Verdict(False, "directory" if is_directory else kind, str(error))


def _open(path: str) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Invalid("is not a regular file")
    return open(descriptor, "rb")


def _check_file(file: IO[bytes], name: str, kind: str) -> Verdict:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise Invalid("is empty")
    head = file.read(8)
    file.seek(0)
    is_zip = head.startswith(b"PK\x03\x04")
    is_pickle = head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5
    named = names.kind_of(name)
    if kind == "auto":
        kind = named
        if kind == "unknown":
            kind = "zip" if is_zip else "pickle" if is_pickle else "opaque"
    if kind == "safetensors":
        _check_safetensors(file, size)
        return Verdict(True, kind, None)
    if kind in ("npz", "npy"):
        from runctl.checkpoints import archives

        (archives.check_npz if kind == "npz" else archives.check_npy)(file, size)
        return Verdict(True, kind, None)
    if kind == "json":
        _check_json(file, size)
        return Verdict(True, kind, None)
    if kind in ("torch", "zip"):
        if is_zip:
            from runctl.checkpoints import archives

            found = archives.check_zip(file, size)
            if kind == "torch" and found != "torch":
                raise Invalid("is a zip without `data.pkl`, not what torch.save writes")
            return Verdict(True, found, None)
        if kind == "torch" and is_pickle:
            kind = "pickle"
        else:
            raise Invalid(
                f"is neither a zip nor a pickle, not what {'torch.save' if kind == 'torch' else 'a zip'} begins with"
            )
    if kind == "pickle":
        return Verdict(True, "pickle", "a legacy pickle: that it is whole can't be checked without executing it")
    return Verdict(True, "opaque", "of no known format: only that it isn't empty and has stopped changing is checked")


def _check_safetensors(file: IO[bytes], size: int) -> None:
    head = file.read(8)
    if len(head) < 8:
        raise Invalid("is cut short before its header")
    (length,) = struct.unpack("<Q", head)
    if length > MAX_SAFETENSORS_HEADER or 8 + length > size:
        raise Invalid(f"has a header of {length} bytes that doesn't fit into it")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise Invalid("has a header that is no JSON") from None
    if not isinstance(header, dict):
        raise Invalid("has a header that is no JSON object")
    spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    position = 0
    for begin, end in spans:
        if begin != position:
            raise Invalid(f"has a hole or an overlap at byte {position} of its data")
        position = end
    if 8 + length + position != size:
        raise Invalid(f"has {size} bytes, its header says {8 + length + position}")


def _span(name: str, entry: Any) -> Tuple[int, int]:
    try:
        begin, end = (int(offset) for offset in entry["data_offsets"])
        count = 1
        for dimension in entry["shape"]:
            count *= int(dimension)
        bits = SAFETENSORS_BITS.get(entry["dtype"])
    except (TypeError, KeyError, ValueError):
        raise Invalid(f"has an entry `{name}` that can't be read") from None
    if begin < 0 or end < begin or (bits is not None and (count * bits + 7) // 8 != end - begin):
        raise Invalid(f"has an entry `{name}` whose size doesn't fit its shape")
    return begin, end


def _check_json(file: IO[bytes], size: int) -> None:
    if size > MAX_JSON:
        raise Invalid("is JSON of more than 256 MiB")
    try:
        json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise Invalid(f"is not whole JSON: {error}") from None


def _check_directory(path: str) -> Optional[str]:
    """Every file inside; a note when nothing in it is of a known format."""
    known = 0
    inside = list_files(path)
    if not inside:
        raise Invalid("is an empty directory")
    for relative in inside:
        full = os.path.join(path, relative)
        if os.path.islink(full):
            full = os.path.realpath(full)
        name = os.path.basename(relative)
        if names.is_temporary(name):
            if not name.startswith("."):
                raise Invalid(f"`{relative}` is still being written, by its name")
            continue
        with _open(full) as file:
            if os.fstat(file.fileno()).st_size == 0 and names.kind_of(name) == "unknown":
                continue  # markers such as `_SUCCESS`
            try:
                found = _check_file(file, name, "auto").format
            except Invalid as error:
                raise Invalid(f"`{relative}` {error}") from None
            known += found not in ("opaque", "pickle", "json")
    return None if known else "no file in it is of a format that can be checked"


def list_files(path: str) -> List[str]:
    """The files below a directory, relative and sorted. Raises Invalid for links that lead out of it, and for what
    is no file.
    """
    root = os.path.realpath(path)
    found: List[str] = []
    queue = [("", 0)]
    while queue:
        relative, depth = queue.pop()
        if depth > MAX_DEPTH:
            raise Invalid(f"is nested deeper than {MAX_DEPTH} directories")
        with os.scandir(os.path.join(path, relative)) as entries:
            for entry in entries:
                name = os.path.join(relative, entry.name)
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if not target.startswith(root + os.sep):
                        raise Invalid(f"`{name}` is a link that leads out of it")
                    if not os.path.isfile(target):
                        raise Invalid(f"`{name}` is a link to something that is no file")
                    found.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    queue.append((name, depth + 1))
                elif entry.is_file(follow_symlinks=False):
                    found.append(name)
                else:
                    raise Invalid(f"`{name}` is neither a file nor a directory")
                if len(found) > MAX_FILES:
                    raise Invalid(f"holds more than {MAX_FILES} files")
    return sorted(found)


def _run_command(path: str, command: Sequence[str]) -> Optional[str]:
    """The user's own check: exit 0 is valid. Raises Invalid with the end of what it printed."""
    import subprocess

    argv = [word.replace("{}", path) for word in command]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Invalid(f"`{argv[0]}` did not end within {COMMAND_SECONDS:g} s") from None
    except OSError as error:
        raise Invalid(f"`{argv[0]}` can't be run: {error.strerror}") from None
    if done.returncode != 0:
        said = done.stdout[-400:].decode("utf-8", "replace").strip()
        raise Invalid(f"`{argv[0]}` exited with {done.returncode}" + (f": {said}" if said else ""))
    return None
