"""The help of every command, as a golden text. `RUNCTL_GOLDEN=write` renews it."""

from __future__ import annotations

import os
import re
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


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_help_names_no_type_of_python_and_cuts_nothing(machine: Machine, call: tuple[str, ...]) -> None:
    """`NAME` and `FILE…` are words of this program; a narrow terminal wraps sentences instead of cutting them."""
    done = machine.run(*call, "--help", COLUMNS="50")
    assert not re.search(r"<\w+>|<list|\{", done.out)
    assert "..." not in done.out.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("status", "-o", "foo"), "`-o` / `--output`: `foo` is not one of `table`, `json`, `yaml`, `name`"),
        (("logs", "job", "--tail", "-1"), "`--tail`: it has to be 0 or more"),
        (("logs", "job", "--attempt", "one"), "`--attempt`: it has to be a whole number"),
        (("status", "a", "b"), "more than it takes: `b`"),
        (("stop",), "missing argument `NAME…`"),
        (("controller", "rnu"), "no such command `rnu`; did you mean `run`?"),
        (("checkpoints",), "name a job: `runctl checkpoints NAME`"),
    ],
)
def test_mistakes_on_the_command_line_are_said_in_plain_words(
    machine: Machine, args: tuple[str, ...], message: str
) -> None:
    """Golden texts: whatever library finds the mistake, the words are ours."""
    done = machine.run(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == f"error: {message}"


def test_a_controller_without_a_job_says_so(machine: Machine) -> None:
    """`controller run` in an empty home ends with 0, and not in silence."""
    done = machine.run("controller", "run")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("nothing to do: no job runs or waits for one")


def test_the_shell_completes_the_names_of_jobs_behind_checkpoints(machine: Machine) -> None:
    """`checkpoints <TAB>` offers them beside its sub-commands."""
    machine.training(steps=1)
    assert machine.run("apply", "job.yaml", "--wait").code == 0
    done = machine.run(_RUNCTL_COMPLETE="complete_bash", COMP_WORDS="runctl checkpoints ", COMP_CWORD="2")
    assert {"job", "list", "verify"} <= set(done.out.split())
