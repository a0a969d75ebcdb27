"""Following jobs as a reader: what is new in the store and in the run directories since the last look."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from runctl.cli.jobs import settled
from runctl.cli.sight import Sight, look
from runctl.home import Home
from runctl.manifest.job import Job
from runctl.planner.record import Desired, Event, Record, Source
from runctl.providers.local.logs import read_output, read_setup, setup_end, tail_offset
from runctl.reconciler.resting import rests
from runctl.store.interface import NotFound, Store

# A flood of output is shown in pieces of this size, so that the rest of the view keeps moving.
CHUNK_BYTES = 256 * 1024

# What a job's files and its store don't tell (who of its processes is alive) is looked for this often.
WHOLE_LOOK = timedelta(seconds=1)

# Of what was printed before one attaches, no more than this is shown, however long its lines are.
PAST_BYTES = 16 * 1024


class News(msgspec.Struct, frozen=True, kw_only=True):
    """What one look brought. `sight` is None when the job was deleted."""

    name: str
    sight: Sight | None
    events: tuple[Event, ...] = ()
    setup: bytes = b""
    output: bytes = b""

    @property
    def nothing(self) -> bool:
        return not (self.events or self.setup or self.output)


class Follower:
    """One job: events above `after`, and the logs of attempts from `attempt` on (None: of none).

    `rested` is true when nothing is left to come: the job rests with no request open, and all of its output was read.
    `refused` is true when an apply that is awaited was answered, and the job was not made so.
    `ended_unseen` is true when the attempt is over, and no controller has seen that yet.
    `overtaken` is true when the request that is awaited was answered, and another one since lets the job run again.
    """

    def __init__(self, home: Home, store: Store, record: Record, *, after: int, attempt: int | None) -> None:
        self.record = record
        self.rested = False
        self.deleted = False
        self.overtaken = False
        self.refused = False
        self.ended_unseen = False
        self._awaited: int | None = None
        self._applied: tuple[int, Job, Source] | None = None
        self._home = home
        self._store = store
        self._seq = after
        self._attempt = attempt
        self._output = 0
        self._setup = 0
        self._mark: object = None
        self._last: tuple[datetime, News] | None = None

    def skip_to_last_lines(self, count: int) -> None:
        """Begin with the last lines of the attempt's output; its preparation isn't told again."""
        if self._attempt is not None:
            run_dir = self._home.run_dir(self.record.uid, self._attempt)
            self._output = tail_offset(run_dir, count, PAST_BYTES)
            self._setup = setup_end(run_dir)

    def await_answer(self, serial: int) -> None:
        """Look out for the answer to this request, which asked for an end."""
        self._awaited = serial

    def await_apply(self, serial: int, job: Job, source: Source) -> None:
        """Look out for the answer to this request, which asked for the job to be so."""
        self._applied = serial, job, source

    @property
    def unanswered(self) -> bool:
        """The request that asked for a change of the job is still open."""
        return self._applied is not None

    def look(self, now: datetime) -> News:
        """What is new. Where the last look brought nothing, and nothing has moved since, it isn't put together again:
        whoever stays with a job looks ten times a second."""
        mark = self._marks()
        if self._last is not None and mark == self._mark and now - self._last[0] < WHOLE_LOOK:
            return _later(self._last[1], now)
        news = self._look(now)
        self._mark, self._last = mark, (now, news) if news.nothing else None
        return news

    def _marks(self) -> object:
        """Other than before whenever the store or the files that are looked at have changed."""
        numbers = {self._attempt or 0, len(self.record.attempts)} - {0}
        places = [self._home.run_dir(self.record.uid, number) for number in sorted(numbers)]
        return self._store.change_token(), [_state(place / name) for place in places for name in _MOVING]

    def _look(self, now: datetime) -> News:
        name = self.record.name
        try:
            versioned, resting = settled(self._store, self.record.uid)
        except NotFound:
            self.rested = self.deleted = True
            return News(name=name, sight=None)
        self.record = versioned.record
        events = self._store.events(self.record.uid, self._seq)
        self._seq = events[-1][0] if events else self._seq
        setup, output = self._read()
        sight = look(self._home, self._store, versioned, now)
        self.ended_unseen = self.record.live is not None and sight.record.live is None
        news = News(
            name=name,
            sight=sight,
            events=tuple(event for _, event in events),
            setup=setup,
            output=output,
        )
        self.rested = resting and news.nothing
        if self._applied is not None and self.record.answered >= self._applied[0]:
            _, job, source = self._applied
            known = ((each.job, each.source.code_hash) for each in self.record.generations)
            self.refused, self._applied = (job, source.code_hash) not in known, None
        answered = self._awaited is not None and self.record.answered >= self._awaited
        self.overtaken = answered and self.record.desired is Desired.RUN and not rests(self.record)
        return news

    def _read(self) -> tuple[bytes, bytes]:
        """The next piece of the attempt's logs; of the next attempt, when this one is over and read to its end."""
        attempts = self.record.attempts
        while self._attempt is not None and self._attempt <= len(attempts):
            run_dir = self._home.run_dir(self.record.uid, self._attempt)
            over = attempts[self._attempt - 1].end is not None
            setup = read_setup(run_dir, self._setup, CHUNK_BYTES)
            output = b"" if setup else read_output(run_dir, self._output, CHUNK_BYTES)
            self._setup += len(setup)
            self._output += len(output)
            if setup or output or not over:
                return setup, output
            self._attempt += 1
            self._setup = self._output = 0
        return b"", b""


_MOVING = ("state.json", "exit.json", "output.log", "setup.log")


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _later(news: News, now: datetime) -> News:
    if news.sight is None:
        return news
    return msgspec.structs.replace(news, sight=msgspec.structs.replace(news.sight, now=now))
