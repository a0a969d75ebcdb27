"""A host that has an sshd and a Python gets the agent, once, and can be asked."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
from pathlib import Path

import pytest
from agent.test_lifecycle import OTHER_PYTHONS
from transports.channels import Tried

from runctl.agent.bundle import agent_files, bundle_hash
from runctl.providers.hosts.conversation import Refused, conversation
from runctl.providers.hosts.delivery import HostUnfit, install
from runctl.transports.interface import Channel, Unreachable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's, which is this computer."""
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_it_is_delivered_once(tried: Tried, home: Path) -> None:
    """By the hash of its content, whole, nobody else's to read; the second time nothing is sent."""

    async def body(channel: Channel) -> None:
        first = await install(channel, sys.executable)
        agent = home / "agents" / bundle_hash()
        assert Path(first.entry) == agent / "launch.py"
        there = {str(path.relative_to(agent)): path.read_bytes() for path in agent.rglob("*") if path.is_file()}
        assert {name: content for name, content in there.items() if "__pycache__" not in name} == agent_files()
        assert stat.S_IMODE(agent.stat().st_mode) == 0o700
        before = agent.stat().st_mtime_ns
        assert await install(channel, sys.executable) == first
        assert agent.stat().st_mtime_ns == before
        assert [path.name for path in (home / "agents").iterdir()] == [bundle_hash()]

    tried(body)


def test_it_is_asked(tried: Tried, home: Path) -> None:
    """Who it is; an attempt that isn't there; and what it doesn't know, after which it goes on."""

    async def body(channel: Channel) -> None:
        found = await install(channel, sys.executable)
        async with conversation(channel, found.serving) as host:
            hello = await host.ask("hello", home=found.home)
            assert (hello["protocol"], hello["home"], hello["uid"]) == (1, str(home), os.getuid())
            assert hello["python"] == ".".join(map(str, sys.version_info[:3]))
            for ask, about in (
                ("nonsense", {}),
                ("look", {}),
                ("look", {"run_dir": 1, "run_id": 2, "after": 3, "x": 4}),
            ):
                with pytest.raises(Refused):
                    await host.ask(ask, **about)
            facts = await host.ask("look", run_dir=f"{home}/runs/u/000001", run_id="u-1", after=0)
            assert (facts["exit"], facts["traces"], facts["guardian"]) == (None, False, [0, "gone"])

    tried(body)


@pytest.mark.parametrize("python", OTHER_PYTHONS)
def test_every_python_can_be_asked(tried: Tried, home: Path, python: str) -> None:
    """From 3.9 on."""

    async def body(channel: Channel) -> None:
        found = await install(channel, python)
        async with conversation(channel, found.serving) as host:
            assert (await host.ask("hello", home=found.home))["python"].startswith(found.version)

    tried(body)


def test_what_a_shell_prints_by_itself_is_no_answer(tried: Tried, home: Path, tmp_path: Path) -> None:
    """A greeting before, and a Python that prints something."""
    noisy = script(tmp_path / "bin" / "python3", f'echo hello from the administrator >&2\nexec {sys.executable} "$@"')

    async def body(channel: Channel) -> None:
        found = await install(channel, str(noisy))
        async with conversation(channel, found.serving) as host:
            assert (await host.ask("hello", home=found.home))["uid"] == os.getuid()

    tried(body)


def test_a_host_without_a_python(tried: Tried, home: Path, tmp_path: Path) -> None:
    """What is there is named."""
    old = script(tmp_path / "python3.6", f"echo 3.6 {tmp_path}/python3.6")

    async def body(channel: Channel) -> None:
        with pytest.raises(HostUnfit, match=f"`{old}` there is no Python 3.9 or later: `{old}` is 3.6"):
            await install(channel, str(old))
        with pytest.raises(HostUnfit, match=r"`/nowhere/python` there is no Python 3\.9 or later$"):
            await install(channel, "/nowhere/python")

    tried(body)


