"""`runctl init`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path


_EXAMPLE = "train.py"


def init(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where to write it; made if need be.")] = ".",
    example: Annotated[
        bool, typer.Option("--example", help="Write `train.py`, too: a small training that saves and resumes.")
    ] = False,
) -> int:
    """Never overwrites a file. The manifest is named `job.yaml`, the job after the directory."""
    import shlex
    from pathlib import Path

    from runctl.cli.errors import Failure
    from runctl.cli.streams import clean, say

    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        hint = "name a directory, or none for this one: `runctl init DIR`"
        raise Failure(
            ExitCode.INVALID, f"`{target}` is not a directory", now="nothing was written", hint=hint
        ) from None
    script = _script_of(target)
    template = _template("job.yaml").replace("NAME", _job_name(target)).replace("SCRIPT", script)
    files = {target / "job.yaml": template}
    if example:
        files[target / _EXAMPLE] = _template(_EXAMPLE)
        files[target / "job.yaml"] = template.replace(f"script: {script}", f"script: {_EXAMPLE}")
    _refuse_to_overwrite(list(files))
    for path, text in files.items():
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
        say(clean(f"wrote {path}"))
    plan = f"runctl plan {shlex.quote(str(target / 'job.yaml'))}"
    if (target / (_EXAMPLE if example else script)).is_file():
        say(clean(f"next: {plan}"))
    else:
        say(clean(f"next: set `script` in it first, as there is no `{target / script}`; then {plan}"))
    return ExitCode.OK


def _refuse_to_overwrite(paths: list[Path]) -> None:
    from runctl.cli.errors import Failure

    for path in paths:
        if path.exists() or path.is_symlink():
            hint = "move it away, or name another directory: `runctl init DIR`"
            raise Failure(ExitCode.INVALID, f"`{path}` exists", now="nothing was written", hint=hint)


def _script_of(directory: Path) -> str:
    """A script that is there and named like a training, else the usual name."""
    found = sorted(path.name for path in directory.glob("*train*.py"))
    return "train.py" if "train.py" in found or not found else found[0]


def _job_name(directory: Path) -> str:
    from runctl.manifest.written import as_name

    words = as_name(directory.resolve().name)[:40].strip("-")
    return words if words and words[0].isalpha() else f"job-{words}".strip("-")


def _template(name: str) -> str:
    from importlib.resources import files

    return (files("runctl.cli") / "templates" / name).read_text(encoding="utf-8")
