"""The program's entry: streams, commands, and what becomes of every error."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

from runctl.cli.exit_codes import ExitCode


def main() -> NoReturn:
    """Run the command of `sys.argv` and exit with its code."""
    code = int(run(sys.argv[1:]))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):  # nobody reads it any more: `run` has said so
                stream.flush()
    # What a command has opened it has closed. To take all modules apart would take a sixth of its time.
    os._exit(code)


def run(argv: list[str]) -> int:
    """Run one command; never raises, whatever happens."""
    from runctl.cli.streams import prepare_streams

    prepare_streams()
    # Thousands of lasting objects are made at the start; looking through them for garbage again and again is in vain.
    gc.set_threshold(20_000, 20, 20)
    # What a manifest means depends on no other package that happens to be installed; and looking for them takes time.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "1"
    try:
        _refuse_what_is_no_text(argv)
        code = _dispatch(_without_colour_option(argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _nobody_reads()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        return _report(error)


def _refuse_what_is_no_text(argv: list[str]) -> None:
    """What isn't text in the locale's encoding can't be stored or shown."""
    named = {"RUNCTL_HOME": os.environ.get("RUNCTL_HOME", "")}
    for what, word in (*((f"argument {number}", each) for number, each in enumerate(argv, 1)), *named.items()):
        if not word.isascii() and any("\ud800" <= each <= "\udfff" for each in word):
            from runctl.cli.errors import Failure

            shown = word.encode("utf-8", "backslashreplace").decode()
            raise Failure(ExitCode.INVALID, f"{what} isn't UTF-8: `{shown}`", hint="use another name for it")


def _without_colour_option(argv: list[str]) -> list[str]:
    """`--no-color` is taken wherever it stands before `--`."""
    end = argv.index("--") if "--" in argv else len(argv)
    if "--no-color" in argv[:end]:
        os.environ["NO_COLOR"] = "1"
        return [word for word in argv[:end] if word != "--no-color"] + argv[end:]
    return argv


def _dispatch(argv: list[str]) -> int:
    import typer

    from runctl.cli.commands import program as make_program

    # Base of every error that the parser raises, whichever version of it typer brings.
    parser_error: Any = typer.BadParameter.__mro__[2]
    program = make_program()
    try:
        if "_RUNCTL_COMPLETE" in os.environ:
            program.main(args=argv, prog_name="runctl")
        # Not by the parser's own `main`, which takes broken pipes and interrupts for itself.
        with program.make_context("runctl", argv or ["--help"]) as context:
            result = program.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except parser_error as error:
        return _usage(error)
    return result if isinstance(result, int) else ExitCode.OK


def _usage(error: Any) -> int:
    from runctl.cli.errors import Failure, in_plain_words, show

    context = getattr(error, "ctx", None)
    advice = f"`{context.command_path} --help` says what it takes" if context is not None else ""
    show(Failure(ExitCode.INVALID, in_plain_words(error.format_message()), hint=advice))
    return ExitCode.INVALID


def _report(error: Exception) -> int:
    from runctl.cli.errors import REPORT, Failure, show, translate

    if os.environ.get("RUNCTL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    failure = translate(error)
    if failure is None:
        what = f"{type(error).__name__}: {error}"
        failure = Failure(
            ExitCode.DEFECT, f"a defect of runctl: {what[:500]}",
            now="trainings that run go on within their limits; `runctl status` shows them", hint=REPORT,
        )  # fmt: skip
    show(failure)
    return failure.code


def _nobody_reads() -> int:
    """The reader of a pipe went away: end as a program does that died of it, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.READER_GONE


if __name__ == "__main__":
    main()
