"""Values as a manifest would have them: what hints show has to work as it is printed."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Iterable

from runctl.manifest.nodes import NULLS

MAX_NAME = 63
_PLAIN = re.compile(r"(?:[A-Za-z0-9_./+=$]|-(?=[A-Za-z0-9-]))[A-Za-z0-9_./+=@%$-]*")


def item(text: str) -> str:
    """A value inside brackets, in quotes unless it is one plain word."""
    if _PLAIN.fullmatch(text) and text not in NULLS:
        return text
    return json.dumps(text, ensure_ascii=False)


def scalar(text: str) -> str:
    """As `item`, but plain words with one space between them need no quotes."""
    words = text.split(" ")
    return text if all(_PLAIN.fullmatch(each) for each in words) and text not in NULLS else item(text)


def items(texts: Iterable[str]) -> str:
    """`[--epochs, 30]`."""
    return f"[{', '.join(map(item, texts))}]"


def split(text: str) -> list[str] | None:
    """The words of a line, as a shell would take them apart; None if a quote isn't closed."""
    try:
        return shlex.split(text)
    except ValueError:
        return None


def as_name(text: str) -> str:
    """The name of a job that is nearest to the text: `My Job` → `my-job`; empty if nothing of it can stand in one."""
    bare = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", bare).strip("-")[:MAX_NAME].rstrip("-")
