"""`runctl stop`, `cancel` and `delete`: ask for the end of jobs, and see it come."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.choices import AssumeDead, JobNames, Timeout, Yes
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from datetime import timedelta

    from runctl.cli.following import Follower
    from runctl.cli.sight import Sight
    from runctl.home import Home
    from runctl.planner.record import Attempt, Record
    from runctl.planner.requests import Request
    from runctl.store.interface import Store, Versioned

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it is done, or leave it to the controller.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept with the job's events.")]


def stop(
    names: JobNames,
    why: Why = "stopped by the user",
    assume_dead: AssumeDead = False,
    wait: Wait = True,
    timeout: Timeout = None,
) -> int:
    """The training saves a checkpoint first. Applying the manifest again goes on from it."""
    from datetime import UTC, datetime

    from runctl.cli.jobs import find_all, opened
    from runctl.cli.waiting import parse_timeout
    from runctl.planner.requests import StopJob

    span = parse_timeout(timeout)
    with opened() as (home, store):
        wanted = [each.record for each in find_all(store, names)]
        live = [each for each in wanted if not _at_rest(each)]
        _skip(wanted, live)
        return _ask(home, store, live, StopJob(at=datetime.now(UTC), why=why), wait, span, assume_dead)


def cancel(
    names: JobNames,
    why: Why = "cancelled by the user",
    assume_dead: AssumeDead = False,
    wait: Wait = True,
    timeout: Timeout = None,
) -> int:
    """The training saves a checkpoint first; checkpoints, logs and the record stay."""
    from datetime import UTC, datetime

    from runctl.cli.jobs import find_all, opened
    from runctl.cli.waiting import parse_timeout
    from runctl.planner.requests import CancelJob

    span = parse_timeout(timeout)
    with opened() as (home, store):
        wanted = [each.record for each in find_all(store, names)]
        unfinished = [each for each in wanted if not each.finished]
        _skip(wanted, unfinished)
        return _ask(home, store, unfinished, CancelJob(at=datetime.now(UTC), why=why), wait, span, assume_dead)


def delete(
    names: JobNames,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Delete the durable checkpoints, too. Default: they stay.")
    ] = False,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Even if work that isn't saved may be lost.")] = False,
    assume_dead: AssumeDead = False,
    wait: Wait = True,
    timeout: Timeout = None,
) -> int:
    """Cancels what runs, waits until its machine is released, then removes record, logs and working copies."""
    from datetime import UTC, datetime

    from runctl.cli.jobs import find_all, opened
    from runctl.cli.sight import look
    from runctl.cli.streams import clean_line, say
    from runctl.cli.waiting import parse_timeout
    from runctl.planner.requests import DeleteJob

    span, now = parse_timeout(timeout), datetime.now(UTC)
    with opened() as (home, store):
        sights = [look(home, store, each, now) for each in _with_earlier(store, find_all(store, names))]
        if not force:
            _refuse_to_lose(sights)
        _confirm(sights, checkpoints=checkpoints, yes=yes)
        records = [each.record for each in sights]
        left = _left_there(home, records) if assume_dead else []
        request = DeleteJob(at=now, checkpoints=checkpoints, vouched=assume_dead)
        code = _ask(home, store, records, request, wait, span, assume_dead)
        for place in left:
            say(clean_line(f"not removed, if it couldn't be asked: {place}"))
        if not checkpoints and code is ExitCode.OK and wait:
            _say_where(home, sights)
        return code


def _with_earlier(store: Store, found: Sequence[Versioned]) -> list[Versioned]:
    """The jobs, each with the runs that it superseded: those have no name of their own any more. A run that was named
    by its uid comes alone."""
    named: dict[str, Versioned] = {}
    for each in found:
        runs = store.runs(each.record.name)
        current = bool(runs) and runs[-1].record.uid == each.record.uid
        named.update((run.record.uid, run) for run in (runs if current else [each]))
    return list(named.values())


def _ask(
    home: Home,
    store: Store,
    records: Sequence[Record],
    request: Request,
    wait: bool,
    timeout: timedelta | None,
    assume_dead: bool,
) -> ExitCode:
    """Put the request to each job, durably; then see to it that somebody answers, or answer it here and watch."""
    from runctl.cli.attaching import follow_quietly, hand_over, say_unheard
    from runctl.planner.requests import AssumeDead
    from runctl.store.interface import Ask, done

    if not records:
        return ExitCode.OK
    asks = [Ask(each.uid, request) for each in records]
    if assume_dead:
        live = [(each.uid, each.live.number) for each in records if each.live is not None]
        asks = [*(Ask(uid, AssumeDead(at=request.at, attempt=number)) for uid, number in live), *asks]
    followers = [follow_quietly(home, store, each) for each in records]
    for follower, receipt in zip(followers, store.apply(asks)[-len(records) :], strict=True):
        follower.await_answer(done(receipt))
    if not assume_dead:
        say_unheard(followers)
    if not wait:
        hand_over(home, store, followers)
        return ExitCode.OK
    return _see(home, store, followers, [each.live for each in records], timeout)


def _see(
    home: Home, store: Store, followers: Sequence[Follower], ending: Sequence[Attempt | None], timeout: timedelta | None
) -> ExitCode:
    """Watch until the jobs rest; `ending` are the attempts that were live when they were asked to."""
    from runctl.cli.attaching import hand_over, view_without_output
    from runctl.cli.choices import TextOrJson
    from runctl.cli.render.outcome import verdict
    from runctl.cli.streams import clean, say
    from runctl.cli.watching import Left, Until, watch

    view = view_without_output(followers, TextOrJson.TEXT)
    left = watch(home, store, followers, view, until=Until.RESTED, timeout=timeout, environ=os.environ)
    if left is not Left.RESTED:
        hand_over(home, store, followers)
        say("asked for; a controller in the background goes on with it")
        return ExitCode.WAIT_TIMED_OUT if left is Left.TIMED_OUT else ExitCode.OK
    code = ExitCode.OK
    newest = {each.record.name: each for each in followers}
    for each, attempt in zip(followers, ending, strict=True):
        if not each.overtaken:
            run = "" if newest[each.record.name] is each else f" ({each.record.uid})"
            say(clean(f"{each.record.name}{run}: {'deleted' if each.deleted else verdict(each.record)}"))
        elif attempt is not None and each.record.attempts[attempt.number - 1].end is not None:
            say(clean(f"{each.record.name}: attempt {attempt.number} has ended; it was applied again since"))
        else:
            say(clean(f"{each.record.name}: not ended: it was applied again at the same moment, and goes on"))
            code = ExitCode.BUSY
    return code


def _at_rest(record: Record) -> bool:
    from runctl.reconciler.resting import rests

    return rests(record)


def _skip(wanted: Sequence[Record], left: Sequence[Record]) -> None:
    """Say of the others that nothing is to be done."""
    from runctl.cli.render.outcome import verdict
    from runctl.cli.streams import clean, say

    for each in wanted:
        if each not in left:
            say(clean(f"{each.name}: nothing to do, {verdict(each)}"))


def _refuse_to_lose(sights: Sequence[Sight]) -> None:
    from runctl.cli.errors import Failure

    lost = [text for each in sights if (text := _unsaved(each))]
    if lost:
        raise Failure(
            ExitCode.INVALID,
            f"work that isn't saved may be lost: {'; '.join(lost)}",
            now="nothing was changed",
            hint=f"`runctl stop {sights[0].record.name}` saves first; `--force` deletes all the same",
        )


def _unsaved(sight: Sight) -> str:
    """What of a live training no durable checkpoint holds; empty if nothing is known to be missing."""
    from runctl.cli.render.words import span

    record = sight.record
    if record.live is None or record.live.training_at is None:
        return ""
    if sight.checkpoint is None:
        return (
            f"`{record.name}` has trained for {span(sight.now - record.live.training_at)} without a durable checkpoint"
        )
    if sight.vitals is not None and sight.vitals.unsaved:
        return f"the newest checkpoint of `{record.name}` isn't durable yet"
    return ""


def _confirm(sights: Sequence[Sight], *, checkpoints: bool, yes: bool) -> None:
    import sys

    from runctl.cli.errors import Failure
    from runctl.cli.streams import clean_line, is_tty

    if yes:
        return
    runs = Counter(each.record.name for each in sights)
    named = ", ".join(f"`{name}`" + (f" ({number} runs)" if number > 1 else "") for name, number in runs.items())
    if not is_tty(sys.stdin):
        raise Failure(
            ExitCode.INVALID, f"deleting {named} needs `--yes` where nobody can be asked", now="nothing was changed"
        )
    saved = sum(each.durable for each in sights)
    if checkpoints:
        question = f"Delete {named}, with logs, history, and up to {saved} durable checkpoints?"
    else:
        question = f"Delete {named}, with logs and history? Durable checkpoints are kept."
    if not typer.confirm(clean_line(question), err=True):
        raise Failure(ExitCode.CANCELLED_OR_STOPPED, "not deleted", now="nothing was changed")


def _left_there(home: Home, records: Sequence[Record]) -> list[str]:
    """Where on other hosts something of the jobs lies: the hosts' names for people, and paths there."""
    from runctl.providers.ssh.whereabouts import places

    return [place for each in records for place in places(home, each)]


def _say_where(home: Home, sights: Sequence[Sight]) -> None:
    from runctl.cli.streams import clean_line, say
    from runctl.providers.hosts.spec import destination

    for each in sights:
        if each.durable:
            host = each.record.job.instance.host
            there = f" on {host}" if host else ""
            place = f"{destination(home, each.record.generation)}/{each.record.uid}"
            if host and each.checkpoint is not None:
                place = each.checkpoint.path.rpartition("/")[0]
            say(clean_line(f"the checkpoints of `{each.record.name}` are kept in {place}{there}"))
