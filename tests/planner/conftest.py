from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import reproducible  # noqa: F401


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compares a text with the golden one of this test. `RUNCTL_UPDATE_GOLDEN=1` writes it anew instead: read the
    difference before it is committed."""
    path = Path(__file__).parent / "golden" / (request.node.name.removeprefix("test_") + ".txt")

    def compare(text: str) -> None:
        if os.environ.get("RUNCTL_UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare
