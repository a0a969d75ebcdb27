"""What can be wrong with code on its way to where it runs."""

from __future__ import annotations


class WorkspaceError(Exception):
    """The workspace can't be used as asked. `args[0]` says what, where and why; `hint` what to do now."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class SnapshotError(WorkspaceError):
    """A snapshot can't be taken, or one that is stored isn't whole."""
