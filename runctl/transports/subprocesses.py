"""The channel to this computer: processes of its own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import anyio
import anyio.abc
import anyio.lowlevel

from runctl.transports.interface import CHUNK_BYTES, SAID_BYTES, Exit, Unreachable, beside, check_literal

END_SECONDS = 5.0
# The event loop takes a process that has ended apart in its next turns.
CLOSING_TURNS = 4


class _Process:
    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._said = bytearray()

    @property
    def said(self) -> bytes:
        return bytes(self._said)

    async def listen(self) -> None:
        assert self._process.stderr is not None
        async for chunk in self._process.stderr:
            self._said += chunk
            del self._said[:-SAID_BYTES]

    async def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._process.stdin.send(data)

    async def end_input(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            await self._process.stdin.aclose()

    async def receive(self, most: int = CHUNK_BYTES) -> bytes:
        assert self._process.stdout is not None
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            return await self._process.stdout.receive(most)
        return b""

    async def wait(self) -> Exit:
        async with beside(self._drop_output):
            code = await self._process.wait()
        return Exit(code) if code >= 0 else Exit(None, _name_of(-code))

    async def _drop_output(self) -> None:
        while await self.receive():
            pass


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


class _Missing:
    """A program that isn't there, or can't be started: as a shell would say it."""

    def __init__(self, said: str, code: int) -> None:
        self.said = said.encode()
        self._code = code

    async def send(self, data: bytes) -> None:
        pass

    async def end_input(self) -> None:
        pass

    async def receive(self, most: int = CHUNK_BYTES) -> bytes:
        return b""

    async def wait(self) -> Exit:
        return Exit(self._code)


class LocalChannel:
    """Starts processes here, each in a session of its own."""

    identity = ""

    def process(self, argv: Sequence[str]) -> AbstractAsyncContextManager[_Process | _Missing]:
        check_literal(argv)
        return self._process(argv)

    @asynccontextmanager
    async def _process(self, argv: Sequence[str]) -> AsyncIterator[_Process | _Missing]:
        try:
            process = await anyio.open_process(argv, stderr=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM):
                raise Unreachable(f"this machine can't start a process: {error.strerror}") from None
            code = 127 if isinstance(error, FileNotFoundError | NotADirectoryError) else 126
            yield _Missing(f"{argv[0]}: {error.strerror}", code)
            return
        ours = _Process(process)
        try:
            async with beside(ours.listen):
                yield ours
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(END_SECONDS):
                if process.returncode is None:  # else the number may be another's by now
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                await process.aclose()
                for _ in range(CLOSING_TURNS):
                    await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        pass
