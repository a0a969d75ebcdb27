"""The channel to a host over SSH, as OpenSSH would reach it: the user's own configuration, agent, keys and known hosts.

One connection carries every process of a host. The only file that knows asyncssh.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import anyio
import asyncssh
import msgspec

from runctl.transports.interface import (
    CHUNK_BYTES,
    SAID_BYTES,
    AuthenticationRefused,
    ConfigurationBroken,
    Exit,
    HostKeyChanged,
    HostKeyUnknown,
    Unreachable,
    beside,
    check_literal,
)

CONNECT_SECONDS = 20.0
END_SECONDS = 5.0
# A peer that doesn't answer three times in a row is gone.
KEEPALIVE_SECONDS = 15.0
KEEPALIVES = 3
# In hardware on anything that trains: half the processor time of the library's own first choice.
CIPHER = "aes128-gcm@openssh.com"
# What the first says of a host counts.
CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


class Address(msgspec.Struct, frozen=True):
    """A host as the user names it: an alias of his configuration, or a name or address."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """`[user@]host[:port]`; an IPv6 address with a port in brackets. Raises ValueError."""
        user, at, rest = text.rpartition("@")
        host, colon, port = rest.rpartition(":")
        if rest.startswith("[") and "]" in rest:
            host, _, after = rest[1:].partition("]")
            colon, port = after[:1], after[1:]
        elif not colon or rest.count(":") > 1:
            host, colon, port = rest, "", ""
        if not host or host.startswith("-") or (at and not user) or (colon and not _is_port(port)):
            raise ValueError(f"not a host: {text!r}")
        return cls(host, user or None, int(port) if port else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


def _is_port(text: str) -> bool:
    return text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16


# Whether a person says that a host with this key is the one that is meant: its address, the key's type and fingerprint.
Trust = Callable[[str, str, str], Awaitable[bool]]


class _Known(msgspec.Struct, frozen=True):
    """What OpenSSH knows of one host, under the `name` and port by which the user reaches it, in all of these files. An
    address isn't a name: who is known by one may answer for another, where names can be forged.

    `port` is None under an alias, which is a name of its own. New keys go to `own`, the user's first file.
    """

    name: str
    port: int | None
    paths: tuple[Path, ...]
    own: Path | None

    @property
    def _names(self) -> list[str]:
        """As they stand in the files, the one that is written first."""
        return [f"[{self.name}]:{self.port}", self.name] if self.has_port else [self.name]

    @property
    def has_port(self) -> bool:
        return self.port not in (None, asyncssh.DEFAULT_PORT)

    def match(self, *_: object) -> tuple[Sequence[Any], ...]:
        """As asyncssh asks, whatever address has answered."""
        return self._in(b"\n".join(text for _, text in self._texts()))

    def _in(self, text: bytes) -> tuple[Sequence[Any], ...]:
        """Keys, authorities, revoked keys, and the rest; those without the port, where there are none with it. What is
        revoked is so in any case."""
        found = [asyncssh.match_known_hosts(text, name, "", None) for name in self._names]
        keys, authorities, _, *rest = next((each for each in found if each[0] or each[1]), found[0])
        return (keys, authorities, [key for each in found for key in each[2]], *rest)

    def _texts(self) -> list[tuple[Path, bytes]]:
        found = []
        for path in self.paths:
            with suppress(OSError):
                found.append((path, path.read_bytes()))
        return found

    def where(self) -> str:
        """File and line of the first key that is known of the host; "" if none is."""
        for path, text in self._texts():
            for number, line in enumerate(text.splitlines(), 1):
                try:
                    keys, authorities, *_ = self._in(line + b"\n")
                except ValueError as error:
                    raise ConfigurationBroken(f"{path}:{number}: {error}") from None
                if keys or authorities:
                    return f"{path}:{number}"
        return ""

    def is_revoked(self, key: asyncssh.SSHKey) -> bool:
        return any(each.public_data == key.public_data for each in self.match()[2])

    def add(self, key: asyncssh.SSHKey) -> None:
        assert self.own is not None
        line = b" ".join((self._names[0].encode(), *key.export_public_key().split()[:2])) + b"\n"
        try:
            self.own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(self.own, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
                whole = file.read()
                file.write(line if not whole or whole.endswith(b"\n") else b"\n" + line)
        except OSError as error:
            raise ConfigurationBroken(f"the host's key can't be added to `{self.own}`: {error.strerror}") from None


async def connect(
    address: Address,
    *,
    trust: Trust | None = None,
    config: Sequence[Path] | None = None,
    keepalive: float = KEEPALIVE_SECONDS,
    via: SshChannel | None = None,
    through: frozenset[Address] = frozenset(),
) -> SshChannel:
    """Reach a host, over those between that the user's configuration names, or over `via`. `config`: instead of his own
    and the system's. `trust` is asked about a host that is not known yet; without it, such a host is refused.
    `through`: hosts that are on the way already. Raises `Unreachable` and `ConfigurationBroken`."""
    if address in through:
        raise ConfigurationBroken(f"the SSH configuration leads to {address} through {address} itself")
    # The library reads none by itself where options are made first.
    usual = [path for path in map(Path, map(os.path.expanduser, CONFIGS)) if os.access(path, os.R_OK)]
    given: dict[str, Any] = {"config": [str(path) for path in (usual if config is None else config)]}
    options = await _options(address, given, keepalive)
    try:
        if via is None and isinstance(options.tunnel, str):
            for hop in options.tunnel.split(","):
                via = await connect(
                    _hop(address, hop),
                    trust=trust,
                    config=config,
                    keepalive=keepalive,
                    via=via,
                    through=through | {address},
                )
        way = _Way(
            address, options, _known_hosts(address, options), {**given, "tunnel": via.connection if via else None}
        )
        return SshChannel(str(address), await _connection(way, trust), via)
    except BaseException:
        if via is not None:
            await via.aclose()
        raise


def _hop(address: Address, text: str) -> Address:
    try:
        return Address.parse(text.strip().removeprefix("ssh://"))
    except ValueError as error:
        raise ConfigurationBroken(f"the SSH configuration for {address}: ProxyJump: {error}") from None


class _Way(msgspec.Struct, frozen=True):
    """How a host is reached: `given` goes with each call."""

    address: Address
    options: asyncssh.SSHClientConnectionOptions
    known: _Known
    given: dict[str, Any]


async def _connection(way: _Way, trust: Trust | None) -> asyncssh.SSHClientConnection:
    """To a host that is the one that is meant."""
    try:
        return await _connect(way)
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
        key = await _key_of(way)
        if key is None:
            raise Unreachable(f"{way.address} can't be reached: {error.reason}") from None
        if way.known.is_revoked(key):
            raise _changed(way, f"it answers with a key that is revoked: {_shown(key)}") from None
        where = way.known.where()
        if where:
            raise _changed(way, f"its key is another one than {where} says; it answers with {_shown(key)}") from None
        if trust is None or way.known.own is None:
            raise _unknown(way, key) from None
        if not await trust(str(way.address), key.get_algorithm(), key.get_fingerprint()):
            raise _unknown(way, key) from None
        way.known.add(key)
        try:
            return await _connect(way)
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed):
            raise _changed(way, "it answered with another key a moment ago") from None


async def _options(address: Address, given: dict[str, Any], keepalive: float) -> asyncssh.SSHClientConnectionOptions:
    more: dict[str, Any] = {}
    if address.user is not None:
        more["username"] = address.user
    if address.port is not None:
        more["port"] = address.port
    try:
        options: asyncssh.SSHClientConnectionOptions = await asyncssh.SSHClientConnectionOptions.construct(
            host=address.host,
            connect_timeout=CONNECT_SECONDS,
            login_timeout=CONNECT_SECONDS,
            keepalive_interval=keepalive,
            keepalive_count_max=KEEPALIVES,
            **given,
            **more,
        )
    except (asyncssh.ConfigParseError, asyncssh.KeyImportError, OSError, ValueError) as error:
        raise ConfigurationBroken(f"the SSH configuration for {address} can't be used: {error}") from None
    return options


def _known_hosts(address: Address, options: asyncssh.SSHClientConnectionOptions) -> _Known:
    alias = options.config.get("HostKeyAlias")
    name = alias or options.config.get("Hostname") or address.host
    users = _paths(address, options, "UserKnownHostsFile", KNOWN_HOSTS)
    everybodys = _paths(address, options, "GlobalKnownHostsFile", GLOBAL_KNOWN_HOSTS)
    port = None if alias else int(options.port or asyncssh.DEFAULT_PORT)
    return _Known(str(name), port, (*users, *everybodys), users[0] if users else None)


def _paths(
    address: Address, options: asyncssh.SSHClientConnectionOptions, option: str, usual: Sequence[str]
) -> tuple[Path, ...]:
    names = [str(name) for name in cast(Sequence[object], options.config.get(option, usual))]
    try:
        return tuple(Path(name).expanduser() for name in names if name.lower() != "none")
    except RuntimeError as error:
        raise ConfigurationBroken(f"the SSH configuration for {address}: {option}: {error}") from None


async def _connect(way: _Way) -> asyncssh.SSHClientConnection:
    address, options = way.address, way.options
    more: dict[str, Any] = {} if options.config.get("Ciphers") else {"encryption_algs": f"^{CIPHER}"}
    try:
        return await asyncssh.connect(address.host, options=options, known_hosts=way.known.match, **way.given, **more)
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed):
        raise
    except asyncssh.PermissionDenied as error:
        raise AuthenticationRefused(
            f"{address} takes none of your keys: {error.reason}",
            f"`ssh {address} true` must work without a question: add your key there, or name it in ~/.ssh/config",
        ) from None
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise Unreachable(f"{address} can't be reached: {_said(error)}") from None
    except ValueError as error:
        raise ConfigurationBroken(f"the known hosts for {address} can't be read: {error}") from None


async def _key_of(way: _Way) -> asyncssh.SSHKey | None:
    """The key with which a host answers now, whoever that is."""
    with suppress(asyncssh.Error, OSError, TimeoutError, ValueError):
        return await asyncssh.get_server_host_key(way.address.host, options=way.options, **way.given)
    return None


def _shown(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _changed(way: _Way, how: str) -> HostKeyChanged:
    return HostKeyChanged(
        f"{way.address} is not the host that it was: {how}",
        "it may be another machine, or somebody between. Ask whoever runs it; if it was set up anew, remove that line",
    )


def _unknown(way: _Way, key: asyncssh.SSHKey) -> HostKeyUnknown:
    known = way.known
    port = f"-p {known.port} " if known.has_port else ""
    hint = f"compare that with what the host's owner says, then: ssh-keyscan {port}{known.name} >> {known.own}"
    if known.own is None:
        hint = "name a file in `UserKnownHostsFile`: without one, no host can be known"
    return HostKeyUnknown(f"{way.address} isn't known yet: its key is {_shown(key)}", hint, _shown(key))


def _said(error: BaseException) -> str:
    if isinstance(error, asyncssh.Error):
        return error.reason
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(getattr(error, "strerror", None) or error)


# A process tells its number before it becomes the program. It leads a session there, so that it can be ended with all
# that it started: a server hands on no signals to one who logs in as root.
_TELLS = 'echo >&2; echo "runctl-pid $$" >&2; exec "$@"'
_TOLD = re.compile(rb"\nrunctl-pid ([0-9]{1,10})\n")
_ENDS = 'kill -s KILL -- "-$1" || kill -s KILL "$1"'


def _line(argv: Sequence[str]) -> str:
    """For whatever login shell: it becomes the argv."""
    return "exec " + " ".join(f"'{word}'" for word in argv)


class _Process:
    def __init__(self, name: str, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._name = name
        self._process = process
        self._said = bytearray()
        self._pid = anyio.Event()
        self._listening = anyio.CancelScope(shield=True)
        self.pid: int | None = None

    @property
    def said(self) -> bytes:
        return bytes(self._said)

    async def listen(self) -> None:
        """Until `deafen`, whoever is cancelled meanwhile: what isn't known by its number can't be ended."""
        with self._listening, suppress(asyncssh.Error, OSError):
            while chunk := await self._process.stderr.read(CHUNK_BYTES):
                self._said += chunk
                if self.pid is None and (told := _TOLD.search(self._said)):
                    self.pid = int(told[1])
                    del self._said[told.start() : told.end()]
                    self._pid.set()
                del self._said[:-SAID_BYTES]
        self._pid.set()

    def deafen(self) -> None:
        self._listening.cancel()

    async def is_running(self) -> bool:
        """Whether it may run, once its number is known."""
        await self._pid.wait()
        return self.pid is not None and self._process.exit_status is None and self._process.exit_signal is None

    async def send(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), CHUNK_BYTES):
                self._process.stdin.write(data[start : start + CHUNK_BYTES])
                await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from None

    async def end_input(self) -> None:
        with suppress(OSError):
            self._process.stdin.write_eof()

    async def receive(self, most: int = CHUNK_BYTES) -> bytes:
        try:
            return await self._process.stdout.read(most)
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from None

    async def wait(self) -> Exit:
        while await self.receive():
            pass
        await self._process.wait_closed()
        killed = self._process.exit_signal
        if killed is not None:
            return Exit(None, killed[0])
        if self._process.exit_status is None:
            raise self._lost(None)
        return Exit(self._process.exit_status)

    def _lost(self, error: BaseException | None) -> Unreachable:
        why = f": {_said(error)}" if error is not None else ""
        return Unreachable(f"the connection to {self._name} is lost{why}; what ran there may still run")


class SshChannel:
    """One connection to a host, and those to the hosts between."""

    def __init__(self, name: str, connection: asyncssh.SSHClientConnection, via: SshChannel | None) -> None:
        self._name = name
        self.connection = connection
        self._via = via

    @property
    def identity(self) -> str:
        key = self.connection.get_server_host_key()
        return "" if key is None else str(key.get_fingerprint())

    @property
    def cipher(self) -> str:
        return str(self.connection.get_extra_info("send_cipher"))

    def process(self, argv: Sequence[str]) -> AbstractAsyncContextManager[_Process]:
        check_literal(argv)
        return self._process(_line(["/bin/sh", "-c", _TELLS, "sh", *argv]))

    @asynccontextmanager
    async def _process(self, line: str) -> AsyncIterator[_Process]:
        process = None
        try:
            # Cancelled in the midst of it, nobody would own what was started.
            with anyio.CancelScope(shield=True), anyio.move_on_after(CONNECT_SECONDS):
                process = await self.connection.create_process(line, encoding=None)
        except (asyncssh.Error, OSError) as error:
            raise Unreachable(f"{self._name}: {_said(error)}") from None
        if process is None:
            raise Unreachable(f"{self._name} starts nothing within {CONNECT_SECONDS:.0f} s")
        ours = _Process(self._name, process)
        try:
            async with beside(ours.listen):
                try:
                    yield ours
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(END_SECONDS):
                        if await ours.is_running():
                            await self._end(ours)
                    ours.deafen()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(END_SECONDS):
                process.close()
                await process.wait_closed()

    async def _end(self, process: _Process) -> None:
        with suppress(asyncssh.Error, OSError):
            await self.connection.run(_line(["/bin/sh", "-c", _ENDS, "sh", str(process.pid)]), encoding=None)

    async def aclose(self) -> None:
        self.connection.close()
        with anyio.CancelScope(shield=True), anyio.move_on_after(END_SECONDS):
            await self.connection.wait_closed()
        if self._via is not None:
            await self._via.aclose()
