"""The protocol that every channel to a host keeps, and the errors that cross it.

TransportError
├── Unreachable              no connection, or none any more: no verdict on what runs there
│   ├── AuthenticationRefused
│   ├── HostKeyUnknown
│   └── HostKeyChanged
└── ConfigurationBroken      what the user's own files say about the host can't be used
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol

import anyio
import msgspec

# Of what a process says on stderr, the end is kept.
SAID_BYTES = 64 * 1024
CHUNK_BYTES = 64 * 1024

# What some login shell takes otherwise even between single quotes.
_NEVER_LITERAL = frozenset("'\\\n\r\0")


class TransportError(Exception):
    """`hint` says what helps."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Unreachable(TransportError):
    """The host can't be asked: no verdict on anything that runs there, or was just started."""


class AuthenticationRefused(Unreachable):
    """The host answers, and takes none of the user's keys."""


class HostKeyUnknown(Unreachable):
    """Nobody has said yet that the host is the one that answers; `fingerprint` is that of its key."""

    def __init__(self, message: str, hint: str, fingerprint: str) -> None:
        super().__init__(message, hint)
        self.fingerprint = fingerprint


class HostKeyChanged(Unreachable):
    """Another key answers than the one that is known: another machine, or somebody between."""


class ConfigurationBroken(TransportError):
    """A file of the user's own about the host can't be read or used."""


class Exit(msgspec.Struct, frozen=True):
    """How a process ended: its code, or the signal's name without `SIG`. 127: there is no such program."""

    code: int | None
    signal: str | None = None


class Done(msgspec.Struct, frozen=True):
    """A process that has ended: all of its output, and the end of what it said on stderr."""

    exit: Exit
    output: bytes
    said: bytes


class Process(Protocol):
    """A running process. Its input and output are bounded by whoever reads: neither end can fill memory."""

    @property
    def said(self) -> bytes:
        """The end of its stderr so far."""

    async def send(self, data: bytes) -> None:
        """Give it input; returns when it is on its way. What a process that is gone doesn't read is dropped."""

    async def end_input(self) -> None:
        """There is no more input."""

    async def receive(self, most: int = CHUNK_BYTES) -> bytes:
        """Some of its output; b"" when there is no more."""

    async def wait(self) -> Exit:
        """Its end. Output that nobody has received is dropped."""


class Channel(Protocol):
    """A way to a host. Everything here raises `Unreachable` when there is no way (any more)."""

    @property
    def identity(self) -> str:
        """Who has proved to be at the other end: another one than before is another host. "" where nobody has to."""

    def process(self, argv: Sequence[str]) -> AbstractAsyncContextManager[Process]:
        """Start an argv, as it is: no shell has a say in its words. It is ended when its context is left.

        Raises ValueError for words that some shell on the way would change (quotes, backslashes, line breaks): what
        holds a user's text travels as input.
        """

    async def aclose(self) -> None:
        """End the connection and every process on it."""


def check_literal(argv: Sequence[str]) -> None:
    """Raises ValueError unless every login shell takes these words literally between single quotes."""
    for word in argv:
        if not _NEVER_LITERAL.isdisjoint(word):
            raise ValueError(f"not a word for an argv: {word!r}")
    if not argv or not argv[0]:
        raise ValueError("an argv begins with a program")


@asynccontextmanager
async def beside(listen: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Does this while the body runs, and no longer. An error of the body leaves as it is, in no group."""
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        try:
            yield
        except Exception as error:
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def run(channel: Channel, argv: Sequence[str], data: bytes = b"", *, most: int = 16 * 1024 * 1024) -> Done:
    """Start an argv with this input and wait for its end; raises ValueError if it prints more than `most` bytes."""
    output = bytearray()
    async with channel.process(argv) as process:

        async def feed() -> None:
            with suppress(Unreachable):  # whoever receives hears of it
                await process.send(data)
                await process.end_input()

        async with beside(feed):
            while chunk := await process.receive():
                output += chunk
                if len(output) > most:
                    raise ValueError(f"`{argv[0]}` prints more than {most} bytes")
            end = await process.wait()
        return Done(end, bytes(output), process.said)
