"""One host: from the moment it gets power to the moment it has none, and what can happen to it between."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import image
from .cgroups import Cgroup
from .clock import Clock
from .commands import run
from .imds import Imds
from .network import Link

BOOTED_WITHIN_S = 30.0
OFF_WITHIN_S = 15.0
POLL_S = 0.02
SSH_PORT = 22
FILLER = "/var/cache/filler"


class HostTrouble(Exception):
    """A host didn't do what was asked of it; says what, with its console's last words."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a host is made of. Its directory has its disk, `disk.img`."""

    name: str
    directory: Path
    link: Link
    cgroup: Cgroup
    memory_bytes: int


class Host:
    """A host in namespaces of its own. Off until `boot`."""

    port = SSH_PORT
    user = "root"

    def __init__(self, hardware: Hardware, boot_seconds: float) -> None:
        self.hardware = hardware
        self.name = hardware.name
        self.address = hardware.link.address
        self.boot_seconds = boot_seconds
        self.imds = Imds({"instance-id": f"i-{hardware.name}", "local-ipv4": self.address})
        self.clock = Clock(hardware.directory / "clock")
        self._power: subprocess.Popen[str] | None = None
        self._init = 0

    def start(self) -> None:
        """Give it power. It takes its time to boot; `wait` waits for that."""
        if self._power is not None:
            raise HostTrouble(f"{self.name} is on already")
        hardware = self.hardware
        (hardware.directory / "boot_id").write_text(f"{uuid.uuid4()}\n")
        hardware.cgroup.make(hardware.memory_bytes)
        with (hardware.directory / "console.log").open("a") as console:
            self._power = subprocess.Popen(
                self._command(), env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=console,
                text=True, start_new_session=True,
            )  # fmt: skip
        assert self._power.stdout is not None
        word, _, pid = self._power.stdout.readline().partition(" ")
        if word != "ready":
            self.power_cut()
            raise HostTrouble(f"{self.name} doesn't boot: {self.console()}")
        self._init = int(pid)
        self.imds.listen(self._init)
        hardware.link.attach(self._init)
        self._order("on")

    def wait(self) -> None:
        """Until its SSH server answers."""
        end = time.monotonic() + self.boot_seconds + BOOTED_WITHIN_S
        patience = POLL_S
        while time.monotonic() < end:
            if self.answers(patience):
                return
            # What is sent before its link is up is lost, and sent again by the kernel after a second: ask anew instead.
            patience = min(2 * patience, 2.0)
            if self._power is None or self._power.poll() is not None:
                break
            time.sleep(POLL_S)
        raise HostTrouble(f"{self.name} doesn't answer at {self.address}: {self.console()}")

    def boot(self) -> None:
        self.start()
        self.wait()

    def power_cut(self) -> None:
        """Every process of it is gone at once; its disk is kept."""
        power = self._power
        if power is None:
            return
        # A frozen process dies of a signal when it is thawed, and before it does anything else.
        for pid in self.hardware.cgroup.pids():
            if pid != power.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.hardware.cgroup.thaw()
        self._gone(power)

    def shut_down(self) -> None:
        """In order: its processes are asked to end, and have 5 s for that."""
        power = self._power
        if power is None:
            return
        self._order("off")
        self._gone(power)

    def reboot(self) -> None:
        """In order; returns when it answers again. Its disk is as it was, its boot id is another one."""
        self.shut_down()
        self.boot()

    def partition(self) -> None:
        """Cut it off the network: what is sent to it or by it is lost, without a word to either."""
        self.hardware.link.cut()

    def heal(self) -> None:
        self.hardware.link.heal()

    def freeze(self) -> None:
        """None of its processes gets any time; the kernel still answers for it, as that of a host in trouble does."""
        self.hardware.cgroup.freeze()

    def thaw(self) -> None:
        self.hardware.cgroup.thaw()

    def fill_disk(self) -> None:
        """To the last block."""
        with self.inside(FILLER).open("ab") as filler:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), size)

    def empty_disk(self) -> None:
        """Take away what `fill_disk` wrote."""
        self.inside(FILLER).unlink()

    def inside(self, path: str) -> Path:
        """A file of it as this machine sees it, also while nobody can reach the host. It must be on."""
        return Path(f"/proc/{self._init}/root{path}")

    def pids(self) -> list[int]:
        """Its processes as this machine knows them."""
        return [pid for pid in self.hardware.cgroup.pids() if self._power is None or pid != self._power.pid]

    def answers(self, within: float = 1.0) -> bool:
        """Whether its SSH server says who it is."""
        try:
            with socket.create_connection((self.address, self.port), timeout=within) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def console(self) -> str:
        with suppress(OSError):
            return (self.hardware.directory / "console.log").read_text(errors="replace")[-1000:].strip()
        return ""

    def close(self) -> None:
        """Off for good."""
        self.power_cut()
        self.hardware.cgroup.remove()

    def _command(self) -> list[str]:
        script = Path(__file__).parent / "boot.sh"
        join = 'for group in $BED_CGROUPS; do echo $$ >"$group/cgroup.procs"; done; exec "$@"'
        namespaces = ["--net", "--uts", "--ipc", "--mount", "--pid", "--cgroup", "--propagation", "private"]
        if Path("/proc/self/ns/time").exists():
            # Its clocks begin with its boot, as a computer's do.
            past = -int(time.clock_gettime(time.CLOCK_BOOTTIME))
            since = -int(time.clock_gettime(time.CLOCK_MONOTONIC))
            namespaces += ["--time", f"--boottime={past}", f"--monotonic={since}"]
        return ["bash", "-c", join, "bash", "unshare", *namespaces, "--fork", "--kill-child", "bash", str(script)]

    def _environment(self) -> dict[str, str]:
        hardware = self.hardware
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "BED_CGROUPS": " ".join(map(str, hardware.cgroup.groups)),
            "BED_NAME": self.name,
            "BED_DIR": str(hardware.directory),
            "BED_SHARED": "\n".join(map(str, image.shared())),
            "BED_ADDRESS": self.address,
            "BED_GATEWAY": hardware.link.network.gateway,
            "BED_GATEWAY_MAC": hardware.link.network.mac,
            "BED_BOOT_SECONDS": str(self.boot_seconds),
        }

    def _order(self, word: str) -> None:
        assert self._power is not None
        assert self._power.stdin is not None
        self._power.stdin.write(f"{word}\n")
        self._power.stdin.flush()

    def _gone(self, power: subprocess.Popen[str]) -> None:
        """Wait until nothing of it runs, and its disk is nobody's: to boot it from two at once would ruin it."""
        with suppress(BrokenPipeError):
            assert power.stdin is not None
            power.stdin.close()
        assert power.stdout is not None
        power.stdout.close()
        power.wait(OFF_WITHIN_S)
        self.imds.close()
        self._power = None
        disk = self.hardware.directory / "disk.img"
        end = time.monotonic() + OFF_WITHIN_S
        while self.hardware.cgroup.pids() or run("losetup", "-j", disk).strip():
            if time.monotonic() > end:
                raise HostTrouble(f"{self.name} has no power, and still holds its disk")
            time.sleep(POLL_S)
