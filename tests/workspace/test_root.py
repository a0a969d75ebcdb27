"""A project's root and its script are found the same way every time, or the reason is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runctl.workspace.problems import RootError, ScriptError
from runctl.workspace.root import ProjectRoot, find_root, resolve_script


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("")


def roots(root: ProjectRoot) -> tuple[Path, Path]:
    return root.root, root.workdir


def test_N1_the_root_is_the_nearest_directory_with_dot_git(home: Path) -> None:
    """A directory or a file (worktree, submodule), at the workdir or above it, is named as the reason."""
    make(home, "code/.git/", "code/sub/deep/", "code/module/.git", "code/module/src/")
    code = home / "code"
    assert roots(find_root(code / "sub", "deep")) == (code, code / "sub/deep")
    assert roots(find_root(code, ".")) == (code, code)
    assert roots(find_root(code, "module/src")) == (code / "module", code / "module/src")
    assert find_root(code / "sub", "..").reason == f"`.git` is in `{code}`"
    assert find_root(code, "sub/deep").workdir_in_root == "sub/deep"
    assert find_root(code, ".").workdir_in_root == "."


def test_N1_without_git_the_workdir_is_its_own_root(home: Path) -> None:
    """Nothing above the workdir is taken instead."""
    make(home, "code/sub/")
    assert roots(find_root(home / "code", "sub")) == (home / "code/sub", home / "code/sub")
    assert "no `.git`" in find_root(home, "code").reason


def test_N1_dotfiles_kept_in_git_dont_make_the_home_directory_a_project(home: Path, tmp_path: Path) -> None:
    """`.git` in, or above, the home directory counts only for a workdir that is that directory."""
    make(home, ".git/", "code/")
    make(tmp_path, ".git/", "elsewhere/")
    assert find_root(home, "code").root == home / "code"
    assert find_root(home, ".").root == home
    assert find_root(tmp_path, "elsewhere").root == tmp_path


def test_N1_symlinks_are_resolved(home: Path) -> None:
    """However a directory is reached, its root is the same."""
    make(home, "real/.git/", "real/sub/")
    (home / "link").symlink_to("real/sub")
    assert roots(find_root(home, "link")) == (home / "real", home / "real/sub")


@pytest.mark.parametrize(
    ("workdir", "expected"),
    [
        ("gone", "does not exist"),
        ("loop", "loop of symlinks"),
        ("file", "not a directory"),
        ("file/x", "not a directory"),
    ],
)
def test_a_workdir_that_isnt_one_is_a_clear_error(home: Path, workdir: str, expected: str) -> None:
    """What was looked for, where, and why it won't do."""
    make(home, "file")
    (home / "loop").symlink_to("loop")
    with pytest.raises(RootError, match=expected) as caught:
        find_root(home, workdir)
    assert str(home / workdir) in str(caught.value)
    assert caught.value.hint


@pytest.fixture
def project(home: Path) -> ProjectRoot:
    make(home, "p/.git/", "p/job/train.py", "p/scripts/finetune.py", "p/other/evaluate.py", "p/.venv/x/trian.py")
    (home / "p/.venv/pyvenv.cfg").write_text("")
    return find_root(home / "p", "job")


def test_F3_the_script_is_relative_to_the_workdir_and_inside_the_root(project: ProjectRoot) -> None:
    """Above the workdir is fine, symlinks inside the root too, and an absolute path as well."""
    (project.workdir / "link.py").symlink_to("../scripts/finetune.py")
    assert resolve_script(project, "train.py") == project.workdir / "train.py"
    assert resolve_script(project, "../scripts/finetune.py") == project.root / "scripts/finetune.py"
    assert resolve_script(project, "link.py") == project.workdir / "link.py"
    assert resolve_script(project, str(project.workdir / "train.py")) == project.workdir / "train.py"


@pytest.mark.parametrize(
    ("script", "near"),
    [
        ("trian.py", ("train.py",)),
        ("finetune.py", ("../scripts/finetune.py",)),
        ("scripts/evaluate.py", ("../other/evaluate.py",)),
        ("Train.PY", ("train.py",)),
        ("zzz", ()),
    ],
)
def test_F3_a_missing_script_names_what_may_have_been_meant(
    project: ProjectRoot, script: str, near: tuple[str, ...]
) -> None:
    """The same name elsewhere, or a similar one; never a file of a virtual environment."""
    with pytest.raises(ScriptError, match="does not exist") as caught:
        resolve_script(project, script)
    assert caught.value.near[: len(near)] == near
    assert (caught.value.near == ()) == (near == ())
    assert all(f"`{name}`" in caught.value.hint for name in near)
    assert str(project.workdir / script) in str(caught.value)


def test_N1_a_script_outside_the_root_is_refused(project: ProjectRoot, tmp_path: Path) -> None:
    """By its path, by a symlink, or by a directory that is one; existing or not."""
    make(tmp_path, "away/x.py")
    (project.workdir / "out.py").symlink_to(tmp_path / "away/x.py")
    (project.workdir / "away").symlink_to(tmp_path / "away")
    for script in (
        "../../../away/x.py",
        str(tmp_path / "away/x.py"),
        "out.py",
        "away/x.py",
        "../../gone.py",
        "/etc/passwd",
    ):
        with pytest.raises(ScriptError, match="outside the project root"):
            resolve_script(project, script)


def test_F3_what_is_no_file_is_refused(project: ProjectRoot) -> None:
    """A directory (with the file in it that may be meant), a pipe, a loop, nothing."""
    os.mkfifo(project.workdir / "pipe")
    (project.workdir / "loop.py").symlink_to("loop.py")
    with pytest.raises(ScriptError, match="is a directory") as caught:
        resolve_script(project, "../job")
    assert "`../job/train.py`" in caught.value.hint
    with pytest.raises(ScriptError, match="not a regular file"):
        resolve_script(project, "pipe")
    with pytest.raises(ScriptError, match="loop of symlinks"):
        resolve_script(project, "loop.py")
    with pytest.raises(ScriptError, match="does not exist"):
        resolve_script(project, "train.py/x")
    with pytest.raises(ScriptError, match="is a directory"):
        resolve_script(project, "")
