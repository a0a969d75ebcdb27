"""The files that belong to a job are the ones that git lists; git itself is the oracle."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runctl.workspace.ignore import list_files

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is the oracle and isn't installed here")

NAMES = st.sampled_from(
    [
        "a",
        "b",
        "ab",
        "abc",
        "a.py",
        "b.pyc",
        "foo",
        "foobar",
        "bar",
        "x y",
        "x ",
        "é",
        "[x]",
        "A",
        "#h",
        "!n",
        "a\\b",
        "-",
    ]
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
GLOBS = st.sampled_from(
    "* ? ** a b ab foo bar .py [a-c] [!a] [^b] []x] [[:alpha:]] [[:upper:]] [a \\* \\ \\a é [é] [x\\]] [a- [[:nope:]]"
    " [[: [/] *** - [--a] [ [b-a]".split()
)
SEGMENTS = st.one_of(
    st.lists(GLOBS, min_size=1, max_size=3).map("".join), st.just("**"), st.just("*"), NAMES, st.just("")
)
PATTERNS = st.builds(
    lambda bang, slash, segments, end: bang + slash + "/".join(segments) + end,
    st.sampled_from(["", "", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(SEGMENTS, min_size=1, max_size=3),
    st.sampled_from(["", "", "", "/", " ", "  ", "\\ ", "/ ", "\t", "\r", " \\", "/**", "//"]),
)
IGNORE_FILES = st.lists(st.one_of(PATTERNS, st.just("# note"), st.just("")), max_size=5)


def git(directory: Path | str, *args: str) -> bytes:
    """The output of a git that knows no configuration but the repository's and the home directory of the test."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", *args], cwd=directory, env=environ, check=True, capture_output=True).stdout


def listed_by_git(directory: Path | str) -> list[str]:
    names = set(git(directory, "ls-files", "-z", "-co", "--exclude-standard").split(b"\0")) - {b""}
    return sorted(os.fsdecode(name) for name in names if os.path.lexists(os.path.join(os.fsencode(directory), name)))


def listed_by_us(directory: Path | str) -> list[str]:
    environ = {"HOME": os.environ["HOME"], "GIT_CONFIG_NOSYSTEM": "1"}
    return sorted(list_files(directory, (), environ=environ).paths())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture(scope="module")
def empty_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "repository"
    path.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=path, check=True)
    return path


def build(root: Path, paths: list[str], ignore_files: dict[str, list[str]]) -> None:
    """Make what can be made: a name that is a file already can't become a directory, and is left."""
    for path in [*paths, *(os.path.join(directory, ".gitignore") for directory in ignore_files)]:
        try:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if not (root / path).exists():
                (root / path).write_text("")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    for directory, lines in ignore_files.items():
        file = root / directory / ".gitignore"
        if file.is_file():
            file.write_bytes("\n".join(lines).encode() + b"\n")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    paths=st.lists(PATHS, min_size=1, max_size=8),
    ignore_files=st.dictionaries(st.one_of(st.just(""), st.just(""), PATHS), IGNORE_FILES, max_size=3),
    info=IGNORE_FILES,
    tracked=st.lists(PATHS, max_size=2),
)
@example(paths=["foox/y/bar", "foobar", "foo/bar"], ignore_files={"": ["/foo**/bar"]}, info=[], tracked=[])
@example(paths=["a/b", "a/c"], ignore_files={"": ["a/", "!a/b"]}, info=[], tracked=["a/c"])
@example(paths=["a/b/ab", "ab"], ignore_files={"": ["**\\/ab"]}, info=["!ab"], tracked=[])
def test_any_tree_with_any_patterns_lists_the_same_files_as_git(
    empty_repository: Path,
    home: Path,
    paths: list[str],
    ignore_files: dict[str, list[str]],
    info: list[str],
    tracked: list[str],
) -> None:
    """For trees, nested ignore files, info/exclude and tracked files made at random, the two lists are equal."""
    root = home.parent / "tree"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(empty_repository, root)
    build(root, [*paths, *tracked], ignore_files)
    (root / ".git/info/exclude").write_bytes("\n".join(info).encode() + b"\n")
    for path in tracked:
        if (root / path).is_file():
            git(root, "add", "-f", "--", path)
    assert listed_by_us(root) == listed_by_git(root)
