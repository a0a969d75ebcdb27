"""Every kind of channel, for tests that say the same of all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from runctl.transports.interface import Channel
from runctl.transports.ssh import Address, connect
from runctl.transports.subprocesses import LocalChannel

from .sshd import serving

PATIENCE = 30.0


@contextlib.asynccontextmanager
async def _subprocess(place: Path) -> AsyncIterator[Channel]:
    yield LocalChannel()


@contextlib.asynccontextmanager
async def _ssh(place: Path) -> AsyncIterator[Channel]:
    async with serving(place) as sshd:
        channel = await connect(Address("box"), config=[sshd.config])
        try:
            yield channel
        finally:
            await channel.aclose()


Tried = Callable[[Callable[[Channel], Awaitable[None]]], None]


@pytest.fixture(params=[_subprocess, _ssh], ids=["subprocess", "ssh"])
def tried(request: pytest.FixtureRequest, tmp_path: Path) -> Tried:
    """Runs a body with a channel."""

    def runs(body: Callable[[Channel], Awaitable[None]]) -> None:
        async def main() -> None:
            async with request.param(tmp_path) as channel:
                with anyio.fail_after(PATIENCE):
                    await body(channel)

        asyncio.run(main())

    return runs
