"""What a host's root has over this machine's: its own accounts, keys and names, and nothing of anyone's home.

A layer of an overlay, on the host's own disk: in this machine's file system it would lie within the layer below it,
`/`, which the kernel refuses. A directory of it that is opaque hides the one below; a whiteout hides a file.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import clock
from .commands import run
from .sshd import OpenSSH

# Of this machine's top directories, those that are programs and their settings. Whatever else there is, a host has
# an empty one of its own.
KEPT = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc"})
EMPTY = {
    "root": 0o700, "home": 0o755, "tmp": 0o1777, "run": 0o755, "proc": 0o555, "sys": 0o555, "dev": 0o755, "mnt": 0o755,
    "opt": 0o755, "srv": 0o755, "var": 0o755, "var/log": 0o755, "var/lib": 0o755, "var/cache": 0o755,
    "var/tmp": 0o1777, "etc/ssh": 0o755, "etc/ssl/private": 0o700,
}  # fmt: skip
SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
AuthorizedKeysFile /etc/ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
MaxStartups 100
Subsystem sftp internal-sftp
"""
USER = "trainer"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a host is, for as long as its disk lives."""

    name: str
    machine_id: str
    host_key: Path
    authorized: Path


def make_disk(disk: Path, size_bytes: int, identity: Identity, server: OpenSSH) -> None:
    """Write the disk of one host, an image of a file system with `layer`, and `upper` for what it will write."""
    with tempfile.TemporaryDirectory(dir=disk.parent) as content:
        root = Path(content)
        for name in ("upper", "work"):
            (root / name).mkdir(mode=0o755)
        make_layer(root / "layer", identity, server)
        with disk.open("wb") as file:
            file.truncate(size_bytes)
        options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, "-d", root, disk)


def make_layer(layer: Path, identity: Identity, server: OpenSSH) -> None:
    if server.tree:
        shutil.copytree(server.tree, layer, symlinks=True, ignore=shutil.ignore_patterns("man", "doc"))
    layer.mkdir(exist_ok=True)
    layer.chmod(0o755)
    hidden = {name: 0o755 for name in os.listdir("/") if name not in KEPT}
    for name, mode in {**hidden, **EMPTY}.items():
        _hide(layer, name, mode)
    etc = layer / "etc"
    _accounts(etc, layer)
    (etc / "hostname").write_text(f"{identity.name}\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {identity.name}\n")
    (etc / "resolv.conf").write_text("")
    (etc / "machine-id").write_text(f"{identity.machine_id}\n")
    (etc / "ssh/sshd_config").write_text(SSHD_CONFIG)
    shutil.copy(identity.authorized, etc / "ssh/authorized_keys")
    shutil.copy(identity.host_key, etc / "ssh/ssh_host_ed25519_key")
    for name in ("usr/sbin", "usr/lib"):
        (layer / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parent / "init.sh", layer / "usr/sbin/init")
    if built := clock.library():
        shutil.copy(built, layer / clock.LIBRARY.lstrip("/"))
        (etc / "ld.so.preload").write_text(f"{clock.LIBRARY}\n")
    if not has_python():
        (layer / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        (layer / "usr/local/bin/python3").symlink_to(Path(sys.base_prefix) / "bin/python3")


def shared() -> list[Path]:
    """What a host sees of this machine besides its programs, read-only: a Python, where none is among these."""
    return [] if has_python() else [Path(sys.base_prefix)]


def has_python() -> bool:
    return Path("/usr/bin/python3").exists()


def _hide(layer: Path, name: str, mode: int) -> None:
    """An empty directory of a host's own, where this machine has one, or has none; nothing, where it has a file."""
    path, real = layer / name, Path("/") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if real.exists() and not real.is_dir():
        os.mknod(path, stat.S_IFCHR, 0)
        return
    path.mkdir(exist_ok=True)
    path.chmod(mode)
    os.setxattr(path, "trusted.overlay.opaque", b"y")


def _accounts(etc: Path, layer: Path) -> None:
    """This machine's system accounts without its users, and two more: the server's own, and a user without rights."""
    accounts = [line for line in Path("/etc/passwd").read_text().splitlines() if _is_system(line)]
    names = {line.split(":")[0] for line in accounts}
    groups = Path("/etc/group").read_text().splitlines()
    if "sshd" not in names:
        accounts.append("sshd:x:990:65534::/run/sshd:/usr/sbin/nologin")
    accounts.append(f"{USER}:x:4242:4242::/home/{USER}:/bin/bash")
    groups.append(f"{USER}:x:4242:")
    (etc / "passwd").write_text("\n".join(accounts) + "\n")
    (etc / "group").write_text("\n".join(groups) + "\n")
    # No passwords; `*` and not `!`, which OpenSSH takes for an account that is locked.
    shadow = etc / "shadow"
    shadow.write_text("".join(f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in accounts))
    shadow.chmod(0o600)
    home = layer / "home" / USER
    home.mkdir()
    os.chown(home, 4242, 4242)


def _is_system(account: str) -> bool:
    number = int(account.split(":")[2])
    return number < 1000 or number == 65534
