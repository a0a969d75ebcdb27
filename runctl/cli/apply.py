"""`runctl apply`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.choices import Output, Replace, Rerun, TextOrJson, Timeout
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl.home import Home
    from runctl.reconciler.applying import Proposal, Submitted
    from runctl.store.interface import Store


MOST_RACES = 5


class Detach(StrEnum):
    NOW = "now"
    STARTED = "started"


def apply(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE…", help="Manifests, directories of them, or `-`.", show_default=False),
    ] = None,
    wait: Annotated[
        bool | None,
        typer.Option("--wait/--no-wait", help="Stay until the jobs end, or leave. Default: what the manifests say."),
    ] = None,
    detach: Annotated[
        Detach | None,
        typer.Option(
            "--detach", help="Leave: `now` as soon as a controller has them, `started` once the start is acknowledged."
        ),
    ] = None,
    replace: Replace = False,
    rerun: Rerun = False,
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="FILE", help="Apply exactly this saved plan, or refuse.")
    ] = None,
    timeout: Timeout = None,
    output: Output = TextOrJson.TEXT,
) -> int:
    """Several files, documents or members of a matrix are one group: managed, shown and ended with together.

    Attached, it shows the training and exits with its outcome. Ctrl-C detaches: the training goes on, cared for by a
    controller in the background. Applied again unchanged, it attaches to what runs, or reports how it ended.
    """
    from runctl.cli.attaching import Stay, attend
    from runctl.cli.jobs import opened
    from runctl.cli.waiting import parse_timeout

    span = parse_timeout(timeout)
    with opened() as (home, store):
        proposals, replacing = _proposals(store, home, files or [], plan, replace=replace, rerun=rerun)
        _announce(proposals, output)
        submitted = _submit(home, store, proposals, replace=replacing, rerun=rerun, planned=plan is not None)
        staying = _stays(proposals, wait, detach)
        stay = Stay.TO_THE_END if staying else (Stay.NOT_AT_ALL if detach is Detach.NOW else Stay.FOR_THE_START)
        return attend(home, store, submitted, stay, span, output)


def _proposals(
    store: Store, home: Home, files: list[str], plan: str | None, *, replace: bool, rerun: bool
) -> tuple[list[Proposal], bool]:
    """What to do, and whether live attempts may be replaced. Ends with 2 or 10 if it can't be done."""
    from runctl.cli import saved_plan
    from runctl.cli.errors import Failure
    from runctl.cli.manifests import read_to_apply
    from runctl.cli.proposing import propose_all, refuse_unapplicable, refuse_without_secrets

    if plan is not None:
        if files or replace or rerun:
            raise Failure(ExitCode.INVALID, "`--plan` stands alone: the plan says what is applied, and how")
        saved = saved_plan.load(plan)
        proposals, replacing = saved_plan.proposals_of(saved, home, store), saved.replace
    elif not files:
        raise Failure(ExitCode.INVALID, "no manifest was named", hint="`runctl apply job.yaml`")
    else:
        proposals = propose_all(store, home, read_to_apply(files), replace=replace, rerun=rerun)
        replacing = replace
    refuse_unapplicable(home, proposals, _command(files))
    refuse_without_secrets(proposals)
    return proposals, replacing


def _command(files: Sequence[str]) -> str:
    import shlex

    return shlex.join(["runctl", "apply", *files])


def _announce(proposals: Sequence[Proposal], output: TextOrJson) -> None:
    """The plan, before anything is done: to people on stderr, to programs as the first line."""
    from datetime import UTC, datetime

    from runctl.cli.proposing import preview_of
    from runctl.cli.render.plan import document
    from runctl.cli.streams import clean, data_json, say
    from runctl.planner.preview import render

    previews = [preview_of(each, datetime.now(UTC)) for each in proposals]
    if output is TextOrJson.JSON:
        data_json(document(proposals, previews))
        return
    for each in previews:
        say(clean(render(each) if each.changed else f"{each.name}: {each.headline}\n"))


def _submit(
    home: Home, store: Store, proposals: Sequence[Proposal], *, replace: bool, rerun: bool, planned: bool
) -> list[Submitted]:
    """Make or change the jobs. Whoever loses a race compares again, so that two applies of one manifest are one job;
    only a saved plan is not compared again."""
    from datetime import UTC, datetime

    from runctl.cli.owner import owner
    from runctl.cli.proposing import refuse_unapplicable
    from runctl.reconciler.applying import propose, submit
    from runctl.store.interface import NameTaken, NotFound

    for _ in range(MOST_RACES):
        try:
            return submit(store, proposals, owner(), datetime.now(UTC), replace=replace)
        except (NameTaken, NotFound):
            if planned:
                raise
            now = datetime.now(UTC)
            proposals = [propose(store, each.prepared, now, replace=replace, rerun=rerun) for each in proposals]
            refuse_unapplicable(home, proposals, "runctl apply FILE…")
    return submit(store, proposals, owner(), datetime.now(UTC), replace=replace)


def _stays(proposals: Sequence[Proposal], wait: bool | None, detach: Detach | None) -> bool:
    """A flag decides, else the manifests: one that says `true` outweighs; `auto` is a terminal's or CI's `true`."""
    import os
    import sys

    from runctl.cli.streams import is_tty
    from runctl.manifest.job import Wait

    if detach is not None:
        return False
    if wait is not None:
        return wait
    said = {each.prepared.job.wait for each in proposals}
    if Wait.YES in said or said == {Wait.NO}:
        return Wait.YES in said
    return is_tty(sys.stderr) or os.environ.get("CI", "").lower() not in ("", "0", "false")
