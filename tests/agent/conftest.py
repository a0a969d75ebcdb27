"""A host for each test, with nothing left running behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.agent import bundle

from .real_host import Host


@pytest.fixture(scope="session")
def agent_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.install(tmp_path_factory.mktemp("agents"))


@pytest.fixture
def host(tmp_path: Path, agent_directory: Path) -> Iterator[Host]:
    found = Host(tmp_path, agent_directory)
    yield found
    found.clean_up()
