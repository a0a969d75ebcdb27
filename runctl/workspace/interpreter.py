"""The Python that the caller would get by typing `python3`: where it is, and which version."""

from __future__ import annotations

import os
import shutil
import sys

import msgspec

_ASK_TIMEOUT = 20.0
_ASK = "import sys; print('%d.%d.%d' % sys.version_info[:3])"


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is absolute and keeps its symlinks (a virtual environment's Python is one); `version` is `3.12.4`."""

    path: str
    version: str

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def find_interpreter(path: str) -> Interpreter | None:
    """The first `python3`, else `python`, on this PATH that says its version; None where there is none."""
    for name in ("python3", "python"):
        found = shutil.which(name, path=path)
        if found is not None and (version := _version(found)) is not None:
            return Interpreter(path=os.path.abspath(found), version=version)
    return None


def _version(python: str) -> str | None:
    if os.path.realpath(python) == os.path.realpath(sys.executable):
        return ".".join(map(str, sys.version_info[:3]))
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
    version = asked.stdout.strip()
    return version if asked.returncode == 0 and version.count(".") == 2 else None
