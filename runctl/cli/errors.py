"""Errors as users read them, and the one place where exceptions of the other packages become such."""

from __future__ import annotations

import errno
import re
import sys
from typing import Any

from runctl.cli.exit_codes import ExitCode
from runctl.cli.streams import Style, clean, clean_line, hint, paint, say

REPORT = "please report it, with this text and what the same command prints under `RUNCTL_DEBUG=1`"


class Failure(Exception):
    """Ends the command with `code`. Says what, and where it is known: why, what runs now, what to do."""

    def __init__(
        self, code: ExitCode, message: str, *, cause: str = "", now: str = "", hint: str = "", at: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.cause = cause
        self.now = now
        self.hint = hint
        self.at = at


def show(failure: Failure) -> None:
    """Print the error in rustc's manner. An empty message is an error that was shown already."""
    if not failure.message:
        return
    say(f"{paint('error:', Style.BAD, sys.stderr)} {clean(failure.message)}")
    if failure.at:
        say(f"  --> {clean_line(failure.at)}")
    for name, text in (("cause", failure.cause), ("now", failure.now)):
        if text:
            say(f"  {name + ':':<6} {clean(text)}")
    if failure.hint:
        hint(failure.hint)


def shown(code: ExitCode) -> Failure:
    """An end with `code` after everything has been said."""
    return Failure(code, "")


def translate(error: BaseException) -> Failure | None:
    """The error of another package as a failure; None for what nobody expected."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, BaseExceptionGroup):
        return _of_group(error)
    if (store := _loaded("runctl.store.interface")) and isinstance(error, store.StoreError):
        return _of_store(error, store)
    if (workspace := _loaded("runctl.snapshots.errors")) and isinstance(error, workspace.WorkspaceError):
        return Failure(ExitCode.INVALID, str(error), hint=error.hint)
    if isinstance(error, PermissionError):
        return Failure(ExitCode.PERMISSION, f"no permission for `{error.filename}`", cause=error.strerror or "")
    if isinstance(error, OSError) and error.errno in _FULL:
        return Failure(
            ExitCode.NO_CAPACITY, _where(error), now=_SAFE, hint="free some disk space and run the command again"
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return Failure(
            ExitCode.PERMISSION, _where(error), now=_SAFE, hint="set RUNCTL_HOME to a directory that can be written"
        )
    return None


# What the parser of the command line says, and what we do.
_PLAIN_WORDS = (
    (r"\.$", ""),
    (r"'([^']*)'", r"`\1`"),
    (r"\. Did you mean", "; did you mean"),
    (r"Value error, ", ""),
    (r"Input should be greater than or equal to (\S+)", r"it has to be \1 or more"),
    (r"Input should be less than or equal to (\S+)", r"it has to be \1 or less"),
    (r"Input should be a valid integer.*", "it has to be a whole number"),
    (r"^Invalid value for ((?:`[^`]*`(?: / )?)+): ", r"\1: "),
    (r"^Got unexpected extra arguments? ?(?:\(s\) )?\((.*)\)$", r"more than it takes: `\1`"),
)


def in_plain_words(message: str) -> str:
    """A message of the parser of the command line in our manner: lower case, no final period, no word of Python's."""
    message = message.strip()
    for pattern, words in _PLAIN_WORDS:
        message = re.sub(pattern, words, message)
    return message[:1].lower() + message[1:]


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SAFE = "nothing was changed; trainings that run go on within their limits"


def _where(error: OSError) -> str:
    return f"`{error.filename}`: {error.strerror}" if error.filename else str(error.strerror or error)


def _loaded(name: str) -> Any:
    """A module if something has imported it: an exception of one that nobody did can't be here."""
    return sys.modules.get(name)


def _of_group(group: BaseExceptionGroup[BaseException]) -> Failure | None:
    """The first that is known: a task group wraps what ended it."""
    for inner in group.exceptions:
        failure = translate(inner)
        if failure is not None:
            return failure
    return None


def _of_store(error: Any, store: Any) -> Failure:
    text, advice = str(error), error.hint or ""
    if isinstance(error, store.StoreDamaged | store.StoreTooNew):
        return Failure(ExitCode.PERMISSION, text, now=_SAFE, hint=advice)
    if isinstance(error, store.StoreUnavailable):
        if isinstance(error, store.StoreFull):
            code = ExitCode.NO_CAPACITY
        elif isinstance(error, store.StoreLocked):
            code = ExitCode.BUSY
        else:
            code = ExitCode.PERMISSION
        return Failure(code, f"the state can't be used: {text}", now=_SAFE, hint=advice)
    if isinstance(error, store.LeaseHeld):
        return Failure(
            ExitCode.BUSY, f"another controller has the job: {text}", hint="it goes on there; run the command again"
        )
    if isinstance(error, store.NotFound):
        return Failure(ExitCode.INVALID, text, hint="`runctl status` lists the jobs")
    return Failure(
        ExitCode.BUSY, f"another command changed the job at the same moment: {text}", now="nothing was changed",
        hint="run the command again",
    )  # fmt: skip
