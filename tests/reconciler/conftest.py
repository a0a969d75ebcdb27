from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import reproducible  # noqa: F401

from runctl.store.sqlite import SqliteStore

from .world import World


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    dead: set[int] = set()
    store = SqliteStore(tmp_path / "state.sqlite", lambda holder: holder.pid not in dead)
    yield World(store, dead)
    store.close()
