"""What a tree declares its script to need: PEP 723 metadata, uv.lock, requirements.txt or pyproject.toml."""

from __future__ import annotations

import hashlib
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from runctl.workspace.distributions import normalize
from runctl.workspace.problems import Finding, Severity, WorkspaceError
from runctl.workspace.requirements import read_requirements

_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
"""The reference expression of PEP 723."""


class DeclarationError(WorkspaceError):
    """A file that declares dependencies can't be used. `file` is relative to the workdir's tree."""

    def __init__(self, message: str, hint: str, file: str) -> None:
        super().__init__(message, hint)
        self.file = file

    def finding(self) -> Finding:
        return Finding(
            severity=Severity.ERROR,
            code="dependencies-unusable",
            message=str(self),
            hint=self.hint,
            file=self.file,
        )


class DeclaredBy(StrEnum):
    SCRIPT = "script"
    UV_LOCK = "uv.lock"
    REQUIREMENTS = "requirements.txt"
    PYPROJECT = "pyproject.toml"


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """The dependencies of one script.

    `file` and `directory` are relative to the tree. `names` are the distributions that are named (of a lock: all of
    them), if they can be known. `requirements` are given to the installer one by one, or are empty where it reads the
    file itself. `digest` is over everything that decides what gets installed, apart from the code of the tree, which
    counts if `uses_code`. `installs_project` says that the tree is a package to be installed, too.
    """

    by: DeclaredBy
    file: str
    directory: str
    names: tuple[str, ...]
    digest: str
    names_known: bool = True
    requirements: tuple[str, ...] = ()
    requires_python: str | None = None
    uses_code: bool = False
    installs_project: bool = False


def find_declaration(tree: Path, workdir: str, script: str) -> Declaration | None:
    """The declaration that holds for the script: its own, else that of the nearest directory at or above the workdir.

    In one directory uv.lock (beside a pyproject.toml) comes before requirements.txt, and that before a pyproject.toml
    with a `[project]` table. Raises DeclarationError.
    """
    if (own := _script_metadata(tree, workdir, script)) is not None:
        return own
    parts = [part for part in Path(workdir).parts if part != "."]
    for depth in range(len(parts), -1, -1):
        directory = "/".join(parts[:depth]) or "."
        if (found := _in_directory(tree, directory)) is not None:
            return found
    return None


def _in_directory(tree: Path, directory: str) -> Declaration | None:
    here = tree / directory
    project = here / "pyproject.toml"
    if project.is_file() and (here / "uv.lock").is_file():
        return _uv_lock(tree, directory, here / "uv.lock")
    if (here / "requirements.txt").is_file():
        return _requirements(tree, directory)
    if project.is_file() and "project" in (content := _toml(tree, project)):
        lock = _workspace_lock(tree, here)
        return _uv_lock(tree, directory, lock) if lock is not None else _pyproject(tree, directory, content)
    return None


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()


def _toml(tree: Path, path: Path) -> dict[str, Any]:
    return _parse_toml(_read(tree, path), os.path.relpath(path, tree))


