"""git's glob language (wildmatch.c of git 2.39) as regular expressions over bytes.

Written anew because the libraries at hand differ from git in brackets (`[\\]]`, `[[:alpha:]]`, `[!/]`), in `**` that
isn't alone between slashes, in `?` against bytes above 127, and in what an invalid pattern matches (nothing).
"""

from __future__ import annotations

import re

_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": rb"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    b"space": rb"\x09-\x0d\x20",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
_STAR = b"[^/]*"
_ANY = b"(?s:.*)"


class Unmatchable(ValueError):
    """The pattern is malformed (an open bracket, an unknown class, a backslash at its end): it matches nothing."""


def translate(pattern: bytes) -> bytes:
    """The source of a regular expression that fully matches the relative paths that git's wildmatch does.

    Slashes are matched only by a slash and by `**` alone between slashes (WM_PATHNAME); for names without
    slashes that is the same as git's matching of base names. Raises Unmatchable.
    """
    # Each entry is a regex for one token, with the kind: "star" is the only one that is repeated without a slash.
    tokens: list[tuple[str, bytes]] = []
    i, end = 0, len(pattern)
    while i < end:
        byte = pattern[i : i + 1]
        if byte == b"*":
            after = i
            while pattern[after : after + 1] == b"*":
                after += 1
            alone = (i == 0 or pattern[i - 1 : i] == b"/") and (
                after == end or pattern[after : after + 1] == b"/" or pattern[after : after + 2] == b"\\/"
            )
            if after - i >= 2 and alone:
                if pattern[after : after + 1] == b"/":
                    # `a/**/b` matches `a/b` too: the stars and the slash after them may match nothing at all.
                    tokens.append(("any", b"(?:" + _ANY + b"/)?"))
                    after += 1
                else:
                    tokens.append(("any", _ANY))
            else:
                tokens.append(("star", _STAR))
            i = after
        elif byte == b"?":
            tokens.append(("one", b"[^/]"))
            i += 1
        elif byte == b"[":
            source, i = _bracket(pattern, i)
            tokens.append(("one", source))
        else:
            if byte == b"\\":
                i += 1
                byte = pattern[i : i + 1]
                if not byte:
                    raise Unmatchable(pattern)
            tokens.append(("slash" if byte == b"/" else "one", re.escape(byte)))
            i += 1
    return _join(tokens)


def _join(tokens: list[tuple[str, bytes]]) -> bytes:
    """Put the tokens together so that `*a*a*a*b` can't take exponential time.

    Between two stars of one path segment the first may match as little as it can and never be tried again
    (what the standard library's fnmatch does); everything else is plain concatenation.
    """
    out: list[bytes] = []
    i = 0
    while i < len(tokens):
        kind, source = tokens[i]
        if kind == "star":
            j = i + 1
            while j < len(tokens) and tokens[j][0] == "one":
                j += 1
            if j < len(tokens) and tokens[j][0] == "star":
                fixed = b"".join(piece for _, piece in tokens[i + 1 : j])
                out.append(b"(?>[^/]*?" + fixed + b")")
                i = j
                continue
        out.append(source)
        i += 1
    return b"".join(out)


def _bracket(pattern: bytes, start: int) -> tuple[bytes, int]:
    """The regex of the bracket expression that opens at `start`, and the index after it."""
    i = start + 1
    negated = pattern[i : i + 1] in (b"!", b"^")
    if negated:
        i += 1
    parts: list[bytes] = []
    previous: int | None = None  # the character that a range may start from
    first = True
    while first or pattern[i : i + 1] != b"]":
        first = False
        char = pattern[i : i + 1]
        if not char:
            raise Unmatchable(pattern)
        if char == b"\\":
            i += 1
            char = pattern[i : i + 1]
            if not char:
                raise Unmatchable(pattern)
            parts.append(_set_member(char[0], char[0]))
            previous = char[0]
        elif char == b"-" and previous is not None and pattern[i + 1 : i + 2] not in (b"", b"]"):
            i += 1
            if pattern[i : i + 1] == b"\\":
                i += 1
                if i >= len(pattern):
                    raise Unmatchable(pattern)
            if previous <= pattern[i]:
                parts.append(_set_member(previous, pattern[i]))
            previous = None
        elif char == b"[" and pattern[i + 1 : i + 2] == b":":
            close = pattern.find(b"]", i + 2)
            if close < 0:
                raise Unmatchable(pattern)
            if close - 1 < i + 2 or pattern[close - 1 : close] != b":":
                parts.append(_set_member(char[0], char[0]))  # no `:]`: an ordinary set with `[` and `:` in it
                previous = char[0]
            else:
                name = pattern[i + 2 : close - 1]
                if name not in _CLASSES:
                    raise Unmatchable(pattern)
                parts.append(_CLASSES[name])
                previous = None
                i = close
        else:
            parts.append(_set_member(char[0], char[0]))
            previous = char[0]
        i += 1
    members = b"".join(parts)
    if negated:
        return b"[^/" + members + b"]", i + 1
    return (b"(?!/)[" + members + b"]" if members else b"(?!)"), i + 1


def _set_member(low: int, high: int) -> bytes:
    return b"\\x%02x" % low if low == high else b"\\x%02x-\\x%02x" % (low, high)
