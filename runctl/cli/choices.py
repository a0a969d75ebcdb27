"""Options that several commands have, with one meaning in all of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class TextOrJson(StrEnum):
    TEXT = "text"
    JSON = "json"


class Listing(StrEnum):
    """How a list or one thing of it is shown."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class TableOrJson(StrEnum):
    TABLE = "table"
    JSON = "json"


def complete_job(incomplete: str) -> list[str]:
    """The names of this home's jobs, for the shell. Whatever goes wrong, it offers nothing."""
    try:
        from runctl.cli.jobs import known_names

        return [name for name in known_names() if name.startswith(incomplete)]
    except Exception:
        return []


JobName = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.", autocompletion=complete_job)]
JobNames = Annotated[list[str], typer.Argument(metavar="NAME…", help="The jobs' names.", autocompletion=complete_job)]
MaybeJobName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="The job's name.", autocompletion=complete_job)
]
Manifests = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE…", help="Manifests, directories of them, or `-` for the standard input.", show_default=False
    ),
]
Output = Annotated[TextOrJson, typer.Option("-o", "--output", help="Form of the output on stdout.")]
TableOutput = Annotated[TableOrJson, typer.Option("-o", "--output", help="Form of the output on stdout.")]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Let fields change that need a new attempt: save, end the live one, go on from the checkpoint.",
    ),
]
Rerun = Annotated[bool, typer.Option("--rerun", help="Start a new run of a finished job, with a new ledger.")]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="DURATION", help="Stop waiting after this long; the job goes on.")
]
AssumeDead = Annotated[
    bool,
    typer.Option(
        "--assume-dead",
        help="Vouch that a host that can't be asked never comes back: an attempt there counts as lost, "
        "and as billed for as long as it was let go on.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
