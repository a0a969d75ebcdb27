"""Bytes → text, with a diagnostic for bytes that aren't text; and the lines that diagnostics show.

Accepted: UTF-8, with or without a byte order mark, any line ends. What YAML calls non-printable is refused at its
place, so that nothing of it reaches the parser, a terminal or an argv by accident.
"""

from __future__ import annotations

import re
from functools import cached_property

from runctl.manifest.diagnostics import Diagnostic, Excerpt, Related, Severity
from runctl.manifest.job import Position

MAX_BYTES = 1024 * 1024
"""A manifest is written by hand; the largest in use have a few hundred lines."""

EXCERPT_WIDTH = 120
"""Characters of a line that a diagnostic shows."""

_EXCERPT_LEAD = 40
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_UNPRINTABLE_ASCII = re.compile(r"[^\t\n\r\x20-\x7e]")
# Compiled where it is needed: that takes as long as reading a manifest of ASCII.
_UNPRINTABLE = r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_START = Position(line=1, column=1, end_line=1, end_column=2)


class Source:
    """The text of a manifest and the name that the user knows it by."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text

    @cached_property
    def lines(self) -> list[str]:
        return _LINE_BREAK.split(self.text)

    def diagnose(
        self,
        position: Position,
        code: str,
        message: str,
        *,
        label: str = "",
        hint: str = "",
        severity: Severity = Severity.ERROR,
        document: int = 1,
        related: tuple[tuple[Position, str], ...] = (),
    ) -> Diagnostic:
        return Diagnostic(
            file=self.file,
            line=position.line,
            column=position.column,
            end_line=position.end_line,
            end_column=position.end_column,
            code=code,
            severity=severity,
            message=message,
            label=label,
            hint=hint,
            document=document,
            excerpt=self._excerpt(position),
            related=tuple(Related(place, text, self._excerpt(place)) for place, text in related),
        )

    def _excerpt(self, position: Position) -> Excerpt:
        line = self.lines[position.line - 1] if position.line <= len(self.lines) else ""
        first = 1
        if len(line) > EXCERPT_WIDTH:
            first = max(1, min(position.column - _EXCERPT_LEAD, len(line) - EXCERPT_WIDTH + 1))
        text = line[first - 1 : first - 1 + EXCERPT_WIDTH]
        return Excerpt(text, first, len(line) > first - 1 + len(text))


def decode(content: bytes, file: str) -> Source | Diagnostic:
    """The text of a manifest, or the one thing that keeps it from being text."""
    if len(content) > MAX_BYTES:
        return Diagnostic(
            file=file,
            line=1,
            column=1,
            end_line=1,
            end_column=2,
            code="file-too-large",
            severity=Severity.ERROR,
            message=f"the file is larger than {MAX_BYTES:,} bytes, and a manifest isn't",
            hint="was another file meant? several jobs fit better in several files",
            whole_file=True,
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return _not_utf8(content, file, error.start)
    source = Source(file, text.removeprefix("\ufeff"))
    unprintable = (_UNPRINTABLE_ASCII if source.text.isascii() else re.compile(_UNPRINTABLE)).search(source.text)
    if unprintable is None:
        return source
    character = ord(unprintable[0])
    name = "a NUL byte" if character == 0 else f"the control character U+{character:04X}"
    return source.diagnose(
        _position(source.text[: unprintable.start()]),
        "control-character",
        f"{name} can't stand in a manifest",
        label="here",
        hint=f'remove it, or write it in double quotes as "\\x{character:02x}"' if 0 < character < 256 else "remove it",
    )


def _not_utf8(content: bytes, file: str, offset: int) -> Diagnostic:
    source = Source(file, content.decode(errors="replace").removeprefix("\ufeff"))
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return source.diagnose(
        _position(content[:offset].decode().removeprefix("\ufeff")),
        "not-utf-8",
        f"byte {offset} (0x{content[offset]:02x}) is not UTF-8 text",
        label="not UTF-8 from here on",
        hint="the file looks like UTF-16; save it as UTF-8" if utf16 else "save the file as UTF-8",
    )


def _position(before: str) -> Position:
    """The position of the character behind `before`."""
    lines = _LINE_BREAK.split(before)
    line, column = len(lines), len(lines[-1]) + 1
    return Position(line=line, column=column, end_line=line, end_column=column + 1)


def start_of_file() -> Position:
    return _START
