"""What every channel does the same (N14): an argv as it is, bytes both ways, the truth about the end, nothing left."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
import uuid

import anyio
import psutil
import pytest

from runctl.transports.interface import Channel, Exit, run

from .channels import PATIENCE, Tried

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("exit 0", Exit(0)),
        ("exit 7", Exit(7)),
        ("kill -9 $$", Exit(None, "KILL")),
        ("kill -TERM $$", Exit(None, "TERM")),
    ],
)
def test_how_it_ended(tried: Tried, script: str, end: Exit) -> None:
    """The code is the process's own, and a signal isn't one."""

    async def body(channel: Channel) -> None:
        done = await run(channel, ["/bin/sh", "-c", f"echo out; echo err >&2; {script}"])
        assert (done.exit, done.output, done.said) == (end, b"out\n", b"err\n")

    tried(body)


def test_a_program_that_is_not_there(tried: Tried) -> None:
    """127, and a word about it, as everywhere."""

    async def body(channel: Channel) -> None:
        done = await run(channel, ["/nowhere/at-all", "x"], b"input")
        assert (done.exit, done.output) == (Exit(127), b"")
        assert b"/nowhere/at-all" in done.said

    tried(body)


WORDS = [
    *("", " ", "two words", "$HOME", "`id`", "$(id)", ";", "a;b", "|", "&", ">x", "*", "?", "~", "#", '"', "!"),
    *("-n", "%s", "\u00fc", "{a,b}"),
]


def test_words_arrive_as_they_are(tried: Tried) -> None:
    """No shell on the way has a say."""

    async def body(channel: Channel) -> None:
        done = await run(channel, [sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *WORDS])
        assert done.output.decode().strip() == ascii(WORDS)

    tried(body)


@pytest.mark.parametrize("word", ["it's", "a\\b", "a\nb", "a\0b"])
def test_words_that_a_shell_could_change_are_refused(tried: Tried, word: str) -> None:
    """They travel as input."""

    async def body(channel: Channel) -> None:
        with pytest.raises(ValueError, match="not a word"):
            await run(channel, ["/bin/echo", word])

    tried(body)


def test_bytes_both_ways(tried: Tried) -> None:
    """Every byte arrives, at the same time in both directions."""
    data = os.urandom(4 * MIB)

    async def body(channel: Channel) -> None:
        done = await run(channel, ["/bin/cat"], data)
        assert done.exit == Exit(0)
        assert done.output == data

    tried(body)


def test_input_that_nobody_reads(tried: Tried) -> None:
    """A process that ends without it has ended."""

    async def body(channel: Channel) -> None:
        assert (await run(channel, ["/bin/sh", "-c", "exit 3"], b"x" * 4 * MIB)).exit == Exit(3)

    tried(body)


def test_two_at_once(tried: Tried) -> None:
    """One that says nothing keeps no other one waiting."""

    async def body(channel: Channel) -> None:
        async with channel.process(["/bin/cat"]) as quiet:
            assert (await run(channel, ["/bin/echo", "hello"])).output == b"hello\n"
            await quiet.end_input()
            assert await quiet.wait() == Exit(0)

    tried(body)


def test_a_slow_reader_fills_no_memory(tried: Tried) -> None:
    """Whoever writes waits for whoever reads. The peak grows by what is on the way, not by what is sent."""
    size = 96 * MIB

    async def body(channel: Channel) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with channel.process(["/usr/bin/head", "-c", str(size), "/dev/zero"]) as process:
            await anyio.sleep(0.5)
            got = 0
            while chunk := await process.receive():
                got += len(chunk)
            assert (got, await process.wait()) == (size, Exit(0))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < size // 3 // 1024

    tried(body)


def test_stderr_is_kept_to_its_end(tried: Tried) -> None:
    """A process that says more than anybody reads isn't held up by that."""

    async def body(channel: Channel) -> None:
        done = await run(channel, ["/bin/sh", "-c", "head -c 4000000 /dev/zero >&2; echo the end >&2"])
        assert done.exit == Exit(0)
        assert done.said.endswith(b"the end\n")
        assert len(done.said) <= 64 * 1024

    tried(body)


def test_too_much_output_is_an_error(tried: Tried) -> None:
    """And the process is ended."""

    async def body(channel: Channel) -> None:
        with pytest.raises(ValueError, match="more than 1000 bytes"):
            await run(channel, ["/bin/cat", "/dev/zero"], most=1000)

    tried(body)


@pytest.mark.parametrize("how", ["left", "cancelled", "failed"])
def test_nothing_is_left_running(tried: Tried, how: str) -> None:
    """Whoever leaves, for whatever reason, has ended the process, and what it started."""
    mark = f"mark-{uuid.uuid4()}"
    script = f'/bin/sh -c "sleep 600; :" {mark} & exec /bin/sh -c "sleep 600; :" {mark}'

    async def body(channel: Channel) -> None:
        with contextlib.suppress(KeyError), anyio.move_on_after(PATIENCE) as scope:
            async with channel.process(["/bin/sh", "-c", script]):
                while len(_carrying(mark)) < 2:
                    await anyio.sleep(0.02)
                if how == "cancelled":
                    scope.cancel()
                    await anyio.sleep(PATIENCE)
                elif how == "failed":
                    raise KeyError
        end = time.monotonic() + PATIENCE
        while _carrying(mark) and time.monotonic() < end:
            await anyio.sleep(0.02)
        assert not _carrying(mark)

    tried(body)


def _carrying(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
