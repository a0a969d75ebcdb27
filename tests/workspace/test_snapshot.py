"""A snapshot is the tree, whole, under the hash of what it holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from acceptance.permissions import bound
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.snapshots.manifest import read_manifest
from runctl.snapshots.materialize import materialize
from runctl.workspace import snapshot as snapshot_module
from runctl.workspace.changes import changed_files
from runctl.workspace.problems import SnapshotError
from runctl.workspace.snapshot import freeze


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "pkg").mkdir(parents=True)
    (root / "train.py").write_text("print('hi')\n")
    (root / "pkg/run.sh").write_text("#!/bin/sh\n")
    (root / "pkg/run.sh").chmod(0o755)
    (root / "pkg/link.py").symlink_to("../train.py")
    (root / "empty").write_bytes(b"")
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def contents(root: Path) -> dict[str, tuple[str, bytes]]:
    """Everything below a directory: how it is (link, x, -) and what is in it."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("link", os.fsencode(os.readlink(path)))
        elif path.is_file():
            found[name] = ("x" if path.stat().st_mode & 0o100 else "-", path.read_bytes())
    return found


def test_what_is_materialized_is_what_was_there(tree: Path, store: Path, tmp_path: Path) -> None:
    """Content, x bits, symlinks and empty files arrive; nothing is readable to anybody else."""
    frozen = freeze(tree, (), store)
    manifest = materialize(frozen.path, tmp_path / "work")
    assert contents(tree) == contents(tmp_path / "work")
    assert (frozen.files, frozen.bytes) == (4, 22)
    assert manifest == read_manifest(frozen.path)
    for path in [*store.rglob("*"), *(tmp_path / "work").rglob("*")]:
        assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path


def test_an_unchanged_tree_is_stored_once_and_not_written_again(tree: Path, store: Path) -> None:
    """The second freeze finds the first one's snapshot and leaves every file of it alone."""
    first = freeze(tree, (), store)
    before = {path: path.lstat().st_mtime_ns for path in store.rglob("*")}
    store.chmod(0o500)
    try:
        assert freeze(tree, (), store) == first
    finally:
        store.chmod(0o700)
    assert before == {path: path.lstat().st_mtime_ns for path in store.rglob("*")}
    assert [first.code_hash] == [path.name for path in store.iterdir()]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    files=st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "e f", "é"]), st.binary(max_size=40), min_size=1),
    executable=st.sets(st.sampled_from(["a", "b/c", "b/d"])),
)
def test_equal_trees_have_equal_hashes_and_different_ones_dont(
    tmp_path: Path, files: dict[str, bytes], executable: set[str]
) -> None:
    """The hash depends on paths, contents and x bits; not on place, order of writing, other mode bits or times."""
    shutil.rmtree(tmp_path)

    def make(name: str, order: list[str], mode: int, stamp: int) -> Path:
        for path in order:
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(files[path])
            file.chmod(mode | (0o100 if path in executable else 0))
            os.utime(file, (stamp, stamp))
        return tmp_path / name

    names = list(files)
    one = freeze(make("one", names, 0o600, 1), (), tmp_path / "store")
    two = freeze(make("two", names[::-1], 0o644, 2), (), tmp_path / "store")
    assert one.code_hash == two.code_hash
    victim = tmp_path / "two" / names[0]
    victim.write_bytes(files[names[0]] + b"!")
    three = freeze(tmp_path / "two", (), tmp_path / "store")
    victim.write_bytes(files[names[0]])
    victim.chmod(victim.stat().st_mode ^ 0o100)
    four = freeze(tmp_path / "two", (), tmp_path / "store")
    assert len({one.code_hash, three.code_hash, four.code_hash}) == 3
    assert changed_files(read_manifest(one.path), read_manifest(three.path)).modified == (names[0],)


def test_what_changed_is_told_file_by_file(tree: Path, store: Path) -> None:
    """Added, modified and removed files are told apart."""
    before = freeze(tree, (), store)
    (tree / "train.py").write_text("changed\n")
    (tree / "empty").unlink()
    (tree / "new.py").write_text("")
    changes = changed_files(read_manifest(before.path), read_manifest(freeze(tree, (), store).path))
    assert (changes.added, changes.modified, changes.removed) == (("new.py",), ("train.py",), ("empty",))
    assert not changed_files(read_manifest(before.path), read_manifest(before.path))


