"""The help of every command, as a golden text. `RUNCTL_GOLDEN=write` renews it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from acceptance.machine import Machine

from runctl.cli.commands import COMMANDS

GOLDEN = Path(__file__).parent / "golden"
SUB = {"checkpoints": ("list", "verify"), "controller": ("status", "run", "stop")}
CALLS = [(), *((name,) for name in COMMANDS), *((name, sub) for name, subs in SUB.items() for sub in subs)]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_help(machine: Machine, call: tuple[str, ...]) -> None:
    """`--help` and `-h` print the same text on stdout, and it is the one that was agreed on (but for its wrapping)."""
    done = machine.run(*call, "--help", COLUMNS="100")
    assert (done.code, done.err) == (0, "")
    path = GOLDEN / ("-".join(("help", *call)) + ".txt")
    if os.environ.get("RUNCTL_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(done.out)
    assert done.out.split() == path.read_text().split()
    assert machine.run(*call, "-h", COLUMNS="100").out == done.out


def test_every_command_has_its_own_help_in_one_line() -> None:
    """The summary fits into the list of commands without wrapping."""
    for name, entry in COMMANDS.items():
        assert len(entry.summary) <= 72, name
        assert entry.summary.endswith("."), name


def test_the_version_is_data(machine: Machine) -> None:
    """`--version` prints one line on stdout."""
    done = machine.run("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("runctl ")


def test_a_misspelt_command_or_option_is_recognised(machine: Machine) -> None:
    """An unknown command names the near one; nothing is printed on stdout."""
    done = machine.run("staus")
    assert (done.code, done.out) == (2, "")
    assert "did you mean `status`?" in done.err
    done = machine.run("status", "--wtach")
    assert (done.code, done.out) == (2, "")
    assert "--watch" in done.err


def test_colour_is_for_terminals_alone(machine: Machine) -> None:
    """A pipe gets none, whatever TERM says; `--no-color` is taken anywhere."""
    machine.environ.pop("NO_COLOR")
    assert "\x1b" not in machine.run("status", "nobody", TERM="xterm-256color").err
    assert machine.run("status", "--no-color", "nobody").code == 2
