"""Being with jobs for as long as the user wants, and what is said and returned at the end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import assert_never

from runctl.cli.choices import TextOrJson
from runctl.cli.errors import Failure
from runctl.cli.exit_codes import ExitCode, of_group, of_record
from runctl.cli.following import Follower
from runctl.cli.render.outcome import advice, ending, good
from runctl.cli.sight import look
from runctl.cli.streams import Style, clean, hint, paint, say, terminal
from runctl.cli.views import JsonLines, Lines, Live, View
from runctl.cli.watching import Left, Until, watch
from runctl.home import Home
from runctl.planner.reapply import Reapply
from runctl.planner.record import Desired, Phase, Record
from runctl.planner.reminders import unheard
from runctl.reconciler.applying import Submitted
from runctl.reconciler.background import ensure_background
from runctl.store.interface import NotFound, Store

# Of the output of a training that one attaches to, so many lines of the past are shown.
LAST_LINES = 10


class Stay(Enum):
    TO_THE_END = "to the end"
    FOR_THE_START = "until the start is acknowledged"
    NOT_AT_ALL = "not at all"


def attend(
    home: Home,
    store: Store,
    submitted: Sequence[Submitted],
    stay: Stay,
    timeout: timedelta | None,
    output: TextOrJson,
) -> ExitCode:
    """Control and show the jobs just submitted; the code of their outcome, or 0 once they are in other hands."""
    followers = [_follower(home, store, each) for each in submitted]
    for follower, each in zip(followers, submitted, strict=True):
        if each.asked is not None:
            follower.await_apply(each.asked, each.proposal.prepared.job, each.proposal.prepared.source)
    if stay is Stay.NOT_AT_ALL:
        hand_over(home, store, followers)
        return _detached(followers, output, "a controller in the background has")
    until = Until.RESTED if stay is Stay.TO_THE_END else Until.ACKNOWLEDGED
    if until is Until.RESTED:
        say_unheard(followers)
    try:
        left = watch(
            home, store, followers, _view(followers, output), until=until, timeout=timeout, environ=os.environ,
            trouble=_trouble,
        )  # fmt: skip
    except KeyboardInterrupt:  # came before or after the loop that takes signals
        left = Left.INTERRUPTED
    return leave(home, store, followers, left, output)


def leave(home: Home, store: Store, followers: Sequence[Follower], left: Left, output: TextOrJson) -> ExitCode:
    """What a watching that ended means for the user."""
    match left:
        case Left.RESTED:
            return conclude(home, store, followers, output)
        case Left.ACKNOWLEDGED:
            hand_over(home, store, followers)
            return _detached(followers, output, "detached:")
        case Left.REFUSED:
            hand_over(home, store, followers)
            named = ", ".join(f"`{each.record.name}`" for each in followers if each.refused)
            raise Failure(
                ExitCode.BUSY,
                f"{named} was changed by somebody else at the same moment",
                now="nothing of this apply was done to it",
                hint="apply again; `runctl events NAME` shows what the other change was",
            )
        case Left.INTERRUPTED:
            hand_over(home, store, followers)
            return _detached(followers, output, "detached:")
        case Left.TIMED_OUT:
            hand_over(home, store, followers)
            _detached(followers, output, "the time is over, and")
            return ExitCode.WAIT_TIMED_OUT
        case Left.TERMINATED:
            _ignore_signals()
            hand_over(home, store, followers)
            return ExitCode.OK
        case Left.UNREAD:
            _ignore_signals()
            hand_over(home, store, followers)
            raise BrokenPipeError
        case _:
            assert_never(left)


def hand_over(home: Home, store: Store, followers: Sequence[Follower]) -> None:
    """See to it that a controller in the background has every job that isn't at rest."""
    uids = [each.record.uid for each in followers if not each.rested]
    if uids and not ensure_background(home, store, os.environ, uids):
        raise Failure(
            ExitCode.DEFECT,
            "no controller in the background came up",
            cause=f"its log is `{home.controller_log}`",
            now="trainings that run go on within their limits; nothing new is started for them",
            hint=f"`runctl wait {followers[0].record.name}` tries again",
        )


