"""Commands of `setup` and `hooks`: an argv list, or a line that is split into one. There is never a shell."""

from __future__ import annotations

import re
import shlex
from typing import Annotated

from pydantic import BeforeValidator

from runctl.manifest.fields import Shape, refuse
from runctl.manifest.written import items, split

_QUOTED = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
_EXPANSION_ESCAPED = re.compile(r"\\.", re.DOTALL)
_SHELL_ONLY = re.compile(r"&&|\|\||>>|<<|\$\(|[&|;<>()$`*?\n]")
_ASSIGNMENT = re.compile(r"\s*[A-Za-z_][A-Za-z0-9_]*=")


def _by_shell(line: str) -> str:
    """The argv that gives a line to a shell."""
    return items(("bash", "-c", line))


def needs_shell(line: str) -> str:
    """What of a line means something to a shell alone; empty if nothing does."""
    found = _SHELL_ONLY.search(_QUOTED.sub(_bare, line))
    return found[0].strip() or "a line break" if found is not None else ""


def as_setup(line: str) -> str:
    """A line as the value of `setup`: a list of one command, through a shell where the line needs one."""
    words = None if needs_shell(line) or _ASSIGNMENT.match(line) else split(line)
    return f"[{items(words) if words else _by_shell(line)}]"


def _bare(match: re.Match[str]) -> str:
    """What a shell would still expand in a quoted part: `$` and backticks inside double quotes."""
    if not match[0].startswith('"'):
        return ""
    return "".join(each for each in _EXPANSION_ESCAPED.sub("", match[0]) if each in "$`")


def split_command(value: object) -> object:
    """The argv of a line, by the quoting rules of POSIX; a list passes unless it names no program."""
    if not isinstance(value, str):
        if isinstance(value, list) and (not value or value[0] == ""):
            raise _nothing()
        return value
    advice = f"nothing is run by a shell unless you write one: `{_by_shell(value)}`"
    if what := needs_shell(value):
        raise refuse("shell-syntax", f"`{what}` needs a shell", advice)
    if _ASSIGNMENT.match(value):
        raise refuse("shell-syntax", "an assignment before a command needs a shell", f"set it in `env`; {advice}")
    try:
        argv = shlex.split(value)
    except ValueError as error:
        raise refuse("bad-command", f"`{value}` can't be split: {str(error).lower()}", "close the quote") from None
    if not argv or argv[0] == "":
        raise _nothing()
    return argv


def _nothing() -> Exception:
    return refuse("bad-command", "a command without a word", "write the program and its arguments")


COMMAND = Shape(
    "command: an argv list, or a line that is split without a shell",
    {
        "anyOf": [
            {
                "type": "array",
                "prefixItems": [{"type": ["string", "number", "boolean"], "minLength": 1}],
                "items": {"type": ["string", "number", "boolean"]},
                "minItems": 1,
            },
            {
                "type": "string",
                "pattern": "^ *(?![A-Za-z_][A-Za-z0-9_]*=)[A-Za-z0-9_./~-]"
                "([^'\"\\\\&|;<>()$`*?\\n]|'[^']*'|\"[^\"\\\\$`]*\")*$",
            },
        ]
    },
)
Command = Annotated[tuple[str, ...], BeforeValidator(split_command), COMMAND]
