from __future__ import annotations

import signal
from random import Random

import pytest
from hypothesis import HealthCheck, settings

# Property tests try the same examples each time: a run that is red today was red yesterday. That an example takes long
# on a busy machine is no finding.
settings.register_profile(
    "reproducible", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("reproducible")

# A shell that starts the tests in the background hands on an ignored SIGINT, which programs then inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In one order that mixes tests that compute with those that wait; the longest come first."""
    Random(0).shuffle(items)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
