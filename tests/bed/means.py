"""What this machine lets the bed do, asked once a process by doing it."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile

from . import cgroups
from .clock import library
from .commands import CommandFailed, run
from .host import Trait

PROGRAMS = ("unshare", "setpriv", "ip", "bridge", "mount", "losetup", "mkfs.ext4", "bash", "ssh-keygen")
# In a mount namespace that ends with it: the layers of a host's root, on a file system of their own.
MOUNTS = """\
mount -t tmpfs tmpfs "$1" && mkdir "$1/upper" "$1/work" "$1/root" "$1/layer" &&
mount -t overlay -o "lowerdir=$1/layer:/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
"""


@functools.cache
def no_namespaces() -> str | None:
    """Why hosts can't be in namespaces of their own; None where they can."""
    if os.geteuid() != 0:
        return "namespaces are for root alone here"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"there is no {', '.join(absent)}"
    try:
        with tempfile.TemporaryDirectory() as directory:
            kinds = ["--net", "--uts", "--ipc", "--mount", "--pid", "--cgroup", "--fork"]
            run("unshare", *kinds, "sh", "-c", MOUNTS, "sh", directory)
        run("losetup", "--find")
        cgroups.prepare("probe")
        for group in cgroups.left("probe"):
            cgroups.remove(group)
    except (CommandFailed, OSError) as error:
        return str(error)
    return None


def missing() -> dict[Trait, str]:
    """What hosts do without on this machine, and why."""
    if why := no_namespaces():
        return dict.fromkeys(Trait, why)
    return {Trait.CLOCK: "there is no C compiler"} if library() is None else {}
