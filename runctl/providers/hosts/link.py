"""The way to one host, kept while somebody uses it: connected, the agent delivered, a conversation begun; and again
after a while when it is lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from runctl.providers.hosts.conversation import Conversation, Refused, conversation
from runctl.providers.hosts.delivery import Installed, install
from runctl.providers.interface import HostUnreachable, ProviderError
from runctl.transports.interface import AuthenticationRefused, Channel, TransportError, Unreachable

# Between two tries to reach a host that can't be: the first, and the most; each is lengthened by up to a half, so that
# many controllers don't come back to a host at the same instant. A person who has just mended something is waiting.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 15.0
# Whoever knocks with a wrong key again and again is locked out by some hosts.
REFUSED_PAUSE = 60.0
# Whoever has something to ask goes on without an answer after this; what it takes to reach the host goes on as well.
WAIT_SECONDS = 15.0
# The agent's delivery takes no longer, or the host hangs.
READY_SECONDS = 120.0
# Who has asked within this many seconds, and found the host away, is to find it there as soon as it is back.
STILL_USED = 180.0

Open = Callable[[], Awaitable[Channel]]


class Up(msgspec.Struct, frozen=True):
    """A host that can be asked. `hello` and `tools` are what it said of itself, between the two instants of `said`."""

    channel: Channel
    installed: Installed
    talk: Conversation
    hello: dict[str, Any]
    tools: dict[str, Any]
    said: tuple[datetime, datetime]


@contextmanager
def _within(name: str, seconds: float) -> Iterator[None]:
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise Unreachable(f"{name} lets nobody in within {seconds:.0f} s: its shell or its disk hangs") from None


class Link:
    """One host, called `name` towards the user. `changed` is told of run directories that aren't as they were.

    `turns` counts how often it came up: whoever saw the host before it went down has to look again.
    """

    def __init__(self, name: str, open_: Open, changed: Callable[[str], None], now: Callable[[], datetime]) -> None:
        self.name = name
        self.turns = 0
        self._open = open_
        self._changed = changed
        self._now = now
        self._random = Random(name)
        self._up: Up | None = None
        self._why: str | None = None
        self._asked = 0.0
        self._wanted = anyio.Event()
        self._settled = anyio.Event()

    async def up(self) -> Up:
        """The host, when it can be asked. Raises HostUnreachable with the reason of the last try."""
        self._asked = anyio.current_time()
        with anyio.move_on_after(WAIT_SECONDS):
            while self._up is None:
                self._wanted.set()
                if self._why is not None:
                    # Who is cancelled as well isn't told why: he would take it down as the last word on the host.
                    await anyio.lowlevel.checkpoint()
                    raise HostUnreachable(self._why)
                await self._settled.wait()
        if self._up is None:
            raise HostUnreachable(f"{self.name} is being reached, and hasn't answered yet")
        return self._up

    async def ask(self, what: str, **about: Any) -> Any:
        """The host's answer. Raises ProviderError for what it refuses, HostUnreachable when there is none."""
        return await self.asked(await self.up(), what, **about)

    async def asked(self, up: Up, what: str, **about: Any) -> Any:
        """The same, by this conversation or none."""
        try:
            return await up.talk.ask(what, **about)
        except Refused as error:
            raise ProviderError(f"{self.name}: {error}") from None
        except Unreachable as error:
            raise HostUnreachable(str(error)) from None

    async def run(self) -> None:
        """Be the way to the host until cancelled; from then on there is none."""
        try:
            await self._keep()
        finally:
            self._settle(None, f"{self.name}: nobody keeps the connection any more")

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._wanted.wait()
            turns, refused = self.turns, False
            try:
                await self._hold()
                why = f"{self.name}: the conversation has ended"
            except (TransportError, ProviderError) as error:
                hint = getattr(error, "hint", "")
                why = f"{error}{f' ({hint})' if hint else ''}"
                refused = isinstance(error, AuthenticationRefused)
            except Exception as error:
                # Whatever it is: other hosts, and this one's jobs, still need their controller.
                why = f"{self.name}: a defect of runctl while talking with it: {type(error).__name__}: {error}"
            if self.turns > turns:
                pause = FIRST_PAUSE
            self._settle(None, why)
            await anyio.sleep((REFUSED_PAUSE if refused else pause) * (1 + self._random.random() / 2))
            pause = min(pause * 2, LONGEST_PAUSE)
            # Who asks while it is tried again is told why it failed before: to wait would keep him from other hosts.
            if anyio.current_time() - self._asked > STILL_USED:
                self._wanted, self._why = anyio.Event(), None

    async def _hold(self) -> None:
        channel = await self._open()
        try:
            with _within(self.name, READY_SECONDS):
                installed = await install(channel)
            async with conversation(channel, installed.serving, self._changed) as talk:
                asked = self._now()
                hello = await talk.ask("hello", home=installed.home)
                said = asked, self._now()
                tools = await talk.ask("tools")
                if not isinstance(hello, dict) or not isinstance(tools, dict):
                    raise ProviderError(f"{self.name} says nothing of itself")
                self.turns += 1
                self._settle(Up(channel, installed, talk, hello, tools, said), None)
                await talk.lost.wait()
                talk.raise_lost()
        except Refused as error:
            raise ProviderError(f"{self.name}: {error}") from None
        finally:
            self._up = None
            with anyio.CancelScope(shield=True):
                await channel.aclose()

    def _settle(self, up: Up | None, why: str | None) -> None:
        self._up, self._why = up, why
        self._settled.set()
        self._settled = anyio.Event()
