"""`runctl status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from runctl.cli.choices import Listing, MaybeJobName
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from runctl.cli.sight import Sight
    from runctl.store.interface import Store

REDRAW_SECONDS = 1.0


def status(
    name: MaybeJobName = None,
    output: Annotated[Listing, typer.Option("-o", "--output", help="Form of the output on stdout.")] = Listing.TABLE,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until the jobs rest; with json, a line for each change.")
    ] = False,
    all_runs: Annotated[
        bool, typer.Option("--all", help="Runs that `apply --rerun` has superseded, too; each goes by its uid.")
    ] = False,
) -> int:
    """Reads this home's store and run directories; asks no machine and no network.

    Exits with 0 whatever the jobs' state is; `runctl wait` exits with their outcome.
    """
    if watch:
        return _watch(name, output)
    sights = _look(name, all_runs)
    _print(sights, name, output)
    if output is Listing.TABLE:
        _advise(sights, name)
    return ExitCode.OK


def _look(name: str | None, all_runs: bool = False) -> list[Sight]:
    from datetime import UTC, datetime

    from runctl.cli.jobs import find, opened_to_read
    from runctl.cli.sight import look

    with opened_to_read() as (home, store):
        if name is not None:
            found = [find(store, name)]
        else:
            found = store.jobs() if store is not None else []
        if store is not None and all_runs:
            found = [run for each in found for run in store.runs(each.record.name)]
        reader: Store | None = store
        return [look(home, reader, each, datetime.now(UTC)) for each in found] if reader is not None else []


def _print(sights: list[Sight], name: str | None, output: Listing) -> None:
    from runctl.cli.render.document import document
    from runctl.cli.render.status import details, handles, overview
    from runctl.cli.streams import clean_line, data, data_json

    match output:
        case Listing.TABLE if name is not None:
            data(details(sights[0]))
        case Listing.TABLE:
            if sights:
                data(overview(sights))
        case Listing.NAME:
            for handle in handles(sights):
                data(clean_line(handle))
        case Listing.JSON:
            documents = [document(each) for each in sights]
            data_json(documents[0] if name is not None else documents, indent=2)
        case Listing.YAML:
            import yaml

            documents = [document(each) for each in sights]
            value = documents[0] if name is not None else documents
            data(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n"))
        case _:
            assert_never(output)


def _advise(sights: list[Sight], name: str | None) -> None:
    from runctl.cli.streams import hint, say, warn

    if name is None and not sights:
        say("no jobs")
        hint("`runctl init` writes a manifest, `runctl apply job.yaml` makes a job of it")
    unwatched = [each.record.name for each in sights if each.unwatched]
    if unwatched:
        named = ", ".join(f"`{each}`" for each in unwatched)
        warn(f"no controller watches {named}: a live training keeps its limits, but nothing is started or followed")
        hint(f"`runctl wait {unwatched[0]}`, or apply its manifest again, starts one")


def _watch(name: str | None, output: Listing) -> int:
    """Until every job rests. On a terminal the text is redrawn; elsewhere, a new one is printed for each change."""
    import sys

    from runctl.cli.render.document import document
    from runctl.cli.streams import data_json, terminal
    from runctl.reconciler.resting import rests

    shown: object = None
    while True:
        sights = _look(name)
        documents = [document(each) for each in sights]
        if documents != shown:
            shown = documents
            if output is Listing.JSON:
                data_json(documents[0] if name is not None else documents)
            else:
                if terminal(sys.stdout):
                    sys.stdout.write("\x1b[H\x1b[2J")
                _print(sights, name, output)
        if all(rests(each.record) for each in sights):
            return ExitCode.OK
        time.sleep(REDRAW_SECONDS)
