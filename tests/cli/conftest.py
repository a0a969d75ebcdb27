from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance.machine import Machine, machine_in


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield from machine_in(tmp_path)
