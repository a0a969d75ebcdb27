"""Durable copies: whole or not there, never written twice, restored only when they are what was saved."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from runctl.checkpoints import durable, restoring, verifying
from runctl.checkpoints.file_storage import FileStorage


def facts(attempt: int = 1, seq: int = 1, name: str = "m.bin") -> dict[str, Any]:
    return {
        "job": "j", "uid": "u", "attempt": attempt, "seq": seq, "name": name, "step": seq, "epoch": None, "at": 1.0,
        "format": "opaque",
    }  # fmt: skip


def store(root: Path, source: Path, **changes: Any) -> Path:
    manifest = durable.store(str(source), str(root), facts(**{"name": source.name, **changes}))
    return Path(durable.directory(str(root), "u", manifest["attempt"], manifest["seq"]))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "m.bin"
    path.write_bytes(os.urandom(3_000_000))
    path.chmod(0o640)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint-7"
    (path / "deep" / "er").mkdir(parents=True)
    (path / "a.bin").write_bytes(b"a" * 1000)
    (path / "deep" / "er" / "b.bin").write_bytes(b"b" * 10)
    (path / "deep" / "link").symlink_to("er/b.bin")
    return path


def test_a_file(tmp_path: Path, saved: Path) -> None:
    """A file is copied whole, with its checksum in a manifest that was written last."""
    path = store(tmp_path / "d", saved)
    assert (path / "data" / "m.bin").read_bytes() == saved.read_bytes()
    manifest = durable.read_manifest(str(path))
    assert manifest["bytes"] == 3_000_000
    assert manifest["files"][0]["mode"] == 0o640
    assert durable.checksum(manifest) == manifest["files"][0]["sha256"]
    assert sorted(os.listdir(path)) == ["data", "manifest.json"]
    assert (path / "manifest.json").stat().st_mode & 0o777 == 0o600


def test_a_tree_and_back(tmp_path: Path, tree: Path) -> None:
    """A directory comes back with all of its files; a link inside it comes back as what it led to."""
    path = store(tmp_path / "d", tree)
    target = tmp_path / "restored"
    target.mkdir()
    (target / tree.name).mkdir()
    (target / tree.name / "stale").write_text("stale")
    back = Path(restoring.restore_durable(str(path), tree.name, str(target)))
    files = {str(file.relative_to(back)): file.read_bytes() for file in back.rglob("*") if file.is_file()}
    assert files == {"a.bin": b"a" * 1000, "deep/er/b.bin": b"b" * 10, "deep/link": b"b" * 10}
    assert os.listdir(target) == [tree.name]


def test_nothing_is_written_twice(tmp_path: Path, saved: Path) -> None:
    """What is durable is never overwritten."""
    path = store(tmp_path / "d", saved)
    before = saved.read_bytes()
    saved.write_bytes(b"other")
    with pytest.raises(FileExistsError):
        store(tmp_path / "d", saved)
    assert (path / "data" / "m.bin").read_bytes() == before


def test_a_torn_copy_is_none(tmp_path: Path, saved: Path) -> None:
    """Without a manifest a directory is no checkpoint, is swept, and its number may be written again."""
    path = store(tmp_path / "d", saved)
    (path / "manifest.json").unlink()
    assert durable.list_durable(str(tmp_path / "d"), "u") == []
    store(tmp_path / "d", saved)
    (path / "manifest.json").unlink()
    assert durable.sweep(str(tmp_path / "d"), "u", 1) == [str(path)]
    assert not path.exists()


def test_the_sweep_leaves_newer_attempts_alone(tmp_path: Path, saved: Path) -> None:
    """A newer attempt may be copying just now."""
    path = store(tmp_path / "d", saved, attempt=2)
    (path / "manifest.json").unlink()
    assert durable.sweep(str(tmp_path / "d"), "u", 1) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_what_cannot_be_looked_at_is_not_swept(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk or a server in trouble: nobody knows that a manifest isn't there."""
    path = store(tmp_path / "d", saved)
    lstat, listdir = os.lstat, os.listdir

    def failing(name: Any, **where: Any) -> os.stat_result:
        if str(name).endswith("manifest.json"):
            raise OSError(number, os.strerror(number), name)
        return lstat(name, **where)

    def unlisted(name: Any) -> list[str]:
        raise OSError(number, os.strerror(number), name)

    with monkeypatch.context() as patch:
        patch.setattr("os.lstat", failing)
        with pytest.raises(OSError):
            durable.sweep(str(tmp_path / "d"), "u", 1)
    assert (path / "manifest.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("os.listdir", unlisted)
        with pytest.raises(OSError):
            durable.numbers(str(tmp_path / "d"), "u", 1)
        with pytest.raises(OSError):
            durable.list_durable(str(tmp_path / "d"), "u")
    assert listdir(path)


def test_retention(tmp_path: Path, saved: Path) -> None:
    """The newest stay, over all attempts; an attempt that isn't the highest removes nothing."""
    root = str(tmp_path / "d")
    for attempt, seq in [(1, 1), (1, 2), (2, 1), (2, 2)]:
        store(tmp_path / "d", saved, attempt=attempt, seq=seq)
    assert FileStorage(root).prune("u", 1, 1) == []
    assert [(old.attempt, old.seq) for old in FileStorage(root).prune("u", 2, 3)] == [(1, 1)]
    assert [(old.attempt, old.seq) for old in FileStorage(root).prune("u", 2, 0)] == [(1, 2), (2, 1)]
    assert [(left.attempt, left.seq) for left in durable.list_durable(root, "u")] == [(2, 2)]
    assert os.listdir(tmp_path / "d" / "u" / "000001") == []


@pytest.mark.parametrize("while_copied", ["a.bin", "deep/er/b.bin"])
def test_a_source_that_changes(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, while_copied: str) -> None:
    """A checkpoint of which a file changes while that one, or a later one, is copied is given up, and nothing is left
    of the copy."""
    real = os.fsync

    def write_meanwhile(descriptor: int) -> None:
        if _is_copy(descriptor, tree / while_copied):
            (tree / "a.bin").write_bytes(b"c" * 1000)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", write_meanwhile)
    with pytest.raises(durable.Changed):
        store(tmp_path / "d", tree)
    assert os.listdir(tmp_path / "d" / "u" / "000001") == []


def _keep_something_else(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    """From here on the disk keeps of each copy of `saved` something else than was written."""
    real = os.fsync

    def sync(descriptor: int) -> None:
        real(descriptor)
        if _is_copy(descriptor, saved):
            os.pwrite(descriptor, bytes(100), 1000)

    monkeypatch.setattr(os, "fsync", sync)


def _is_copy(descriptor: int, file: Path) -> bool:
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_size == file.stat().st_size


def test_all_of_it_is_on_the_disk_before_it_is_durable(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the manifest gets its name a power cut takes nothing any more: each file, each directory and the manifest
    itself have been synced; and so has the name, when it is said to be durable."""
    synced: set[int] = set()
    real_sync, real_rename = os.fsync, os.rename
    before: set[int] = set()

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def rename(source: str, target: str) -> None:
        if os.path.basename(target) == "manifest.json":
            before.update(synced)
            synced.clear()
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", rename)
    path = store(tmp_path / "d", tree)
    needed = [tmp_path, tmp_path / "d", tmp_path / "d" / "u", path.parent, *path.rglob("*")]
    assert [str(each) for each in needed if each.stat().st_ino not in before] == []
    assert path.stat().st_ino in synced


def test_a_disk_that_keeps_something_else(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that doesn't read back as what was saved is an error, and nothing is left of it."""
    _keep_something_else(monkeypatch, saved)
    with pytest.raises(OSError, match="reads back different"):
        store(tmp_path / "d", saved)
    assert os.listdir(tmp_path / "d" / "u" / "000001") == []


def _reads(descriptor: int, file: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), file.stat())


def test_a_large_checkpoint_is_hashed_while_it_is_copied(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum of what is copied is taken while the copy is on its way to the disk, not afterwards: with some
    gigabytes that is half of the time. It still is what the copy is compared with."""
    os.truncate(saved, durable.HASHED_BESIDE)
    real_read, real_sync = os.pread, os.fsync
    hashing = threading.Event()
    beside: list[bool] = []

    def read(descriptor: int, length: int, offset: int) -> bytes:
        if _reads(descriptor, saved):
            hashing.set()
        return real_read(descriptor, length, offset)

    def sync(descriptor: int) -> None:
        if _is_copy(descriptor, saved):
            beside.append(hashing.wait(20))
        real_sync(descriptor)

    monkeypatch.setattr(os, "pread", read)
    monkeypatch.setattr(os, "fsync", sync)
    path = store(tmp_path / "d", saved)
    assert beside == [True]
    assert durable.checksum(durable.read_manifest(str(path))) == hashlib.sha256(saved.read_bytes()).hexdigest()


def test_a_large_copy_on_a_disk_that_keeps_something_else(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one durable that is hashed while it is copied and doesn't read back as what was saved."""
    os.truncate(saved, durable.HASHED_BESIDE)
    test_a_disk_that_keeps_something_else(tmp_path, saved, monkeypatch)


def test_a_restore_reads_what_was_stored_once(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is restored proves itself by the manifest's checksum: what it was copied from isn't hashed, too."""
    stored = store(tmp_path / "d", saved)
    real, hashed = os.pread, []

    def read(descriptor: int, length: int, offset: int) -> bytes:
        hashed.append(_reads(descriptor, stored / "data" / "m.bin"))
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", read)
    (tmp_path / "t").mkdir()
    back = restoring.restore_durable(str(stored), "m.bin", str(tmp_path / "t"))
    assert Path(back).read_bytes() == saved.read_bytes()
    assert set(hashed) == {False}


def test_a_disk_that_restores_something_else(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk that is restored to keeps something else, the checkpoint isn't called damaged for it."""
    stored = store(tmp_path / "d", saved)
    _keep_something_else(monkeypatch, saved)
    (tmp_path / "t").mkdir()
    with pytest.raises(OSError, match="reads back different"):
        restoring.restore_durable(str(stored), "m.bin", str(tmp_path / "t"))
    assert os.listdir(tmp_path / "t") == []


def test_retention_leaves_no_half_of_one(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment of a removal what is still a checkpoint is a whole one, and after a power cut, too: that the
    manifest is gone is on the disk before anything else goes."""
    root = str(tmp_path / "d")
    for seq in range(1, 5):
        store(tmp_path / "d", tree, seq=seq)
    real_unlink, real_sync = os.unlink, os.fsync
    done: list[str] = []

    def unlink(path: str, *, dir_fd: int | None = None) -> None:
        real_unlink(path, dir_fd=dir_fd)
        done.append(os.path.basename(path))
        for each in durable.list_durable(root, "u"):
            verifying.verify(each.path)

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        done.append("synced")

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "fsync", sync)
    assert len(FileStorage(root).prune("u", 1, 1)) == 3
    assert len(done) == 3 * 5
    assert [done[first : first + 2] for first in range(0, len(done), 5)] == [["manifest.json", "synced"]] * 3


def test_without_copying_in_the_kernel(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel can't copy (macOS, some file systems), reading and writing does."""
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    path = store(tmp_path / "d", saved)
    assert (path / "data" / "m.bin").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "m.bin/../../x", "other.bin", 3, None])
def test_a_manifest_that_leads_elsewhere(tmp_path: Path, saved: Path, path: object) -> None:
    """A manifest can't make a restore write outside of its place."""
    stored = store(tmp_path / "d", saved)
    manifest = json.loads((stored / "manifest.json").read_text())
    manifest["files"][0]["path"] = path
    (stored / "manifest.json").write_text(json.dumps(manifest))
    target = tmp_path / "t"
    target.mkdir()
    with pytest.raises(durable.Damaged):
        restoring.restore_durable(str(stored), "m.bin", str(target))
    assert os.listdir(target) == []


def test_a_plain_restore(tmp_path: Path, saved: Path, tree: Path) -> None:
    """A checkpoint that the user names is validated by its format and copied."""
    target = tmp_path / "t"
    target.mkdir()
    for source in (saved, tree):
        back = Path(restoring.restore_plain(str(source), "x", str(target), "auto", []))
        assert back == target / "x"
    assert (target / "x" / "a.bin").read_bytes() == b"a" * 1000
    torn = tmp_path / "torn.npz"
    torn.write_bytes(b"PK\x03\x04torn")
    with pytest.raises(durable.Damaged):
        restoring.restore_plain(str(torn), "y", str(target), "auto", [])
