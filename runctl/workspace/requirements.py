"""Reads requirements files as far as a cache key and a warning need it. pip remains the one that understands them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from runctl.workspace.distributions import normalize

_INCLUDE = re.compile(r"(?:-r|--requirement|-c|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(?P<file>\S.*)")
_EDITABLE = re.compile(r"(?:-e|--editable)(?:\s*=\s*|\s+)(?P<what>\S.*)")
_LOCAL_LINKS = re.compile(r"(?:-f|--find-links|-i|--index-url|--extra-index-url)(?:\s*=\s*|\s+)(?!\w+://)\S")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz")
_MAX_FILES = 100


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """`contents` are the bytes of every file that was included, in the order of inclusion, with their names.

    `uses_code` says that something is installed from files of the tree. `unreadable` are included files that the
    tree doesn't have.
    """

    names: tuple[str, ...]
    contents: tuple[bytes, ...]
    uses_code: bool
    unreadable: tuple[str, ...]


def read_requirements(tree: Path, directory: str, file: str) -> Requirements:
    """Read `file` (relative to `directory`, where pip is run) and all that it includes, each once."""
    top = os.path.realpath(tree)
    names: list[str] = []
    contents: list[bytes] = []
    unreadable: list[str] = []
    uses_code = False
    seen: set[str] = set()
    pending = [os.path.join(top, directory, file)]
    while pending and len(seen) < _MAX_FILES:
        path = os.path.realpath(pending.pop(0))
        shown = os.path.relpath(path, os.path.join(top, directory))
        if path in seen:
            continue
        seen.add(path)
        try:
            if os.path.commonpath([top, path]) != top:
                raise PermissionError("outside the tree")
            with open(path, "rb") as opened:
                content = opened.read()
        except OSError:
            unreadable.append(shown)
            continue
        contents += [os.path.relpath(path, top).encode("utf-8", "surrogateescape"), content]
        for line in _logical_lines(content):
            if (include := _INCLUDE.fullmatch(line)) is not None:
                if "://" not in include["file"]:
                    pending.append(os.path.join(os.path.dirname(path), include["file"].strip("'\"")))
            elif _LOCAL_LINKS.match(line):
                uses_code = True
            elif not line.startswith("--"):
                editable = _EDITABLE.fullmatch(line)
                what = editable["what"] if editable else line
                local = _local_path(what, os.path.join(top, directory))
                uses_code = uses_code or local is not None
                name = _name(what) if local is None else _name_of_project(local)
                names += [normalize(name)] if name else []
    return Requirements(names=tuple(names), contents=tuple(contents), uses_code=uses_code, unreadable=tuple(unreadable))


def _logical_lines(content: bytes) -> list[str]:
    """Lines with their continuations joined and comments dropped, as pip does it."""
    text = content.decode("utf-8-sig", "replace").replace("\\\r\n", "").replace("\\\n", "")
    lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def _local_path(what: str, directory: str) -> str | None:
    """The file or directory that a requirement installs from, where it is one on this disk."""
    at = re.search(r"@\s*file:(?://)?(?P<path>[^;#\s]+)", what) or re.match(r"file:(?://)?(?P<path>[^;#\s]+)", what)
    path = at["path"] if at else re.split(r"\s*;|\s+--|\[", what, maxsplit=1)[0].strip()
    if at or path.startswith((".", "/")):
        return os.path.join(directory, path)
    if "://" not in path and (
        path.endswith(_ARCHIVES) or ("/" in path and os.path.exists(os.path.join(directory, path)))
    ):
        return os.path.join(directory, path)
    return None


def _name(requirement: str) -> str | None:
    if re.match(r"[A-Za-z0-9+]+://", requirement):
        egg = re.search(r"[#&]egg=([A-Za-z0-9._-]+)", requirement)
        if egg:
            return egg[1]
        return os.path.basename(requirement.split("://", 1)[1].split("#")[0].split("@")[0]).removesuffix(".git") or None
    match = _NAME.match(requirement)
    return match[0] if match else None


def _name_of_project(path: str) -> str | None:
    """The name of a project in a directory, else the file's name up to its version."""
    try:
        import tomllib

        with open(os.path.join(path, "pyproject.toml"), "rb") as file:
            return str(tomllib.load(file)["project"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        name = os.path.basename(os.path.normpath(path))
        return re.split(r"-\d", name, maxsplit=1)[0] or None
