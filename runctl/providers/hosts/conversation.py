"""A controller's side of a conversation with a host: questions and answers over one process of a channel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from runctl.transports.interface import Channel, Process, Unreachable, beside

# No answer comes near this: a host that sends more isn't one of ours.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
# A host that trains is busy, and a look reads its process table.
ANSWER_SECONDS = 60.0
# A launch copies the code.
LONG = frozenset({"launch"})
LONG_SECONDS = 600.0


class Refused(Exception):
    """The host was asked, and says why it doesn't do that."""


class Conversation:
    """Answers come in any order to whoever asked; what has changed is told to `changed`, by run directory."""

    def __init__(self, process: Process, changed: Callable[[str], None]) -> None:
        self._process = process
        self._changed = changed
        self._asked = 0
        self._waiting: dict[int, tuple[anyio.Event, list[dict[str, Any]]]] = {}
        self.lost = anyio.Event()
        self._lost: Unreachable | None = None
        self._sending = anyio.Lock()
        self._long = 0

    async def ask(self, what: str, **about: Any) -> Any:
        """The answer. Raises Refused, and Unreachable when there will be none: whether it was done isn't known.

        A host that leaves a question unanswered hangs, unless it is at what takes long: then the conversation is over.
        """
        if self._lost is not None:
            raise Unreachable(str(self._lost))
        self._asked += 1
        number, came, answers = self._asked, anyio.Event(), list[dict[str, Any]]()
        takes_long = what in LONG
        self._long += takes_long
        self._waiting[number] = came, answers
        try:
            request = json.dumps({"id": number, "ask": what, **about}, separators=(",", ":")).encode() + b"\n"
            # Half a request would spoil the next one.
            async with self._sending:
                with anyio.CancelScope(shield=True):
                    await self._process.send(request)
            with anyio.move_on_after(LONG_SECONDS if takes_long else ANSWER_SECONDS):
                await came.wait()
            if not answers and not (self._long - takes_long):
                self.end(Unreachable("the host leaves a question unanswered"))
        finally:
            self._long -= takes_long
            del self._waiting[number]
        if not answers:
            await anyio.lowlevel.checkpoint()  # who is cancelled isn't told that there is no answer
            raise self._lost or Unreachable("the host is busy with what takes long, and hasn't answered")
        if "error" in answers[0]:
            raise Refused(str(answers[0]["error"])[:2000])
        return answers[0].get("value")

    async def listen(self) -> None:
        """Give out answers until there are no more."""
        pieces: list[bytes] = []
        size = 0
        try:
            while data := await self._process.receive():
                *ends, rest = data.split(b"\n")
                for end in ends:
                    self._take(b"".join((*pieces, end)))
                    pieces, size = [], 0
                pieces.append(rest)
                size += len(rest)
                if size > MAX_ANSWER_BYTES:
                    raise Unreachable("the host sends what is no answer")
            said = self._process.said.decode(errors="replace").strip().splitlines()
            self.end(
                Unreachable(f"the host's side of the conversation has ended{f': {said[-1][:500]}' if said else ''}")
            )
        except Unreachable as error:
            self.end(error)

    def _take(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(answer, dict):
            return
        if isinstance(answer.get("changed"), str):
            self._changed(answer["changed"])
        if answer.get("id") is None and "error" in answer:
            self.end(Unreachable(f"the host doesn't understand what it is asked: {str(answer['error'])[:500]}"))
        waiting = self._waiting.get(answer["id"]) if isinstance(answer.get("id"), int) else None
        if waiting is not None and not waiting[1]:
            waiting[1].append(answer)
            waiting[0].set()

    def raise_lost(self) -> None:
        """Raises the error that the conversation ended with."""
        if self._lost is not None:
            raise self._lost

    def end(self, why: Unreachable) -> None:
        """There will be no more answers."""
        self._lost = self._lost or why
        self.lost.set()
        for came, _ in self._waiting.values():
            came.set()


@asynccontextmanager
async def conversation(
    channel: Channel, argv: Sequence[str], changed: Callable[[str], None] = lambda run_dir: None
) -> AsyncIterator[Conversation]:
    """Talk with a host while the context lasts."""
    async with channel.process(argv) as process:
        talking = Conversation(process, changed)
        try:
            async with beside(talking.listen):
                yield talking
        finally:
            # Whoever waits for an answer, undisturbed by whatever is cancelled around him, would wait for ever.
            talking.end(Unreachable("the conversation with the host is over here"))
