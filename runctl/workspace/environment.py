"""The recipe of a job's environment: from what the tree declares to the steps that build it and the argv that uses it.

Environments are cached under a hash of everything that decides what is in them. Nothing is built here: a recipe is a
value, and reading the tree is all that making one does.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from enum import StrEnum
from pathlib import Path
from typing import Literal, assert_never

import msgspec

from runctl.manifest.job import Job, Setup
from runctl.workspace.build import (
    MARKER,
    Tools,
    build_argv,
    environment_commands,
    project_commands,
    uv_commands,
)
from runctl.workspace.declared import Declaration, DeclarationError, DeclaredBy, find_declaration
from runctl.workspace.import_check import import_check_argv
from runctl.workspace.interpreter import Interpreter
from runctl.workspace.problems import Finding, ScriptError, Severity
from runctl.workspace.script import launch_prefix

RECIPE_VERSION = 1
"""Goes into every key: raise it when the steps change in a way that makes another environment of the same inputs."""

DEFAULT_TIMEOUT = 1200.0


# What is wrong with a Python, not with the code.
OF_THE_INTERPRETER = frozenset({"requires-python", "no-python"})


class RecipeKind(StrEnum):
    NONE = "none"
    COMMANDS = "commands"
    SCRIPT = "script"
    UV_LOCK = "uv.lock"
    REQUIREMENTS = "requirements.txt"
    PYPROJECT = "pyproject.toml"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A preparation step as `spec.json` has it; `env` is added to the attempt's, `timeout` is in seconds."""

    name: str
    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    timeout: float
    unless: str | None = None
    lock: str | None = None
    kind: Literal["setup", "check"] = "setup"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How the script is run, and what must be done first.

    `key` names the environment; `env_dir` and `bin_dir` are None where the caller's own Python is used. `command` is
    the argv up to the job's args, for a job without a launcher; `env` is set for the training (PATH among it).
    `declared` are the distributions that will be there, None if nobody knows. With an error among the `findings` the
    recipe must not be carried out. `why` is for the plan.
    """

    kind: RecipeKind
    key: str
    env_dir: str | None
    python: str
    bin_dir: str | None
    command: tuple[str, ...]
    script: str
    steps: tuple[Step, ...]
    env: dict[str, str]
    declared: tuple[str, ...] | None
    findings: tuple[Finding, ...]
    why: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are on the host.

    `stored` is the snapshot's tree there, which outlives the attempt: what is installed from code is installed from
    there. `tree` is the same tree where it can be read here. `work` is the attempt's copy of it, `workdir` the working
    directory relative to either, `envs` holds the cached environments, `path` is the PATH that the script is looked up
    on.
    """

    tree: Path
    stored: Path
    code_hash: str
    work: Path
    workdir: str
    envs: Path
    path: str

    @property
    def cwd(self) -> str:
        return os.path.normpath(self.work / self.workdir)


def recipe(
    place: Place,
    script: str,
    setup: Setup,
    python: Interpreter | None,
    uv: str | None,
    *,
    timeout: float = DEFAULT_TIMEOUT,
) -> Recipe:
    """The recipe for `script` (relative to the workdir), whose files must be in `place.tree`.

    `python` is what `python3` means to the caller, `uv` the uv on the caller's PATH; None where there is none.
    """
    match setup.kind:
        case "none":
            return _plain(RecipeKind.NONE, place, script, python, "`setup: none`: the caller's own Python")
        case "commands":
            several = "setup command" if len(setup.commands) == 1 else "setup commands"
            why = f"{len(setup.commands)} {several}, run before every attempt"
            bare = _plain(RecipeKind.COMMANDS, place, script, python, why)
            steps = tuple(
                Step(name=" ".join(argv)[:60], argv=argv, cwd=place.cwd, env={}, timeout=timeout)
                for argv in setup.commands
            )
            return msgspec.structs.replace(
                bare, steps=steps, key=_key("commands", *(json.dumps(a) for a in setup.commands))
            )
        case "auto":
            return _auto(place, script, python, uv, timeout)
        case _:
            assert_never(setup.kind)


def elsewhere(made: Recipe) -> Recipe:
    """A recipe that was made here for a host: by the Python of that one, which says itself if it is unfit."""
    findings = tuple(each for each in made.findings if each.code not in OF_THE_INTERPRETER)
    built, _, chosen = made.why.partition(" with ")
    why = f"{built} with the host's own Python" if chosen else made.why.replace("the caller's own", "the host's own")
    return msgspec.structs.replace(made, findings=findings, why=why)


def _auto(place: Place, script: str, python: Interpreter | None, uv: str | None, timeout: float) -> Recipe:
    try:
        declaration = find_declaration(place.tree, place.workdir, script)
    except DeclarationError as error:
        broken = _plain(RecipeKind.NONE, place, script, python, "its dependencies can't be read")
        return msgspec.structs.replace(broken, findings=(*broken.findings, error.finding()))
    if declaration is None:
        why = "nothing declares dependencies (no script metadata, uv.lock, requirements.txt or pyproject.toml): "
        return _plain(RecipeKind.NONE, place, script, python, why + "the caller's own Python")
    if python is None:
        return _plain(RecipeKind.NONE, place, script, python, "there is no Python to build an environment with")
    return _built(place, script, declaration, python, uv, timeout)


