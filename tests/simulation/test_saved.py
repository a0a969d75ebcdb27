"""A long run that is lived in parts, and what was run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from .saved import CannotGoOn, begin, save
from .version import commit
from .worlds import live

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_parts_are_the_whole(tmp_path: Path) -> None:
    """What is gone on with is what was saved, and ends as what was lived at once."""
    path = tmp_path / "lives.json"
    for part in (range(40, 44), range(44, 48)):
        run = begin(path, "local", 40, plain=False)
        assert run.next == part.start
        summary = run.summary
        summary.add(live("local", part))
        save(path, run, summary, part.stop)
    whole, parts = live("local", range(40, 48)), begin(path, "local", 40, plain=False).summary
    assert parts.lives == whole.lives == 8
    assert (parts.tallies, parts.met, parts.broken) == (whole.tallies, whole.met, whole.broken)
    assert [each.name for each in tmp_path.iterdir()] == ["lives.json"]


@pytest.mark.parametrize("other", ["code", "world", "first", "plain", "no JSON"])
def test_lives_of_another_kind_are_not_added_up(tmp_path: Path, other: str) -> None:
    path = tmp_path / "lives.json"
    run = begin(path, "local", 40, plain=False)
    save(path, run, run.summary, 41)
    if other == "code":
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(run, code="00")))
    elif other == "no JSON":
        path.write_bytes(b'{"code":')
    with pytest.raises(CannotGoOn):
        begin(path, "mixed" if other == "world" else "local", 41 if other == "first" else 40, plain=other == "plain")


def test_a_commit_is_read_without_git(tmp_path: Path) -> None:
    """On a branch, packed away or not, between branches, and where there is none."""
    git = tmp_path / ".git"
    assert commit(git) == "unknown"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit(git) == "unknown"
    (git / "packed-refs").write_text("# pack-refs with: peeled\n1111 refs/heads/other\n2222 refs/heads/main\n^3333\n")
    assert commit(git) == "2222"
    (git / "refs" / "heads" / "main").write_text("4444\n")
    assert commit(git) == "4444"
    (git / "HEAD").write_text("5555\n")
    assert commit(git) == "5555"
