"""A host in namespaces of its own: from the moment it gets power to the moment it has none."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from . import image
from .cgroups import Cgroup
from .clock import Clock, library
from .commands import run
from .host import POLL_S, Host, HostTrouble, Impossible, Trait
from .imds import Imds
from .network import Link

OFF_WITHIN_S = 15.0
SSH_PORT = 22
FILLER = "/var/cache/filler"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a host is made of. Its directory has its disk, `disk.img`."""

    name: str
    directory: Path
    link: Link
    cgroup: Cgroup
    memory_bytes: int


class NamespaceHost(Host):
    """A network, a root, a process tree, a control group and clocks of its own."""

    def __init__(self, hardware: Hardware, boot_seconds: float) -> None:
        super().__init__(hardware.name, hardware.directory, hardware.link.address, SSH_PORT, "root", boot_seconds)
        self.hardware = hardware
        self.metadata.update({"instance-id": f"i-{hardware.name}", "local-ipv4": self.address})
        self._imds = Imds(self.metadata)
        self._clock = Clock(hardware.directory / "clock")
        self._power: subprocess.Popen[str] | None = None
        self._init = 0

    def start(self) -> None:
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
        self._imds.listen(self._init)
        hardware.link.attach(self._init)
        self._order("on")

    def power_cut(self) -> None:
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
        self.shut_down()
        self.boot()

    def partition(self) -> None:
        self.hardware.link.cut()

    def heal(self) -> None:
        self.hardware.link.heal()

    def freeze(self) -> None:
        self.hardware.cgroup.freeze()

    def thaw(self) -> None:
        self.hardware.cgroup.thaw()

    def fill_disk(self) -> None:
        with self.inside(FILLER).open("ab") as filler:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), size)

    def empty_disk(self) -> None:
        self.inside(FILLER).unlink()

    @property
    def home(self) -> Path:
        return self.inside("/root")

    def inside(self, path: str) -> Path:
        return Path(f"/proc/{self._init}/root{path}")

    def pids(self) -> list[int]:
        return [pid for pid in self.hardware.cgroup.pids() if self._power is None or pid != self._power.pid]

    def set_clock(self, ahead: timedelta) -> None:
        if library() is None:
            raise Impossible(Trait.CLOCK)
        self._clock.set(ahead)

    def is_on(self) -> bool:
        return self._power is not None and self._power.poll() is None

    def close(self) -> None:
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
        self._imds.close()
        self._power = None
        disk = self.hardware.directory / "disk.img"
        end = time.monotonic() + OFF_WITHIN_S
        while self.hardware.cgroup.pids() or run("losetup", "-j", disk).strip():
            if time.monotonic() > end:
                raise HostTrouble(f"{self.name} has no power, and still holds its disk")
            time.sleep(POLL_S)
