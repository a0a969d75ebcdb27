"""What the tool of the GPUs prints."""

from __future__ import annotations

import pytest

from runctl.agent.activity import Activity, gpu_percent
from runctl.agent.clocks import Now


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("0\n97\n", 97.0),
        ("0\n", 0.0),
        ("[N/A]\n", None),
        ("3\n[N/A]\n", None),
        ("", None),
        ("No devices were found", None),
    ],
)
def test_nvidia_smi(text: str, percent: float | None) -> None:
    """The busiest GPU counts; what can't be told is unknown, and not idle."""
    assert gpu_percent(text) == percent


@pytest.mark.parametrize(("report", "used"), [({"gpu": 50.0}, True), ({"gpu": 1.0}, False), ({"gpu": None}, True)])
def test_unknown_use_is_use(report: dict[str, float | None], used: bool) -> None:
    """Nobody is ended for a GPU whose use can't be told."""
    activity = Activity()
    activity.on_gpu(report, Now(1.0, 1.0, 7.0))
    assert (activity.gpu_at == 7.0) is used
