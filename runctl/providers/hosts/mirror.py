"""An attempt elsewhere, as far as it is known here: its logs, journal and state come into a run directory of this home,
so that they are read as those of an attempt here are, also when the host is away, or gone.

What has come is never asked for again: whoever goes on begins behind what is there.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import anyio

from runctl.agent.files import write_json
from runctl.checkpoints.lasting import make_directories
from runctl.providers.hosts.remote import RemoteHost, Tail
from runctl.providers.interface import ProviderError

OUTPUT, SETUP, JOURNAL, STATE = "output.log", "setup.log", "checkpoints.jsonl", "state.json"

# Between two looks at a training that prints, and at one that doesn't.
BUSY_SECONDS = 0.2
QUIET_SECONDS = 1.0
# So much at once, and there is more.
FLOOD_BYTES = 256 * 1024
# How long an end waits for the last of the logs.
LAST_SECONDS = 20.0


class Mirror:
    """One attempt: `there` is its run directory on the host, `here` the one in this home."""

    def __init__(self, host: RemoteHost, there: str, here: Path) -> None:
        self._host = host
        self._there = there
        self._here = here
        self._state: object = None
        self._over = False
        self._dropped = False
        self._whole = anyio.Event()

    async def run(self) -> None:
        """Bring what comes, until the attempt is over and all of it is here."""
        make_directories(str(self._here))
        lock = os.open(self._here, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                try:  # a controller that has lost the job, or was stopped, may still be at it
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await anyio.sleep(QUIET_SECONDS)
            await self._bring()
        finally:
            self._whole.set()
            os.close(lock)

    async def _bring(self) -> None:
        while not self._dropped:
            over = self._over
            try:
                tail = await self._host.tail(self._there, *(self._size(name) for name in (OUTPUT, SETUP, JOURNAL)))
                self._take(tail)
            except (ProviderError, OSError):
                await anyio.sleep(QUIET_SECONDS)
                continue
            if tail.nothing:
                if over:
                    return
                await anyio.sleep(QUIET_SECONDS)
            elif not over and len(tail.output) < FLOOD_BYTES:
                await anyio.sleep(BUSY_SECONDS)

    async def end(self) -> None:
        """The attempt is over: the rest comes, if it can be had."""
        self._over = True
        with anyio.move_on_after(LAST_SECONDS):
            await self._whole.wait()

    def drop(self) -> None:
        """Nobody wants it any more."""
        self._dropped = True

    def _size(self, name: str) -> int:
        try:
            return os.lstat(self._here / name).st_size
        except FileNotFoundError:
            return 0

    def _take(self, tail: Tail) -> None:
        for name, data in ((OUTPUT, tail.output), (SETUP, tail.setup), (JOURNAL, tail.journal)):
            if data:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(self._here / name, flags, 0o600), "ab") as file:
                    file.write(data)
        if tail.state is not None and tail.state != self._state:
            self._state = tail.state
            write_json(str(self._here / STATE), tail.state)
