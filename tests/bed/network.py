"""A region's network: a bridge on this machine, and one link from it to each host.

Links are named after the region, so that what an unclean exit left is known by its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from .commands import CommandFailed, run

# Set apart for tests of networks (RFC 2544): no real network has these addresses.
PREFIX = "198.18"
DISABLED, FORWARDING = "0", "3"


@dataclass(frozen=True, slots=True)
class Network:
    """`number` is the third part of its addresses; this machine has the first of them."""

    bridge: str
    number: int

    @property
    def gateway(self) -> str:
        return self.address(1)

    @property
    def mac(self) -> str:
        return self.hardware(1)

    def address(self, last: int) -> str:
        return f"{PREFIX}.{self.number}.{last}"

    def hardware(self, last: int) -> str:
        return f"02:62:65:64:{self.number:02x}:{last:02x}"


@dataclass(frozen=True, slots=True)
class Link:
    """The way to one host. `name` is its end on this machine; the other one, `eth0`, ends with the host."""

    network: Network
    name: str
    last: int

    @property
    def address(self) -> str:
        return self.network.address(self.last)

    @property
    def mac(self) -> str:
        return self.network.hardware(self.last)

    def attach(self, pid: int) -> None:
        """Give the network namespace of that process an `eth0`.

        Both ends are told each other's hardware address for good: who is cut off hears nothing, as behind a router,
        and not after seconds that there is no such neighbour.
        """
        # A host that went a moment ago takes its end along when the kernel gets to it.
        remove(self.name)
        peer = ["peer", "name", "eth0", "address", self.mac, "netns", str(pid)]
        run("ip", "link", "add", self.name, "type", "veth", *peer)
        run("ip", "link", "set", self.name, "master", self.network.bridge, "up")
        neighbour = [self.address, "lladdr", self.mac, "dev", self.network.bridge, "nud", "permanent"]
        run("ip", "neigh", "replace", *neighbour)

    def cut(self) -> None:
        """Nothing goes through in either direction, and neither side is told."""
        self._state(DISABLED)

    def heal(self) -> None:
        self._state(FORWARDING)

    def _state(self, state: str) -> None:
        run("bridge", "link", "set", "dev", self.name, "state", state)


def open_network(prefix: str) -> Network:
    """Under a lock: two regions that open at once would take the same addresses."""
    taken = {word.split(".")[2] for word in run("ip", "-4", "route", "show").split() if word.startswith(f"{PREFIX}.")}
    number = next(each for each in range(1, 255) if str(each) not in taken)
    network = Network(prefix, number)
    run("ip", "link", "add", prefix, "address", network.mac, "type", "bridge", "stp_state", "0", "forward_delay", "0")
    run("ip", "addr", "add", f"{network.gateway}/24", "dev", prefix)
    run("ip", "link", "set", prefix, "up")
    return network


def remove(name: str) -> None:
    try:
        run("ip", "link", "del", name)
    except CommandFailed as error:
        if "Cannot find device" not in str(error):
            raise


def left(prefix: str) -> list[str]:
    """The links of a region that are there, its bridge at the end."""
    names = [line.split(": ")[1].split("@")[0] for line in run("ip", "-o", "link", "show").splitlines()]
    return sorted((each for each in names if each == prefix or each.startswith(f"{prefix}-")), key=len, reverse=True)
