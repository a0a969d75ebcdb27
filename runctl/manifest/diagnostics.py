"""A problem of a manifest as a value, and its forms for machines: JSON and GitHub workflow annotations.

The form for people is `render.py`. Codes are stable: scripts and editors may match on them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from runctl.manifest.job import Position


class Severity(StrEnum):
    """An error keeps a job from running; a warning doesn't."""

    ERROR = "error"
    WARNING = "warning"


class Excerpt(msgspec.Struct, frozen=True):
    """A line of the source, or the part of a long one around what is meant.

    `first` is the column of the text's first character; `cut` says that the line goes on behind the text.
    """

    text: str
    first: int = 1
    cut: bool = False


class Related(msgspec.Struct, frozen=True):
    """A second place that belongs to the problem, e.g. where a duplicate key was first written."""

    position: Position
    label: str
    excerpt: Excerpt


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One problem. Lines, columns and documents count from 1; `end_column` is exclusive.

    `label` stands under the excerpt beside the carets, `hint` says what to do now; either may be empty.
    `excerpt` is None where there is nothing to show (an empty file, one that is too large). A problem of the
    `whole_file` has the position 1:1 for programs, and none for people.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    code: str
    severity: Severity
    message: str
    label: str = ""
    hint: str = ""
    document: int = 1
    excerpt: Excerpt | None = None
    related: tuple[Related, ...] = ()
    whole_file: bool = False


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A problem of a field before its position is looked up; `path` is dotted (`cost.cap`, `args[2]`).

    `at` is what the carets stand under. `reads` are further fields without which the finding means nothing: it is
    dropped when one of them was refused already, so that one mistake is reported once.
    """

    code: str
    path: str
    message: str
    label: str = ""
    hint: str = ""
    severity: Severity = Severity.ERROR
    at: At = msgspec.field(default_factory=lambda: At.VALUE)
    reads: tuple[str, ...] = ()


class At(StrEnum):
    """Which part of a field is meant; `SECRET` is the key, and no excerpt shows the value."""

    KEY = "key"
    VALUE = "value"
    SECRET = "secret"


def without(diagnostic: Diagnostic, hidden: Sequence[Position]) -> Diagnostic:
    """The diagnostic with what stands at the hidden places struck out of its excerpts, columns kept."""
    excerpt = diagnostic.excerpt
    return msgspec.structs.replace(
        diagnostic,
        excerpt=excerpt and _struck(excerpt, diagnostic.line, hidden),
        related=tuple(
            msgspec.structs.replace(each, excerpt=_struck(each.excerpt, each.position.line, hidden))
            for each in diagnostic.related
        ),
    )


def _struck(excerpt: Excerpt, line: int, hidden: Iterable[Position]) -> Excerpt:
    text = excerpt.text
    for place in hidden:
        if place.line <= line <= place.end_line:
            start = max(place.column - excerpt.first, 0) if line == place.line else 0
            end = max(place.end_column - excerpt.first, 0) if line == place.end_line else len(text)
            text = text[:start] + "•" * len(text[start:end]) + text[end:]
    return msgspec.structs.replace(excerpt, text=text)


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    return any(each.severity is Severity.ERROR for each in diagnostics)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, if one is near enough."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6) or difflib.get_close_matches(
        word.lower(), known, n=1, cutoff=0.6
    )
    return near[0] if near else None


def one_of(known: Sequence[str]) -> str:
    """`auto`, `never` or `10m`: a list of accepted values in prose."""
    quoted = [f"`{each}`" for each in known]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def to_json(diagnostics: Iterable[Diagnostic]) -> list[dict[str, str | int]]:
    """The documented form of `validate -o json`: additive only."""
    return [
        {
            "file": each.file,
            "line": each.line,
            "column": each.column,
            "code": each.code,
            "severity": each.severity.value,
            "message": each.message,
            "hint": each.hint,
        }
        for each in diagnostics
    ]


def github_annotation(diagnostic: Diagnostic) -> str:
    """One workflow command; https://docs.github.com/actions/reference/workflow-commands-for-github-actions."""
    properties = {
        "file": diagnostic.file,
        "line": diagnostic.line,
        "endLine": diagnostic.end_line,
        "col": diagnostic.column,
        "endColumn": diagnostic.end_column,
        "title": diagnostic.code,
    }
    if diagnostic.end_line != diagnostic.line:  # GitHub takes columns only for a single line
        del properties["col"], properties["endColumn"]
    listed = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items())
    text = diagnostic.message + (f"\nhint: {diagnostic.hint}" if diagnostic.hint else "")
    return f"::{diagnostic.severity} {listed}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
