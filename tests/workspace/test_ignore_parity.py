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
PLAIN_GLOBS = [
    "*",
    "?",
    "**",
    "***",
    "a",
    "b",
    "ab",
    "foo",
    "bar",
    ".py",
    "-",
    "é",
    "\\*",
    "\\",
    "\\a",
    "[",
    "[a",
    "[/]",
]
BRACKETS = "[a-c] [b-a] [--a] [!a] [^b] []x] [é] [x\\]] [a- [[:alpha:]] [[:upper:]] [[:no:]] [[:"
GLOBS = st.sampled_from([*PLAIN_GLOBS, *BRACKETS.split(" ")])
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


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
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


NAMES_IN_FULL_TREE = ["a", "b", "ab", "a.py", "-", "x y", "x ", "[a]", "é", "A"]


@pytest.fixture(scope="module")
def full_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a file of each name at three depths, so that a pattern finds something to match."""
    root = tmp_path_factory.mktemp("full") / "tree"
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    build(root, [f"{d}{name}" for d in ("", "d/", "d/ab/", "b.d/", "b.d/d/") for name in NAMES_IN_FULL_TREE], {})
    return root


FULL_SEGMENTS = st.sampled_from(
    ["d", "ab", "b.d", "a", "b", "*", "**", "a*", "*b", "?", "a?", "[a-b]", "*.d", "x y", "x\\ ", "é"]
)
FULL_PATTERNS = st.builds(
    lambda bang, slash, segments, end: bang + slash + "/".join(segments) + end,
    st.sampled_from(["", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(st.one_of(FULL_SEGMENTS, FULL_SEGMENTS, SEGMENTS), min_size=1, max_size=3),
    st.sampled_from(["", "", "", "/", " ", "\r", "/\r", "\t", "/**", "/*"]),
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    outer=st.lists(FULL_PATTERNS, min_size=1, max_size=6),
    inner=st.lists(FULL_PATTERNS, max_size=3),
    info=st.lists(FULL_PATTERNS, max_size=2),
)
@example(outer=["*", "!a", "!d/", "!b", "a"], inner=["!x y", "b"], info=[])
@example(outer=["a\r", "b \r", "[a-a]b", "[b-a]", "[]-a]", "x\\ "], inner=[], info=["*.py", "!d/a.py"])
@example(outer=["/**/ab/**", "!d/ab/", "d/**/[!a]"], inner=["**/", "!**/b"], info=[])
def test_a_tree_with_every_name_lists_the_same_files_as_git(
    full_tree: Path, home: Path, outer: list[str], inner: list[str], info: list[str]
) -> None:
    """Order, negation, depth and precedence of patterns that do match decide as they do in git."""
    (full_tree / ".gitignore").write_bytes("\n".join(outer).encode() + b"\n")
    (full_tree / "d/.gitignore").write_bytes("\n".join(inner).encode())
    (full_tree / ".git/info/exclude").write_bytes("\n".join(info).encode() + b"\n")
    assert listed_by_us(full_tree) == listed_by_git(full_tree)


def commit(root: Path) -> None:
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty")


@pytest.mark.parametrize("version", ["2", "3", "4"])
def test_each_version_of_the_index_is_read(empty_repository: Path, home: Path, version: str) -> None:
    """Tracked files belong to the job although they are ignored, in whichever format the index is written."""
    root = home.parent / "tree"
    shutil.copytree(empty_repository, root)
    names = [f"{'d' * n}/{'f' * length}.log" for n in (1, 5) for length in range(1, 10)] + ["keep.py", "é.log"]
    names += ["l" * 200 + ".log", "m.log"]  # too long a difference for one byte of version 4
    build(root, [*names, "d/untracked.log", "new.log"], {"": ["*.log", "ddddd/"]})
    git(root, "add", "-f", *names)
    if version == "3":
        build(root, ["later.log"], {})
        git(root, "add", "-fN", "later.log")  # needs the extended flags of version 3
    git(root, "update-index", "--index-version", version)
    assert (root / ".git/index").read_bytes()[7] == int(version)
    assert listed_by_us(root) == listed_by_git(root)
    assert "d/f.log" in listed_by_us(root)
    assert "new.log" not in listed_by_us(root)


def test_a_split_index_and_one_of_sha256_are_read(home: Path) -> None:
    """`core.splitIndex` and SHA-256 repositories list the same tracked files."""
    root = home.parent / "tree"
    root.mkdir()
    git(root, "init", "-q", "--object-format=sha256")
    build(root, ["a.log", "b.log", "c.log", "d.log"], {"": ["*.log"]})
    git(root, "add", "-f", "a.log", "b.log")
    assert listed_by_us(root) == listed_by_git(root) == [".gitignore", "a.log", "b.log"]
    git(root, "update-index", "--split-index")
    git(root, "add", "-f", "c.log")
    assert listed_by_us(root) == listed_by_git(root) == [".gitignore", "a.log", "b.log", "c.log"]


def test_a_damaged_index_is_warned_of_and_hides_nothing_else(empty_repository: Path, home: Path) -> None:
    """An index that can't be read makes ignored files untracked, and says so."""
    root = home.parent / "tree"
    shutil.copytree(empty_repository, root)
    build(root, ["a.log", "b.py"], {"": ["*.log"]})
    for damage in (b"", b"DIRC\0\0\0\2\0\0\0\x05short", b"DIRC\0\0\0\x09\0\0\0\0", os.urandom(100)):
        (root / ".git/index").write_bytes(damage)
        listing = list_files(root, (), environ={})
        assert listing.paths() == [".gitignore", "b.py"]
        assert "can't be read" in listing.warnings[0]


