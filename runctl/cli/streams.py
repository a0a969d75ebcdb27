"""The program's two streams: stdout is data, everything else goes to stderr.

Text that comes from elsewhere (names, messages, a training's output) never reaches a terminal with its control
characters alive; only `logs` hands bytes through unaltered.
"""

from __future__ import annotations

import os
import re
import sys
from enum import Enum
from typing import Any, TextIO

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links, clipboard
)
# C0 but tab and newline, DEL, C1, and what reorders text so that it reads as something else.
_ALIVE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


class Style(Enum):
    """A meaning, not a colour: it is lost where there is none, so that the words must carry it alone."""

    BAD = "1;31"
    WARNING = "1;33"
    GOOD = "32"
    HINT = "36"
    STRONG = "1"
    FAINT = "2"


def clean(text: str) -> str:
    """The text with control characters made visible: `\\x1b`, `\\u202e`."""
    return text if _is_plain(text) else re.sub(_ALIVE, _visible, text)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def clean_line(text: str) -> str:
    """One line: as `clean`, with line breaks and tabs made spaces."""
    return clean(text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def clean_output(text: str) -> str:
    """A line of a training's output: its colours and cursor movements dropped, of overwritten text the last."""
    if _is_plain(text):
        return text
    text = _SEQUENCE.sub("", text).rstrip("\r")
    return clean(text.rpartition("\r")[2])


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def coloured(stream: TextIO) -> bool:
    """Colour is for terminals that can, and for people who want it (https://no-color.org)."""
    return terminal(stream) and not os.environ.get("NO_COLOR")


def terminal(stream: TextIO) -> bool:
    """A terminal that can redraw a line."""
    return is_tty(stream) and os.environ.get("TERM", "dumb") != "dumb"


def is_tty(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def paint(text: str, style: Style, stream: TextIO) -> str:
    return f"\x1b[{style.value}m{text}\x1b[0m" if coloured(stream) else text


def say(text: str = "") -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def hint(text: str) -> None:
    say(f"{paint('hint:', Style.HINT, sys.stderr)} {clean(text)}")


def warn(text: str) -> None:
    say(f"{paint('warning:', Style.WARNING, sys.stderr)} {clean(text)}")


def data(text: str) -> None:
    """A line for whoever reads the output."""
    print(text, flush=True)


def data_json(value: Any, *, indent: int | None = None) -> None:
    """One JSON value; on one line unless `indent` says otherwise."""
    import json

    data(json.dumps(value, ensure_ascii=False, indent=indent))


def prepare_streams() -> None:
    """No character that the terminal's encoding lacks may end the program; a closed stream is no stream."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (lives as long as the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
