"""A snapshot travels to a host: only what it lacks, as one compressed stream (`snapshots/receiving.py` is its side)."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread

from runctl.providers.interface import ProviderError
from runctl.snapshots.manifest import NAME, TREE, Manifest, read_manifest
from runctl.transports.interface import Channel, Process, Unreachable

CHUNK_BYTES = 256 * 1024
# What is sent is code: more effort saves little, and a fast network waits for it.
EFFORT = 1
MAX_LINE_BYTES = 16 * 1024 * 1024


async def send_snapshot(
    channel: Channel, receiving: Sequence[str], snapshot: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> int:
    """See to it that the host has the snapshot stored here; how many bytes of files travelled. `progress` is told bytes
    sent and to send. Raises ProviderError for what the host refuses, SnapshotError, and the channel's errors."""
    manifest = read_manifest(snapshot)
    text = (snapshot / NAME).read_bytes()
    async with channel.process(receiving) as process:
        answers = _Answers(process)
        await process.send(f"{len(text)}\n".encode() + text)
        wanted = _wanted((await answers.next()).get("wanted"), manifest)
        total = sum(manifest.entries[index].size - offset for index, offset in wanted)
        sent = 0
        async for data, more in _compressed(snapshot / TREE, manifest, wanted):
            await process.send(data)
            sent += more
            progress(sent, total)
        await process.end_input()
        if (await answers.next()).get("stored") is not True:
            raise ProviderError("the host doesn't say that the code has arrived")
    return total


def _wanted(value: Any, manifest: Manifest) -> list[tuple[int, int]]:
    """A host that wants what isn't in the manifest isn't one of ours."""
    found = []
    for each in value if isinstance(value, list) else [None]:
        match each:
            case [int(index), int(offset)] if 0 <= index < len(manifest.entries):
                if 0 <= offset <= manifest.entries[index].size:
                    found.append((index, offset))
                    continue
        raise ProviderError("the host asks for files that the code doesn't have")
    return found


async def _compressed(
    tree: Path, manifest: Manifest, wanted: Sequence[tuple[int, int]]
) -> AsyncIterator[tuple[bytes, int]]:
    """Pieces of the stream, each with how many bytes of files are in it."""
    pieces = _pieces(tree, manifest, wanted)
    while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece


def _pieces(tree: Path, manifest: Manifest, wanted: Sequence[tuple[int, int]]) -> Iterator[tuple[bytes, int]]:
    deflate = zlib.compressobj(EFFORT)
    for index, offset in wanted:
        entry = manifest.entries[index]
        left = entry.size - offset
        with open(tree / entry.path, "rb") as file:
            file.seek(offset)
            while left > 0 and (chunk := file.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                yield deflate.compress(chunk), len(chunk)
        if left:
            raise ProviderError(f"the stored code is damaged: `{tree / entry.path}` is shorter than it was")
    yield deflate.flush(), 0


class _Answers:
    """The lines that the host says."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._read = b""

    async def next(self) -> dict[str, Any]:
        while b"\n" not in self._read:
            data = await self._process.receive()
            if not data:
                said = self._process.said.decode(errors="replace").strip().splitlines()
                raise Unreachable(f"the host stops receiving{f': {said[-1][:500]}' if said else ''}")
            self._read += data
            if len(self._read) > MAX_LINE_BYTES:
                raise ProviderError("the host sends what is no answer")
        line, _, self._read = self._read.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ProviderError("the host sends what is no answer")
        if "error" in answer:
            raise ProviderError(f"the code can't be stored there: {str(answer['error'])[:500]}")
        return answer
