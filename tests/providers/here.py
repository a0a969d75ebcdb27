"""The agent, installed on this computer as on a host."""

from __future__ import annotations

import sys
from pathlib import Path

from runctl.agent.bundle import ENTRY, install
from runctl.providers.hosts.delivery import Installed


def installed_here(root: Path, python: str = sys.executable) -> Installed:
    return Installed(python, "", str(root / "home"), str(install(root / "home" / "agents") / ENTRY))
