"""What git knows about a working tree, read from its files: what it tracks, what it ignores everywhere.

git itself is never run: it needn't be installed, and its hooks and configured commands are somebody's code.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

import msgspec

_INCLUDE_DEPTH = 5
_GITLINK = 0o160000
_DIRECTORY = 0o040000


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """`git_dir` belongs to this working tree, `common_dir` to all worktrees of the repository (mostly the same)."""

    git_dir: bytes
    common_dir: bytes


class Tracked(msgspec.Struct, frozen=True, kw_only=True):
    """Paths in the index, relative to the working tree: `files`, submodules (`links`), and the `parents` of both."""

    files: frozenset[bytes] = frozenset()
    links: frozenset[bytes] = frozenset()
    parents: frozenset[bytes] = frozenset()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that change what is ignored. `excludes_file` is an absolute path."""

    excludes_file: bytes | None
    ignore_case: bool
    hash_size: int


class DamagedIndex(ValueError):
    """The index can't be read."""


def open_repository(directory: bytes) -> Repository | None:
    """The repository whose working tree starts at `directory`; None where `.git` is missing or isn't one."""
    dot_git = os.path.join(directory, b".git")
    try:
        mode = os.stat(dot_git).st_mode
        if stat.S_ISDIR(mode):
            git_dir = dot_git
        elif stat.S_ISREG(mode):
            content = _read(dot_git, 65536)
            if not content.startswith(b"gitdir: "):
                return None
            git_dir = os.path.normpath(os.path.join(directory, content[8:].rstrip(b"\r\n")))
        else:
            return None
    except OSError:
        return None
    common = git_dir
    try:
        common = os.path.normpath(
            os.path.join(git_dir, _read(os.path.join(git_dir, b"commondir"), 65536).rstrip(b"\r\n"))
        )
    except OSError:
        pass
    looks_right = os.path.lexists(os.path.join(git_dir, b"HEAD")) and all(
        os.path.isdir(os.path.join(common, part)) for part in (b"objects", b"refs")
    )
    return Repository(git_dir=git_dir, common_dir=common) if looks_right else None


def read_config(repository: Repository | None, environ: Mapping[str, str]) -> Config:
    """`core.excludesFile`, `core.ignoreCase` and the hash of the index, from the files that git reads.

    `include.path` is followed, `includeIf` isn't. An unreadable file is as good as none.
    """
    home = environ.get("HOME", "")
    xdg = environ.get("XDG_CONFIG_HOME") or (os.path.join(home, ".config") if home else "")
    files: list[str | bytes] = []
    if environ.get("GIT_CONFIG_NOSYSTEM", "").lower() not in ("1", "true", "yes", "on"):
        files.append(environ.get("GIT_CONFIG_SYSTEM", "/etc/gitconfig"))
    if "GIT_CONFIG_GLOBAL" in environ:
        files.append(environ["GIT_CONFIG_GLOBAL"])
    else:
        files += [os.path.join(xdg, "git/config")] if xdg else []
        files += [os.path.join(home, ".gitconfig")] if home else []
    if repository is not None:
        files.append(os.path.join(repository.common_dir, b"config"))
    settings: dict[bytes, bytes] = {}
    for file in files:
        settings.update(_settings(os.fsencode(file), os.fsencode(home), _INCLUDE_DEPTH))
    excludes = settings.get(b"core.excludesfile")
    if excludes is None:
        excludes = os.fsencode(os.path.join(xdg, "git/ignore")) if xdg else b""
    return Config(
        excludes_file=_expand(excludes, os.fsencode(home)) or None,
        ignore_case=settings.get(b"core.ignorecase", b"false").lower() in (b"true", b"yes", b"on", b"1"),
        hash_size=32 if settings.get(b"extensions.objectformat") == b"sha256" else 20,
    )


def _expand(path: bytes, home: bytes) -> bytes:
    return os.path.join(home, path[2:]) if path.startswith(b"~/") else path


