"""A host where namespaces are forbidden: a group of processes with an SSH server of its own, on 127.0.0.N.

It has a home of its own and no more: accounts, files and clocks are this machine's.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from .host import POLL_S, Host, HostTrouble
from .sshd import NoOpenSSH, OpenSSH

MARK = "BED_HOST"
GONE_WITHIN_S = 10.0
NO_SHELL = ("/nologin", "/false")
CONFIG = """\
ListenAddress {address}:{port}
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {authorized}
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv HOME={directory}/home {mark}={directory} RUNCTL_HOST_LOCK_DIR={directory}/lock
"""


class LoopbackHost(Host):
    """Raises `NoOpenSSH` where the server doesn't run without an installation."""

    def __init__(
        self, name: str, directory: Path, number: int, authorized: Path, server: OpenSSH, boot_seconds: float
    ) -> None:
        account = pwd.getpwuid(os.getuid())
        if account.pw_shell.endswith(NO_SHELL):
            raise NoOpenSSH(f"no login for {account.pw_name}, whose shell is {account.pw_shell}")
        if account.pw_uid == 0 and not _has_servers_account():
            raise NoOpenSSH("no user `sshd`, which OpenSSH's server wants where it runs as root")
        address = f"127.0.0.{number + 2}"
        super().__init__(name, directory, address, _free_port(address), account.pw_name, boot_seconds)
        self._server = server
        self._first: subprocess.Popen[bytes] | None = None
        for child in ("home", "lock"):
            (directory / child).mkdir()
        (directory / "sshd_config").write_text(
            CONFIG.format(address=address, port=self.port, directory=directory, authorized=authorized, mark=MARK)
            + server.options()
        )

    def start(self) -> None:
        if self._first is not None:
            raise HostTrouble(f"{self.name} is on already")
        server = [str(self._server.program), "-D", "-e", "-f", str(self.directory / "sshd_config")]
        # Its input is the power, which goes with whoever holds the other end. Sessions are left to the next region.
        watched = '"$@" & cat >/dev/null; kill $!'
        environ = {"PATH": os.environ["PATH"], MARK: str(self.directory), **self._server.environment()}
        with (self.directory / "console.log").open("ab") as console:
            self._first = subprocess.Popen(
                ["sh", "-c", f"sleep {self.boot_seconds}; {watched}", "sh", *server], env=environ,
                stdin=subprocess.PIPE, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip

    def power_cut(self) -> None:
        """As near as it gets: all are stopped, so that none can answer to another's end, then killed."""
        end = time.monotonic() + GONE_WITHIN_S
        while pids := self.pids():
            if time.monotonic() > end:
                raise HostTrouble(f"{self.name} has processes that don't die: {pids}")
            _signal(signal.SIGSTOP, pids)
            _signal(signal.SIGKILL, pids)
            if self._first is not None:
                self._first.poll()
            time.sleep(POLL_S)
        if self._first is not None:
            assert self._first.stdin is not None
            self._first.stdin.close()
            self._first.wait()
            self._first = None

    def is_on(self) -> bool:
        return self._first is not None and self._first.poll() is None

    def pids(self) -> list[int]:
        return marked(self.directory)

    @property
    def home(self) -> Path:
        return self.directory / "home"

    def inside(self, path: str) -> Path:
        """Files are this machine's."""
        return Path(path)

    def freeze(self) -> None:
        """Who starts a process at that moment is stopped a moment later, with it."""
        while any(_state(pid) not in "TZ" for pid in self.pids()):
            _signal(signal.SIGSTOP, self.pids())

    def thaw(self) -> None:
        _signal(signal.SIGCONT, self.pids())

    def close(self) -> None:
        self.power_cut()


def marked(directory: Path) -> list[int]:
    """Live processes of the host, or of any in the region, whose directory that is.

    A server writes its title over its environment, so that it is known by its title, and its sessions by their parent.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if state == "Z":
                continue
            parents[pid] = int(parent)
            words = Path(f"/proc/{pid}/cmdline").read_bytes() + b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
            if re.search(rb"(%s=|-f )%s[/\0]" % (MARK.encode(), re.escape(bytes(directory))), words + b"\0"):
                found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def end_all(directory: Path) -> None:
    """End what is left of the region with that directory."""
    end = time.monotonic() + GONE_WITHIN_S
    while (pids := marked(directory)) and time.monotonic() < end:
        _signal(signal.SIGKILL, pids)
        time.sleep(POLL_S)


def _signal(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"  # gone meanwhile


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def _has_servers_account() -> bool:
    try:
        pwd.getpwnam("sshd")
    except KeyError:
        return False
    return Path("/run/sshd").is_dir()
