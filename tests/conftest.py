from __future__ import annotations

import signal
from random import Random

import pytest

# A shell that starts the tests in the background hands on an ignored SIGINT, which programs then inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In one order that mixes tests that compute with those that wait; the longest come first."""
    Random(0).shuffle(items)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
