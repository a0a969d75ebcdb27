"""Whether a checkpoint is whole, by its format; nothing in it is believed or executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from runctl.checkpoints.formats import validate


def torch_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"model/data.pkl": b"\x80\x02.", "model/data/0": os.urandom(4096), **members}.items():
            archive.writestr(name, content)
    return path


def safetensors(path: Path, header: object, data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def good_safetensors(path: Path) -> Path:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "a": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "empty": {"dtype": "F32", "shape": [0], "data_offsets": [32, 32]},
    }
    return safetensors(path, header, bytes(32))


def check(path: Path, kind: str = "auto") -> tuple[bool, str]:
    verdict = validate(str(path), kind)
    return verdict.valid, verdict.format if verdict.valid else str(verdict.detail)


def test_torch(tmp_path: Path) -> None:
    """What torch.save writes is whole when every member's checksum is right."""
    path = torch_zip(tmp_path / "model.pt")
    assert check(path) == (True, "torch")
    assert check(path, "torch") == (True, "torch")
    content = path.read_bytes()
    position = content.index(b"model/data/0") + 100
    path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    valid, why = check(path)
    assert not valid
    assert "model/data/0" in why


@pytest.mark.parametrize("cut", [1, 10, 100, 2000, 4500])
def test_a_cut_zip(tmp_path: Path, cut: int) -> None:
    """A zip that was cut short is never whole, wherever it was cut."""
    path = torch_zip(tmp_path / "model.pt")
    path.write_bytes(path.read_bytes()[:-cut])
    assert not check(path)[0]
    assert not check(path, "torch")[0]


def test_a_zip_that_torch_did_not_write(tmp_path: Path) -> None:
    """Another zip is no torch file."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", b"x")
    assert check(path, "torch")[0] is False


def test_a_legacy_pickle_is_not_loaded(tmp_path: Path) -> None:
    """A legacy pickle is accepted with a note, and never executed."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "old.pt"
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    verdict = validate(str(path), "auto")
    assert (verdict.valid, verdict.format) == (True, "pickle")
    assert verdict.detail is not None
    assert "can't be checked" in verdict.detail
    assert not (tmp_path / "executed").exists()


def test_a_zip_bomb_costs_nothing(tmp_path: Path) -> None:
    """A zip that claims more than it can hold is refused unread; one that holds more than it claims, while it is
    read.
    """
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"x")
    content = path.read_bytes()
    central = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: central + 24] + struct.pack("<I", 4_000_000_000) + content[central + 28 :])
    valid, why = check(path)
    assert not valid
    assert "claims more" in why
    path.write_bytes(content[: central + 24] + struct.pack("<I", 0) + content[central + 28 :])
    assert not check(path)[0]


def test_overlapping_members(tmp_path: Path) -> None:
    """Members that share the same bytes can't claim the archive's size many times over."""
    path = tmp_path / "overlap.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(1_000_000))
    content = path.read_bytes()
    central, end = content.index(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    entry = content[central:end]
    tail = bytearray(content[end:])
    count = 2000
    struct.pack_into("<HHII", tail, 8, count, count, len(entry) * count, central)
    path.write_bytes(content[:central] + entry * count + bytes(tail))
    assert not check(path)[0]


def test_npz(tmp_path: Path) -> None:
    """numpy.savez's files are whole when headers and checksums are; compressed, empty and structured arrays too."""
    arrays = {"w": np.arange(12.0).reshape(3, 4), "n": np.array(3), "none": np.zeros((0, 5)), "text":
    np.array(["ab", "c"]),
              "rec": np.zeros(3, dtype=[("a", "<f4"), ("b", "<i8")])}  # fmt: skip
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "small.npz", zeros=np.zeros(1_000_000))
    assert check(tmp_path / "plain.npz") == (True, "npz")
    assert check(tmp_path / "small.npz", "npz") == (True, "npz")
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(100))
        archive.writestr("w.npy", buffer.getvalue()[:-8])
    valid, why = check(tmp_path / "bad.npz")
    assert not valid
    assert "header says" in why
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", b"x")
    assert not check(tmp_path / "other.npz")[0]


@pytest.mark.parametrize("cut", [1, 8, 50])
def test_npy(tmp_path: Path, cut: int) -> None:
    """An array alone is as long as its header says."""
    path = tmp_path / "w.npy"
    np.save(path, np.arange(20.0))
    assert check(path) == (True, "npy")
    path.write_bytes(path.read_bytes()[:-cut])
    assert not check(path)[0]


