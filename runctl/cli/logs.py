"""`runctl logs`: the training's bytes as they are."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.choices import JobName
from runctl.cli.errors import Failure
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runctl.home import Home
    from runctl.planner.record import Record
    from runctl.store.interface import Store

FOLLOW_SECONDS = 0.1


def logs(
    name: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends or rests.")] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", help="Only this attempt. Default: all, in order.")
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last N lines, of the newest attempt.")
    ] = None,
    setup: Annotated[bool, typer.Option("--setup", help="What preparing the environment printed, instead.")] = False,
) -> int:
    """Standard output and standard error of the script, in one stream, byte for byte.

    Following survives rotation, restarts of anything and further attempts, without losing or repeating a byte.
    """
    from runctl.cli.jobs import find, opened_to_read
    from runctl.cli.streams import clean, say
    from runctl.planner.reminders import unheard

    with opened_to_read() as (home, store):
        record = find(store, name).record
        assert store is not None
        if attempt is not None and not (0 < attempt <= len(record.attempts)):
            last = len(record.attempts)
            known = f"it has {last}" if last else "it has none yet"
            raise Failure(ExitCode.INVALID, f"`{name}` has no attempt {attempt}", hint=known)
        if not record.attempts and not follow:
            say("nothing was started yet")
            return ExitCode.OK
        if follow:
            for text in unheard(record):
                say(clean(f"warning: {text}"))
        first = attempt or (max(1, len(record.attempts)) if tail is not None else 1)
        _Printer(home, store, record, first, only=attempt is not None, setup=setup).run(tail, follow=follow)
    return ExitCode.OK


class _Printer:
    """Copies attempts to stdout, from the number `number` on, or `only` that one."""

    def __init__(self, home: Home, store: Store, record: Record, number: int, *, only: bool, setup: bool) -> None:
        from runctl.providers.local.logs import read_output, read_setup

        self._home = home
        self._store = store
        self._record = record
        self._number = number
        self._last = number if only else None
        self._offset = 0
        self._read: Callable[[Path, int], bytes] = read_setup if setup else read_output
        self._setup = setup

    def run(self, tail: int | None, *, follow: bool) -> None:
        from runctl.providers.local.logs import tail_offset

        if tail is not None and not self._setup and self._number <= len(self._record.attempts):
            self._offset = tail_offset(self._run_dir, tail)
        while True:
            # The record first: what it says is over had printed all of its output before it was looked at.
            resting = self._refresh()
            self._copy()
            if self._step():
                continue
            if not follow or resting or self._is_over(self._last):
                return
            time.sleep(FOLLOW_SECONDS)

    @property
    def _run_dir(self) -> Path:
        return self._home.run_dir(self._record.uid, self._number)

    def _refresh(self) -> bool:
        """Read the record again; true when nothing more is to come."""
        from runctl.cli.jobs import settled
        from runctl.store.interface import NotFound

        try:
            found, resting = settled(self._store, self._record.uid)
        except NotFound:
            return True
        self._record = found.record
        return resting

    def _copy(self) -> None:
        while data := self._read(self._run_dir, self._offset):
            sys.stdout.buffer.write(data)
            self._offset += len(data)
        sys.stdout.buffer.flush()

    def _step(self) -> bool:
        """On to the next attempt if this one is over and there is one."""
        if self._last is not None or not self._is_over(self._number) or self._number >= len(self._record.attempts):
            return False
        self._number += 1
        self._offset = 0
        return True

    def _is_over(self, number: int | None) -> bool:
        attempts = self._record.attempts
        return number is not None and number <= len(attempts) and attempts[number - 1].end is not None
