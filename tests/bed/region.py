"""A region: hosts on one network, with one key that opens them, for as long as a context lasts.

A region's directory, links and control groups carry the name of the process that opened it. Where that process is
gone, whatever has its name is left over, and the next region that is opened takes it away.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, image, loopback, means, network
from .commands import run
from .host import Host, Trait
from .namespaces import Hardware, NamespaceHost
from .places import cache, regions
from .sshd import OpenSSH, openssh

MIB = 1 << 20
BOOTING_AT_ONCE = 8
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that opened a region. Its start tells it from a later one with its number."""

    pid: int
    start: str
    number: int

    @property
    def region(self) -> str:
        return f"{self.pid}.{self.start}.{self.number}"

    @property
    def prefix(self) -> str:
        """Of names of links, for which the kernel has 15 bytes."""
        return f"bd{self.pid:x}-{self.number}"

    @property
    def is_alive(self) -> bool:
        return _start(self.pid) == self.start


class Region:
    """Made by `open_region`. `missing` is what its hosts do without, and why; `config` is a configuration of an SSH
    client that reaches its hosts by their names."""

    def __init__(self, owner: Owner, server: OpenSSH, net: network.Network | None) -> None:
        self.owner, self.server, self.network = owner, server, net
        self.missing: dict[Trait, str] = means.missing()
        self.directory = regions() / owner.region
        self.key = self.directory / "id"
        self.known_hosts = self.directory / "known_hosts"
        self.config = self.directory / "config"
        self.hosts: list[Host] = []
        self._routes: dict[str, tuple[str, int]] = {}
        self._keygen("region", self.key)

    def add(
        self,
        count: int = 1,
        *,
        disk_bytes: int = 2048 * MIB,
        memory_bytes: int = 512 * MIB,
        boot_seconds: float = 0.0,
    ) -> list[Host]:
        """Hosts that have booted, at once."""
        first = len(self.hosts)
        with ThreadPoolExecutor(BOOTING_AT_ONCE) as pool:
            made = list(
                pool.map(lambda n: self._make(n, disk_bytes, memory_bytes, boot_seconds), range(first, first + count))
            )
            self.hosts += made
            self._write_clients_files()
            list(pool.map(lambda host: host.boot(), made))
        return made

    def route(self, host: Host, address: str, port: int) -> None:
        """Let clients reach the host there from now on, as through a `SlowLink`."""
        self._routes[host.name] = (address, port)
        self._write_clients_files()

    def close(self) -> None:
        with ThreadPoolExecutor(BOOTING_AT_ONCE) as pool:
            list(pool.map(lambda host: host.close(), self.hosts))
        remove(self.owner)
        with _lock():
            cgroups.tidy()

    def _make(self, number: int, disk_bytes: int, memory_bytes: int, boot_seconds: float) -> Host:
        name = f"box{number + 1}"
        directory = self.directory / name
        directory.mkdir()
        host_key = directory / "host_key"
        self._keygen(name, host_key)
        if self.network is None:
            authorized = self.key.with_suffix(".pub")
            return loopback.LoopbackHost(name, directory, number, authorized, self.server, boot_seconds)
        link = network.Link(self.network, f"{self.owner.prefix}-{number + 1}", number + 2)
        identity = image.Identity(name, uuid.uuid4().hex, host_key, self.key.with_suffix(".pub"))
        image.make_disk(directory / "disk.img", disk_bytes, identity, self.server)
        group = cgroups.cgroup(self.owner.region, name)
        return NamespaceHost(Hardware(name, directory, link, group, memory_bytes), boot_seconds)

    def _write_clients_files(self) -> None:
        known, config = [], []
        for host in self.hosts:
            kind, key, *_ = (self.directory / host.name / "host_key.pub").read_text().split()
            address, port = self._routes.get(host.name, (host.address, host.port))
            named = address if port == 22 else f"[{address}]:{port}"
            known.append(f"{named} {kind} {key}\n")
            config.append(
                f"Host {host.name}\n  HostName {address}\n  Port {port}\n  User {host.user}\n"
                f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {self.known_hosts}\n"
            )
        self.known_hosts.write_text("".join(known))
        self.config.write_text("".join(config))

    def _keygen(self, name: str, path: Path) -> None:
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"runctl-bed-{name}", "-f", path)


@contextmanager
def open_region() -> Iterator[Region]:
    """Raises `NoOpenSSH` where there is no server to be had."""
    server = openssh()
    owner = Owner(os.getpid(), _start(os.getpid()) or "", next(_numbers))
    with _lock():
        reap()
        (regions() / owner.region).mkdir(mode=0o700)
        net = None
        if not means.no_namespaces():
            cgroups.prepare(owner.region)
            net = network.open_network(owner.prefix)
    region = Region(owner, server, net)
    try:
        yield region
    finally:
        region.close()


@contextmanager
def _lock() -> Iterator[None]:
    """One process at a time opens a region, or takes away what all of them share."""
    with (cache() / "regions.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def reap() -> None:
    """Take away what processes left that are gone."""
    for directory in regions().iterdir():
        pid, start, number = directory.name.split(".")
        owner = Owner(int(pid), start, int(number))
        if not owner.is_alive:
            # What a process that can't be killed holds is left to the next one: it is in nobody's way.
            with suppress(TimeoutError, OSError):
                remove(owner)


def remove(owner: Owner) -> None:
    """End whatever of a region is there. Its directory goes last: while it is there, something may be left."""
    loopback.end_all(regions() / owner.region)
    groups = cgroups.left(owner.region)
    _end(groups)
    for group in groups:
        cgroups.remove(group)
    if not means.no_namespaces():
        for name in network.left(owner.prefix):
            network.remove(name)
    shutil.rmtree(regions() / owner.region)


def _end(groups: list[Path]) -> None:
    """Kill what is in them; what is frozen dies as it thaws."""
    end = time.monotonic() + cgroups.EMPTY_WITHIN_S
    while time.monotonic() < end:
        pids = {pid for group in groups for pid in (group / "cgroup.procs").read_text().split()}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for group in groups:
            for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if (group / name).exists():
                    with suppress(OSError):
                        (group / name).write_text(word)
        if not pids:
            return
        time.sleep(0.01)


def _start(pid: int) -> str | None:
    """When that process started, in ticks since boot; None when there is none, or only what is left of it."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]
