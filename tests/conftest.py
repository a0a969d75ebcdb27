from __future__ import annotations

import signal
import sys
from random import Random

import pytest

# A shell that starts the tests in the background hands on an ignored SIGINT, which programs then inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In one order that mixes tests that compute with those that wait; the longest come first."""
    known = "hypothesis" not in sys.modules or "reproducible" in sys.modules
    assert known, "a directory with property tests imports `reproducible` in its conftest.py"
    Random(0).shuffle(items)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
