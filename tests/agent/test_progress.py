"""Progress from what trainings print or write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.clocks import Now
from runctl.agent.output import Output
from runctl.agent.progress import Progress


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch 3/50", {"epoch": 3, "epochs": 50}),
        (
            "Epoch [3/50], Step [100/1000], Loss: 0.25",
            {"epoch": 3, "epochs": 50, "step": 100, "steps": 1000, "loss": 0.25},
        ),
        ("Epoch: 3 of 50 train_loss=1.5e-3", {"epoch": 3, "epochs": 50, "loss": 0.0015}),
        ("epoch=7 loss: 12", {"epoch": 7, "epochs": None, "loss": 12.0}),
        ("step 100/1000", {"step": 100, "steps": 1000}),
        ("global_step: 42", {"step": 42, "steps": None}),
        (" 40%|████      | 40/100 [00:10<00:15,  4.00it/s, loss=0.5]", {"step": 40, "steps": 100, "loss": 0.5}),
        ("\r 10%|█| 10/100 [00:01<00:09]\r 20%|██| 20/100 [00:02<00:08]", {"step": 20, "steps": 100}),
        ("Epoch 2:  40%|████      | 40/100 [00:10<00:15]", {"epoch": 2, "step": 40, "steps": 100}),
        ("epoch 1/5\nepoch 2/5\n", {"epoch": 2, "epochs": 5}),
        ("{'loss': 0.4, 'learning_rate': 1e-5, 'epoch': 1.0}", {"loss": 0.4}),
        ("1/0 nothing 100% of it, stepped 5/6", {"epoch": None, "step": None, "loss": None}),
        ("epoch 99999999999999999999999/5 \x00 ️", {"epoch": None}),
    ],
)
def test_printed(text: str, expected: dict[str, Any]) -> None:
    """What is commonly printed is understood, the newest of it counts."""
    progress = Progress("/nonexistent")
    progress.read_text(text)
    assert {name: getattr(progress, name) for name in expected} == expected


def test_fraction_and_eta(tmp_path: Path) -> None:
    """The time left is at the rate since the start."""
    progress = Progress(str(tmp_path / "progress"))
    output = Output(str(tmp_path), 1 << 20)
    progress.begin(Now(1000.0, 0.0, 100.0))
    file = tmp_path / "progress"
    file.write_text(json.dumps({"fraction": 0.0}) + "\n")
    assert progress.look(output, None, Now(1001.0, 0.0, 101.0))
    file.write_text(
        '{"fraction": 0.0}\n{"fraction": 0.25, "loss": 0.5, "metrics": {"acc": 0.9, "bad": "x"}}\nnot json\n{"half'
    )
    assert progress.look(output, None, Now(1030.0, 0.0, 130.0))
    state = progress.state(Now(1030.0, 0.0, 130.0))
    assert state is not None
    assert state["fraction"] == 0.25
    assert state["eta"] == 90.0
    assert state["metrics"] == {"acc": 0.9}
    assert state["source"] == "file"
    assert not progress.look(output, None, Now(1032.0, 0.0, 132.0))


def test_eta_of_what_was_resumed(tmp_path: Path) -> None:
    """What earlier attempts have done took no time of this one."""
    progress = Progress(str(tmp_path / "progress"))
    output = Output(str(tmp_path), 1 << 20)
    progress.begin(Now(1000.0, 0.0, 100.0))
    for seconds, epoch in ((2.0, 50), (10.0, 60)):
        (tmp_path / "progress").write_text(f'{{"epoch": {epoch}, "epochs": 100}}\n')
        assert progress.look(output, None, Now(1000.0 + seconds, 0.0, 100.0 + seconds))
    state = progress.state(Now(1010.0, 0.0, 110.0))
    assert state is not None
    assert state["eta"] == 40.0


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"epoch": 1e999}', '{"epoch": NaN, "fraction": -5}', '{"epoch": true}', "\x00" * 9000]
)
def test_hostile_file(tmp_path: Path, content: str) -> None:
    """A progress file with nonsense is nothing worse than no progress."""
    (tmp_path / "progress").write_text(content)
    progress = Progress(str(tmp_path / "progress"))
    progress.look(Output(str(tmp_path), 1 << 20), None, Now(1.0, 0.0, 10.0))
    assert progress.epoch is None
    assert progress.fraction in (None, 0.0)


def test_a_progress_file_that_is_a_link_or_fifo(tmp_path: Path) -> None:
    """Links are not followed, and nothing blocks."""
    import os

    (tmp_path / "real").write_text('{"epoch": 3}')
    (tmp_path / "progress").symlink_to(tmp_path / "real")
    progress = Progress(str(tmp_path / "progress"))
    output = Output(str(tmp_path), 1 << 20)
    progress.look(output, None, Now(1.0, 0.0, 10.0))
    assert progress.epoch is None
    (tmp_path / "progress").unlink()
    os.mkfifo(tmp_path / "progress")
    progress.look(output, None, Now(1.0, 0.0, 20.0))
    assert progress.epoch is None
