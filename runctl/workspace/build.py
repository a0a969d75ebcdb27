"""The argvs that build an environment, each a single step that is all done or begins anew.

One step and not several, because a step is what the agent does under a lock: two attempts that build the same
environment would otherwise take turns in the middle of it.
"""

from __future__ import annotations

import json

import msgspec

from runctl.workspace.declared import Declaration, DeclaredBy

MARKER = ".complete"
"""Written into an environment last: without it, it is half-built, and the next build begins by removing it."""

BUILD_SOURCE = f"""\
import json, os, shlex, shutil, subprocess, sys
place, commands = sys.argv[1], json.loads(sys.argv[2])
for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
    os.environ.pop(name, None)
os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
if os.path.lexists(place):
    print("removing what an earlier build left behind", flush=True)
    shutil.rmtree(place)
for command in commands:
    print("+ " + " ".join(shlex.quote(part) for part in command), flush=True)
    try:
        code = subprocess.call(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print("error: `%s` can't be run: %s" % (command[0], error.strerror), file=sys.stderr)
        sys.exit(127)
    if code:
        print("error: `%s` failed with %d" % (command[0], code), file=sys.stderr)
        sys.exit(code if 0 < code < 256 else 1)
os.makedirs(place, mode=0o700, exist_ok=True)
os.sync()  # a power cut must not leave the marker beside files that lack their content
marker = os.open(os.path.join(place, {MARKER!r}), os.O_WRONLY | os.O_CREAT, 0o600)
os.fsync(marker)
"""
"""Python 3.8 and later, standard library only: run by the interpreter that the environment is built from."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What builds: the caller's Python, the environment's (there once it is made), and uv where it is used."""

    base: str
    python: str
    uv: str | None = None


def build_argv(base: str, place: str, commands: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """One argv that removes `place`, runs the commands in order until one fails, and marks it complete."""
    return (base, "-I", "-c", BUILD_SOURCE, place, json.dumps(commands))


def environment_commands(declaration: Declaration, tools: Tools, place: str) -> tuple[tuple[str, ...], ...]:
    """Make the environment at `place` with the declared dependencies; run in the declaration's directory."""
    if declaration.by is DeclaredBy.UV_LOCK and tools.uv is not None:
        return ((tools.uv, "sync", "--frozen", "--no-install-project", "--no-editable", "--no-progress"),)
    venv = (tools.base, "-I", "-m", "venv", place)
    if declaration.by is DeclaredBy.REQUIREMENTS:
        return venv, (*_pip(tools.python), "-r", "requirements.txt")
    if declaration.requirements:
        return venv, (*_pip(tools.python), *declaration.requirements)
    if declaration.installs_project:
        return (venv,)
    return ((tools.base, "-I", "-m", "venv", "--without-pip", place),)


def project_commands(tools: Tools, place: str) -> tuple[tuple[str, ...], ...]:
    """Install the project that the current directory holds into `place`, without its dependencies."""
    if tools.uv is not None:
        return (
            (
                tools.uv,
                "pip",
                "install",
                "--no-deps",
                "--no-progress",
                "--python",
                tools.python,
                "--target",
                place,
                ".",
            ),
        )
    return ((*_pip(tools.python), "--no-deps", "--target", place, "."),)


def uv_commands(base: str, place: str) -> tuple[tuple[str, ...], ...]:
    """Install uv itself into an environment of its own, for a machine that doesn't have it."""
    return (base, "-I", "-m", "venv", place), (*_pip(f"{place}/bin/python"), "uv")


def _pip(python: str) -> tuple[str, ...]:
    return (python, "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check")