def _read(tree: Path, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        file = os.path.relpath(path, tree)
        raise DeclarationError(f"`{file}` can't be read: {error.strerror}", "check its permissions", file) from None


def _parse_toml(content: bytes, file: str, what: str = "", lines: int = 0, columns: int = 0) -> dict[str, Any]:
    """`what` is it that begins so many lines and columns into the file."""
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        place = re.compile(r"at line (\d+), column (\d+)")
        said = place.sub(lambda at: f"at line {int(at[1]) + lines}, column {int(at[2]) + columns}", str(error))
        raise DeclarationError(
            f"{what or f'`{file}`'} is not valid TOML: {said}", "correct it, or say `setup: none`", file
        ) from None


def _strings(value: Any, what: str, file: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DeclarationError(f"{what} in `{file}` is not a list of strings", "write one requirement a string", file)
    return tuple(value)


def _named(requirements: tuple[str, ...], what: str, file: str) -> tuple[str, ...]:
    """The distributions' names. What isn't a requirement is refused: an installer could take it for an option."""
    from packaging.requirements import InvalidRequirement, Requirement

    names = []
    for text in requirements:
        try:
            names.append(normalize(Requirement(text).name))
        except InvalidRequirement as error:
            why = str(error).splitlines()[0]
            raise DeclarationError(
                f"`{text}` in {what} of `{file}` is not a requirement: {why}", "write it as in `numpy>=1.26`", file
            ) from None
    return tuple(names)


def _requires_python(table: dict[str, Any], file: str) -> str | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    value = table.get("requires-python")
    if value is None:
        return None
    try:
        return str(SpecifierSet(value))
    except (InvalidSpecifier, TypeError, AttributeError):
        raise DeclarationError(
            f"`requires-python` in `{file}` is not a version specifier: `{value}`", "write it as in `>=3.11`", file
        ) from None


def _script_metadata(tree: Path, workdir: str, script: str) -> Declaration | None:
    if not script.endswith(".py"):
        return None
    path = tree / workdir / script
    file = os.path.normpath(os.path.join(workdir, script))
    source = _read(tree, path).decode("utf-8", "replace").replace("\r\n", "\n")
    blocks = [match for match in _BLOCK.finditer(source) if match["type"] == "script"]
    if not blocks:
        return None
    if len(blocks) > 1:
        raise DeclarationError(f"`{file}` has {len(blocks)} blocks of script metadata", "keep one `# /// script`", file)
    commented = blocks[0]["content"].splitlines(keepends=True)
    content = "".join(line[2:] if line.startswith("# ") else line[1:] for line in commented)
    above = source.count("\n", 0, blocks[0].start("content"))
    what = f"the script metadata (`# /// script`) of `{file}`"
    table = _parse_toml(content.encode(), file, what, lines=above, columns=2)
    requirements = _strings(table.get("dependencies", []), "`dependencies`", file)
    names = _named(requirements, "the script metadata", file)
    return Declaration(
        by=DeclaredBy.SCRIPT,
        file=file,
        directory=os.path.normpath(workdir),
        names=names,
        requirements=requirements,
        requires_python=_requires_python(table, file),
        digest=_digest(content.encode()),
        uses_code=any("@ file:" in text.replace("@file:", "@ file:") for text in requirements),
    )


def _requirements(tree: Path, directory: str) -> Declaration:
    file = os.path.normpath(os.path.join(directory, "requirements.txt"))
    read = read_requirements(tree, directory, "requirements.txt")
    if read.unreadable:
        missing = ", ".join(f"`{name}`" for name in read.unreadable)
        raise DeclarationError(
            f"`{file}` includes {missing}, which can't be read inside the project",
            "files outside the root, or ignored by git, don't travel with a job",
            file,
        )
    project = tree / directory / "pyproject.toml"
    content = _toml(tree, project) if project.is_file() else {}
    return Declaration(
        by=DeclaredBy.REQUIREMENTS,
        file=file,
        directory=directory,
        names=read.names,
        digest=_digest(*read.contents),
        requires_python=_requires_python(content["project"], "pyproject.toml") if "project" in content else None,
        uses_code=read.uses_code,
    )


def _pyproject(tree: Path, directory: str, content: dict[str, Any]) -> Declaration:
    file = os.path.normpath(os.path.join(directory, "pyproject.toml"))
    project = content["project"]
    if not isinstance(project, dict):
        raise DeclarationError(f"`project` in `{file}` is not a table", "write `[project]`", file)
    requirements = _strings(project.get("dependencies", []), "`project.dependencies`", file)
    requires_python = _requires_python(project, file)
    if "dependencies" in project.get("dynamic", ()):  # only the build backend knows them, and it needs the code
        return Declaration(
            by=DeclaredBy.PYPROJECT,
            file=file,
            directory=directory,
            names=(),
            names_known=False,
            requirements=(".",),
            requires_python=requires_python,
            digest=_digest(_read(tree, tree / file)),
            uses_code=True,
        )
    return Declaration(
        by=DeclaredBy.PYPROJECT,
        file=file,
        directory=directory,
        names=_named(requirements, "`project.dependencies`", file),
        requirements=requirements,
        requires_python=requires_python,
        digest=_digest("\n".join(requirements).encode()),
        uses_code=any("file:" in text for text in requirements),
        installs_project="build-system" in content,
    )


def _workspace_lock(tree: Path, member: Path) -> Path | None:
    """The lock of the uv workspace that the project is a member of."""
    directory = member
    while directory != tree:
        directory = directory.parent
        project = directory / "pyproject.toml"
        if (directory / "uv.lock").is_file() and project.is_file():
            workspace = _toml(tree, project).get("tool", {}).get("uv", {}).get("workspace")
            return directory / "uv.lock" if workspace is not None else None
    return None


def _uv_lock(tree: Path, directory: str, lock: Path) -> Declaration:
    """Of the packages in a lock, those with a source in the tree are code; the project's own is installed apart."""
    file = os.path.relpath(lock, tree)
    content = _read(tree, lock)
    table = _parse_toml(content, file)
    packages = table.get("package", [])
    if not isinstance(packages, list) or not all(isinstance(package, dict) for package in packages):
        raise DeclarationError(f"`{file}` is not a lock of uv", "write it anew with `uv lock`", file)
    own = os.path.relpath(tree / directory, lock.parent)
    names, local, installs_project = [], False, False
    for package in packages:
        source = package.get("source", {})
        path = source.get("editable") or source.get("directory") or source.get("virtual") or source.get("path")
        if path is not None and os.path.normpath(path) == own:
            installs_project = "virtual" not in source
            continue
        local = local or (path is not None and "virtual" not in source)
        names.append(normalize(str(package.get("name", ""))))
    return Declaration(
        by=DeclaredBy.UV_LOCK,
        file=file,
        directory=directory,
        names=tuple(names),
        digest=_digest(content, _read(tree, tree / directory / "pyproject.toml")),
        requires_python=_requires_python(table, file),
        uses_code=local,
        installs_project=installs_project,
    )