def test_the_global_excludes_of_git_count(empty_repository: Path, home: Path) -> None:
    """`~/.config/git/ignore`, and `core.excludesFile` of an included configuration instead of it."""
    root = home.parent / "tree"
    shutil.copytree(empty_repository, root)
    build(root, ["a.one", "a.two", "sub/b.one", "c"], {"": ["!sub/b.one"]})
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").write_text("*.one\n")
    assert listed_by_us(root) == listed_by_git(root) == [".gitignore", "a.two", "c", "sub/b.one"]
    (home / "my excludes").write_text("*.two\n")
    (home / "more").write_text('[core]\n\texcludesFile = "~/my excludes" ; a note\n')
    (home / ".gitconfig").write_text("[include]\n\tpath = more\n")
    assert listed_by_us(root) == listed_by_git(root) == [".gitignore", "a.one", "c", "sub/b.one"]


def test_a_file_system_that_ignores_case_makes_patterns_ignore_it(empty_repository: Path, home: Path) -> None:
    """`core.ignoreCase`, which git sets by itself on such a file system, holds for names, paths and globs."""
    root = home.parent / "tree"
    shutil.copytree(empty_repository, root)
    git(root, "config", "core.ignoreCase", "true")
    build(root, ["NAME", "x.LOG", "D/E/f", "a1b", "keep"], {"": ["name", "*.log", "/d/e", "A[0-9]B"]})
    assert listed_by_us(root) == listed_by_git(root) == [".gitignore", "keep"]


def test_worktrees_and_submodules_are_listed_with_their_own_rules(empty_repository: Path, home: Path) -> None:
    """A worktree has its repository's `info/exclude`; a nested repository is listed as git lists it by itself."""
    main = home.parent / "main"
    shutil.copytree(empty_repository, main)
    (main / ".git/info/exclude").write_text("*.info\n")
    build(main, ["a.log", "b.info", "c"], {"": ["*.log"]})
    git(main, "add", "c", ".gitignore")
    commit(main)
    git(main, "worktree", "add", "-q", "../tree")
    root = home.parent / "tree"
    build(root, ["d.info", "e.log", "f"], {})
    assert (root / ".git").is_file()
    assert listed_by_us(root) == listed_by_git(root) == [".gitignore", "c", "f"]
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(main), "sub")
    shutil.copytree(empty_repository, root / "nested")
    build(root, ["sub/x.log", "sub/y.info", "sub/z", "nested/n.log", "nested/n.tmp"], {"nested": ["*.tmp"]})
    inside = [f"{inner}/{name}" for inner in ("sub", "nested") for name in listed_by_git(root / inner)]
    outside = [name for name in listed_by_git(root) if not name.startswith(("sub", "nested"))]
    assert listed_by_us(root) == sorted([*outside, *inside])
    assert "nested/n.log" in listed_by_us(root)


def test_a_submodule_below_an_ignored_directory_belongs_to_the_job(empty_repository: Path, home: Path) -> None:
    """It is tracked, and inside it its own rules hold."""
    root = home.parent / "tree"
    shutil.copytree(empty_repository, root)
    commit(root)
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(root), "vendor/sub")
    build(root, ["vendor/other", "vendor/sub/new", "vendor/sub/x.log"], {"": ["vendor/"], "vendor/sub": ["*.log"]})
    assert listed_by_us(root) == [".gitignore", ".gitmodules", "vendor/sub/.gitignore", "vendor/sub/new"]


def test_an_ignore_file_that_is_a_symlink_or_a_directory_has_no_rules(empty_repository: Path, home: Path) -> None:
    """As in git, so that a tree can't read rules from elsewhere."""
    root = home.parent / "tree"
    shutil.copytree(empty_repository, root)
    build(root, ["a", "b", "c/a"], {})
    (home.parent / "rules").write_text("a\n")
    (root / ".gitignore").symlink_to("../rules")
    (root / "c/.gitignore").mkdir()
    build(root, ["c/.gitignore/x"], {})
    assert listed_by_us(root) == listed_by_git(root)
    assert "a" in listed_by_us(root)
