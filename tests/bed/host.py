"""What a host of the bed is, whatever it is made of: power, an SSH server, and what can happen to it."""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

BOOTED_WITHIN_S = 30.0
POLL_S = 0.02


class Trait(StrEnum):
    """What a region's hosts have or can be met by, in words for whoever has to do without."""

    OWN_ROOT = "a root, a home and accounts of its own"
    REBOOT = "a reboot, with a boot id and clocks that begin anew"
    PARTITION = "a partition"
    FULL_DISK = "a full disk"
    MEMORY = "memory that runs out"
    CLOCK = "a wrong clock"
    IMDS = "a metadata service"


class Impossible(Exception):
    """This machine has no means for that; a region's `missing` says so beforehand."""


class HostTrouble(Exception):
    """A host didn't do what was asked of it; says what, with its console's last words."""


class Host(ABC):
    """Off until `start`. Its SSH server lets `user` in, with the region's key."""

    def __init__(self, name: str, directory: Path, address: str, port: int, user: str, boot_seconds: float) -> None:
        self.name, self.directory = name, directory
        self.address, self.port, self.user = address, port, user
        self.boot_seconds = boot_seconds
        self.metadata: dict[str, str] = {}

    @abstractmethod
    def start(self) -> None:
        """Give it power. It takes its time to boot; `wait` waits for that."""

    @abstractmethod
    def power_cut(self) -> None:
        """Every process of it is gone at once; its disk is kept."""

    @abstractmethod
    def is_on(self) -> bool:
        """Whether its first process lives, be it frozen."""

    @abstractmethod
    def pids(self) -> list[int]:
        """Its processes as this machine knows them."""

    @property
    @abstractmethod
    def home(self) -> Path:
        """Its user's home as this machine sees it, also while nobody can reach the host. It must be on."""

    @abstractmethod
    def inside(self, path: str) -> Path:
        """Any file of it, likewise."""

    @abstractmethod
    def freeze(self) -> None:
        """None of its processes gets any time; the kernel still answers for it, as that of a host in trouble does."""

    @abstractmethod
    def thaw(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Off for good."""

    def reboot(self) -> None:
        """In order; returns when it answers again. Its disk is as it was, its boot id is another one."""
        raise Impossible(Trait.REBOOT)

    def partition(self) -> None:
        """Cut it off the network: what is sent to it or by it is lost, without a word to either."""
        raise Impossible(Trait.PARTITION)

    def heal(self) -> None:
        raise Impossible(Trait.PARTITION)

    def fill_disk(self) -> None:
        """To the last block."""
        raise Impossible(Trait.FULL_DISK)

    def empty_disk(self) -> None:
        """Take away what `fill_disk` wrote."""
        raise Impossible(Trait.FULL_DISK)

    def set_clock(self, ahead: timedelta) -> None:
        """Of this machine's; at once, in whole seconds, and over a reboot."""
        raise Impossible(Trait.CLOCK)

    def boot(self) -> None:
        self.start()
        self.wait()

    def wait(self) -> None:
        """Until its SSH server answers."""
        end = time.monotonic() + self.boot_seconds + BOOTED_WITHIN_S
        patience = POLL_S
        while time.monotonic() < end:
            if self.answers(patience):
                return
            # What is sent before its link is up is lost, and sent again by the kernel after a second: ask anew instead.
            patience = min(2 * patience, 2.0)
            if not self.is_on():
                break
            time.sleep(POLL_S)
        raise HostTrouble(f"{self.name} doesn't answer at {self.address}: {self.console()}")

    def answers(self, within: float = 1.0) -> bool:
        """Whether its SSH server says who it is."""
        try:
            with socket.create_connection((self.address, self.port), timeout=within) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def console(self) -> str:
        """The end of what its boot and its server said."""
        try:
            return (self.directory / "console.log").read_text(errors="replace")[-1000:].strip()
        except FileNotFoundError:
            return ""
