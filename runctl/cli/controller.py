"""`runctl controller`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from runctl.cli.choices import Output, TextOrJson
from runctl.cli.commands import CONTEXT
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from runctl.home import Home

STOP_SECONDS = 20.0

app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=CONTEXT)


@app.callback()
def group() -> None:
    pass


@app.command(context_settings=CONTEXT)
def status(output: Output = TextOrJson.TEXT) -> int:
    """Say whether one runs in the background, and which jobs it and others hold."""
    from runctl.cli.jobs import opened_to_read
    from runctl.cli.streams import clean_line, data, data_json
    from runctl.reconciler.background import background_pid
    from runctl.reconciler.resting import rests

    with opened_to_read() as (home, store):
        pid = background_pid(home)
        records = [each.record for each in store.jobs()] if store is not None else []
        held = {each.name: store.lease(each.uid) for each in records} if store is not None else {}
    unwatched = [each.name for each in records if held[each.name] is None and not rests(each)]
    if output is TextOrJson.JSON:
        leases = {name: {"pid": by.pid, "what": by.what} for name, by in held.items() if by is not None}
        data_json({"pid": pid, "log": str(home.controller_log), "leases": leases, "unwatched": unwatched}, indent=2)
        return ExitCode.OK
    data(f"background controller: {f'pid {pid}, log {home.controller_log}' if pid is not None else 'not running'}")
    for name, by in held.items():
        if by is not None:
            data(f"  {clean_line(name)}: {clean_line(by.what)} (pid {by.pid})")
    for name in unwatched:
        data(f"  {clean_line(name)}: nobody; `runctl wait {clean_line(name)}` starts a controller")
    return ExitCode.OK


@app.command(context_settings=CONTEXT)
def run() -> int:
    """Be the controller of this home's jobs, in the foreground, until nothing is left to do.

    At most one runs in a home: a second one ends at once, with 0.
    """
    from runctl.cli.jobs import opened_to_read, settled
    from runctl.cli.streams import say
    from runctl.reconciler.background import background_pid, run_background

    with opened_to_read() as (home, store):
        uids = [each.record.uid for each in store.jobs()] if store is not None else []
        idle = store is None or all(settled(store, uid)[1] for uid in uids)
    pid = background_pid(home)
    if pid is not None:
        say(f"a controller runs already (pid {pid}); its log is `{home.controller_log}`")
    elif idle:
        say("nothing to do: no job runs or waits for one; `runctl apply job.yaml` gives it one")
    return run_background(home, os.environ)


@app.command(context_settings=CONTEXT)
def stop() -> int:
    """End the background controller. Trainings that run go on within their limits; nothing new is started for them."""
    import signal

    from runctl.cli.errors import Failure
    from runctl.cli.jobs import home
    from runctl.cli.streams import say
    from runctl.reconciler.background import background_pid

    here = home()
    pid = background_pid(here)
    if pid is None:
        say("no controller runs in the background")
        return ExitCode.OK
    os.kill(pid, signal.SIGTERM)
    if not _gone(here, pid):
        raise Failure(
            ExitCode.BUSY, f"the controller (pid {pid}) hasn't ended within {STOP_SECONDS:.0f} s",
            hint=f"its log is `{here.controller_log}`",
        )  # fmt: skip
    say("the background controller has ended; `runctl wait NAME` or `runctl apply` starts another")
    return ExitCode.OK


def _gone(home: Home, pid: int) -> bool:
    import time

    from runctl.reconciler.background import background_pid

    until = time.monotonic() + STOP_SECONDS
    while background_pid(home) == pid:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
