"""A state that can't be used: every command says what is wrong, what is safe and what to do, and changes nothing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from acceptance.machine import Machine

from runctl.cli.errors import translate
from runctl.store.interface import StoreDamaged, StoreFull, StoreLocked, StoreUnavailable


def test_a_damaged_state_is_left_as_it_is(machine: Machine) -> None:
    """Exit 10, the file's name, what is safe; not a byte of it is touched."""
    machine.run("apply", str(machine.training(1)), "--wait")
    state = machine.home / "state.sqlite"
    for side in machine.home.glob("state.sqlite-*"):
        side.unlink()
    state.write_bytes(b"no database at all, " * 500)
    before = state.read_bytes()
    for args in (["status"], ["apply", "job.yaml"], ["stop", "job"], ["wait", "job"]):
        done = machine.run(*args)
        assert done.code == 10, done
        assert "is damaged" in done.err
        assert "now:" in done.err
        assert "Traceback" not in done.err
    assert state.read_bytes() == before


def test_the_state_of_a_newer_version_is_refused(machine: Machine) -> None:
    """A format from the future is named with both numbers, and left alone."""
    machine.run("apply", str(machine.training(1)), "--wait")
    with sqlite3.connect(machine.home / "state.sqlite") as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    done = machine.run("status")
    assert done.code == 10, done
    assert "999" in done.err
    assert "upgrade runctl" in done.err


def test_the_name_of_a_home_says_nothing_of_its_trouble() -> None:
    """Only a disk that is full ends with 7, and only a lock with 11, whatever words are in the path."""
    text = "`/workspace/unlocked/full/state.sqlite`: disk I/O error"
    kinds = ((StoreFull, 7), (StoreLocked, 11), (StoreUnavailable, 10), (StoreDamaged, 10))
    found = [translate(kind(text)) for kind, _ in kinds]
    assert [failure.code for failure in found if failure is not None] == [code for _, code in kinds]


def test_a_read_only_home_is_no_permission(machine: Machine) -> None:
    """A home without write permission: exit 10, and the hint that it has to be writable."""
    machine.home.mkdir()
    machine.home.chmod(0o500)
    done = machine.run_bound("apply", str(machine.training(1)))
    assert done.code == 10, done
    assert "RUNCTL_HOME" in done.err


def test_a_home_that_is_no_directory_is_no_permission(machine: Machine) -> None:
    """A file where the home should be is named."""
    machine.home.write_text("mine")
    done = machine.run("apply", str(machine.training(1)))
    assert done.code == 10, done
    assert str(machine.home) in done.err
    assert machine.home.read_text() == "mine"


@pytest.mark.parametrize("command", ["status", "cost"])
def test_a_home_that_is_no_directory_is_not_an_empty_one(machine: Machine, command: str) -> None:
    """Whoever only looks hears of it as well, also where a file is somewhere above."""
    machine.home.write_text("mine")
    for home in (machine.home, machine.home / "below"):
        machine.environ["RUNCTL_HOME"] = str(home)
        done = machine.run(command)
        assert done.code == 10, done
        assert str(machine.home) in done.err


def test_a_state_file_that_was_emptied_is_no_new_one(machine: Machine) -> None:
    """There are attempts that it knew of: it isn't begun anew over them, and says what to do."""
    machine.home.mkdir()
    machine.run("apply", str(machine.training(1)), "--wait")
    for path in machine.home.glob("state.sqlite*"):
        path.unlink()
    (machine.home / "state.sqlite").touch()
    for command in (["status"], ["apply", "job.yaml"]):
        done = machine.run(*command)
        assert done.code == 10, done
        assert "is empty, and there are attempts in" in done.err
    assert (machine.home / "state.sqlite").stat().st_size == 0


@pytest.mark.parametrize(
    "argv",
    [["status", "\udce8"], ["apply", "d\udce8/job.yaml"], ["stop", "job", "--why", "\udce8"]],
    ids=lambda a: a[0],
)
def test_an_argument_that_is_no_text_is_refused(machine: Machine, argv: list[str]) -> None:
    """As what it is, and not as a defect."""
    done = machine.run(*argv)
    assert done.code == 2, done
    assert r"isn't UTF-8: `" in done.err
    assert r"\udce8" in done.err


@pytest.mark.parametrize("name", ["controller.pid", "controller.log"])
@pytest.mark.parametrize("odd", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)])
def test_what_is_in_the_controllers_place_is_named(machine: Machine, name: str, odd: Callable[[Path], None]) -> None:
    """Something else in the place of its file keeps a background controller away: exit 10, the file, and what goes on.
    When it is out of the way, `wait` goes on."""
    machine.home.mkdir(mode=0o700)
    path = machine.home / name
    odd(path)
    manifest = str(machine.training(30))
    done = machine.run("apply", manifest, "--no-wait")
    assert (done.code, str(path) in done.err) == (10, True), done
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    assert machine.run("wait", "job").code == 0
