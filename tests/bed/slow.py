"""A slow way to a host: a proxy on this machine that hands on each byte late, and only so many in a second.

The kernel's own means, netem, isn't in every kernel.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 16 * 1024
# What is on its way at most, in chunks: a sender is then held back, as by a window of TCP.
ON_THE_WAY = 64


class SlowLink:
    """Where it listens is `address` and `port`. `delay` (seconds, one way) and `rate` (bytes a second in each
    direction, 0 without a bound) may be changed while it is used."""

    def __init__(self, target: tuple[str, int], delay: float, rate: float) -> None:
        self.target, self.delay, self.rate = target, delay, rate
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address, self.port = self._listening.getsockname()
        self._closing = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """With every connection through it."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._connect(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        async with await asyncio.start_server(connected, sock=self._listening):
            await self._closing.wait()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connect(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        sinks = [to_near]
        try:
            far, to_far = await asyncio.open_connection(*self.target)
            sinks.append(to_far)
            await asyncio.gather(self._hand_on(near, to_far), self._hand_on(far, to_near))
        except OSError:
            pass
        finally:
            for sink in sinks:
                sink.transport.abort()

    async def _hand_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """One task dates what comes, another one hands it on when it is due: what is late holds nothing else up."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(ON_THE_WAY)
        reading = asyncio.create_task(self._read(source, line))
        try:
            while (chunk := await line.get())[1]:
                came, data = chunk
                await asyncio.sleep(came + self.delay - self._loop.time())
                sink.write(data)
                await sink.drain()
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
            sink.write_eof()
        finally:
            reading.cancel()

    async def _read(self, source: asyncio.StreamReader, line: asyncio.Queue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                await line.put((self._loop.time(), data))
        await line.put((self._loop.time(), b""))


@contextmanager
def slow_link(target: tuple[str, int], delay: float = 0.0, rate: float = 0.0) -> Iterator[SlowLink]:
    link = SlowLink(target, delay, rate)
    try:
        yield link
    finally:
        link.close()
