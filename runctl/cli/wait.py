"""`runctl wait`."""

from __future__ import annotations

from runctl.cli.choices import JobNames, Output, TextOrJson, Timeout
from runctl.cli.exit_codes import ExitCode


def wait(names: JobNames, timeout: Timeout = None, output: Output = TextOrJson.TEXT) -> int:
    """Reads along; a controller in the background cares for the jobs. Exits with 8 when the time is over.

    Several jobs: 0 if all succeeded, else the worst of their codes.
    """
    import os

    from runctl.cli.attaching import conclude, follow_quietly, hand_over, say_unheard, view_without_output
    from runctl.cli.jobs import find_all, opened
    from runctl.cli.waiting import parse_timeout
    from runctl.cli.watching import Left, Until, watch

    span = parse_timeout(timeout)
    with opened() as (home, store):
        followers = [follow_quietly(home, store, each.record) for each in find_all(store, names)]
        hand_over(home, store, followers)
        say_unheard(followers)
        view = view_without_output(followers, output)
        left = watch(home, store, followers, view, until=Until.RESTED, timeout=span)
        match left:
            case Left.RESTED:
                return conclude(home, store, followers, output)
            case Left.TIMED_OUT:
                return _timed_out([each.record.name for each in followers if not each.rested], output)
            case Left.UNREAD:
                raise BrokenPipeError(os.strerror(32))
            case _:
                _going_on([each.record.name for each in followers if not each.rested])
                return ExitCode.INTERRUPTED


def _going_on(names: list[str]) -> None:
    from runctl.cli.streams import clean_line, say

    say(f"no longer waiting; {clean_line(', '.join(names))} {'goes' if len(names) == 1 else 'go'} on")


def _timed_out(names: list[str], output: TextOrJson) -> int:
    from runctl.cli.streams import clean_line, say

    if output is TextOrJson.TEXT:
        say(f"the time is over: {clean_line(', '.join(names))} still to come")
    return ExitCode.WAIT_TIMED_OUT