@pytest.mark.parametrize("lies", ["a file", "a directory of nobody's"])
def test_a_home_that_cannot_be_written(
    tried: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lies: str
) -> None:
    """Another directory that is the user's alone is taken instead."""
    instead = Path(f"/var/tmp/runctl-{os.getuid()}")
    there = instead.exists()
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "file") if lies == "a file" else "/proc/runctl")

    async def body(channel: Channel) -> None:
        found = await install(channel, sys.executable)
        assert found.home == str(instead)
        assert stat.S_IMODE(Path(found.home).stat().st_mode) == 0o700

    try:
        tried(body)
    finally:
        if not there:
            shutil.rmtree(instead, ignore_errors=True)


def test_two_at_once(tried: Tried, home: Path) -> None:
    """Both have it then, and nothing else is left."""
    import anyio

    async def body(channel: Channel) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(install, channel, sys.executable)
        assert [path.name for path in (home / "agents").iterdir()] == [bundle_hash()]

    tried(body)


@pytest.mark.parametrize("lost", ["launch.py", "runctl/agent/hostside.py"])
def test_one_that_was_swept_is_repaired(tried: Tried, home: Path, lost: str) -> None:
    """Directories for temporary files are cleaned up file by file."""

    async def body(channel: Channel) -> None:
        found = await install(channel, sys.executable)
        Path(found.entry).parent.joinpath(lost).unlink()
        assert await install(channel, sys.executable) == found
        async with conversation(channel, found.serving) as host:
            assert (await host.ask("hello", home=found.home))["uid"] == os.getuid()
        assert [path.name for path in (home / "agents").iterdir()] == [bundle_hash()]

    tried(body)


def test_large_questions_of_several_at_once(tried: Tried, home: Path) -> None:
    """Each is answered, also after one who asked has gone in the midst of it."""
    import anyio

    async def body(channel: Channel) -> None:
        found = await install(channel, sys.executable)
        async with conversation(channel, found.serving) as host:

            async def asks(size: int) -> None:
                with pytest.raises(Refused):
                    await host.ask("nonsense", much="x" * size)

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(asks, 3_000_000)
            with anyio.move_on_after(0.01):
                await asks(12_000_000)
            assert (await host.ask("hello", home=found.home))["home"] == found.home

    tried(body)


def test_a_conversation_that_ends_is_no_answer(tried: Tried, home: Path, tmp_path: Path) -> None:
    """Whoever waits hears why; and so does who asks later."""
    deaf = script(tmp_path / "deaf", "read line; echo 'the disk is on fire' >&2; exit 1")

    async def body(channel: Channel) -> None:
        async with conversation(channel, [str(deaf)]) as host:
            for _ in range(2):
                with pytest.raises(Unreachable, match="the disk is on fire"):
                    await host.ask("hello", home="/")

    tried(body)


def test_what_is_no_answer_is_passed_over(tried: Tried, home: Path, tmp_path: Path) -> None:
    """A host is whoever answers there: garbage, answers to nothing, answers twice."""
    lines = (
        "garbage",
        "[]",
        "1",
        '{"id": 7, "value": 0}',
        '{"id": [], "value": 0}',
        '{"id": 1, "value": 5}',
        '{"id": 1, "value": 6}',
    )
    odd = script(
        tmp_path / "odd", "read line\n" + "\n".join(f"echo {shlex.quote(line)}" for line in lines) + "\nread line"
    )

    async def body(channel: Channel) -> None:
        async with conversation(channel, [str(odd)]) as host:
            assert await host.ask("hello") == 5

    tried(body)


def test_what_has_changed_is_told(tried: Tried, home: Path) -> None:
    """Within a second or two, of the run directories that are watched."""
    import anyio

    run_dir = home / "runs" / "u" / "000001"

    async def body(channel: Channel) -> None:
        found = await install(channel, sys.executable)
        run_dir.mkdir(parents=True, exist_ok=True)
        told: list[str] = []
        async with conversation(channel, found.serving, told.append) as host:
            await host.ask("watch", runs=[[str(run_dir), []]])
            await anyio.sleep(1.5)
            assert told == []
            (run_dir / "exit.json").write_text("{}")
            with anyio.fail_after(10):
                while not told:
                    await anyio.sleep(0.05)
            assert set(told) == {str(run_dir)}
        (run_dir / "exit.json").unlink()

    tried(body)
