"""An SSH server on this computer that runs real processes through a shell, as a host's own does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh

CHUNK = 64 * 1024


class Sshd:
    """A server with one host key, which lets in one user key. `config` is a client's configuration that reaches it."""

    def __init__(self, place: Path, name: str = "box") -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place, self.name = place, name
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = 0
        self.config = place / "config"
        self.known_hosts = place / "known_hosts"
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.lines: list[str] = []
        self._server: asyncssh.SSHAcceptor | None = None
        self.running: set[asyncio.Task[None]] = set()
        # What a login shell says by itself.
        self.greeting = b""

    async def start(self, **options: Any) -> None:
        self._server = await asyncssh.listen(
            "127.0.0.1", self.port, server_host_keys=[self.key], server_factory=lambda: _Server(self),
            process_factory=self._begin, encoding=None,
            authorized_client_keys=asyncssh.import_authorized_keys(self.user_key.export_public_key().decode()),
            **options,
        )  # fmt: skip
        self.port = self._server.get_port()
        self.user_key.write_private_key(self.place / "id")
        (self.place / "id").chmod(0o600)
        self.known_hosts.write_bytes(f"[127.0.0.1]:{self.port} ".encode() + self.key.export_public_key())
        self.configure()

    def configure(self, **more: str) -> None:
        options = {
            "HostName": "127.0.0.1", "Port": str(self.port), "User": "trainer", "IdentityFile": str(self.place / "id"),
            "IdentitiesOnly": "yes", "UserKnownHostsFile": str(self.known_hosts), "GlobalKnownHostsFile": "none",
            **more,
        }  # fmt: skip
        self.config.write_text(f"Host {self.name}\n" + "".join(f"  {key} {value}\n" for key, value in options.items()))

    async def stop(self) -> None:
        if self._server is not None:
            self.vanish()
            self._server.close()
            await self._server.wait_closed()
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    def vanish(self) -> None:
        """Every connection is cut, without a word."""
        for connection in self.connections:
            connection.abort()

    def _begin(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        task = asyncio.create_task(self._run(process))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        line = process.command or ""
        self.lines.append(line)
        child = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", line, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        process.stderr.write(self.greeting)
        feeding = asyncio.create_task(_feed(process, child.stdin))
        try:
            await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
            code = await child.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
            raise
        finally:
            feeding.cancel()
            child._transport.close()  # type: ignore[attr-defined]
        if code < 0:
            process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
        else:
            process.exit(code)


async def _feed(process: asyncssh.SSHServerProcess[bytes], stdin: asyncio.StreamWriter) -> None:
    while True:
        try:
            data = await process.stdin.read(CHUNK)
        except asyncssh.SignalReceived:
            continue  # OpenSSH does nothing for who logs in as root
        except (asyncssh.Error, OSError):
            data = b""
        if not data:
            stdin.close()
            if process.stdin.at_eof() and process.channel.is_closing():
                return
            await asyncio.sleep(0.01)
            continue
        with contextlib.suppress(OSError):
            stdin.write(data)
            await stdin.drain()


async def _pump(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(CHUNK):
        with contextlib.suppress(asyncssh.Error, OSError):
            sink.write(data)
            await sink.drain()


class _Server(asyncssh.SSHServer):
    def __init__(self, sshd: Sshd) -> None:
        self._sshd = sshd

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._sshd.connections.append(conn)

    def connection_requested(self, *_: Any) -> bool:
        return True  # it may be a jump host


@contextlib.asynccontextmanager
async def serving(place: Path, name: str = "box", **options: Any) -> AsyncIterator[Sshd]:
    sshd = Sshd(place, name)
    await sshd.start(**options)
    try:
        yield sshd
    finally:
        await sshd.stop()


async def _serve_until_input_ends(place: Path) -> None:
    """A server in a process of its own: it says on stdout when it can be reached, and again when it was cut.

    A line on stdin cuts every connection; the end of it is the server's.
    """
    async with serving(place) as sshd:
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            sshd.vanish()
            print("cut", flush=True)


if __name__ == "__main__":
    asyncio.run(_serve_until_input_ends(Path(sys.argv[1])))
