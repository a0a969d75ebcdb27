"""A table of text: columns as wide as their widest cell, no lines, no colour of its own."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from runctl.cli.streams import clean_line

GAP = "  "


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Heads in capitals, then the rows; empty cells are dashes. Cells are made safe for a terminal."""
    cells = [[head.upper() for head in heads], *([clean_line(cell) or "-" for cell in row] for row in rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(heads))]
    return "\n".join(_line(row, widths) for row in cells)


def facts(rows: Sequence[tuple[str, str]], indent: str = "  ") -> str:
    """Labels with their text, one a line; those without text are left out."""
    shown = [(label, clean_line(text)) for label, text in rows if text]
    widest = max((width(label) for label, _ in shown), default=0)
    return "\n".join(f"{indent}{label}{' ' * (widest - width(label))}  {text}" for label, text in shown)


def width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cell(character) for character in text)


def cut(text: str, columns: int) -> str:
    """The text within so many columns, an ellipsis where it was cut."""
    if width(text) <= columns:
        return text
    kept, used = [], 0
    for character in text:
        used += _cell(character)
        if used > columns - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _cell(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)).rstrip()
