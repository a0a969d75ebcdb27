"""Diagnostics for people, in rustc's manner: excerpt, carets, hint; complete without colour.

The source is hostile: whatever could move the cursor, change colours or reorder text is shown as its code.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import assert_never

from runctl.manifest.diagnostics import Diagnostic, Excerpt, Severity
from runctl.manifest.job import Position

_TAB = "    "
_CUT = "…"


class Theme(Enum):
    """Whether the text may hold ANSI colours."""

    PLAIN = "plain"
    ANSI = "ansi"


def render(diagnostics: Iterable[Diagnostic], theme: Theme = Theme.PLAIN) -> str:
    """All diagnostics with an empty line between them; empty if there are none."""
    return "\n".join(render_one(each, theme) for each in diagnostics)


def render_one(diagnostic: Diagnostic, theme: Theme = Theme.PLAIN) -> str:
    """One diagnostic, with a line break at its end."""
    tint = _Tint(theme, diagnostic.severity)
    excerpt = diagnostic.excerpt
    lines = [f"{tint.severity(diagnostic.severity.value)}{tint.bold(': ' + visible(diagnostic.message))}"]
    numbers = [diagnostic.line, *(each.position.line for each in diagnostic.related)]
    margin = " " * len(str(max(numbers)))
    place = visible(diagnostic.file)
    if not diagnostic.whole_file:
        place += f":{diagnostic.line}:{diagnostic.column}"
    lines.append(f"{margin} {tint.frame('-->')} {place}")
    bar = f"{margin}  {tint.frame('|')}"
    if excerpt is not None:
        lines.append(bar)
        marks = [(each.position, each.excerpt, each.label, "-") for each in diagnostic.related]
        marks.append((_position(diagnostic), excerpt, diagnostic.label, "^"))
        previous = None
        for position, shown, label, sign in marks:
            if previous is not None and position.line > previous + 1:
                lines.append(tint.frame("..."))
            number = f"{position.line:>{len(margin)}}"
            text, carets = _marked(position, shown, sign)
            lines.append(f" {tint.frame(f'{number} |')} {text}".rstrip())
            under = tint.severity(carets) if sign == "^" else tint.frame(carets)
            lines.append(f"{bar} {under} {visible(label)}".rstrip())
            previous = position.line
        if diagnostic.hint:
            lines.append(bar)
    if diagnostic.hint:
        lines.append(f"{tint.bold('hint')}: {visible(diagnostic.hint)}")
    return "\n".join(lines) + "\n"


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """`2 errors, 1 warning`; empty if there are none."""
    errors = sum(each.severity is Severity.ERROR for each in diagnostics)
    counts = ((errors, "error"), (len(diagnostics) - errors, "warning"))
    return ", ".join(f"{count} {word}{'s' * (count > 1)}" for count, word in counts if count)


def visible(text: str) -> str:
    """The text with everything that a terminal would act on written as its code."""
    return text if text.isascii() and text.isprintable() else "".join(_cell(each)[0] for each in text)


def _cell(character: str) -> tuple[str, int]:
    """How a character is shown, and how many columns that takes."""
    if character == "\t":
        return _TAB, len(_TAB)
    category = unicodedata.category(character)
    if category[0] == "C" or category in {"Zl", "Zp"}:
        code = ord(character)
        shown = f"\\x{code:02x}" if code < 256 else f"\\u{{{code:04x}}}"
        return shown, len(shown)
    if category in {"Mn", "Me"}:
        return character, 0
    return character, 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _marked(position: Position, excerpt: Excerpt, sign: str) -> tuple[str, str]:
    """The line as shown, and the carets that stand under its marked part."""
    cells = [_cell(each) for each in excerpt.text]
    shown = "".join(text for text, _width in cells)
    lead = _CUT if excerpt.first > 1 else ""
    start = max(position.column - excerpt.first, 0)
    end = position.end_column - excerpt.first if position.end_line == position.line else len(cells)
    end = max(min(end, len(cells)), start)
    before = len(lead) + sum(width for _text, width in cells[:start])
    width = max(sum(width for _text, width in cells[start:end]), 1)
    return f"{lead}{shown}{_CUT if excerpt.cut else ''}", " " * before + sign * width


def _position(diagnostic: Diagnostic) -> Position:
    return Position(diagnostic.line, diagnostic.column, diagnostic.end_line, diagnostic.end_column)


class _Tint:
    """Colours of a theme; a severity has its own."""

    def __init__(self, theme: Theme, severity: Severity) -> None:
        self._theme = theme
        match severity:
            case Severity.ERROR:
                self._severity = "1;31"
            case Severity.WARNING:
                self._severity = "1;33"
            case other:
                assert_never(other)

    def severity(self, text: str) -> str:
        return self._in(self._severity, text)

    def bold(self, text: str) -> str:
        return self._in("1", text)

    def frame(self, text: str) -> str:
        return self._in("1;34", text)

    def _in(self, code: str, text: str) -> str:
        match self._theme:
            case Theme.PLAIN:
                return text
            case Theme.ANSI:
                return f"\x1b[{code}m{text}\x1b[0m"
            case other:
                assert_never(other)
