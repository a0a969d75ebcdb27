"""`runctl cost`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runctl.cli.choices import MaybeJobName, TableOrJson, TableOutput
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from runctl.cli.sight import Sight


def cost(name: MaybeJobName = None, output: TableOutput = TableOrJson.TABLE) -> int:
    """The ledger of a job: each machine's time, its rate and where that comes from. Without a name, every run of all
    jobs and their sum; a run that `apply --rerun` has superseded is shown by its uid.

    Machines without a price (`instance.hourly_rate`) aren't in it.
    """
    from datetime import UTC, datetime

    from runctl.cli.jobs import find, opened_to_read
    from runctl.cli.render.ledger import document, ledger, sums, sums_document
    from runctl.cli.sight import look
    from runctl.cli.streams import data, data_json, say

    now = datetime.now(UTC)
    with opened_to_read() as (home, store):
        if name is not None:
            found = [find(store, name)]
        else:
            found = [run for each in store.jobs() for run in store.runs(each.record.name)] if store is not None else []
        sights: list[Sight] = [look(home, store, each, now) for each in found] if store is not None else []
    if output is TableOrJson.JSON:
        shown: Any = document(sights[0]) if name is not None else sums_document(sights)
        data_json(shown, indent=2)
    elif name is not None:
        data(ledger(sights[0]))
    elif sights:
        data(sums(sights))
    else:
        say("no jobs")
    return ExitCode.OK
