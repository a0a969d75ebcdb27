"""Steps before the training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from .real_host import Host


def step(name: str, *argv: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "argv": list(argv), "cwd": None, "env": {}, "timeout": 60, "kind": "setup", **changes}


def test_steps_run_in_order(host: Host) -> None:
    """Steps run one after the other before the training, their output in setup.log."""
    run = host.script(
        "print(open('made').read())",
        steps=[
            step("one", "sh", "-c", "echo $RUNCTL_JOB $X; echo -n a >made", env={"X": "y"}),
            step("two", "sh", "-c", "echo oops >&2; echo -n b >>made"),
        ],
    )
    assert run.exit()["exit_code"] == 0
    assert run.output() == b"ab\n"
    assert (run.path / "setup.log").read_text() == "job y\noops\n"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (step("build it", "sh", "-c", "exit 3"), "step `build it` exited with 3"),
        (step("build it", "sh", "-c", "kill -9 $$"), "step `build it` was killed by signal 9"),
        (step("build it", "no-such-program"), "no such program in PATH"),
        (step("build it", "sleep", "600", timeout=0.3), "its limit of 0.3 s"),
    ],
)
def test_a_step_that_fails(host: Host, bad: dict[str, Any], says: str) -> None:
    """A step that fails, or takes too long, fails the attempt before the script runs."""
    run = host.script("print('no')", steps=[step("fine", "true"), bad])
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"], ended["training_started"]) == ("setup_failed", None, False)
    assert says in ended["detail"]
    assert run.output() == b""
    run.gone()


def test_all_steps_together(host: Host) -> None:
    """The limit for all steps counts them together."""
    steps = [step(f"step {number}", "sleep", "0.4") for number in range(4)]
    ended = host.script("pass", steps=steps, setup_timeout=0.9).exit()
    assert ended["reason"] == "setup_failed"
    assert "the setup's limit of 0.9 s" in ended["detail"]


def test_a_stop_ends_the_setup(host: Host) -> None:
    """An order to end ends the preparation at once, with what it started."""
    run = host.script("pass", steps=[step("long", "sh", "-c", "sleep 600 & sleep 600")])
    run.wait_state(lambda state: state["phase"] == "preparing" and state["step"] == "long")
    run.order(end="stop")
    ended = run.exit()
    assert (ended["reason"], ended["training_started"]) == ("stop", False)
    run.gone()


def test_what_is_made_is_not_made_again(host: Host) -> None:
    """A step whose result exists is skipped; with a lock, two attempts make it once."""
    shared = host.root / "env"
    make = step(
        "make", sys.executable, "-c",
        f"import time, pathlib; p = pathlib.Path({str(shared)!r}); p.open('a').write('made\\n'); time.sleep(0.7); "
        f"pathlib.Path({str(shared) + '.complete'!r}).touch()",
        unless=f"{shared}.complete", lock=f"{shared}.lock",
    )  # fmt: skip
    runs = [host.script("pass", steps=[make], busy="share") for _ in range(3)]
    for run in runs:
        assert run.exit()["exit_code"] == 0
    assert Path(shared).read_text() == "made\n"
