"""Frozen code travels to a host: only what is lacking, whole or not at all, and a cut costs what hadn't arrived."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from transports.channels import Tried

from runctl.providers.hosts.sending import send_snapshot
from runctl.providers.interface import ProviderError
from runctl.snapshots.materialize import materialize
from runctl.transports.interface import Channel, Process, Unreachable
from runctl.workspace.snapshot import Snapshot, freeze

from .here import installed_here


class Place:
    """A tree, the store of its snapshots here, and the store of a host."""

    def __init__(self, root: Path) -> None:
        self.tree, self.here, self.there = (root / name for name in ("tree", "here", "there"))
        (self.tree / "package").mkdir(parents=True)
        (self.tree / "train.py").write_text("import package\n")
        (self.tree / "package" / "__init__.py").write_bytes(b"x = 1\r\n")
        (self.tree / "package" / "empty").touch()
        (self.tree / "run.sh").write_text("#!/bin/sh\n")
        (self.tree / "run.sh").chmod(0o755)
        (self.tree / "ünïcode name").write_text("é")
        (self.tree / "link").symlink_to("package/__init__.py")
        (self.tree / "big").write_bytes(Random(1).randbytes(3_000_000))
        self._installed = installed_here(root)

    def freeze(self) -> Snapshot:
        return freeze(self.tree, (), self.here)

    async def send(self, channel: Channel, snapshot: Snapshot) -> int:
        receiving = self._installed.receiving(str(self.there), snapshot.code_hash)
        return await send_snapshot(channel, receiving, snapshot.path)

    def arrived(self, snapshot: Snapshot, target: Path) -> dict[str, Any]:
        """What an attempt gets of it: each file's mode and content, or where a link leads."""
        materialize(str(self.there / snapshot.code_hash), str(target))
        return contents(target)


def contents(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = bool(path.stat().st_mode & 0o100), path.read_bytes()
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_it_arrives_as_it_is(tried: Tried, place: Place, tmp_path: Path) -> None:
    """Contents, modes, links, names. What is there already isn't sent again."""

    async def body(channel: Channel) -> None:
        snapshot = place.freeze()
        size = sum(path.stat().st_size for path in place.tree.rglob("*") if path.is_file() and not path.is_symlink())
        assert await place.send(channel, snapshot) == size
        assert place.arrived(snapshot, tmp_path / "work") == contents(place.tree)
        assert await place.send(channel, snapshot) == 0
        assert sorted(path.name for path in place.there.iterdir()) == [snapshot.code_hash]

    tried(body)


def test_only_what_changed_travels(tried: Tried, place: Place, tmp_path: Path) -> None:
    """A changed file, and one that is there under another name doesn't; what was removed isn't there any more."""

    async def body(channel: Channel) -> None:
        await place.send(channel, place.freeze())
        (place.tree / "train.py").write_text("import package  # changed\n")
        (place.tree / "big").rename(place.tree / "bigger")
        (place.tree / "package" / "empty").unlink()
        second = place.freeze()
        assert await place.send(channel, second) == len("import package  # changed\n")
        assert place.arrived(second, tmp_path / "work") == contents(place.tree)

    tried(body)


class CutChannel:
    """Whoever sends more than so many bytes has lost the connection."""

    def __init__(self, channel: Channel, most: int) -> None:
        self._channel, self._left = channel, most

    @asynccontextmanager
    async def process(self, argv: Any) -> AsyncIterator[Process]:
        async with self._channel.process(argv) as process:
            send = process.send

            async def cut(data: bytes) -> None:
                self._left -= len(data)
                if self._left < 0:
                    await anyio.sleep(0.3)  # what is on the way arrives
                    raise Unreachable("the connection is lost")
                await send(data)

            process.send = cut  # type: ignore[method-assign]
            yield process

    async def aclose(self) -> None:
        await self._channel.aclose()


def test_after_a_cut_it_goes_on(tried: Tried, place: Place, tmp_path: Path) -> None:
    """In the middle of a file. Until it is whole, nothing has its name."""

    async def body(channel: Channel) -> None:
        snapshot = place.freeze()
        with pytest.raises(Unreachable):
            await place.send(CutChannel(channel, 2_000_000), snapshot)
        assert not (place.there / snapshot.code_hash).exists()
        assert 0 < await place.send(channel, snapshot) < 2_600_000
        assert place.arrived(snapshot, tmp_path / "work") == contents(place.tree)
        assert sorted(path.name for path in place.there.iterdir()) == [snapshot.code_hash]

    tried(body)


def test_what_arrived_wrong_is_sent_again(tried: Tried, place: Place, tmp_path: Path) -> None:
    """A begun file that somebody has written to since."""

    async def body(channel: Channel) -> None:
        snapshot = place.freeze()
        with pytest.raises(Unreachable):
            await place.send(CutChannel(channel, 2_000_000), snapshot)
        (begun,) = (place.there / f".receiving-{snapshot.code_hash}" / "partial").iterdir()
        begun.write_bytes(bytes(begun.stat().st_size))
        with pytest.raises(ProviderError, match="`big` isn't what was to come"):
            await place.send(channel, snapshot)
        await place.send(channel, snapshot)
        assert place.arrived(snapshot, tmp_path / "work") == contents(place.tree)

    tried(body)


def test_a_damaged_one_there_is_sent_anew(tried: Tried, place: Place, tmp_path: Path) -> None:
    """A file is shorter than it was: as after a power cut."""

    async def body(channel: Channel) -> None:
        snapshot = place.freeze()
        await place.send(channel, snapshot)
        (place.there / snapshot.code_hash / "tree" / "big").write_bytes(b"")
        await place.send(channel, snapshot)
        assert place.arrived(snapshot, tmp_path / "work") == contents(place.tree)

    tried(body)


def test_two_send_the_same(tried: Tried, place: Place, tmp_path: Path) -> None:
    """One of them finds it there."""

    async def body(channel: Channel) -> None:
        snapshot = place.freeze()
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(place.send, channel, snapshot)
        assert place.arrived(snapshot, tmp_path / "work") == contents(place.tree)

    tried(body)


def test_what_cannot_be_written_is_said(tried: Tried, place: Place) -> None:
    """With the host's own words."""

    async def body(channel: Channel) -> None:
        place.there.write_text("a file")
        with pytest.raises(ProviderError, match=r"can't be stored there: .*File exists"):
            await place.send(channel, place.freeze())

    tried(body)


def test_a_file_here_that_was_cut_short_is_an_error(tried: Tried, place: Place) -> None:
    """Not a snapshot there with less in it."""

    async def body(channel: Channel) -> None:
        snapshot = place.freeze()
        (snapshot.tree / "big").write_bytes(b"short")
        with pytest.raises(ProviderError, match="shorter than it was"):
            await place.send(channel, snapshot)
        assert not (place.there / snapshot.code_hash).exists()

    tried(body)


def test_other_pythons(tried: Tried, place: Place, tmp_path: Path) -> None:
    """Down to 3.9: what is shipped runs there."""
    from agent.test_lifecycle import OTHER_PYTHONS

    async def body(channel: Channel) -> None:
        snapshot = place.freeze()
        for python in OTHER_PYTHONS:
            shutil.rmtree(place.there, ignore_errors=True)
            place._installed = installed_here(tmp_path, python)
            assert await place.send(channel, snapshot) > 0
            assert place.arrived(snapshot, tmp_path / f"work{OTHER_PYTHONS.index(python)}") == contents(place.tree)

    tried(body)
