"""Whether a checkpoint is whole: by its format's own structure and checksums. Nothing in it is executed or
unpickled, and what
it claims about its own size is not believed."""

from __future__ import annotations

import ast
import json
import os
import stat
import struct
import zipfile
import zlib

from runctl.checkpoints import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Iterator, List, Optional, Sequence, Tuple

CHUNK = 1024 * 1024
# Deflate can't do better than 1032 : 1, so a zip that claims more is a bomb.
MAX_RATIO = 1100
MAX_MEMBERS = 1_000_000
MAX_NPY_HEADER = 1024 * 1024
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
    if kind == "npz":
        _check_npz(file, size)
        return Verdict(True, kind, None)
    if kind == "npy":
        _check_npy(file, size)
        return Verdict(True, kind, None)
    if kind == "json":
        _check_json(file, size)
        return Verdict(True, kind, None)
    if kind in ("torch", "zip"):
        if is_zip:
            found = _check_zip(file, size)
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


def _check_zip(file: IO[bytes], size: int) -> str:
    """Read every member through its checksum; `torch` if it is what torch.save writes, else `zip`."""
    with _zip(file, size) as archive:
        members = archive.infolist()
        for member in members:
            for _ in _read_member(archive, member):
                pass
        is_torch = any(member.filename.endswith("/data.pkl") or member.filename == "data.pkl" for member in members)
    return "torch" if is_torch else "zip"


def _zip(file: IO[bytes], size: int) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error, UnicodeDecodeError) as error:
        raise Invalid(f"is not a whole zip: {error}") from None
    members = archive.infolist()
    if not members:
        raise Invalid("is an empty zip")
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_RATIO * size:
        raise Invalid("is a zip that claims more content than it can hold")
    return archive


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content in chunks, checked against size and checksum; no more than the member claims is ever unpacked."""
    left = member.file_size
    try:
        with archive.open(member) as content:
            while True:
                chunk = content.read(CHUNK)
                if not chunk:
                    break
                left -= len(chunk)
                if left < 0:
                    raise Invalid(f"`{member.filename}` holds more than it claims")
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError, OSError) as error:
        raise Invalid(f"`{member.filename}` is damaged: {error}") from None
    if left:
        raise Invalid(f"`{member.filename}` is cut short")


def _check_npz(file: IO[bytes], size: int) -> None:
    if file.read(4) not in (b"PK\x03\x04",):
        raise Invalid("is not a zip, not what numpy.savez writes")
    file.seek(0)
    with _zip(file, size) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise Invalid(f"`{member.filename}` is not an array")
            head = b""
            for chunk in _read_member(archive, member):
                if len(head) < MAX_NPY_HEADER:
                    head += chunk[: MAX_NPY_HEADER + 16 - len(head)]
            _check_npy_header(head, member.file_size, f"`{member.filename}` ")


def _check_npy(file: IO[bytes], size: int) -> None:
    _check_npy_header(file.read(MAX_NPY_HEADER + 16), size, "")


def _check_npy_header(head: bytes, size: int, who: str) -> None:
    if head[:6] != b"\x93NUMPY" or len(head) < 12:
        raise Invalid(f"{who}is not an array of numpy")
    if head[6] == 1:
        (length,), start = struct.unpack("<H", head[8:10]), 10
    else:
        (length,), start = struct.unpack("<I", head[8:12]), 12
    if length > MAX_NPY_HEADER or start + length > len(head):
        raise Invalid(f"{who}has a header that is cut short")
    try:
        header = ast.literal_eval(head[start : start + length].decode("latin-1").strip())
        shape, described = header["shape"], header["descr"]
        count = 1
        for dimension in shape:
            count *= int(dimension)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise Invalid(f"{who}has a header that can't be read") from None
    item = _item_size(described)
    if item is not None and start + length + count * item != size:
        raise Invalid(f"{who}has {size} bytes, its header says {start + length + count * item}")


def _item_size(described: object) -> Optional[int]:
    """Bytes of one element of a plain type such as `<f4`; None where it isn't plain."""
    if not isinstance(described, str) or len(described) < 3 or described[1] not in "biufcSUVmM":
        return None
    digits = described[2:].split("[")[0]
    if not digits.isdigit():
        return None
    return int(digits) * (4 if described[1] == "U" else 1)


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
