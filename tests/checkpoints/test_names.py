"""Names in a checkpoint directory."""

from __future__ import annotations

import pytest

from runctl.checkpoints import names


@pytest.mark.parametrize(
    ("name", "step", "epoch"),
    [
        ("checkpoint-500", 500, None), ("epoch=4-step=1000.ckpt", 1000, 4), ("epoch-4.pt", None, 4),
        ("ckpt_0012.npz", 12, None), ("global_step300", 300, None), ("model.pt", None, None), ("00042.pt", 42, None),
        ("resnet50_epoch3.pth", None, 3), ("iter_7", 7, None), ("v1.2.pt", None, None), ("step.pt", None, None),
    ],
)  # fmt: skip
def test_step_and_epoch(name: str, step: int | None, epoch: int | None) -> None:
    """Step and epoch are what the name says, and nothing is guessed from other numbers beside words."""
    assert (names.step_of(name), names.epoch_of(name)) == (step, epoch)


@pytest.mark.parametrize(
    "name", [".x", "a.tmp", "a.pt.part", "b~", "tmp_model.pt", "tmp1234", "x.tmp.3", "a.incomplete"]
)
def test_temporary(name: str) -> None:
    """What is still being written is known by the usual names."""
    assert names.is_temporary(name)


@pytest.mark.parametrize("name", ["model.pt", "attempt.npz", "step-1.bin", "template.pt"])
def test_not_temporary(name: str) -> None:
    """A name that only contains such letters is none of them."""
    assert not names.is_temporary(name)


@pytest.mark.parametrize("name", ["train.log", "config.yaml", "README.md", "events.out.tfevents.17", "metrics.csv"])
def test_sidecars(name: str) -> None:
    """What lies beside checkpoints is none."""
    assert names.is_sidecar(name)
