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
    ("node content", "a value is missing here", "write it, or remove the comma or colon before it"),
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


def explain_syntax(
    error: MarkedYAMLError, source: Source, first_line: int, document: int, bracket: Position | None = None
) -> Diagnostic:
    """The diagnostic for a syntax error in text that starts at `first_line` (from 0) of `source`.

    `bracket` is the place of the innermost bracket that was open there.
    """
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
    at = Position(line=line, column=column, end_line=line, end_column=column + 1)
    if "nesting depth" in problem:  # the parser's own bound, on input that is read no further
        return source.diagnose(
            at, "too-deep", "nested too deep to be read", hint="a manifest needs five levels", document=document
        )
    if bracket is not None:
        at = max(at, _behind(bracket), key=lambda each: (each.line, each.column))
        ends = _document_ends(source, at)
        if (ends and "node content" in problem) or "expected ',' or" in problem:
            return _not_closed(source, at, bracket, document, ends)
    label, hint = next(((label, hint) for start, label, hint in _EXPLAINED if start in problem), (problem, ""))
    return source.diagnose(
        at,
        "yaml-syntax",
        f"not YAML: {error.context + ', ' if error.context else ''}{problem}",
        label=label,
        hint=hint,
        document=document,
        related=_context(error, source, first_line, line),
    )


def _not_closed(source: Source, at: Position, opening: Position, document: int, ends: bool) -> Diagnostic:
    """A list or mapping in brackets that isn't closed where its document `ends`, or goes on where it can't."""
    bracket = source.lines[opening.line - 1][opening.column - 1]
    closing = "]" if bracket == "[" else "}"
    return source.diagnose(
        at,
        "yaml-syntax",
        f"not YAML: `{bracket}` on line {opening.line} isn't closed" + ("" if ends else ", or a comma is missing"),
        label="the document ends here" if ends else "can't go on like this",
        hint=f"close it with `{closing}`" + ("" if ends else ", or put a comma between its parts"),
        document=document,
        related=((opening, "opened here"),) if opening.line < at.line else (),
    )


def _document_ends(source: Source, at: Position) -> bool:
    rest = source.lines[at.line - 1][at.column - 1 :]
    return (at.column == 1 and rest.startswith("---")) or not "".join([rest, *source.lines[at.line :]]).strip()


def _behind(place: Position) -> Position:
    """The next column: libyaml's own mark lies before the bracket where a text ends without a line break."""
    return Position(place.line, place.column + 1, place.line, place.column + 2)


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
