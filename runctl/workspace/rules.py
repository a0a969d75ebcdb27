"""The patterns of one ignore file: how git reads its lines, and which of them decides about a path."""

from __future__ import annotations

import os
import re
from functools import cached_property

import msgspec

from runctl.workspace.wildmatch import Unmatchable, translate


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One pattern. `text` is as written; `source` is the file, relative to the root, or what stands in for one."""

    text: bytes
    source: str
    line: int
    negated: bool
    directory_only: bool

    def __str__(self) -> str:
        return f"`{os.fsdecode(self.text)}` ({self.source}:{self.line})"


class RuleList:
    """The patterns of one file, applied to paths below the directory `base` (with its slash, or empty).

    Most patterns are a name or `*.suffix`; they are looked up without a regular expression, whose compilation
    would cost more than everything else here.
    """

    def __init__(self, text: bytes, source: str, base: bytes, *, ignore_case: bool) -> None:
        self._base = len(base)
        self._fold = ignore_case
        self._rules: list[Rule] = []
        self._names: dict[bytes, list[int]] = {}
        self._paths: dict[bytes, list[int]] = {}
        self._suffixes: list[tuple[bytes, int]] = []
        self._name_globs: list[tuple[bytes, int]] = []
        self._path_globs: list[tuple[bytes, bytes, int]] = []
        for number, line in enumerate(_lines(text), start=1):
            if line and not line.startswith(b"#"):
                self._add(_without_trailing_spaces(line), source, number)
        self._suffix_tuple = tuple(suffix for suffix, _ in self._suffixes)

    def _add(self, text: bytes, source: str, line: int) -> None:
        negated = text.startswith(b"!")
        pattern = text[1:] if negated else text
        directory_only = pattern.endswith(b"/")
        if directory_only:
            pattern = pattern[:-1]
        if not pattern:
            return
        index = len(self._rules)
        self._rules.append(Rule(text=text, source=source, line=line, negated=negated, directory_only=directory_only))
        if self._fold:
            pattern = pattern.lower()
        literal = _literal_prefix(pattern)
        if b"/" not in pattern:
            if literal == len(pattern):
                self._names.setdefault(pattern, []).append(index)
            elif pattern.startswith(b"*") and _literal_prefix(pattern[1:]) == len(pattern) - 1:
                self._suffixes.append((pattern[1:], index))
            else:
                self._name_globs.append((pattern, index))
            return
        if pattern.startswith(b"/"):
            pattern, literal = pattern[1:], literal - 1
        literal = max(literal, 0)
        if literal == len(pattern):
            self._paths.setdefault(pattern, []).append(index)
        else:
            # git compares the literal part first and globs only the rest, so `foo**/x` globs `**/x`: keep that.
            self._path_globs.append((pattern[:literal], pattern[literal:], index))

    @cached_property
    def _compiled_names(self) -> list[tuple[re.Pattern[bytes], int]]:
        return [(regex, i) for glob, i in self._name_globs if (regex := self._compile(glob)) is not None]

    @cached_property
    def _compiled_paths(self) -> list[tuple[bytes, re.Pattern[bytes], int]]:
        return [(lead, regex, i) for lead, glob, i in self._path_globs if (regex := self._compile(glob)) is not None]

    def _compile(self, glob: bytes) -> re.Pattern[bytes] | None:
        try:
            return re.compile(translate(glob), re.IGNORECASE if self._fold else 0)
        except Unmatchable:
            return None

    def match(self, path: bytes, name: bytes, is_directory: bool) -> Rule | None:
        """The last rule that matches `path` (from the root), whose last part is `name`."""
        if self._fold:
            path, name = path.lower(), name.lower()
        hits: list[int] = []
        if name in self._names:
            hits += self._names[name]
        if self._suffix_tuple and name.endswith(self._suffix_tuple):
            hits += [index for suffix, index in self._suffixes if name.endswith(suffix)]
        for regex, index in self._compiled_names:
            if regex.fullmatch(name):
                hits.append(index)
        if self._paths or self._path_globs:
            below = path[self._base :]
            if below in self._paths:
                hits += self._paths[below]
            for lead, regex, index in self._compiled_paths:
                if below.startswith(lead) and regex.fullmatch(below, len(lead)):
                    hits.append(index)
        if not hits:
            return None
        for index in sorted(hits, reverse=True):
            rule = self._rules[index]
            if is_directory or not rule.directory_only:
                return rule
        return None

    def __bool__(self) -> bool:
        return bool(self._rules)


def _lines(text: bytes) -> list[bytes]:
    """Lines as git sees them: one carriage return before the newline goes with it, a NUL ends the pattern."""
    if text.startswith(b"\xef\xbb\xbf"):
        text = text[3:]  # a byte order mark
    lines = text.split(b"\n")
    return [line.removesuffix(b"\r").split(b"\0", 1)[0] for line in lines]


def _without_trailing_spaces(line: bytes) -> bytes:
    """Trailing spaces are dropped unless a backslash keeps them; tabs stay."""
    keep, i = 0, 0
    while i < len(line):
        if line[i : i + 1] == b"\\":
            if i + 1 >= len(line):
                return line
            i += 2
            keep = i
            continue
        i += 1
        if line[i - 1 : i] != b" ":
            keep = i
    return line[:keep]


def _literal_prefix(pattern: bytes) -> int:
    for i, byte in enumerate(pattern):
        if byte in b"*?[\\":
            return i
    return len(pattern)
