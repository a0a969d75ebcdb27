"""Durable copies: whole or not there, never written twice, restored only when they are what was saved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runctl.checkpoints import durable, restoring, retention


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


def test_retention(tmp_path: Path, saved: Path) -> None:
    """The newest stay, over all attempts; an attempt that isn't the highest removes nothing."""
    root = str(tmp_path / "d")
    for attempt, seq in [(1, 1), (1, 2), (2, 1), (2, 2)]:
        store(tmp_path / "d", saved, attempt=attempt, seq=seq)
    assert retention.prune(root, "u", 1, 1) == []
    assert [(old.attempt, old.seq) for old in retention.prune(root, "u", 2, 3)] == [(1, 1)]
    assert [(old.attempt, old.seq) for old in retention.prune(root, "u", 2, 0)] == [(1, 2), (2, 1)]
    assert [(left.attempt, left.seq) for left in durable.list_durable(root, "u")] == [(2, 2)]
    assert os.listdir(tmp_path / "d" / "u" / "000001") == []


def test_a_source_that_changes(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that changes while it is copied is given up, and nothing is left of the copy."""
    real = os.fsync

    def write_meanwhile(descriptor: int) -> None:
        (tree / "a.bin").write_bytes(b"c" * 1000)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", write_meanwhile)
    with pytest.raises(durable.Changed):
        store(tmp_path / "d", tree)
    assert os.listdir(tmp_path / "d" / "u" / "000001") == []


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
