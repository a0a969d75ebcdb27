"""What libyaml says about text that isn't YAML, in words that help.

The parser's own sentences name productions of a grammar. Each entry here names the mistake that leads to one; what
no entry knows is passed on as the parser says it.
"""

from __future__ import annotations

import re

from yaml.error import MarkedYAMLError

from runctl.manifest.diagnostics import Diagnostic
from runctl.manifest.job import Position
from runctl.manifest.source import Source

_QUOTE_IT = "put the value in quotes"
_EXPLAINED: tuple[tuple[str, str, str], ...] = (
    (
        "mapping values are not allowed",
        "`: ` inside an unquoted value, or a wrong indentation",
        f"{_QUOTE_IT}, or indent the line like its neighbours",
    ),
    ("could not find expected ':'", "a key without its `:`", "write `key: value`"),
    ("did not find expected '-' indicator", "the list ends here by its indentation", "indent its items alike"),
    ("expected <block end>", "not indented like its neighbours", "indent keys of one section alike, with spaces"),
    (
        "did not find expected key",
        "not indented like its neighbours",
        "indent keys of one section alike, with spaces; a value that starts with `[`, `{` or a quote ends with it",
    ),
    (
        "did not find expected ',' or",
        "the list or mapping in brackets isn't closed or lacks a comma",
        "close it, or put a comma between its parts",
    ),
    (
        "expected ',' or",
        "the list or mapping in brackets isn't closed or lacks a comma",
        "close it, or put a comma between its parts",
    ),
    ("cannot start any token", "a value can't start with this character", _QUOTE_IT),
    ("unexpected end of stream", "a quote isn't closed", "close the quote"),
    ("unexpected document indicator", "a quote isn't closed before this line", "close the quote"),
    (
        "unknown escape character",
        "no such escape in double quotes",
        "write `\\\\` for a backslash, or use single quotes",
    ),
    (
        "invalid Unicode character escape",
        "no such character",
        "write the character itself, or its full code as `\\U0001F600`",
    ),
    (
        "block sequence entries are not allowed",
        "`- ` inside a value",
        f"{_QUOTE_IT}, or start the list on its own line",
    ),
    ("undefined tag handle", "`!` at the start of a value makes a tag", _QUOTE_IT),
    ("did not find expected alphabetic", "`*` and `&` at the start of a value make aliases and anchors", _QUOTE_IT),
    ("expected alphabetic", "`*` and `&` at the start of a value make aliases and anchors", _QUOTE_IT),
)
_INDENT_WITH_TAB = re.compile(r"[ ]*\t")


def explain_syntax(error: MarkedYAMLError, source: Source, first_line: int, document: int) -> Diagnostic:
    """The diagnostic for a syntax error in text that starts at `first_line` (from 0) of `source`."""
    mark = error.problem_mark or error.context_mark
    assert mark is not None, "libyaml marks every error of its scanner and parser"
    line = min(first_line + mark.line + 1, len(source.lines))
    tab = _tab_before(source, line)
    if tab is not None:
        return source.diagnose(
            tab,
            "tab-in-indentation",
            "a tab in the indentation",
            label="YAML indents with spaces only",
            hint="replace each tab with spaces",
            document=document,
        )
    column = min(mark.column + 1, len(source.lines[line - 1]) + 1)
    problem = error.problem or "unreadable"
    label, hint = next(((label, hint) for start, label, hint in _EXPLAINED if start in problem), (problem, ""))
    return source.diagnose(
        Position(line=line, column=column, end_line=line, end_column=column + 1),
        "yaml-syntax",
        f"not YAML: {error.context + ', ' if error.context else ''}{problem}",
        label=label,
        hint=hint,
        document=document,
        related=_context(error, source, first_line, line),
    )


def _context(
    error: MarkedYAMLError, source: Source, first_line: int, problem_line: int
) -> tuple[tuple[Position, str], ...]:
    mark = error.context_mark
    if mark is None or error.problem_mark is None:
        return ()
    line = first_line + mark.line + 1
    if line >= problem_line:
        return ()
    column = mark.column + 1
    return ((Position(line=line, column=column, end_line=line, end_column=column + 1), "started here"),)


def _tab_before(source: Source, line: int) -> Position | None:
    """A tab in the indentation of the line, or of the nearest line above that isn't blank."""
    for number in range(line, max(line - 2, 0), -1):
        match = _INDENT_WITH_TAB.match(source.lines[number - 1])
        if match is not None:
            column = match.end()
            return Position(line=number, column=column, end_line=number, end_column=column + 1)
    return None
