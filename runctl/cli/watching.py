"""Staying with jobs: controlling them in this process if nobody else does, showing them, and leaving on a signal."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, assert_never

import anyio

from runctl.cli.following import Follower
from runctl.cli.views import View
from runctl.home import Home
from runctl.planner.record import Phase
from runctl.reconciler.background import make_controller
from runctl.reconciler.controller import Controller
from runctl.store.interface import Store

if TYPE_CHECKING:
    from runctl.planner.record import Record

LOOK_SECONDS = 0.1

# While output pours in, the next look follows at once, but for letting others work.
BREATH_SECONDS = 0.001


class Left(Enum):
    """Why the watching ended."""

    RESTED = "every job is finished or rests, or was asked otherwise since"
    ACKNOWLEDGED = "every start is acknowledged, or waits for the machine"
    REFUSED = "a change was not made"
    INTERRUPTED = "Ctrl-C"
    TERMINATED = "the terminal or the session is going away"
    TIMED_OUT = "the time is over"
    UNREAD = "nobody reads the output any more"


class Until(Enum):
    """What is waited for."""

    RESTED = "rested"
    ACKNOWLEDGED = "acknowledged"


def watch(
    home: Home,
    store: Store,
    followers: Sequence[Follower],
    view: View,
    *,
    until: Until,
    timeout: timedelta | None = None,
    environ: Mapping[str, str] | None = None,
    trouble: Callable[[str], None] = lambda message: None,
) -> Left:
    """Show the jobs until `until`, a signal or the end of `timeout`. With `environ` (where secrets come from) this
    process controls those of them that no other controller has, and lets go of them at the end."""
    uids = [each.record.uid for each in followers]
    controller = None
    if environ is not None:
        controller = make_controller(home, store, environ, "attached command", only=uids, trouble=trouble)
    return anyio.run(_watch, followers, view, until, timeout, controller)


async def _watch(
    followers: Sequence[Follower], view: View, until: Until, timeout: timedelta | None, controller: Controller | None
) -> Left:
    left = Left.TIMED_OUT
    try:
        with anyio.move_on_after(timeout.total_seconds() if timeout is not None else None):
            async with anyio.create_task_group() as tasks:
                ends = _Ends(tasks.cancel_scope)
                tasks.start_soon(ends.on_signal)
                if controller is not None:
                    tasks.start_soon(controller.run)
                tasks.start_soon(_show, followers, view, until, ends)
            left = ends.left or left
        if left is Left.TIMED_OUT and _have_rested(followers, view):
            left = Left.RESTED
    finally:
        if left not in (Left.TERMINATED, Left.UNREAD):
            view.close()
    return left


def _have_rested(followers: Sequence[Follower], view: View) -> bool:
    """Whether there is nothing to wait for after all: the time may have been over before the first look."""
    for _ in range(2):  # the first one brings the news, the second finds that there are no more
        news = [each.look(datetime.now(UTC)) for each in followers if not each.rested]
        try:
            view.show(news)
        except OSError:
            return False
    return all(each.rested for each in followers)


class _Ends:
    """The first reason to leave wins."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self.left: Left | None = None
        self._scope = scope

    def leave(self, why: Left) -> None:
        self.left = self.left or why
        self._scope.cancel()

    async def on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                self.leave(Left.INTERRUPTED if number == signal.SIGINT else Left.TERMINATED)
                return


async def _show(followers: Sequence[Follower], view: View, until: Until, ends: _Ends) -> None:
    while True:
        now = datetime.now(UTC)
        news = [each.look(now) for each in followers if not each.rested]
        try:
            view.show(news)
        except OSError as error:
            # A terminal that is gone answers before its hang-up arrives; else it is a pipe that nobody reads.
            ends.leave(Left.TERMINATED if error.errno == errno.EIO else Left.UNREAD)
            return
        if any(each.refused for each in followers):
            ends.leave(Left.REFUSED)
            return
        match until:
            case Until.RESTED if all(each.rested or each.overtaken for each in followers):
                ends.leave(Left.RESTED)
                return
            case Until.ACKNOWLEDGED if all(each.rested or _is_acknowledged(each) for each in followers):
                ends.leave(Left.RESTED if all(each.rested for each in followers) else Left.ACKNOWLEDGED)
                return
            case Until.RESTED | Until.ACKNOWLEDGED:
                await anyio.sleep(BREATH_SECONDS if any(each.output for each in news) else LOOK_SECONDS)
            case _:
                assert_never(until)


def _is_acknowledged(follower: Follower) -> bool:
    return not follower.unanswered and not follower.ended_unseen and acknowledged(follower.record)


def acknowledged(record: Record) -> bool:
    """An agent has said that it is up, or the job waits for something that a controller in the background can await."""
    return record.phase in (Phase.QUEUED, Phase.PREPARING, Phase.TRAINING, Phase.DRAINING)
