"""Who owns the jobs of this home: `RUNCTL_OWNER`, else the user on this host."""

from __future__ import annotations

import getpass
import os
import socket


def owner() -> str:
    named = os.environ.get("RUNCTL_OWNER")
    if named:
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
