"""Where the bed keeps things on this machine: what was downloaded, and a directory for each open region."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    found = Path(base) / "runctl-bed"
    found.mkdir(parents=True, exist_ok=True)
    return found


def regions() -> Path:
    found = cache() / "regions"
    found.mkdir(exist_ok=True)
    return found
