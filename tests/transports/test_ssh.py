"""A host over SSH as OpenSSH treats it: who is let in, whom we trust, and what a lost connection says."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import asyncssh
import pytest

from runctl.transports.interface import (
    AuthenticationRefused,
    ConfigurationBroken,
    HostKeyChanged,
    HostKeyUnknown,
    TransportError,
    Unreachable,
    run,
)
from runctl.transports.ssh import CIPHER, Address, SshChannel, connect

from .sshd import Sshd, serving

BOX = Address("box")


def tried(place: Path, body: Callable[[Sshd], Awaitable[None]], **options: Any) -> None:
    """Runs a body beside a server."""

    async def main() -> None:
        async with serving(place, **options) as sshd:
            with anyio.fail_after(30):
                await body(sshd)

    asyncio.run(main())


async def says_hello(sshd: Sshd, address: Address = BOX, **options: Any) -> SshChannel:
    channel = await connect(address, config=[sshd.config], **options)
    assert (await run(channel, ["/bin/echo", "hello"])).output == b"hello\n"
    await channel.aclose()
    return channel


async def refused(sshd: Sshd, kind: type[TransportError], address: Address = BOX, **options: Any) -> Any:
    with pytest.raises(kind) as caught:
        await says_hello(sshd, address, **options)
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("box", Address("box")),
        ("me@box", Address("box", "me")),
        ("me@box:2222", Address("box", "me", 2222)),
        ("me@mail@box", Address("box", "me@mail")),
        ("[fe80::1]:22", Address("fe80::1", None, 22)),
        ("fe80::1", Address("fe80::1")),
        *(
            (text, None)
            for text in ("", "@box", "me@", "box:", "box:ssh", "box:0", "box:70000", "-oProxyCommand=x", "me@-x")
        ),
    ],
)
def test_a_host_as_it_is_named(text: str, address: Address | None) -> None:
    """What isn't one is refused before anybody is called; an option of somebody's `ssh` is none."""
    if address is None:
        with pytest.raises(ValueError, match="not a host"):
            Address.parse(text)
    else:
        assert Address.parse(text) == address
        assert Address.parse(str(address)) == address


def test_the_user_s_configuration_says_how(tmp_path: Path) -> None:
    """Alias, name, port, user, key and known hosts are its; the cipher is one that hardware does."""

    async def body(sshd: Sshd) -> None:
        channel = await says_hello(sshd)
        assert channel.cipher == CIPHER
        assert sshd.connections[-1].get_extra_info("username") == "trainer"
        await says_hello(sshd, Address("box", "somebody"))
        assert sshd.connections[-1].get_extra_info("username") == "somebody"
        sshd.configure(Ciphers="aes256-ctr")
        assert (await says_hello(sshd)).cipher == "aes256-ctr"

    tried(tmp_path, body)


def test_a_host_behind_another(tmp_path: Path) -> None:
    """`ProxyJump`, with a key of its own for each."""

    async def body(jump: Sshd) -> None:
        async with serving(tmp_path / "inner", "inner") as inner:
            inner.configure(ProxyJump="box")
            inner.config.write_text(inner.config.read_text() + jump.config.read_text())
            await says_hello(inner, Address("inner"))
            assert len(jump.connections) == 1
            jump.known_hosts.unlink()
            error = await refused(inner, HostKeyUnknown, Address("inner"))
            assert "box isn't known yet" in str(error)
            assert jump.key.get_fingerprint() in str(error)

            await says_hello(inner, Address("inner"), trust=yes)
            await says_hello(inner, Address("inner"))
            inner.known_hosts.write_text(f"[127.0.0.1]:{inner.port} ssh-ed25519 {_another_key()}\n")
            await refused(inner, HostKeyChanged, Address("inner"), trust=yes)

    tried(tmp_path, body)


def test_a_host_that_is_not_known(tmp_path: Path) -> None:
    """Refused with its fingerprint and what to do, unless a person says that it is the one; then it is known."""

    async def body(sshd: Sshd) -> None:
        sshd.known_hosts.write_text("other.example ssh-ed25519 " + _another_key() + "\n# the end, without a line end")
        error = await refused(sshd, HostKeyUnknown)
        assert sshd.key.get_fingerprint() in str(error)
        assert f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {sshd.known_hosts}" in error.hint
        asked: list[tuple[str, ...]] = []

        async def no(*what: str) -> bool:
            asked.append(what)
            return False

        await refused(sshd, HostKeyUnknown, trust=no)
        assert asked == [("box", "ssh-ed25519", sshd.key.get_fingerprint())]

        await says_hello(sshd, trust=yes)
        await says_hello(sshd)
        assert len(sshd.known_hosts.read_text().splitlines()) == 3
        assert len(sshd.lines) == 2

    tried(tmp_path, body)


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
def test_a_host_key_that_has_changed(tmp_path: Path, algorithm: str) -> None:
    """Always an error, whoever is asked, with where the old one stands; also one of another type."""

    async def body(sshd: Sshd) -> None:
        old = asyncssh.generate_private_key(algorithm).export_public_key().decode()
        sshd.known_hosts.write_text(f"# mine\n[127.0.0.1]:{sshd.port} {old}")

        error = await refused(sshd, HostKeyChanged, trust=yes)
        assert f"{sshd.known_hosts}:2" in str(error)
        assert sshd.key.get_fingerprint() in str(error)
        assert not sshd.lines

    tried(tmp_path, body)


async def nothing_runs(sshd: Sshd) -> None:
    with anyio.fail_after(20):
        while sshd.running:
            await anyio.sleep(0.02)


def _believes(monkeypatch: pytest.MonkeyPatch, home: Path, sshd: Sshd) -> None:
    """A user whose usual file knows the host."""
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "known_hosts").write_bytes(sshd.known_hosts.read_bytes())
    monkeypatch.setenv("HOME", str(home))


async def yes(*what: str) -> bool:
    return True


@pytest.mark.parametrize("names", ["none", "an empty file"])
def test_no_file_of_known_hosts_trusts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    """`UserKnownHostsFile none` is OpenSSH's way to know no host: it is no way to trust all of them, or those that
    another file knows. Nor is there where to write down a new one."""

    async def body(sshd: Sshd) -> None:
        _believes(monkeypatch, tmp_path / "home", sshd)
        (tmp_path / "empty").touch()
        sshd.configure(UserKnownHostsFile="none" if names == "none" else str(tmp_path / "empty"))
        await refused(sshd, HostKeyUnknown)
        if names == "none":
            assert "name a file" in (await refused(sshd, HostKeyUnknown, trust=yes)).hint
        else:
            await says_hello(sshd, trust=yes)

    tried(tmp_path, body)


def test_an_address_is_no_name(tmp_path: Path) -> None:
    """A machine that is known by its address doesn't answer for a host that is known by another key; names can be
    forged."""

    async def body(sshd: Sshd) -> None:
        known = sshd.known_hosts.read_text()
        sshd.known_hosts.write_text(f"[localhost]:{sshd.port} ssh-ed25519 {_another_key()}\n{known}")
        sshd.configure(HostName="localhost")
        await refused(sshd, HostKeyChanged)
        sshd.known_hosts.write_text(f"the-box ssh-ed25519 {_another_key()}\n{known}")
        sshd.configure(HostKeyAlias="the-box")
        await refused(sshd, HostKeyChanged)

    tried(tmp_path, body)


def test_an_alias_is_a_name_of_its_own(tmp_path: Path) -> None:
    """It is known without the port, and found again."""

    async def body(sshd: Sshd) -> None:
        sshd.known_hosts.unlink()
        sshd.configure(HostKeyAlias="the-box")
        await says_hello(sshd, trust=yes)
        assert sshd.known_hosts.read_text().startswith("the-box ssh-ed25519 ")
        await says_hello(sshd)

    tried(tmp_path, body)


def test_a_revoked_key_is_never_trusted(tmp_path: Path) -> None:
    """Whoever is asked; and nothing is written."""

    async def body(sshd: Sshd) -> None:
        known = f"@revoked {sshd.known_hosts.read_text()}"
        sshd.known_hosts.write_text(known)
        assert "revoked" in str(await refused(sshd, HostKeyChanged, trust=yes))
        assert sshd.known_hosts.read_text() == known

    tried(tmp_path, body)


def test_a_way_that_leads_to_itself(tmp_path: Path) -> None:
    """`ProxyJump` for all hosts, that host included."""

    async def body(sshd: Sshd) -> None:
        sshd.configure(ProxyJump="box")
        assert "through box itself" in str(await refused(sshd, ConfigurationBroken))

    tried(tmp_path, body)


def test_whoever_is_cancelled_while_a_process_starts_leaves_none(tmp_path: Path) -> None:
    """At whatever moment that is."""

    async def body(sshd: Sshd) -> None:
        channel = await connect(BOX, config=[sshd.config])

        async def starts() -> None:
            async with channel.process(["/bin/sleep", "600"]):
                await anyio.sleep(600)

        for turns in range(1, 30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(starts)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        await nothing_runs(sshd)
        await channel.aclose()

    tried(tmp_path, body)


def test_noise_before_its_number_hides_no_process(tmp_path: Path) -> None:
    """A login shell may say what it likes, with or without a line end; and what it says is kept."""

    async def body(sshd: Sshd) -> None:
        sshd.greeting = b"welcome"
        channel = await connect(BOX, config=[sshd.config])
        done = await run(channel, ["/bin/sh", "-c", "echo oops >&2"])
        assert done.said == b"welcomeoops\n"
        async with channel.process(["/bin/sleep", "600"]):
            pass
        await nothing_runs(sshd)
        await channel.aclose()

    tried(tmp_path, body)


def test_a_wrong_key(tmp_path: Path) -> None:
    """Nobody is asked for a password."""

    async def body(sshd: Sshd) -> None:
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(sshd.place / "id")
        error = await refused(sshd, AuthenticationRefused)
        assert "none of your keys" in str(error)
        assert "ssh box true" in error.hint

    tried(tmp_path, body)


def test_nobody_listens(tmp_path: Path) -> None:
    """Unreachable, with the reason."""

    async def body(sshd: Sshd) -> None:
        await sshd.stop()
        assert "refused" in str(await refused(sshd, Unreachable)).lower()
        sshd.configure(HostName="no-such-host.invalid")
        assert "box can't be reached" in str(await refused(sshd, Unreachable))

    tried(tmp_path, body)


@pytest.mark.parametrize(
    ("option", "value"), [("Port", "many"), ("IdentityFile", "/nowhere/id"), ("UserKnownHostsFile", "{broken}")]
)
def test_files_of_the_user_s_that_are_broken(tmp_path: Path, option: str, value: str) -> None:
    """An error that says which host and why, and no call."""

    async def body(sshd: Sshd) -> None:
        broken = tmp_path / "broken"
        broken.write_text("box ssh-ed25519 !!!\n|1|nonsense ssh-rsa AAAA\n")
        sshd.configure(**{option: value.format(broken=broken)})
        with pytest.raises((ConfigurationBroken, AuthenticationRefused, HostKeyUnknown)) as caught:
            await says_hello(sshd)
        assert "box" in str(caught.value)

    tried(tmp_path, body)


@pytest.mark.parametrize("how", ["cut", "frozen"])
def test_a_lost_connection_is_no_verdict(tmp_path: Path, how: str) -> None:
    """Whoever waits hears that the host can't be asked, never that the process ended; and so does the next call."""

    async def body(sshd: Sshd) -> None:
        channel = await connect(BOX, config=[sshd.config], keepalive=0.2)
        async with channel.process([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"]) as it:
            assert await it.receive() != b""
            if how == "cut":
                sshd.vanish()
            else:
                for connection in sshd.connections:
                    connection._transport.pause_reading()
            with pytest.raises(Unreachable, match="may still run"):
                await it.wait()
        with pytest.raises(Unreachable):
            await run(channel, ["/bin/echo", "hello"])

    tried(tmp_path, body)


def _another_key() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split()[1]


def test_the_users_own_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody names another one: addresses, keys and known hosts come from it."""

    async def body(sshd: Sshd) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "user"))
        (tmp_path / "user" / ".ssh").mkdir(parents=True)
        (tmp_path / "user" / ".ssh" / "config").write_text(sshd.config.read_text())
        channel = await connect(BOX)
        assert (await run(channel, ["/bin/echo", "hello"])).output == b"hello\n"
        await channel.aclose()

    tried(tmp_path, body)
