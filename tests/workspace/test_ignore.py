"""runctl's own rules on top of git's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runctl.workspace.ignore import explain, list_files
from runctl.workspace.problems import TreeError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


def files(root: Path, *names: str, **contents: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for name, text in contents.items():
        (root / ("." + name)).write_text(text)


def listed(root: Path, *exclude: str) -> list[str]:
    return [name for name in list_files(root, exclude, environ={}).paths() if not name.endswith("ignore")]


def test_runctlignore_overrules_gitignore_and_the_manifest_overrules_both(root: Path) -> None:
    """The stronger list decides where it has a matching pattern, for and against."""
    files(root, "a.log", "b.log", "c.bin", "d.py", gitignore="*.log\n", runctlignore="!a.log\n*.bin\n")
    assert listed(root) == ["a.log", "d.py"]
    assert listed(root, "!c.bin", "a.log") == ["c.bin", "d.py"]


def test_a_deeper_runctlignore_overrules_an_outer_one(root: Path) -> None:
    """As with git's files, and its anchored patterns start at its own directory."""
    files(root, "sub/a.bin", "sub/deep/a.bin", "a.bin", runctlignore="*.bin\n")
    (root / "sub/.runctlignore").write_text("!/a.bin\n")
    assert listed(root) == ["sub/a.bin"]


def test_nothing_below_an_excluded_directory_comes_back(root: Path) -> None:
    """Whichever list excludes the directory, and whichever asks for the file."""
    files(
        root, "data/keep.txt", "raw/keep.txt", gitignore="raw/\n", runctlignore="!raw/keep.txt\ndata/\n!data/keep.txt\n"
    )
    assert listed(root, "!data/keep.txt") == []
    assert listed(root, "!raw/") == ["raw/keep.txt"]


def test_rules_count_without_a_repository(root: Path) -> None:
    """A directory that isn't in git follows its ignore files all the same."""
    files(root, "a.log", "b", gitignore="*.log\n")
    assert listed(root) == ["b"]


def test_the_rule_that_leaves_a_file_out_can_be_named(root: Path) -> None:
    """With its file and line, also where the directory above is what is excluded."""
    files(root, "a/b/c.py", "d.py", "x/e.py", gitignore="\n# note\n/a/b/\n", runctlignore="d.*\n")
    assert str(explain(root, "a/b/c.py", (), environ={})) == "`/a/b/` (.gitignore:3)"
    assert str(explain(root, "d.py", (), environ={})) == "`d.*` (.runctlignore:1)"
    assert str(explain(root, "d.py", ("*.py",), environ={})) == "`*.py` (sync.exclude:1)"
    assert explain(root, "x/e.py", (), environ={}) is None


def test_a_pattern_made_to_take_for_ever_takes_no_time(root: Path) -> None:
    """Many stars against a long name: no exponential backtracking."""
    files(root, "a" * 200, gitignore="*a" * 30 + "*b\n" + "x/" + "*a" * 30 + "*b\n")
    files(root, "x/" + "a" * 200)
    begun = time.process_time()
    assert len(listed(root)) == 2
    assert time.process_time() - begun < 1


def test_a_directory_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    """The tree itself must be readable."""
    with pytest.raises(TreeError, match="can't be read: No such file"):
        list_files(tmp_path / "gone", ())
