"""Every storage of durable checkpoints keeps the same promises: whole or not there, never replaced, found again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runctl.checkpoints.durable import Changed, Damaged, checksum
from runctl.checkpoints.places import split
from runctl.checkpoints.storage import Storage

from .far_side import PART_BYTES, Far


def facts(attempt: int = 1, seq: int = 1, name: str = "m.bin") -> dict[str, Any]:
    return {
        "job": "j", "uid": "u", "attempt": attempt, "seq": seq, "name": name, "step": seq, "epoch": None, "at": 1.0,
        "format": "opaque",
    }  # fmt: skip


def store(storage: Storage, source: Path, attempt: int = 1, seq: int = 1) -> str:
    storage.store(str(source), facts(attempt, seq, source.name))
    return storage.location("u", attempt, seq)


def listed(storage: Storage) -> list[tuple[int, int]]:
    return [(each.attempt, each.seq) for each in storage.list("u")]


def content_of(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "m.bin"
    path.write_bytes(os.urandom(1000))
    path.chmod(0o640)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint-7"
    (path / "deep" / "er").mkdir(parents=True)
    (path / "a.bin").write_bytes(os.urandom(1000))
    (path / "large.bin").write_bytes(os.urandom(PART_BYTES * 3 + 1))
    (path / "exactly one part").write_bytes(os.urandom(PART_BYTES))
    (path / "deep" / "er" / "empty").touch()
    (path / "deep" / "größe + 100% é\n.bin").write_bytes(b"named strangely")
    (path / "deep" / os.fsdecode(b"no text \xff")).write_bytes(b"named in no text")
    (path / "deep" / "link").symlink_to("er/empty")
    return path


def test_what_is_stored_comes_back(far: Far, tree: Path, small: Path, tmp_path: Path) -> None:
    """Files and directories are restored bit for bit on another machine, whatever they are called."""
    (tmp_path / "here").mkdir()
    for seq, source in enumerate([tree, small], 1):
        location = store(far.open(), source, seq=seq)
        manifest = far.open().verify(location)
        assert manifest["bytes"] == sum(map(len, content_of(source).values()))
        back = Path(far.open().restore(location, source.name, str(tmp_path / "here")))
        assert back == tmp_path / "here" / source.name
        assert content_of(back) == content_of(source)
    assert (tmp_path / "here" / "m.bin").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path / "here")) == ["checkpoint-7", "m.bin"]


def test_long_and_deep_names(far: Far, tmp_path: Path) -> None:
    """A path that is too long for a key comes back as well."""
    source = tmp_path / "c"
    deep = source.joinpath(*["d" * 200] * 5)
    deep.mkdir(parents=True)
    for name in ("ü" * 100, "x" * 255):
        (deep / name).write_bytes(name.encode())
    location = store(far.open(), source)
    (tmp_path / "t").mkdir()
    back = far.open().restore(location, "c", str(tmp_path / "t"))
    assert content_of(Path(back)) == content_of(source)


def test_the_manifest_tells_all(far: Far, tree: Path) -> None:
    """Whoever lists finds facts, files with size and checksum, and a place that people can read."""
    location = store(far.open(), tree, attempt=3, seq=12)
    assert location == f"{far.destination}/u/000003/000012"
    assert split(location) == (far.destination, "u", 3, 12)
    (found,) = far.open().list("u")
    assert (found.path, found.attempt, found.seq) == (location, 3, 12)
    assert found.manifest == far.open().read_manifest(location)
    assert {key: found.manifest[key] for key in facts()} == facts(3, 12, "checkpoint-7")
    assert [file["path"] for file in found.manifest["files"]] == sorted(f"checkpoint-7/{n}" for n in content_of(tree))
    assert len(checksum(found.manifest)) == 64


def test_nothing_is_there_before(far: Far) -> None:
    """A job without checkpoints has none, and can be prepared for."""
    far.open().prepare("u", 1)
    assert (far.open().list("u"), far.open().numbers("u", 1), far.open().sweep("u", 1, time.time())) == ([], [], [])
    with pytest.raises(Damaged):
        far.open().read_manifest(far.open().location("u", 1, 1))


def test_nothing_is_stored_twice(far: Far, small: Path) -> None:
    """A second store of the same number is refused, and the first stays as it is."""
    location = store(far.open(), small)
    before = small.read_bytes()
    names = far.names()
    small.write_bytes(b"other")
    with pytest.raises(FileExistsError):
        store(far.open(), small)
    assert far.names() == names
    assert checksum(far.open().verify(location)) == hashlib.sha256(before).hexdigest()


def test_what_an_earlier_store_has_stored(far: Far, small: Path) -> None:
    """Who is refused can tell whether what is there is what it meant to store."""
    asked = facts(name=small.name)
    assert far.open().already_stored(asked) is None
    manifest = far.open().store(str(small), asked)
    assert far.open().already_stored(asked) == manifest
    assert far.open().already_stored({**asked, "at": 2.0}) is None


def test_without_a_manifest_it_is_none(far: Far, tree: Path) -> None:
    """What has no manifest isn't listed, isn't restored, keeps its number, and may be written again."""
    location = store(far.open(), tree)
    far.change("u/000001/000001/manifest.json", None)
    assert listed(far.open()) == []
    assert far.open().numbers("u", 1) == [1]
    with pytest.raises(Damaged):
        far.open().restore(location, tree.name, str(tree.parent))
    store(far.open(), tree)
    far.open().verify(location)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2, "files": []}', b"\xff"])
def test_a_manifest_that_cannot_be_read(far: Far, small: Path, content: bytes) -> None:
    """It is none, and says so where it is asked for."""
    location = store(far.open(), small)
    store(far.open(), small, seq=2)
    far.change("u/000001/000001/manifest.json", content)
    assert listed(far.open()) == [(1, 2)]
    with pytest.raises(Damaged):
        far.open().verify(location)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "m.bin/../../x", "other.bin", 3, None])
def test_a_manifest_that_leads_elsewhere(far: Far, small: Path, tmp_path: Path, path: object) -> None:
    """A manifest can't make a restore write outside of its place."""
    location = store(far.open(), small)
    manifest = far.open().read_manifest(location)
    manifest["files"][0]["path"] = path
    far.change("u/000001/000001/manifest.json", json.dumps(manifest).encode())
    (tmp_path / "t").mkdir()
    with pytest.raises(Damaged):
        far.open().restore(location, "m.bin", str(tmp_path / "t"))
    assert os.listdir(tmp_path / "t") == []


