"""`runctl plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.choices import Manifests, Output, Replace, Rerun, TextOrJson
from runctl.cli.exit_codes import ExitCode


def plan(
    files: Manifests,
    output: Output = TextOrJson.TEXT,
    detailed: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 12 if applying would change anything.")
    ] = False,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write the plan, for `runctl apply --plan FILE`.")
    ] = None,
    replace: Replace = False,
    rerun: Rerun = False,
) -> int:
    """Shows the difference, the machine, the rate, the worst-case cost, and how the job would be held to its limits.

    Freezes the code and checks the script; starts nothing and changes no job.
    """
    import os
    from datetime import UTC, datetime

    import anyio

    from runctl.cli import saved_plan
    from runctl.cli.jobs import opened
    from runctl.cli.manifests import read_to_apply
    from runctl.cli.proposing import missing_secrets, preview_of, propose_all
    from runctl.cli.render.plan import document
    from runctl.cli.streams import clean, data, data_json, warn
    from runctl.planner.preview import STARTS, render
    from runctl.providers.local.provider import local_machine

    found = read_to_apply(files)
    with opened() as (home, store):
        proposals = propose_all(store, home, found, replace=replace, rerun=rerun)
        if out is not None:
            saved_plan.save(out, home, proposals, replace=replace, rerun=rerun)
            saved_plan.refuse_inside_code(out, home, proposals)
    starts = any(each.decision.kind in STARTS for each in proposals)
    machine = anyio.run(local_machine(home, os.environ).seen) if starts else None
    previews = [preview_of(each, datetime.now(UTC), machine) for each in proposals]
    if output is TextOrJson.JSON:
        data_json(document(proposals, previews), indent=2)
    else:
        data("\n".join(clean(render(each)) for each in previews).rstrip("\n"))
    if missing := missing_secrets(proposals):
        named = ", ".join(f"`{each}`" for each in missing)
        warn(f"not in the environment: {named}; `apply` refuses to start without")
    changed = any(each.changed for each in previews)
    return ExitCode.CHANGES if detailed and changed else ExitCode.OK