def conclude(home: Home, store: Store, followers: Sequence[Follower], output: TextOrJson) -> ExitCode:
    """Say how each job ended; the code of them all."""
    codes = []
    for each in followers:
        if each.deleted:
            say(clean(f"{each.record.name}: deleted"))
            codes.append(ExitCode.CANCELLED_OR_STOPPED)
            continue
        codes.append(of_record(each.record))
        if output is TextOrJson.TEXT:
            _say_ending(home, store, each)
    return of_group(codes)


def _say_ending(home: Home, store: Store, follower: Follower) -> None:
    try:
        sight = look(home, store, store.get(follower.record.uid), datetime.now(UTC))
    except NotFound:
        return
    first, _, rest = ending(sight).partition("\n")
    say(paint(clean(first), Style.GOOD if good(sight.record) else Style.BAD, sys.stderr))
    if rest:
        say(rest)
    if told := advice(sight.record):
        hint(told)


def _follower(home: Home, store: Store, submitted: Submitted) -> Follower:
    """From here on: what happened before this command isn't told again, nor is the output of attempts that are over."""
    proposal = submitted.proposal
    found = proposal.found if proposal.decision.kind is not Reapply.CREATE else None
    if found is None:
        return Follower(home, store, store.get(submitted.uid).record, after=0, attempt=1)
    record = found.record
    first = record.live.number if record.live is not None else len(record.attempts) + 1
    follower = Follower(home, store, record, after=_newest_event(store, record), attempt=first)
    if record.live is not None:
        follower.skip_to_last_lines(LAST_LINES)
    return follower


def _view(followers: Sequence[Follower], output: TextOrJson) -> View:
    several = len(followers) > 1
    if output is TextOrJson.JSON:
        return JsonLines()
    return Live(several=several) if terminal(sys.stderr) else Lines(several=several)


def view_without_output(followers: Sequence[Follower], output: TextOrJson) -> View:
    """For commands that wait: what happens, but not what the trainings print."""
    return _view(followers, output)


def follow_quietly(home: Home, store: Store, record: Record) -> Follower:
    """Follow what happens from now on, without the training's output."""
    return Follower(home, store, record, after=_newest_event(store, record), attempt=None)


def _newest_event(store: Store, record: Record) -> int:
    events = store.events(record.uid)
    return events[-1][0] if events else 0


def _detached(followers: Sequence[Follower], output: TextOrJson, how: str) -> ExitCode:
    if output is TextOrJson.TEXT:
        names = " ".join(clean(each.record.name) for each in followers)
        verb = _what_becomes(followers)
        say_unheard(followers)
        state = ", ".join(sorted({each.record.phase.value for each in followers}))
        if any(each.record.phase is Phase.QUEUED for each in followers):
            state += ": waiting for the machine"
        say(f"{how} {names} {'' if how.endswith('has') else verb} ({state})")
        say(f"  follow  runctl logs -f {clean(followers[0].record.name)}")
        say(f"  wait    runctl wait {names}")
        say(f"  stop    runctl stop {names}")
    return ExitCode.OK


def _what_becomes(followers: Sequence[Follower]) -> str:
    asked = {each.record.desired for each in followers}
    if asked == {Desired.STOPPED}:
        return "is being stopped"
    if asked <= {Desired.CANCELLED, Desired.DELETED}:
        return "is being cancelled"
    return "goes on" if len(followers) == 1 else "go on"


def say_unheard(followers: Sequence[Follower]) -> None:
    """Warn of hosts that can't be asked now: what is asked of their jobs waits."""
    for each in followers:
        for text in unheard(each.record):
            say(clean(f"warning: {each.record.name}: {text}"))


def _trouble(message: str) -> None:
    say(clean(f"trouble: {message}"))


def _ignore_signals() -> None:
    """The session is going away: what is left to do is done, whatever else arrives."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
