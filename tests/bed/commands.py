"""The programs that the bed runs on this machine: one way to run them, one error that says what they said."""

from __future__ import annotations

import subprocess
from pathlib import Path


class CommandFailed(Exception):
    """A program of this machine didn't do what the bed needs; says which, and its own words."""


def run(*argv: str | Path, stdin: str = "", cwd: Path | None = None) -> str:
    """What it prints. Raises `CommandFailed`, also where there is no such program."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(words, input=stdin, cwd=cwd, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"`{' '.join(words)}`: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-400:]
        raise CommandFailed(f"`{' '.join(words)}`: exit code {done.returncode}: {said}")
    return done.stdout