def test_ignored_files_and_the_store_itself_stay_out(tree: Path) -> None:
    """What is ignored, excluded, byte code, a virtual environment, `.git` or runctl's own state is no code."""
    (tree / ".gitignore").write_text("*.log\n")
    (tree / ".runctlignore").write_text("big/\n!keep.log\n")
    names = [
        "a.log",
        "keep.log",
        "big/x",
        "data/x",
        "pkg/__pycache__/x.pyc",
        "venv/pyvenv.cfg",
        "venv/lib.py",
        ".git/x",
        "home/y",
    ]
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("")
    frozen = freeze(tree, ("data/",), tree / "state", skip=(tree / "home",))
    frozen = freeze(tree, ("data/",), tree / "state", skip=(tree / "home",))
    expected = [".gitignore", ".runctlignore", "empty", "keep.log", "pkg/link.py", "pkg/run.sh", "train.py"]
    assert expected == [entry.path for entry in read_manifest(frozen.path).entries]


def test_links_stay_inside_and_dont_lead_back_to_the_live_tree(tree: Path, store: Path, tmp_path: Path) -> None:
    """An absolute link into the root becomes relative, so that a copy links to itself; a dangling one is warned of."""
    (tree / "absolute").symlink_to(tree / "pkg/run.sh")
    (tree / "pkg/around").symlink_to(f"../../{tree.name}/train.py")
    (tree / "folder").symlink_to("pkg")
    (tree / "data").mkdir()
    (tree / "data/x").write_text("")
    (tree / "ignored").symlink_to("data/x")
    frozen = freeze(tree, ("data/",), store)
    materialize(frozen.path, tmp_path / "work")
    assert os.readlink(tmp_path / "work/absolute") == "pkg/run.sh"
    assert os.readlink(tmp_path / "work/pkg/around") == "../train.py"
    assert os.readlink(tmp_path / "work/folder") == "pkg"
    assert frozen.warnings == ("`ignored` links to `data/x`, which doesn't travel with the job",)


def test_everything_in_the_way_is_named_at_once(tree: Path, store: Path, tmp_path: Path) -> None:
    """Links out of the root and names that aren't UTF-8 are errors, all of them in one message; nothing is stored."""
    (tmp_path / "outside").write_text("")
    (tree / "out").symlink_to(tmp_path / "outside")
    (tree / "up").symlink_to("../..")
    Path(os.fsdecode(os.fsencode(tree) + b"/bad\xff")).write_text("")
    with pytest.raises(SnapshotError) as caught:
        freeze(tree, (), store)
    message = str(caught.value)
    assert "`out` links to" in message
    assert "`up` links to" in message
    assert "`bad\\xff` has a name that is not UTF-8" in message
    assert "sync.exclude" in caught.value.hint
    assert not store.exists()


FREEZE = """
import sys
from pathlib import Path
from runctl.workspace.problems import SnapshotError
from runctl.workspace.snapshot import freeze
try:
    freeze(Path(sys.argv[1]), (), Path(sys.argv[2]))
except SnapshotError as error:
    print(error)
"""


def test_an_unreadable_file_is_named(tree: Path, store: Path) -> None:
    """A file that can't be read isn't left out silently."""
    (tree / "secret").write_text("")
    (tree / "secret").chmod(0)
    argv = [sys.executable, "-c", FREEZE, str(tree), str(store)]
    done = subprocess.run(argv, preexec_fn=bound(), capture_output=True, text=True, check=True)
    assert "`secret` can't be read: permission denied" in done.stdout
    assert not store.exists()


def test_pipes_are_left_out_with_a_warning(tree: Path, store: Path) -> None:
    """A pipe in the tree neither hangs the freeze nor becomes a part of it."""
    os.mkfifo(tree / "pipe")
    assert freeze(tree, (), store).warnings == ("`pipe` is left out: it is neither a file nor a symlink",)


