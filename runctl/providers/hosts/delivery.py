"""From a host with an sshd and a Python to one that can be asked: the agent is there, under the hash of its code."""

from __future__ import annotations

import msgspec

from runctl.agent.bundle import ENTRY, agent_files, archive, bundle_hash
from runctl.providers.hosts.client_bundle import LEAST_PYTHON, client_archive, client_hash
from runctl.providers.interface import ProviderError
from runctl.transports.interface import Channel, Done, run

NEWEST_MINOR = 16

# What a login shell prints by itself belongs to nobody's answers.
_MARK = "runctl-host "

# $1: the Python that the user names, or "-"; $2: the agent's hash; $3: how many files it has; the rest: names to try.
# POSIX sh, and nothing that only some host has.
_PROBE = r"""
umask 077
say() { printf 'runctl-host %s %s\n' "$1" "$2"; }
usable() {
    mkdir -p "$1" 2>/dev/null && [ -d "$1" ] && [ -O "$1" ] || return 1
    (: > "$1/.usable.$$") 2>/dev/null && rm -f "$1/.usable.$$"
}
wanted=$1 hash=$2 files=$3
asks='import sys; print("%d.%d" % sys.version_info[:2], sys.executable)'
shift 3
home=${RUNCTL_HOME:-${HOME:-}/.runctl}
case $home in
    /?*) usable "$home" || { say unusable "$home"; home=; } ;;
    *) home= ;;
esac
if [ -z "$home" ]; then
    home=/var/tmp/runctl-$(id -u)
    usable "$home" && [ ! -L "$home" ] && chmod 700 "$home" || { say unusable "$home"; exit 0; }
fi
say home "$home"
[ "$wanted" = - ] || set -- "$wanted"
for python; do
    found=$(command -v "$python" 2>/dev/null) || continue
    about=$("$found" -I -S -c "$asks" 2>/dev/null </dev/null) || continue
    say python "$about"
    case $about in 3.9\ *|3.[1-9][0-9]\ *) break ;; esac
done
[ "$(($(find "$home/agents/$hash" -name '*.py' 2>/dev/null | wc -l)))" -eq "$files" ] && say agent there
exit 0
"""

# Reads the archive from stdin, after its length on a line of its own, and runs what is in it.
_RECEIVE = (
    "import os,sys,tempfile as t;i=sys.stdin.buffer;n=int(i.readline());f=t.NamedTemporaryFile();"
    "f.write(i.read(n));f.flush();sys.dont_write_bytecode=True;sys.path.insert(0,f.name);"
    "from runctl.agent.unpack import main;sys.exit(main(f.name,sys.argv[1:]))"
)


class HostUnfit(ProviderError):
    """The host lacks what every host needs; the message says what, and what was tried."""


class Installed(msgspec.Struct, frozen=True):
    """Where things are on a host: the Python that runs the agent, its directory of runs and agents, the agent's
    entry."""

    python: str
    version: str
    home: str
    entry: str

    @property
    def serving(self) -> tuple[str, ...]:
        return self._program("--serve")

    def receiving(self, store: str, name: str) -> tuple[str, ...]:
        return self._program("--receive", store, name)

    def unpacking(self, root: str, name: str) -> tuple[str, ...]:
        return self._program("--unpack", root, name)

    @property
    def clients(self) -> str:
        return f"{self.home}/clients"

    @property
    def client(self) -> str:
        """The directory of the S3 client, once it is delivered."""
        return f"{self.clients}/{client_hash()}"

    def _program(self, *arguments: str) -> tuple[str, ...]:
        return (self.python, "-I", "-S", "-E", self.entry, *arguments)


async def install(channel: Channel, python: str | None = None) -> Installed:
    """Deliver the agent if it isn't there yet. `python`: the one that the user names, else the first that is new
    enough. Raises HostUnfit and the channel's errors."""
    try:
        return await _install(channel, python)
    except ValueError as error:
        raise HostUnfit(f"it can't be set up: {error}") from None


async def _install(channel: Channel, python: str | None) -> Installed:
    name = bundle_hash()
    candidates = ("python3", *(f"python3.{minor}" for minor in range(NEWEST_MINOR, LEAST_PYTHON[1] - 1, -1)))
    parameters = [python or "-", name, str(len(agent_files()))]
    argv = ["/bin/sh", "-s", "--", *parameters, *candidates, "/usr/bin/python3", "/usr/local/bin/python3"]
    done = await run(channel, argv, _PROBE.encode())
    told = _told(done)
    home = next((value for key, value in told if key == "home"), None)
    if home is None:
        raise HostUnfit(_no_home(told, done))
    pythons = [_split(value) for key, value in told if key == "python"]
    fit = next((each for each in pythons if _is_fit(*each)), None)
    if fit is None:
        raise HostUnfit(_no_python(pythons, python))
    version, path = fit
    found = Installed(path, version, home, f"{home}/agents/{name}/{ENTRY}")
    if ("agent", "there") not in told:
        await _send(channel, found, name)
    return found


async def send_client(channel: Channel, found: Installed) -> None:
    """Deliver the S3 client, whole or not at all. Raises HostUnfit and the channel's errors."""
    data = client_archive()
    done = await run(channel, found.unpacking(found.clients, client_hash()), f"{len(data)}\n".encode() + data)
    if done.exit.code != 0:
        raise HostUnfit(f"the S3 client can't be delivered: {_last(done) or done.exit}")


async def _send(channel: Channel, found: Installed, name: str) -> None:
    data = archive()
    argv = [found.python, "-I", "-S", "-c", _RECEIVE, f"{found.home}/agents", name]
    done = await run(channel, argv, f"{len(data)}\n".encode() + data)
    if done.exit.code != 0:
        raise HostUnfit(f"the agent can't be delivered: {_last(done) or done.exit}")


def _told(done: Done) -> list[tuple[str, str]]:
    lines = done.output.decode(errors="replace").splitlines()
    told = (line.removeprefix(_MARK).partition(" ") for line in lines if line.startswith(_MARK))
    return [(key, value) for key, _, value in told]


def _split(value: str) -> tuple[str, str]:
    """Version and path of a Python."""
    version, _, path = value.partition(" ")
    return version, path


def _is_fit(version: str, path: str) -> bool:
    major, _, minor = version.partition(".")
    known = major.isdecimal() and minor.isdecimal() and len(version) < 8 and path.startswith("/")
    return known and (int(major), int(minor)) >= LEAST_PYTHON


def _no_home(told: list[tuple[str, str]], done: Done) -> str:
    tried = [value for key, value in told if key == "unusable"]
    if not tried:
        return f"its shell doesn't do what it is asked: {_last(done) or done.exit}"
    return f"no directory of yours can be written there: tried {' and '.join(f'`{each}`' for each in tried)}"


def _no_python(pythons: list[tuple[str, str]], wanted: str | None) -> str:
    found = ", ".join(f"`{path}` is {version}" for version, path in pythons)
    least = ".".join(map(str, LEAST_PYTHON))
    lacks = "it has no" if wanted is None else f"`{wanted}` there is no"
    return f"{lacks} Python {least} or later{f': {found}' if found else ''}"


def _last(done: Done) -> str:
    lines = done.said.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
