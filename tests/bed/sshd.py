"""OpenSSH's server: this machine's own, or Debian's package unpacked into the cache and installed nowhere."""

from __future__ import annotations

import fcntl
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from .commands import CommandFailed, run
from .places import cache

USUAL = Path("/usr/sbin/sshd")
PACKAGE = "openssh-server"


class NoOpenSSH(Exception):
    """Neither installed nor to be had; says why."""


@dataclass(frozen=True, slots=True)
class OpenSSH:
    """`tree` is laid over a host's root; None where this machine has the server itself."""

    tree: Path | None

    @property
    def program(self) -> Path:
        """To be run on this machine."""
        return (self.tree or Path("/")) / "usr/sbin/sshd"

    def environment(self) -> dict[str, str]:
        """With which `program` finds its libraries."""
        if self.tree is None:
            return {}
        return {"LD_LIBRARY_PATH": ":".join(map(str, sorted((self.tree / "usr/lib").glob("*-linux-gnu*"))))}

    def options(self) -> str:
        """Lines of a configuration with which it finds its other programs; they are apart since version 9.8."""
        found = []
        for name in ("sshd-session", "sshd-auth"):
            path = (self.tree or Path("/")) / "usr/lib/openssh" / name
            if self.tree and path.exists():
                found.append(f"{name.title().replace('-', '')}Path {path}\n")
        return "".join(found)


def openssh() -> OpenSSH:
    """Raises `NoOpenSSH`. The first call on a machine may take some seconds; only one process downloads."""
    if USUAL.exists():
        return OpenSSH(None)
    tree = cache() / f"debian-{platform.machine()}"
    with (cache() / "download.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            try:
                _download(tree)
            except CommandFailed as error:
                raise NoOpenSSH(f"no OpenSSH server at {USUAL}, and Debian's can't be had: {error}") from error
    return OpenSSH(tree)


def _download(tree: Path) -> None:
    try:
        wanted = _wanted()
    except CommandFailed:  # no lists of packages yet
        run("apt-get", "update")
        wanted = _wanted()
    coming = tree.with_suffix(".coming")
    shutil.rmtree(coming, ignore_errors=True)
    (coming / "packages").mkdir(parents=True)
    (coming / "root").mkdir()
    run("apt-get", "download", *wanted, cwd=coming / "packages")
    for package in sorted((coming / "packages").glob("*.deb")):
        run("dpkg-deb", "-x", package, coming / "root")
    _merge(coming / "root")
    (coming / "root").rename(tree)
    shutil.rmtree(coming)


def _wanted() -> list[str]:
    """What would have to be installed here, in the versions that fit what is installed."""
    plan = run("apt-get", "--simulate", "install", "--no-install-recommends", PACKAGE)
    return [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]


def _merge(root: Path) -> None:
    """A directory of the tree where this machine has a link (`/lib`) would hide the link from a host."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if (root / name).is_dir() and (Path("/") / name).is_symlink():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)