def _settings(file: bytes, home: bytes, depth: int) -> Iterator[tuple[bytes, bytes]]:
    """The settings of one configuration file in order, included files in their place; names are in lower case."""
    try:
        text = _read(file, 1 << 20)
    except OSError:
        return
    section = b""
    for line in text.replace(b"\\\r\n", b"").replace(b"\\\n", b"").splitlines():
        line = line.strip()
        if line.startswith(b"["):
            section, _, line = line[1:].partition(b"]")
            section, line = section.strip().lower(), line.strip()
        if not line or line[:1] in (b"#", b";"):
            continue
        name, equals, value = line.partition(b"=")
        value = _value(value.strip()) if equals else b"true"
        key = section + b"." + name.strip().lower()
        if key == b"include.path" and depth > 0:
            included = os.path.join(os.path.dirname(file), _expand(value, home))
            yield from _settings(included, home, depth - 1)
        yield key, value


def _value(text: bytes) -> bytes:
    """A value without its quotes, escapes and trailing comment."""
    out, quoted, i = bytearray(), False, 0
    while i < len(text):
        char = text[i : i + 1]
        if char == b'"':
            quoted = not quoted
        elif char == b"\\" and i + 1 < len(text):
            i += 1
            out += {b"n": b"\n", b"t": b"\t", b"b": b"\b"}.get(text[i : i + 1], text[i : i + 1])
        elif char in (b"#", b";") and not quoted:
            return bytes(out.rstrip())
        else:
            out += char
        i += 1
    return bytes(out)


def read_tracked(repository: Repository, hash_size: int) -> Tracked:
    """The paths in the index (versions 2 to 4, split indexes too). No index is an empty one. Raises DamagedIndex."""
    files: set[bytes] = set()
    links: set[bytes] = set()
    try:
        for mode, name in _index_entries(repository.git_dir, b"index", hash_size):
            if mode & 0o170000 == _GITLINK:
                links.add(name)
            elif mode & 0o170000 != _DIRECTORY:  # a directory stands for files that a sparse checkout leaves out
                files.add(name)
    except FileNotFoundError:
        return Tracked()
    except (OSError, ValueError, IndexError) as error:
        raise DamagedIndex(str(error)) from error
    parents: set[bytes] = set()
    for name in (*files, *links):
        cut = name.rfind(b"/")
        while cut > 0 and name[:cut] not in parents:
            parents.add(name[:cut])
            cut = name.rfind(b"/", 0, cut)
    return Tracked(files=frozenset(files), links=frozenset(links), parents=frozenset(parents))


def _index_entries(git_dir: bytes, name: bytes, hash_size: int) -> Iterator[tuple[int, bytes]]:
    """(mode, path) of each entry. Format: gitformat-index(5)."""
    data = _read(os.path.join(git_dir, name), 1 << 30)
    version = int.from_bytes(data[4:8], "big")
    if data[:4] != b"DIRC" or version not in (2, 3, 4):
        raise DamagedIndex(f"not an index of version 2, 3 or 4 (`{os.fsdecode(name)}`)")
    at, previous = 12, b""
    for _ in range(int.from_bytes(data[8:12], "big")):
        start = at
        mode = int.from_bytes(data[at + 24 : at + 28], "big")
        at += 40 + hash_size
        flags = int.from_bytes(data[at : at + 2], "big")
        at += 4 if flags & 0x4000 else 2
        if version == 4:
            strip, at = _varint(data, at)
            end = data.index(b"\0", at)
            path = previous[: len(previous) - strip] + data[at:end]
            at = end + 1
        else:
            end = data.index(b"\0", at)
            path = data[at:end]
            at = start + (end - start + 8) // 8 * 8  # padded with one to eight NULs
        previous = path
        if path:  # empty in a split index: replaces an entry of the shared one, whose name stays
            yield mode, path
    while at + 8 <= len(data) - hash_size:
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        if data[at : at + 4] == b"link":
            shared = data[at + 8 : at + 8 + hash_size]
            if any(shared):
                yield from _index_entries(git_dir, b"sharedindex." + shared.hex().encode(), hash_size)
        at += 8 + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """git's offset encoding: each continued byte adds one, so that no number has two spellings."""
    byte = data[at]
    value = byte & 127
    while byte & 128:
        at += 1
        byte = data[at]
        value = ((value + 1) << 7) | (byte & 127)
    return value, at + 1


def _read(path: bytes, limit: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(limit)