@pytest.mark.parametrize("damage", ["other", "shorter", "gone"])
@pytest.mark.parametrize("name", ["a.bin", "large.bin"])
def test_damage_is_found(far: Far, tree: Path, tmp_path: Path, name: str, damage: str) -> None:
    """A file that isn't what was saved is found by looking, and never restored."""
    location = store(far.open(), tree)
    (where,) = far.data(f"/{name}")
    size = (tree / name).stat().st_size
    far.change(where, {"other": bytes(size), "shorter": (tree / name).read_bytes()[:-1], "gone": None}[damage])
    with pytest.raises(Damaged):
        far.open().verify(location)
    (tmp_path / "t").mkdir()
    with pytest.raises(Damaged):
        far.open().restore(location, tree.name, str(tmp_path / "t"))
    assert os.listdir(tmp_path / "t") == []


@pytest.mark.parametrize("which", ["a.bin", "large.bin", "new"])
def test_a_source_that_changes(far: Far, tree: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """A checkpoint that changes while it is read is given up, and nothing is left of it."""

    def change(write: int) -> None:
        if write == 2:
            (tree / which).write_bytes(os.urandom(PART_BYTES * 3 + 1))

    far.open().prepare("u", 1)
    storage = far.open_watched(change, monkeypatch)
    with pytest.raises(Changed):
        store(storage, tree)
    assert far.names() == []
    assert listed(far.open()) == []


def test_a_source_that_becomes_shorter(far: Far, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one stored that is cut while it is read."""

    def change(write: int) -> None:
        if write == 1:
            os.truncate(tree / "large.bin", PART_BYTES + 1)

    far.open().prepare("u", 1)
    with pytest.raises(Changed):
        store(far.open_watched(change, monkeypatch), tree)
    assert far.names() == []


@pytest.mark.parametrize("write", [1, 6, 13])  # each of them is cut in `test_a_store_that_is_cut_anywhere`
def test_killed_while_storing(far: Far, tree: Path, write: int) -> None:
    """A process that is killed leaves no checkpoint, or a whole one; the next try stores it."""
    far.open().prepare("u", 1)
    assert far.killed_storing(tree, write) == -signal.SIGKILL
    assert listed(far.open()) == []
    location = store(far.open(), tree)
    far.open().verify(location)
    far.open().sweep("u", 1, time.time() + 2 * 24 * 3600)
    far.open().verify(location)
    assert len(far.names()) == len(content_of(tree)) + 1


def test_retention(far: Far, small: Path) -> None:
    """The newest stay, over all attempts; an attempt that isn't the highest removes nothing."""
    for attempt, seq in [(1, 1), (1, 2), (2, 1), (2, 2)]:
        store(far.open(), small, attempt=attempt, seq=seq)
    assert listed(far.open()) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert far.open().prune("u", 1, 1) == []
    assert [(old.attempt, old.seq) for old in far.open().prune("u", 2, 3)] == [(1, 1)]
    assert [(old.attempt, old.seq) for old in far.open().prune("u", 2, 0)] == [(1, 2), (2, 1)]
    assert listed(far.open()) == [(2, 2)]
    assert [name.split("/")[:3] for name in far.names()] == [["u", "000002", "000002"]] * 2


def test_taken_too_soon(far: Far, tree: Path) -> None:
    """A directory that was stored before its last file came is withdrawn, links in it or not, and only that."""
    store(far.open(), tree)
    assert far.open().withdraw("u", 1, str(tree)) is None
    (tree / "late").write_bytes(b"late")
    assert far.open().withdraw("u", 2, str(tree)) is None
    old = far.open().withdraw("u", 1, str(tree))
    assert old is not None and (old.attempt, old.seq) == (1, 1)
    assert (listed(far.open()), far.names()) == ([], [])


def test_two_writers_of_one_number(far: Far, tmp_path: Path) -> None:
    """Of writers of the same number one after the other, one has stored it, whole."""
    sources = []
    for number in range(2):
        path = tmp_path / str(number) / "m.bin"
        path.parent.mkdir()
        path.write_bytes(os.urandom(PART_BYTES + 10))
        sources.append(path)
    store(far.open(), sources[0])
    with pytest.raises(FileExistsError):
        store(far.open(), sources[1])
    far.open().verify(far.open().location("u", 1, 1))


def test_jobs_are_apart(far: Far, small: Path) -> None:
    """A job whose name begins like another's sees none of its checkpoints."""
    far.open().store(str(small), {**facts(), "uid": "u2"})
    assert (listed(far.open()), far.open().numbers("u", 1)) == ([], [])
    assert [each.seq for each in far.open().list("u2")] == [1]


def test_the_sweep_leaves_what_is_durable(far: Far, tree: Path, small: Path) -> None:
    """What was torn is removed, what has a manifest isn't, nor what a newer attempt may be writing just now."""
    later = time.time() + 2 * 24 * 3600
    store(far.open(), tree, attempt=1, seq=1)
    store(far.open(), tree, attempt=1, seq=2)
    far.change("u/000001/000001/manifest.json", None)
    store(far.open(), small, attempt=2, seq=1)
    far.change("u/000002/000001/manifest.json", None)
    swept = far.open().sweep("u", 2, later)
    assert len(swept) == 2 and all("00000" in each for each in swept)
    far.open().verify(far.open().location("u", 1, 2))
    assert {name.split("/")[2] for name in far.names()} == {"000002"}
    store(far.open(), small, attempt=3, seq=1)
    far.change("u/000003/000001/manifest.json", None)
    assert far.open().sweep("u", 2, later) == []


def test_stored_by_several_threads(far: Far, small: Path) -> None:
    """Different numbers may be stored at the same time."""
    storage = far.open()
    storage.prepare("u", 1)
    threads = [threading.Thread(target=store, args=(storage, small, 1, seq)) for seq in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert listed(far.open()) == [(1, seq) for seq in range(1, 7)]