def _built(
    place: Place, script: str, declaration: Declaration, python: Interpreter, uv: str | None, timeout: float
) -> Recipe:
    locked = declaration.by is DeclaredBy.UV_LOCK
    code = place.code_hash if declaration.uses_code else ""
    key = _key(declaration.by, declaration.digest, declaration.directory, code, python.path, python.version)
    env_dir = str(place.envs / key)
    bin_dir = f"{env_dir}/bin"
    steps: list[Step] = []
    if locked and uv is None:
        tools_dir = str(place.envs / f"uv-{_key(python.path, python.version)}")
        argv = build_argv(python.path, tools_dir, uv_commands(python.path, tools_dir))
        steps.append(_cached("install uv", argv, place.cwd, tools_dir, {}, timeout))
        uv = f"{tools_dir}/bin/uv"
    tools = Tools(base=python.path, python=f"{bin_dir}/python", uv=uv if locked else None)
    directory = os.path.normpath(place.stored / declaration.directory)
    fits = _fits(declaration, python)
    uv_env = {"UV_PROJECT_ENVIRONMENT": env_dir, **({"UV_PYTHON": python.path} if fits else {})} if locked else {}
    argv = build_argv(python.path, env_dir, environment_commands(declaration, tools, env_dir))
    steps.append(_cached("install dependencies", argv, directory, env_dir, uv_env, timeout))
    env = {"PATH": f"{bin_dir}{os.pathsep}{place.path}", "VIRTUAL_ENV": env_dir}
    if declaration.installs_project:
        project_dir = f"{env_dir}-{place.code_hash[:16]}"
        argv = build_argv(python.path, project_dir, project_commands(tools, project_dir))
        steps.append(_cached("install the project", argv, directory, project_dir, {}, timeout))
        env["PYTHONPATH"] = project_dir
    command, findings = _command(place, script, tools.python)
    if not fits and not locked:
        findings = (*findings, _wrong_python(declaration, python))
    return Recipe(
        kind=RecipeKind(declaration.by.value),
        key=key,
        env_dir=env_dir,
        python=tools.python,
        bin_dir=bin_dir,
        command=command,
        script=script,
        steps=tuple(steps),
        env=env,
        declared=declaration.names if declaration.names_known else None,
        findings=findings,
        why=_why(declaration, python, fits),
    )


def _why(declaration: Declaration, python: Interpreter, fits: bool) -> str:
    source = f"`{declaration.file}`"
    if declaration.by is DeclaredBy.SCRIPT:
        source = f"the script metadata (PEP 723) in {source}"
    chosen = (
        f"Python {python.version} (`{python.path}`)"
        if fits
        else f"a Python {declaration.requires_python} of uv's choice"
    )
    return f"built from {source} with {chosen}, cached by content"


def _cached(name: str, argv: tuple[str, ...], cwd: str, made: str, env: dict[str, str], timeout: float) -> Step:
    """A step that makes the directory `made`, once for all attempts that need it."""
    return Step(name=name, argv=argv, cwd=cwd, env=env, timeout=timeout, unless=f"{made}/{MARKER}", lock=f"{made}.lock")


def _plain(kind: RecipeKind, place: Place, script: str, python: Interpreter | None, why: str) -> Recipe:
    """Run with the caller's own Python, which nothing is installed into."""
    path = python.path if python is not None else "python3"
    command, findings = _command(place, script, path)
    if python is None and command and command[0] == path:
        missing = Finding(
            severity=Severity.ERROR,
            code="no-python",
            message="there is no `python3` or `python` on PATH to run the script with",
            hint="install Python, or activate the environment that has it",
        )
        findings = (*findings, missing)
    return Recipe(
        kind=kind,
        key=_key(kind, path, python.version if python is not None else ""),
        env_dir=None,
        python=path,
        bin_dir=None,
        command=command,
        script=script,
        steps=(),
        env={"PATH": place.path},
        declared=None,
        findings=findings,
        why=why,
    )


def _command(place: Place, script: str, python: str) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    if script.endswith(".py"):
        return (python, script), ()
    try:
        return launch_prefix(place.tree / place.workdir, script), ()
    except ScriptError:
        return (), ()  # `check_script` reports it, and with a launcher it needn't matter


def _fits(declaration: Declaration, python: Interpreter) -> bool:
    from packaging.specifiers import SpecifierSet

    return declaration.requires_python is None or SpecifierSet(declaration.requires_python).contains(python.version)


def _wrong_python(declaration: Declaration, python: Interpreter) -> Finding:
    return Finding(
        severity=Severity.ERROR,
        code="requires-python",
        message=f"`{declaration.file}` requires Python {declaration.requires_python}, "
        f"and `{python.path}` is {python.version}",
        hint="put such a Python first on PATH, or change `requires-python`",
        file=declaration.file,
    )


def _key(*parts: str) -> str:
    """A name for what these parts decide, on a machine of this kind."""
    text = json.dumps([RECIPE_VERSION, sysconfig.get_platform(), *parts])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def check_step(made: Recipe, imports: tuple[str, ...], place: Place, *, timeout: float = 60.0) -> Step:
    """The step that looks for the script's imports in the built environment, before the script starts."""
    directory = os.path.dirname(os.path.join(place.cwd, made.script))
    argv = import_check_argv(made.python, imports, directory)
    return Step(name="check imports", argv=argv, cwd=place.cwd, env={}, timeout=timeout, kind="check")


def training_argv(job: Job, made: Recipe) -> tuple[str, ...]:
    """The training's argv: the launcher's and the script, or the command of the recipe, then the args as they are.

    `argv[0]` is looked up on the recipe's PATH. Empty when nothing says how to run the script.
    """
    command = (*job.launcher, made.script) if job.launcher else made.command
    return (*command, *job.args) if command else ()
