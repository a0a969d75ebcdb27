"""Reading the manifests that a command was given: files, directories, the standard input."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from runctl.cli.errors import shown
from runctl.cli.exit_codes import ExitCode
from runctl.cli.streams import coloured, say
from runctl.manifest.diagnostics import Diagnostic, Severity, closest, has_errors, one_of
from runctl.manifest.job import Position, SourcedJob
from runctl.manifest.load import differing_groups, duplicate_names, load
from runctl.manifest.recognising import Recognition, looks_like_a_job, recognise
from runctl.manifest.render import Theme, render
from runctl.manifest.source import MAX_BYTES, Source

STDIN = "-"


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the named files hold. `texts` are their contents by the names they go by."""

    files: tuple[str, ...]
    jobs: tuple[SourcedJob, ...]
    diagnostics: tuple[Diagnostic, ...]
    refusals: tuple[Diagnostic, ...]
    skipped: tuple[tuple[str, str], ...]
    texts: dict[str, bytes]

    def diagnose(self, sourced: SourcedJob, path: str, code: str, message: str, hint: str) -> Diagnostic:
        """An error at a field of a job's manifest, or at its beginning where the field isn't written."""
        start = Position(line=1, column=1, end_line=1, end_column=2)
        position = sourced.positions.get(path) or sourced.positions.get("name") or start
        text = self.texts.get(sourced.file, b"").decode(errors="replace").removeprefix("\ufeff")
        return Source(sourced.file, text).diagnose(position, code, message, hint=hint, document=sourced.document)


def read(named: Sequence[str]) -> Read:
    """All jobs and all problems of the files. Never raises: what can't be read is a diagnostic, too."""
    texts: dict[str, bytes] = {}
    skipped: list[tuple[str, str]] = []
    jobs: list[SourcedJob] = []
    diagnostics: list[Diagnostic] = []
    refusals: list[Diagnostic] = []
    for name, found_in_directory in _files(named, diagnostics):
        if name in texts:
            continue
        try:
            text = _content(name)
        except OSError as error:
            diagnostics.append(_unreadable(name, error))
            continue
        if found_in_directory and (kind := recognise(name, text)) is not Recognition.MANIFEST:
            skipped.append((name, kind.value))
            continue
        texts[name] = text
        loaded = load(text, name, _base(name))
        jobs += loaded.jobs
        diagnostics += loaded.diagnostics
        refusals += loaded.refusals
    diagnostics += duplicate_names(jobs)
    if not texts and not diagnostics:
        diagnostics.append(_nothing_found(named, [name for name, _ in skipped]))
    return Read(
        files=tuple(texts),
        jobs=tuple(jobs),
        diagnostics=tuple(diagnostics),
        refusals=tuple(refusals),
        skipped=tuple(skipped),
        texts=texts,
    )


def read_to_apply(named: Sequence[str]) -> Read:
    """As `read`, for commands that act: shows the problems, and ends with 2 when there is an error among them."""
    found = read(named)
    diagnostics = [*found.diagnostics, *differing_groups(found.jobs)]
    show([*diagnostics, *found.refusals])
    if has_errors(diagnostics) or found.refusals:
        raise shown(ExitCode.INVALID)
    return found


def show(diagnostics: Iterable[Diagnostic]) -> None:
    """Diagnostics for people, on stderr."""
    text = render(diagnostics, Theme.ANSI if coloured(sys.stderr) else Theme.PLAIN)
    if text:
        say(text)


def _files(named: Sequence[str], diagnostics: list[Diagnostic]) -> Iterator[tuple[str, bool]]:
    for name in named:
        if name != STDIN and Path(name).is_dir():
            yield from ((each, True) for each in _inside(name, diagnostics))
        else:
            yield name, False


def _inside(directory: str, diagnostics: list[Diagnostic]) -> Iterator[str]:
    """YAML files below, hidden directories and links to directories left out, in a stable order."""

    def unreadable(error: OSError) -> None:
        diagnostics.append(_unreadable(str(error.filename), error))

    for parent, directories, files in os.walk(directory, onerror=unreadable):
        directories[:] = sorted(each for each in directories if not each.startswith("."))
        for each in sorted(files):
            path = Path(parent) / each
            if recognise(each, b"") is not Recognition.OTHER_NAME and path.is_file():
                yield str(path)


def _content(name: str) -> bytes:
    """The bytes, cut off behind the size that is refused anyway."""
    if name == STDIN:
        if sys.stdin is None:
            raise OSError(0, "the standard input is closed", name)
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with open(name, "rb") as file:
        kind = os.fstat(file.fileno()).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise OSError(0, "not a file", name)
        return file.read(MAX_BYTES + 1)


def _base(name: str) -> str:
    """Paths of a manifest start from its directory; those of the standard input, from the current one."""
    return str(Path.cwd()) if name == STDIN else str(Path(name).absolute().parent)


def _unreadable(name: str, error: OSError) -> Diagnostic:
    why = (error.strerror or str(error)).lower()
    hint = _near(Path(name)) if isinstance(error, FileNotFoundError) else "check its path and permissions"
    return _whole_file(name, "unreadable-file", f"the file can't be read: {why}", hint)


def _near(missing: Path) -> str:
    """What was probably meant by a file that isn't there."""
    if not missing.parent.is_dir():
        return f"there is no directory `{missing.parent}`"
    try:
        there = [
            each.name for each in missing.parent.iterdir() if recognise(each.name, b"") is not Recognition.OTHER_NAME
        ]
    except OSError:
        return "check its path and permissions"
    near = closest(missing.name, there)
    if near is not None:
        return f"did you mean `{missing.with_name(near)}`?"
    return (
        f"`{missing.parent}` holds {one_of(sorted(there)[:5])}" if there else f"`{missing.parent}` holds no YAML file"
    )


def _nothing_found(named: Sequence[str], skipped: Sequence[str]) -> Diagnostic:
    for name in skipped:
        if looks_like_a_job(_content(name)):
            hint = f"name it to have it read all the same, such as `runctl validate {shlex.quote(name)}`"
            return _whole_file(name, "no-manifest", "it has no `apiVersion: runctl/v1`", f"add that line, or {hint}")
    return _whole_file(
        " ".join(named),
        "no-manifest",
        "there is no manifest in it",
        "a manifest is a `.yaml` file with `apiVersion: runctl/v1`; name another file itself, or run `runctl init`",
    )


def _whole_file(name: str, code: str, message: str, hint: str) -> Diagnostic:
    return Diagnostic(
        file=name, line=1, column=1, end_line=1, end_column=2, code=code, severity=Severity.ERROR, message=message,
        hint=hint, whole_file=True,
    )  # fmt: skip
