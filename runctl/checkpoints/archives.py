"""Checkpoints that are zips, and arrays of numpy: read whole, through their checksums."""

from __future__ import annotations

import ast
import struct
import zipfile
import zlib

from runctl.checkpoints.formats import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Iterator, Optional

CHUNK = 1024 * 1024
# Deflate can't do better than 1032 : 1, so a zip that claims more is a bomb.
MAX_RATIO = 1100
MAX_MEMBERS = 1_000_000
MAX_NPY_HEADER = 1024 * 1024


def check_zip(file: IO[bytes], size: int) -> str:
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


def check_npz(file: IO[bytes], size: int) -> None:
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


def check_npy(file: IO[bytes], size: int) -> None:
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
