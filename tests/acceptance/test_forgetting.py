"""What is removed with a job: all of it, or nothing is said to be."""

from __future__ import annotations

import errno
import shutil

import pytest

from runctl.agent import placement

from .machine import Machine


def test_an_attempt_that_lives_after_all_is_ended_before_it_is_forgotten(machine: Machine) -> None:
    """As one that was taken for dead: without its directory nobody could ever end it."""
    machine.run("apply", machine.training(600, 0.1).name, "--no-wait")
    machine.until(lambda: machine.told("saved"), "a checkpoint")
    (run_dir,) = machine.run_dirs()
    place = str(run_dir.parent)
    with pytest.raises(OSError, match="attempt 1 still runs there") as raised:
        placement.forget([place])
    assert raised.value.errno == errno.EBUSY
    assert run_dir.is_dir()
    machine.until(lambda: (run_dir / "exit.json").exists(), "its end")
    assert machine.told("drained")

    def forgotten() -> bool:
        try:
            placement.forget([place])
        except OSError:
            return False
        return True

    machine.until(forgotten, "that nobody is there any more")
    assert not run_dir.parent.exists()


def test_what_cannot_be_removed_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all else is gone; what is gone already is none."""
    place = machine.root / "runs"
    (place / "000001").mkdir(parents=True)
    kept, gone = place / "000001/kept", place / "gone"
    kept.write_text("")
    gone.write_text("")
    unlink = shutil.os.unlink  # type: ignore[attr-defined]

    def refuse(path: str, **where: int) -> None:
        if path == "kept":
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        unlink(path, **where)

    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", refuse)
        with pytest.raises(PermissionError):
            placement.forget([str(place)])
    assert kept.exists()
    assert not gone.exists()
    placement.forget([str(place)])
    assert not place.exists()
    placement.forget([str(place)])
