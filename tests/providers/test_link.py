"""The way to a host: kept, lost, hung, and found again; nobody waits for ever."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from transports.channels import Tried

from runctl.providers.hosts import link as module
from runctl.providers.hosts.link import Link
from runctl.providers.interface import HostUnreachable
from runctl.transports.interface import Channel


def now() -> datetime:
    return datetime.now(UTC)


async def kept(link: Link, body: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        await body()
        tasks.cancel_scope.cancel()


@pytest.fixture
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the code itself waits, in a hundredth of the time."""
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "there"))
    for name in ("WAIT_SECONDS", "FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(module, name, getattr(module, name) / 100)


def test_who_asks_a_host_that_hangs_is_told(hasty: None) -> None:
    """While it is being reached, and nobody knows yet whether it can be."""

    async def main() -> None:
        link = Link("box", anyio.sleep_forever, lambda run_dir: None, now)  # type: ignore[arg-type]

        async def body() -> None:
            with anyio.fail_after(10):
                for _ in range(2):
                    with pytest.raises(HostUnreachable, match="box is being reached"):
                        await link.ask("hello", home="/")

        await kept(link, body)

    anyio.run(main)


def test_a_defect_on_the_way_is_tried_again(tried: Tried, hasty: None) -> None:
    """Whatever is raised: it is told, and the next try may do better."""

    async def body(channel: Channel) -> None:
        tries = iter([RuntimeError("a bug"), OSError(24, "Too many open files")])

        async def opened() -> Channel:
            for error in tries:
                raise error
            return channel

        link = Link("box", opened, lambda run_dir: None, now)
        told: list[str] = []

        async def asks() -> None:
            while True:
                try:
                    assert (await link.ask("hello", home="/"))["home"] == "/"
                    return
                except HostUnreachable as error:
                    told.append(str(error))
                    await anyio.sleep(0.01)

        await kept(link, asks)
        assert any("a defect of runctl" in each and "a bug" in each for each in told)

    tried(body)


def test_nobody_waits_for_a_way_that_is_not_kept(hasty: None) -> None:
    """Also who began to wait before: as at the end of a controller in the midst of a launch, which is shielded."""

    async def main() -> None:
        link = Link("box", anyio.sleep_forever, lambda run_dir: None, now)  # type: ignore[arg-type]
        heard: list[str] = []

        async def waits() -> None:
            with anyio.CancelScope(shield=True), pytest.raises(HostUnreachable) as caught:
                await link.up()
            heard.append(str(caught.value))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(link.run)
                tasks.start_soon(waits)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        assert heard == ["box: nobody keeps the connection any more"]

    anyio.run(main)


def test_a_silent_sender_keeps_nobody_from_sending_the_same(tmp_path: Path) -> None:
    """One whose connection was cut without a word, which the host hears of hours later."""
    code = (
        "import sys\nfrom runctl.snapshots import receiving\nreceiving.SILENCE_SECONDS = 1\n"
        "receiving.main(sys.argv[1], 'x')"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE) as silent:
        assert silent.wait(20) != 0