def test_a_tree_that_is_too_big_says_which_part_is(tree: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the biggest directories and what to do about them."""
    monkeypatch.setattr(snapshot_module, "MAX_BYTES", 1000)
    (tree / "data/raw").mkdir(parents=True)
    (tree / "data/raw/x.bin").write_bytes(b"x" * 5000)
    with pytest.raises(SnapshotError, match=r"the biggest parts are `data/raw/` \(4\.9 KiB\)") as caught:
        freeze(tree, (), store)
    assert "sync.exclude" in caught.value.hint
    monkeypatch.setattr(snapshot_module, "MAX_BYTES", 1 << 30)
    monkeypatch.setattr(snapshot_module, "MAX_FILES", 4)
    with pytest.raises(SnapshotError, match=r"5 files"):
        freeze(tree, (), store)


def test_a_damaged_snapshot_is_refused_and_stored_anew(tree: Path, store: Path, tmp_path: Path) -> None:
    """No changed, missing or truncated file reaches an attempt; freezing again stores all of it anew."""
    frozen = freeze(tree, (), store)
    copy = frozen.tree / "train.py"
    for damage, how in ((b"print('ho')\n", "is not the file"), (None, "is missing"), (b"", "is not the file")):
        if damage is None:
            copy.unlink()
        else:
            copy.write_bytes(damage)
        with pytest.raises(SnapshotError, match=how):
            materialize(frozen.path, tmp_path / "work")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["project", "store"]
        assert freeze(tree, (), store) == frozen
    materialize(frozen.path, tmp_path / "work")
    assert contents(tree) == contents(tmp_path / "work")


def test_without_its_manifest_there_is_no_snapshot(tree: Path, store: Path, tmp_path: Path) -> None:
    """A snapshot whose writing was cut short, or whose manifest was edited, isn't taken for one."""
    frozen = freeze(tree, (), store)
    manifest = frozen.path / "manifest.json"
    text = manifest.read_text()
    for damaged in (text[:50], text.replace("train.py", "../evil"), text.replace("../train.py", "/etc/passwd")):
        manifest.write_text(damaged)
        with pytest.raises(SnapshotError, match=r"manifest\.json"):
            materialize(frozen.path, tmp_path / "work")
    manifest.unlink()
    with pytest.raises(SnapshotError, match="no snapshot"):
        materialize(frozen.path, tmp_path / "work")
    assert freeze(tree, (), store) == frozen


def test_a_target_in_use_is_left_alone(tree: Path, store: Path, tmp_path: Path) -> None:
    """Materializing onto a directory with something in it is an error, and changes nothing there."""
    frozen = freeze(tree, (), store)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/result").write_text("precious")
    with pytest.raises(SnapshotError, match="can't be copied"):
        materialize(frozen.path, tmp_path / "work")
    assert contents(tmp_path / "work") == {"result": ("-", b"precious")}


def test_a_file_that_grows_while_it_is_frozen_is_hashed_as_copied(tree: Path, store: Path, tmp_path: Path) -> None:
    """Beside a process that keeps writing into the tree, each snapshot is still whole and verifies."""
    writer = subprocess.Popen(["sh", "-c", f"while :; do echo line >> {tree}/train.py; done"])
    try:
        for i in range(5):
            frozen = freeze(tree, (), store)
            materialize(frozen.path, tmp_path / f"work{i}")
    finally:
        writer.kill()
        writer.wait()


def test_a_big_file_is_copied_whole(tree: Path, store: Path, tmp_path: Path) -> None:
    """Files that the kernel copies arrive as those that are read and written."""
    (tree / "big.bin").write_bytes(os.urandom(3 << 20))
    materialize(freeze(tree, (), store).path, tmp_path / "work")
    assert (tree / "big.bin").read_bytes() == (tmp_path / "work/big.bin").read_bytes()


def test_a_manifest_is_not_code(tree: Path, store: Path) -> None:
    """Manifests, by their `apiVersion` or as the job's own, can change without the code being other code."""
    before = freeze(tree, (), store)
    (tree / "job.yaml").write_text("apiVersion: runctl/v1\nname: job\nscript: train.py\n")
    (tree / "pkg/job.yml").write_text('# a comment\n{"apiVersion": "runctl/v1", "name": "other"}\n')
    own = tree / "pkg/short.yml"
    own.write_text("name: short\nscript: train.py\n")
    assert freeze(tree, (), store, manifest=own) == before
    own.unlink()
    own.symlink_to(store.parent / "elsewhere.yaml")
    assert freeze(tree, (), store, manifest=own) == before
    (tree / "settings.yaml").write_text("name: short\nscript: train.py\n")
    assert freeze(tree, (), store, manifest=own).code_hash != before.code_hash
