"""What the tool of the GPUs prints."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from runctl.agent.activity import Activity, gpu_percent
from runctl.agent.clocks import Now
from runctl.agent.orders import Limits


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


@pytest.mark.parametrize(
    ("prints", "used"),
    [
        ("0\n", False),  # an H100 with driver 580 that only holds memory
        ("97\n", True),
        ("[N/A]\n", True),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", True),
    ],
)
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_the_gpu_is_asked_when_the_cpu_is_idle(
    prints: str, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that leaves the CPU alone is at work as long as the GPU is, by the word of its own tool, or that can't
    be told; one that only holds the GPU's memory is idle."""
    (tmp_path / "words").write_text(prints)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat {tmp_path / 'words'}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    activity, limits = Activity(), Limits(idle=60.0)
    spared = {process.pid for process in psutil.Process().children(recursive=True)}
    for active in (100.0, 200.0):
        activity.sample(Now(active, active, active), limits, spared, lambda: True)
    assert activity.gpu_helper is not None
    end = time.monotonic() + 30
    while activity.gpu_helper is not None and time.monotonic() < end:
        activity.hear_gpu(Now(201.0, 201.0, 201.0))
        time.sleep(0.02)
    assert (activity.gpu_at == 201.0) is used


@pytest.mark.parametrize(("report", "used"), [({"gpu": 50.0}, True), ({"gpu": 1.0}, False), ({"gpu": None}, True)])
def test_unknown_use_is_use(report: dict[str, float | None], used: bool) -> None:
    """Nobody is ended for a GPU whose use can't be told."""
    activity = Activity()
    activity.on_gpu(report, Now(1.0, 1.0, 7.0))
    assert (activity.gpu_at == 7.0) is used
