"""`runctl events`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.choices import JobName, Output, TextOrJson
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from runctl.planner.record import Event

FOLLOW_SECONDS = 0.2


def events(
    name: JobName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends or rests; with json, JSON Lines.")
    ] = False,
    output: Output = TextOrJson.TEXT,
) -> int:
    """What the controllers and the agents noted, oldest first."""
    from runctl.cli.jobs import find, opened_to_read, settled
    from runctl.cli.render.document import event
    from runctl.cli.streams import data, data_json
    from runctl.store.interface import NotFound

    with opened_to_read() as (_, store):
        record = find(store, name).record
        assert store is not None
        if output is TextOrJson.JSON and not follow:
            data_json([event(each) for _, each in store.events(record.uid)], indent=2)
            return ExitCode.OK
        seen = 0
        while True:
            try:
                _, resting = settled(store, record.uid)
            except NotFound:
                resting = True
            for seq, each in store.events(record.uid, seen):
                seen = seq
                if output is TextOrJson.JSON:
                    data_json(event(each))
                else:
                    data(_line(each))
            if not follow or resting:
                return ExitCode.OK
            time.sleep(FOLLOW_SECONDS)


def _line(each: Event) -> str:
    import sys

    from runctl.cli.render.words import day_and_clock
    from runctl.cli.streams import Style, clean_line, paint

    text = f"{each.reason:<18} {clean_line(each.message)}".rstrip()
    if each.type == "Warning":
        text = paint(text, Style.WARNING, sys.stdout)
    return f"{day_and_clock(each.at)}  {each.attempt or '-'!s:>3}  {text}"
