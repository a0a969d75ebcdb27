"""F9: what is written in `args` arrives as it is written, byte for byte."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .machine import Machine

# Writes its arguments as the kernel handed them over, NUL-terminated.
ECHO = """\
import os
import sys
from pathlib import Path

kernels = Path("/proc/self/cmdline")
args = kernels.read_bytes().split(b"\\0")[:-1] if kernels.exists() else [os.fsencode(arg) for arg in sys.argv]
start = next(i for i, arg in enumerate(args) if arg.endswith(b"echo.py")) + 1
Path(os.environ["WORLD"], "argv").write_bytes(b"".join(arg + b"\\0" for arg in args[start:]))
Path(os.environ["WORLD"], "env").write_bytes(os.environb[b"NASTY"])
"""

NASTY = [
    "", " ", "  two  spaces ", "it's", 'say "hi"', "`id`", "$HOME", "$(touch never)", "a;b", "a&&b", "a|b>c", "*",
    "~", "-", "--", "-v", "--lr=1e-4", "---", "\n", "line\nbreak\n", "\ttab",
    "\r\n", "back\\slash", "\\n", "é", "e\u0301",
    "\u202eevil", "\U0001f600", "\x01\x1b[31m", "\u2028", "#comment", "a: b", "{}", "[a]", "%s%n",
    "!", "null", "'", "''",
    "x" * 20_000, "${{ matrix }}", "@file", "=", "a\u00a0b", "\ufeff",
]  # fmt: skip


def _received(machine: Machine) -> list[str]:
    raw = (machine.world / "argv").read_bytes()
    assert raw.endswith(b"\0") or raw == b""
    return [each.decode() for each in raw.split(b"\0")[:-1]]


def _quoted(text: str) -> str:
    """As YAML's double quotes have it: JSON's, but for characters that JSON writes as two."""
    return json.dumps(text).replace("\\ud83d\\ude00", "\\U0001f600")


def _manifest(machine: Machine, args: str) -> None:
    machine.write("echo.py", ECHO)
    machine.write(
        "echo.yaml",
        f"apiVersion: runctl/v1\nname: echo\nscript: echo.py\nsetup: none\n"
        f"env:\n  WORLD: {machine.world}\n  NASTY: {json.dumps(NASTY[13])}\nargs:\n{args}",
    )


def test_F9_every_argument_arrives_byte_for_byte(machine: Machine) -> None:
    """Spaces, quotes, dashes, newlines, empty strings, unicode, shell syntax: no shell and no word splitting."""
    _manifest(machine, "".join(f"  - {_quoted(each)}\n" for each in NASTY))
    done = machine.run("apply", "echo.yaml", "--wait")
    assert done.code == 0, done
    assert _received(machine) == NASTY
    assert (machine.world / "env").read_bytes() == NASTY[13].encode()
    assert not [*machine.root.rglob("never"), *Path.cwd().glob("never")]


PLAIN = [
    "1e-4", "no", "yes", "on", "off", "010", "0x1F", "0o17", "2026-01-01", "2026-01-01T00:00:00Z", "1_000", "12:30:45",
    "true", "True", "FALSE", "null", "~", "Null", ".inf", "-.inf", ".nan", "1.0", "1.10", "+1", "-1", "--flag", "1e3",
    "=", "<<", "0b1", "1,000", "a b", "it's", "y", "n", "-", "1.", ".5", "00", "9999999999999999999999999",
]  # fmt: skip


def test_F9_unquoted_yaml_arrives_as_it_is_written(machine: Machine) -> None:
    """YAML's traps: numbers, dates, sexagesimals and booleans that a loader would turn into something else."""
    written = [each for each in PLAIN if each != "-"]
    _manifest(machine, "".join(f"  - {each}\n" for each in written))
    done = machine.run("apply", "echo.yaml", "--wait")
    assert done.code == 0, done
    assert _received(machine) == written


QUOTED = """\
  - |
    a block
     of lines
  - >-
    folded
    text
  - "\\x41\\u00e9\\n"
  - 'it''s'
  - &lr 1e-4
  - *lr
  - ''
  -
"""


def test_F9_yamls_own_quoting_means_what_it_means(machine: Machine) -> None:
    """Blocks, escapes, quotes and aliases; nothing is an empty argument."""
    _manifest(machine, QUOTED)
    done = machine.run("apply", "echo.yaml", "--wait")
    assert done.code == 0, done
    assert _received(machine) == ["a block\n of lines\n", "folded text", "A\u00e9\n", "it's", "1e-4", "1e-4", "", ""]


def test_F9_what_is_no_argument_is_refused_at_its_place(machine: Machine) -> None:
    """A NUL, a mapping, a list, or no list at all: no argv can carry it, and nothing is guessed."""
    for text, line in (('  - "a\\0b"\n', 9), ("  - {a: b}\n", 9), ("  - [a]\n", 9), ("  - a: b\n", 9), ("  a b\n", 9)):
        _manifest(machine, text)
        done = machine.run("apply", "echo.yaml", "--wait")
        assert done.code == 2, done
        assert f"echo.yaml:{line}:" in done.err, done
    assert not (machine.world / "argv").exists()


def test_F9_a_launcher_and_resume_arg_are_argv_too(machine: Machine) -> None:
    """Words of the launcher come before the script, each for itself."""
    machine.write("echo.py", ECHO)
    launcher = [sys.executable, "-X", "utf8=1", "-W", "ignore:it's a test"]
    manifest = {
        "name": "echo", "script": "echo.py", "setup": "none", "launcher": launcher, "args": ["a b"],
        "env": {"WORLD": str(machine.world), "NASTY": ""},
    }  # fmt: skip
    machine.write("echo.yaml", json.dumps(manifest))
    done = machine.run("apply", "echo.yaml", "--wait")
    assert done.code == 0, done
    assert _received(machine) == ["a b"]
