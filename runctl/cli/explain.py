"""`runctl explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.exit_codes import ExitCode


def _complete_field(incomplete: str) -> list[str]:
    try:
        from runctl.manifest.catalogue import catalogue

        return [entry.path for entry in catalogue() if entry.path.startswith(incomplete)]
    except Exception:
        return []


def explain(
    field: Annotated[
        str, typer.Argument(metavar="FIELD", help="Such as `cost.cap`.", autocompletion=_complete_field)
    ] = "",
) -> int:
    """Without a field, lists all of them."""
    import shutil
    import sys

    from runctl.cli.errors import Failure
    from runctl.cli.streams import data, is_tty
    from runctl.manifest.explain import UnknownField
    from runctl.manifest.explain import explain as documentation

    columns = shutil.get_terminal_size().columns if is_tty(sys.stdout) else None
    try:
        data(documentation(field, columns).rstrip("\n"))
    except UnknownField as error:
        raise Failure(ExitCode.INVALID, str(error), hint=error.hint) from None
    return ExitCode.OK
