"""The Python that the caller would get by typing `python3`: where it is, and which version."""

from __future__ import annotations

import os
import shutil
import sys

import msgspec

_ASK_TIMEOUT = 20.0
_ASK = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.executable)"


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is absolute and keeps its symlinks (a virtual environment's Python is one); `version` is `3.12.4`."""

    path: str
    version: str

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def find_interpreter(path: str) -> Interpreter | None:
    """The first `python3`, else `python`, on this PATH that says what it is; None where there is none.

    Where that is a wrapper that chooses an interpreter by directory or environment, the chosen one counts: it is asked
    once, and the same one runs every attempt.
    """
    for name in ("python3", "python"):
        found = shutil.which(name, path=path)
        if found is not None and (interpreter := _ask(os.path.abspath(found))) is not None:
            return interpreter
    return None


def _ask(python: str) -> Interpreter | None:
    if os.path.realpath(python) == os.path.realpath(sys.executable):
        return Interpreter(path=python, version=".".join(map(str, sys.version_info[:3])))
    import subprocess

    try:
        asked = subprocess.run(
            [python, "-I", "-S", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_ASK_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version, _, executable = asked.stdout.strip().partition(" ")
    if asked.returncode != 0 or version.count(".") != 2 or not os.path.isabs(executable):
        return None
    return Interpreter(path=executable, version=version)
