"""`runctl checkpoints`: what an attempt saved, and whether the durable copies are still whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from runctl.cli.choices import JobName, TableOrJson, TableOutput
from runctl.cli.commands import CONTEXT
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from runctl.providers.hosts.vitals import CheckpointLine


class ListByDefault(TyperGroup):
    """`checkpoints NAME` is `checkpoints list NAME`, also for the shell that completes it."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        names = self.commands["list"].params[0].shell_complete(ctx, incomplete)
        return [*names, *super().shell_complete(ctx, incomplete)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["list", *args]
        if not args and not ctx.resilient_parsing:
            ctx.fail("name a job: `runctl checkpoints NAME`")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ListByDefault,
    subcommand_metavar="NAME | verify NAME",
    add_completion=False,
    rich_markup_mode=None,
    context_settings=CONTEXT,
)


@app.callback()
def group() -> None:
    pass


@app.command("list", context_settings=CONTEXT)
def list_(name: JobName, output: TableOutput = TableOrJson.TABLE) -> int:
    """List the checkpoints of all attempts; `runctl checkpoints NAME` does the same."""
    from runctl.cli.streams import data, data_json, say

    found = _checkpoints(name)
    if output is TableOrJson.JSON:
        data_json([_document(each) for each in found], indent=2)
    elif found:
        data(_table(found))
    else:
        say("no checkpoints yet")
    return ExitCode.OK


@app.command("verify", context_settings=CONTEXT)
def verify(name: JobName, output: TableOutput = TableOrJson.TABLE) -> int:
    """Read the durable copies and compare each file with its checksum. Exits with 1 if one isn't what was saved."""
    from runctl.checkpoints.durable import Damaged
    from runctl.checkpoints.objects import Forbidden, NoCredentials, ObjectStorageError
    from runctl.checkpoints.places import S3, split
    from runctl.checkpoints.storage import open_storage
    from runctl.cli.errors import Failure
    from runctl.cli.streams import clean_line, data, data_json

    results: list[tuple[CheckpointLine, str]] = []
    kept = [(each, each.durable_path) for each in _checkpoints(name) if each.status == "durable" and each.durable_path]
    elsewhere = _elsewhere(name)
    if elsewhere and not all(path.startswith(S3) for _, path in kept):
        raise Failure(
            ExitCode.INVALID,
            f"the copies are on {elsewhere}, and this version of runctl verifies those of this machine and in S3 alone",
            hint="the agent there read each of them back before it called it durable",
        )
    for each, path in kept:
        try:
            open_storage(split(path)[0]).verify(path)
            results.append((each, ""))
        except ObjectStorageError as error:
            refused = isinstance(error, Forbidden | NoCredentials)
            code = ExitCode.PERMISSION if refused else ExitCode.NO_CAPACITY
            now = "whether they are whole isn't known"
            raise Failure(code, f"the copies can't be read: {error}", now=now) from None
        except (Damaged, OSError) as error:
            results.append((each, str(error)))
    if output is TableOrJson.JSON:
        data_json([{**_document(each), "whole": not why, "why": why or None} for each, why in results], indent=2)
    else:
        for each, why in results:
            word = "damaged" if why else "ok"
            data(clean_line(f"{word:<8} {each.attempt}/{each.seq} {each.name}{': ' + why if why else ''}"))
    return ExitCode.TRAINING_FAILED if any(why for _, why in results) else ExitCode.OK


def _elsewhere(name: str) -> str:
    """The host on which an attempt of the job ran, if one didn't run here."""
    from runctl.cli.jobs import find, opened_to_read

    with opened_to_read() as (_, store):
        record = find(store, name).record
    hosts = (record.generation_of(each).job.instance.host for each in record.attempts)
    return next((host for host in hosts if host), "")


def _checkpoints(name: str) -> list[CheckpointLine]:
    from runctl.cli.jobs import find, opened_to_read
    from runctl.providers.local.run_dir import checkpoint_lines

    with opened_to_read() as (home, store):
        record = find(store, name).record
    return checkpoint_lines((each.number, home.run_dir(record.uid, each.number)) for each in record.attempts)


def _table(found: list[CheckpointLine]) -> str:
    from runctl.cli.render.table import table
    from runctl.cli.render.words import day_and_clock, number
    from runctl.manifest.quantities import format_size

    rows = [
        (
            str(each.attempt),
            each.name,
            each.status if each.status in ("durable", "pruned") or not each.detail else f"{each.status}: {each.detail}",
            number(each.epoch) if each.epoch is not None else "",
            number(each.step) if each.step is not None else "",
            format_size(each.bytes),
            day_and_clock(each.at) if each.at is not None else "",
            each.durable_path or "" if each.status == "durable" else "",
        )
        for each in found
    ]
    return table(("attempt", "name", "status", "epoch", "step", "size", "saved", "durable copy"), rows)


def _document(each: CheckpointLine) -> dict[str, Any]:
    from runctl.cli.render.words import stamp

    return {
        "attempt": each.attempt,
        "seq": each.seq,
        "name": each.name,
        "status": each.status,
        "durable": each.status == "durable",
        "detail": each.detail or None,
        "epoch": each.epoch,
        "step": each.step,
        "bytes": each.bytes,
        "at": stamp(each.at),
        "path": each.path,
        "durable_path": each.durable_path if each.status == "durable" else None,
        "sha256": each.sha256,
    }
