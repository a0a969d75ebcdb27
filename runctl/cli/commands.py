"""The list of commands, and a group that imports a command's module only when that command is called."""

from __future__ import annotations

import difflib
from enum import Enum
from functools import partial
from importlib import import_module
from inspect import cleandoc
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Entry(NamedTuple):
    """`summary` is the first line of the command's help; `runctl.cli.<module>.<attribute>` its function or sub-app."""

    summary: str
    module: str
    attribute: str


COMMANDS = {
    "init": Entry("Write a commented manifest to start from.", "init", "init"),
    "validate": Entry("Check manifests, and report every problem of every file.", "validate", "validate"),
    "explain": Entry("Document a field of the manifest.", "explain", "explain"),
    "schema": Entry("Print the manifest's JSON schema.", "schema", "schema"),
    "plan": Entry("Show what apply would do, and what it may cost.", "plan", "plan"),
    "apply": Entry("Make the world be as the manifests say, and hold it there.", "apply", "apply"),
    "wait": Entry("Wait until jobs end; the exit code is their outcome.", "wait", "wait"),
    "status": Entry("Show jobs, or all that is known of one.", "status", "status"),
    "logs": Entry("Print a training's output, unaltered.", "logs", "logs"),
    "events": Entry("Show what happened to a job.", "events", "events"),
    "cost": Entry("Show what jobs have cost and may cost.", "cost", "cost"),
    "checkpoints": Entry("List a job's checkpoints, or verify their durable copies.", "checkpoints", "app"),
    "stop": Entry("Save, end the attempt, release the machine; apply goes on from there.", "ending", "stop"),
    "cancel": Entry("Save, end the attempt, release the machine, for good.", "ending", "cancel"),
    "delete": Entry("Cancel jobs and forget them; checkpoints stay unless asked.", "ending", "delete"),
    "controller": Entry("Show, run or stop the controller of detached jobs.", "controller", "app"),
}


class Commands(TyperGroup):
    """Lists commands from the table alone, and loads the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        return load(cmd_name, entry) if entry is not None else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            advice = f"did you mean `{near[0]}`?" if near else "`runctl --help` lists the commands"
            ctx.fail(f"unknown command `{args[0]}`; {advice}")
        return super().resolve_command(ctx, args)


def load(name: str, entry: Entry) -> Any:
    """The command with its help: the table's summary, then the function's own docstring."""
    target = getattr(import_module(f"runctl.cli.{entry.module}"), entry.attribute)
    if isinstance(target, typer.Typer):
        target.info.help = entry.summary
        group = typer.main.get_group(target)
        group.name = name
        for each in group.commands.values():
            # Else the list of commands cuts it where it would have to wrap.
            each.short_help = cleandoc(each.help or "").partition(".\n")[0].partition(". ")[0].removesuffix(".") + "."
            _name_arguments_plainly(each)
            _take_plain_values(each)
        return group
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    details = cleandoc(target.__doc__ or "")
    app.command(name, help=f"{entry.summary}\n\n{details}", context_settings=CONTEXT)(target)
    command = typer.main.get_command(app)
    _name_arguments_plainly(command)
    _take_plain_values(command)
    return command


def _name_arguments_plainly(command: Any) -> None:
    """`NAME` and `[FILE…]` in the help: neither Python's types nor the parser's own signs."""
    for each in command.params:
        if each.param_type_name == "argument":
            shown = each.metavar or each.name.upper()
            pieces = [shown if each.required else f"[{shown}]"]
            each.get_usage_pieces = lambda _context, pieces=pieces: pieces
            each.display_type_rich = lambda *_args, **_kwargs: None


def _take_plain_values(command: Any) -> None:
    """Values that need no conversion are taken as they are. Typer asks pydantic about each, and to import that and
    build its validators takes as long as all that most commands do. Whatever is wrong is left for typer to say.
    """
    listed = command.get_params

    def get_params(context: Any) -> Any:
        params = listed(context)  # with the option of the help, which is made when it is asked for
        for each in params:
            if hasattr(each, "type_descriptor") and "process_value" not in vars(each):
                each.process_value = partial(_process, each.process_value, each, each.type_descriptor.annotation)
        return params

    command.get_params = get_params


def _process(otherwise: Any, parameter: Any, annotation: Any, context: Any, value: Any) -> Any:
    several = parameter.multiple or parameter.nargs != 1
    members = annotation if isinstance(annotation, type) and issubclass(annotation, Enum) else ()
    taken: object
    if value is None and not several and not parameter.required:
        taken = None
    elif annotation in (str, bool) and isinstance(value, annotation):
        taken = value
    elif isinstance(value, tuple) and value and annotation == list[str]:
        taken = list(value)
    elif named := [member for member in members if value in (member, member.value)]:
        taken = named[0]
    else:
        return otherwise(context, value)
    return parameter.callback(context, parameter, taken) if parameter.callback is not None else taken


def _version(wanted: bool) -> None:
    if wanted:
        from runctl import __version__

        typer.echo(f"runctl {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="runctl",
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
    help="Run training jobs declared in YAML, within their cost cap, without losing their checkpoints.",
    epilog="First steps: `runctl init`, `runctl plan job.yaml`, `runctl apply job.yaml`.",
)


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, expose_value=False, help="Print the version."
    ),
    no_color: bool = typer.Option(False, "--no-color", help="Never colour; valid behind any command."),
) -> None:
    """Global options are read in `main`; they are declared here for the help."""


def program() -> Any:
    """The parser of whole command lines."""
    made = typer.main.get_command(app)
    _take_plain_values(made)
    return made