def test_safetensors(tmp_path: Path) -> None:
    """The tensors of a safetensors file cover it exactly."""
    path = good_safetensors(tmp_path / "m.safetensors")
    assert check(path) == (True, "safetensors")
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"x", content[:7], content[:30], b"\xff" * 40):
        path.write_bytes(damaged)
        assert not check(path)[0]


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]}},
        {"a": 3},
        [1, 2],
    ],
    ids=range(7),
)  # fmt: skip
def test_a_header_that_lies(tmp_path: Path, header: object) -> None:
    """Holes, overlaps and sizes that don't fit are found."""
    assert not check(safetensors(tmp_path / "m.safetensors", header, bytes(16)))[0]


def test_json(tmp_path: Path) -> None:
    """JSON is whole when it parses; nested too deeply, it isn't."""
    path = tmp_path / "state.json"
    path.write_text('{"w": [1, 2]}')
    assert check(path) == (True, "json")
    for text in ('{"w": [1, 2', "", "[" * 200_000):
        path.write_text(text)
        assert not check(path)[0]


def test_anything_else(tmp_path: Path) -> None:
    """A file of no known format only has to be there; an empty one, or zeros with a known name, is nothing."""
    (tmp_path / "w.dat").write_bytes(b"weights")
    assert check(tmp_path / "w.dat") == (True, "opaque")
    (tmp_path / "w.dat").write_bytes(b"")
    assert not check(tmp_path / "w.dat")[0]
    (tmp_path / "w.pt").write_bytes(bytes(100))
    assert not check(tmp_path / "w.pt")[0]


def test_directory(tmp_path: Path) -> None:
    """A directory is whole when all in it is."""
    root = tmp_path / "checkpoint-5"
    (root / "rng").mkdir(parents=True)
    assert check(root) == (False, "is an empty directory")
    good_safetensors(root / "model.safetensors")
    torch_zip(root / "rng" / "state.pth")
    (root / "config.json").write_text("{}")
    (root / "merges.txt").write_text("a b")
    (root / "_SUCCESS").touch()
    (root / "also.safetensors").symlink_to("model.safetensors")
    assert check(root) == (True, "directory")
    assert check(root, "directory") == (True, "directory")
    (root / "rng" / "state.pth").write_bytes(b"PK\x03\x04 torn")
    valid, why = check(root)
    assert not valid
    assert why.startswith("`rng/state.pth`")


@pytest.mark.parametrize("what", ["outside", "dangling", "to directory", "fifo", "loop"])
def test_what_has_no_place_in_a_directory(tmp_path: Path, what: str) -> None:
    """Links that lead out, nowhere or to directories, and what is no file, make a directory invalid."""
    root = tmp_path / "c"
    root.mkdir()
    torch_zip(root / "m.pt")
    (tmp_path / "secret").write_text("x")
    (root / "inner").mkdir()
    link = root / "link"
    if what == "fifo":
        os.mkfifo(link)
    else:
        target = {
            "outside": tmp_path / "secret",
            "dangling": root / "nowhere",
            "to directory": root / "inner",
            "loop": link,
        }
        link.symlink_to(target[what])
    assert not check(root)[0]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in a checkpoint's place is not followed."""
    torch_zip(tmp_path / "real.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "real.pt")
    with pytest.raises(OSError, match="symbolic link"):
        validate(str(tmp_path / "link.pt"), "auto")


def test_the_users_command(tmp_path: Path) -> None:
    """Exit 0 is valid; what it printed is in the detail when it isn't; the path is one argument, whatever it holds."""
    path = tmp_path / "a b;$(touch x).pt"
    path.write_bytes(b"x")
    assert validate(str(path), "command", ["test", "-f", "{}"]).valid
    verdict = validate(str(path), "command", ["sh", "-c", "echo wrong loss; exit 3"])
    assert (verdict.valid, verdict.detail) == (False, "`sh` exited with 3: wrong loss")
    assert not validate(str(path), "command", ["/no/such/program"]).valid


def test_fuzzed(tmp_path: Path) -> None:
    """A file with one byte changed, or cut anywhere, gets a verdict and never a traceback."""
    sources = [torch_zip(tmp_path / "a.pt"), good_safetensors(tmp_path / "b.safetensors")]
    np.savez(tmp_path / "c.npz", w=np.arange(3.0))
    sources.append(tmp_path / "c.npz")
    for source in sources:
        content = source.read_bytes()
        copy = tmp_path / f"copy{source.suffix}"
        for position in range(0, len(content), max(1, len(content) // 150)):
            copy.write_bytes(content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :])
            validate(str(copy), "auto")
            copy.write_bytes(content[:position])
            assert not validate(str(copy), "auto").valid
