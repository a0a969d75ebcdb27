"""How followed jobs are shown: lines for people, a live display on a terminal, JSON Lines for programs."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from typing import Protocol

from runctl.cli.following import News
from runctl.cli.render.document import document, event
from runctl.cli.render.status import bar, cost_briefly, progress_words
from runctl.cli.render.table import cut
from runctl.cli.render.words import ago, clock
from runctl.cli.sight import Sight
from runctl.cli.streams import Style, clean_line, clean_output, coloured, data_json, paint, say
from runctl.planner.record import Event, Phase

# A line that doesn't end is shown in pieces of this size.
LONGEST_LINE = 16 * 1024

# Numbers that only grow are redrawn no more often than this.
REDRAW = timedelta(milliseconds=500)

METER = 10


class View(Protocol):
    def show(self, news: list[News]) -> None: ...

    def close(self) -> None:
        """Nothing more is shown; the terminal is left as it was."""


class Lines:
    """One line for each event and each line of output; the job's name before it when there are several."""

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._partial: dict[str, bytes] = {}
        self._said: dict[str, str] = {}

    def show(self, news: list[News]) -> None:
        # One write for all of it: a training may print faster than lines can be written one by one.
        new = [line for each in news for line in self.lines(each)]
        if new:
            say("\n".join(new))

    def close(self) -> None:
        for name, rest in self._partial.items():
            if rest:
                say(self._output_line(name, rest))
        self._partial.clear()

    def lines(self, news: News) -> list[str]:
        """The new lines of one job, in the order in which they most likely came."""
        before = [each for each in news.events if not _ends(each)]
        after = [each for each in news.events if _ends(each)]
        lines = [self._event_line(news.name, each) for each in before]
        if news.sight is not None:
            lines += self._stage(news.name, news.sight)
        lines += self._output_lines(news)
        return lines + [self._event_line(news.name, each) for each in after]

    def _stage(self, name: str, sight: Sight) -> list[str]:
        """What has no event of its own: waiting in a queue, the steps of the preparation."""
        text = ""
        if sight.waiting_for:
            text = f"waiting: {sight.waiting_for}"
        elif sight.record.phase is Phase.PREPARING and sight.vitals is not None and sight.vitals.step:
            text = f"preparing: {sight.vitals.step}"
        if not text or self._said.get(name) == text:
            return []
        self._said[name] = text
        return [self._stamped(name, clock(sight.now), clean_line(text))]

    def _event_line(self, name: str, each: Event) -> str:
        text = f"{each.reason}: {clean_line(each.message)}" if each.message else each.reason
        if each.type == "Warning":
            text = paint(text, Style.WARNING, sys.stderr)
        return self._stamped(name, clock(each.at), text)

    def _stamped(self, name: str, at: str, text: str) -> str:
        prefix = f"{clean_line(name)} " if self._several else ""
        return f"{paint(at, Style.FAINT, sys.stderr)} {prefix}{text}"

    def _output_lines(self, news: News) -> list[str]:
        whole = self._partial.pop(news.name, b"") + news.setup + news.output
        *complete, rest = whole.split(b"\n")
        while len(rest) > LONGEST_LINE:
            complete.append(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        self._partial[news.name] = rest
        return [self._output_line(news.name, each) for each in complete]

    def _output_line(self, name: str, line: bytes) -> str:
        prefix = f"{clean_line(name)} | " if self._several else ""
        return prefix + clean_output(line.decode(errors="replace"))


class Live:
    """On a terminal: the lines as above, and below them one line a job that is redrawn."""

    def __init__(self, *, several: bool) -> None:
        self._lines = Lines(several=several)
        self._sights: dict[str, Sight] = {}
        self._drawn: list[str] = []
        self._drawn_at: datetime | None = None

    def show(self, news: list[News]) -> None:
        new = [line for each in news for line in self._lines.lines(each)]
        for each in news:
            if each.sight is not None and each.sight.record.outcome is None and each.sight.record.stopped is None:
                self._sights[each.name] = each.sight
            else:
                self._sights.pop(each.name, None)
        size = os.get_terminal_size(sys.stderr.fileno())
        # A display higher than the terminal couldn't be taken back.
        rows = list(self._sights.values())[: max(1, size.lines - 2)]
        drawn = [cut(live_line(each), max(20, size.columns - 1)) for each in rows]
        now = news[0].sight.now if news and news[0].sight is not None else None
        stale = now is None or self._drawn_at is None or now - self._drawn_at >= REDRAW
        if new or len(drawn) != len(self._drawn) or (drawn != self._drawn and stale):
            self._drawn_at = now
            self._write(new, drawn)

    def close(self) -> None:
        self._write([], [])
        self._lines.close()

    def _write(self, new: list[str], drawn: list[str]) -> None:
        """One write for all of it, so that nothing flickers."""
        back = f"\x1b[{len(self._drawn)}A" if self._drawn else ""
        lines = "".join(f"{line}\x1b[K\n" for line in new)
        meter = "".join(f"{_strong(line)}\x1b[K\n" for line in drawn)
        sys.stderr.write(f"{back}\r{lines}{meter}\x1b[J")
        sys.stderr.flush()
        self._drawn = drawn


class JsonLines:
    """One object a line: a `transition` with the whole job when its phase, outcome or attempt moves; each `event`."""

    def __init__(self) -> None:
        self._last: dict[str, object] = {}

    def show(self, news: list[News]) -> None:
        for each in news:
            for one in each.events:
                data_json({"type": "event", "name": each.name, **_renamed(event(one))})
            if each.sight is None:
                continue
            job = document(each.sight)
            mark = [*(job[key] for key in ("phase", "outcome", "reason", "generation")), len(job["attempts"])]
            if self._last.get(each.name) != mark:
                self._last[each.name] = mark
                data_json({"type": "transition", **job})

    def close(self) -> None:
        pass


def live_line(sight: Sight) -> str:
    """`resnet Training [####------] 40% · epoch 2/5 · loss 0.31 · 1m left · checkpoint 2m ago · 0.12 of 5 USD`."""
    told, newest = sight.live_progress, sight.checkpoint
    head = f"{clean_line(sight.record.name)} {sight.word}"
    if told is not None and told.fraction is not None:
        head += f" {bar(told.fraction, METER)}"
    parts = [
        f"checkpoint {ago(newest.at, sight.now)}" if newest is not None else "",
        cost_briefly(sight),
    ]
    if told is not None:
        head += f" {progress_words(sight)}"
    elif sight.waiting_for:
        head += f" · {clean_line(sight.waiting_for)}"
    return " · ".join([head, *(part for part in parts if part)])


def _strong(line: str) -> str:
    return f"\x1b[{Style.STRONG.value}m{line}\x1b[0m" if coloured(sys.stderr) else line


def _ends(each: Event) -> bool:
    """Events that come when the output they belong to is over."""
    return each.reason in _LAST


_LAST = frozenset(
    ["AttemptEnded", "Stopped", "Succeeded", "Failed", "CapReached", "DurationReached", "CheckpointOverdue",
     "Cancelled", "NoCapacity", "Lost"]
)  # fmt: skip


def _renamed(found: dict[str, object]) -> dict[str, object]:
    """`type` names the kind of line; an event's own is its `severity`."""
    return {"severity" if key == "type" else key: value for key, value in found.items()}
