"""What can be wrong with a workspace: errors that end an operation, and findings that a check lists."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runctl.snapshots.errors import SnapshotError, WorkspaceError

__all__ = ["Finding", "RootError", "ScriptError", "Severity", "SnapshotError", "TreeError", "WorkspaceError"]


class RootError(WorkspaceError):
    """The working directory, or the root around it, can't be determined."""


class ScriptError(WorkspaceError):
    """The script isn't a readable file inside the root. `near` are paths it may have meant, from the workdir."""

    def __init__(self, message: str, hint: str, near: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.near = near


class TreeError(WorkspaceError):
    """A part of the tree can't be read or listed."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One problem found before anything starts.

    `file` is a path as the user would write it, or None when no file is to blame; `line` and `column` count from 1
    and are None when the whole file is meant; `excerpt` is the offending line without its line end.
    """

    severity: Severity
    code: str
    message: str
    hint: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    excerpt: str | None = None
