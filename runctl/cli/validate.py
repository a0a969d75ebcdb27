"""`runctl validate`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from runctl.cli.manifests import Read


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def validate(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE…", help="Manifests, directories of them, or `-`. Default: the current directory."),
    ] = None,
    output: Annotated[
        Form, typer.Option("-o", "--output", help="text for people, json, or github for workflow annotations.")
    ] = Form.TEXT,
) -> int:
    """Looks at the text alone: nothing is started, no machine or account is asked, and the script isn't looked for:
    that is what `runctl plan` does.

    Exits with 2 if there is an error; warnings are shown and pass.
    """
    import msgspec

    from runctl.cli.manifests import read, show
    from runctl.cli.streams import clean, data, data_json, say
    from runctl.manifest.diagnostics import Severity, github_annotation, has_errors, to_json

    found = read(files or ["."])
    match output:
        case Form.TEXT:
            show(found.diagnostics)
            show(msgspec.structs.replace(each, severity=Severity.WARNING) for each in found.refusals)
            say(clean(_summary(found)))
        case Form.JSON:
            data_json(to_json(found.diagnostics), indent=2)
        case Form.GITHUB:
            for each in found.diagnostics:
                data(github_annotation(each))
        case _:
            assert_never(output)
    return ExitCode.INVALID if has_errors(found.diagnostics) else ExitCode.OK


def _summary(found: Read) -> str:
    """`3 files, 4 jobs: 2 errors`."""
    from runctl.manifest.render import summary

    parts = [_count(len(found.files), "file"), _count(len(found.jobs), "job")]
    if found.skipped:
        parts.append(f"{_count(len(found.skipped), 'other YAML file')} skipped")
    text = f"{', '.join(parts)}: {summary(found.diagnostics) or 'no problems'}"
    if found.refusals:
        text += f"; `apply` of this version refuses {_count(len(found.refusals), 'part')}, shown above"
    return text


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
