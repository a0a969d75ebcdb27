"""X3: every manifest in examples/jobs is applied, made shorter, and shows what its comments say.

The quickstart is applied as it is by `test_docs.py`.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from .machine import Machine
from .scripts import durable

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RUN = ("caps-and-deadlines", "matrix", "quickstart", "resume", "together/digits", "together/plain", "torch")


def _shorter(machine: Machine, name: str, **changes: str) -> str:
    """A copy of the examples in the project, one manifest changed in these places; that manifest."""
    if not (machine.project / "examples").exists():
        shutil.copytree(EXAMPLES, machine.project / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    path = machine.project / "examples" / "jobs" / f"{name}.yaml"
    text = path.read_text()
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    path.write_text(text)
    return str(path)


def _status(machine: Machine, *names: str) -> list[dict[str, Any]]:
    return [machine.status(name) for name in names]


def _took_turns(jobs: list[dict[str, Any]]) -> bool:
    lives = sorted((each["started_at"], each["ended_at"]) for job in jobs for each in job["attempts"])
    return all(one[1] <= next_[0] for one, next_ in itertools.pairwise(lives))


def test_X3_every_example_is_run() -> None:
    """A manifest that is added has to be run, here or in `test_docs.py`."""
    found = {str(path.relative_to(EXAMPLES / "jobs").with_suffix("")) for path in EXAMPLES.rglob("jobs/**/*.yaml")}
    assert found == set(RUN)


@pytest.mark.slow
def test_X3_resume_goes_on_where_it_was_stopped(machine: Machine) -> None:
    """`stop` saves; applied again it goes on from that checkpoint, in a new attempt, to its end."""
    manifest = _shorter(machine, "resume", **{"[--epochs, 60]": "[--epochs, 9]"})
    assert machine.run("apply", manifest, "--no-wait").code == 0
    machine.until(lambda: durable(machine), "a first checkpoint")
    assert machine.run("stop", "resume").code == 0
    saved = machine.status("resume")["checkpoints"]["newest"]
    done = machine.run("apply", manifest, "--wait")
    assert done.code == 0, done
    first, second = machine.status("resume")["attempts"]
    assert (first["reason"], second["reason"], second["exit_code"]) == ("stop", "exited", 0)
    assert second["resumed_from"]["step"] == saved["step"]
    assert f"step {saved['step']}" in machine.run("logs", "resume", "--attempt", "2").out.splitlines()[0]


@pytest.mark.slow
def test_X3_caps_and_deadlines_ends_at_its_cap_and_goes_on_when_that_is_raised(machine: Machine) -> None:
    """Exit code 3 with a checkpoint saved, within the cap; with a raised cap it goes on from there."""
    faster = {"3.60 USD": "36 USD", "grace: 10s": "grace: 1s", "cap: 0.04 USD": "cap: 0.08 USD"}
    manifest = _shorter(machine, "caps-and-deadlines", **faster)
    done = machine.run("apply", manifest, "--wait")
    assert done.code == 3, done
    status = machine.status("caps-and-deadlines")
    saved = status["checkpoints"]["newest"]
    assert status["outcome"] == "CapReached"
    assert Decimal("0.04") < Decimal(status["cost"]["spent"]) <= Decimal("0.08")
    assert (saved["durable"], Path(saved["path"]).exists()) == (True, True)
    manifest = _shorter(machine, "caps-and-deadlines", **{"cap: 0.08 USD": "cap: 9 USD"})
    assert machine.run("apply", manifest, "--no-wait").code == 0
    machine.until(lambda: len(machine.run_dirs()) == 2 and machine.agent_pids().get("training"), "the second training")
    assert machine.run("cancel", "caps-and-deadlines").code == 0
    assert machine.status("caps-and-deadlines")["attempts"][1]["resumed_from"]["step"] == saved["step"]


def test_X3_a_matrix_is_one_job_for_each_combination(machine: Machine) -> None:
    """Four jobs that take turns, each with its own arguments, checkpoints and output, within the cap of the group."""
    done = machine.run("apply", _shorter(machine, "matrix", **{"--epochs, 6": "--epochs, 2"}), "--wait")
    assert done.code == 0, done
    names = machine.run("status", "-o", "name").out.split()
    jobs = _status(machine, *names)
    assert len(jobs) == 4
    assert {job["outcome"] for job in jobs} == {"Succeeded"}
    assert len({(job["spec"]["args"][3], job["spec"]["args"][5]) for job in jobs}) == 4
    assert len({job["checkpoints"]["newest"]["path"] for job in jobs}) == 4
    assert len({machine.run("logs", name).out.splitlines()[0] for name in names}) == 4
    assert _took_turns(jobs)
    assert sum(Decimal(job["cost"]["spent"]) for job in jobs) <= Decimal("0.06")


def test_X3_jobs_that_are_applied_together_are_a_group(machine: Machine) -> None:
    """Three jobs of two files in one group, one after the other. NumPy is the tests' own: nothing is downloaded."""
    _shorter(machine, "together/digits", **{"--epochs, 60": "--epochs, 10", "limits:\n  setup: 5m": "setup: none"})
    together = Path(_shorter(machine, "together/plain", **{"--epochs, 8": "--epochs, 2"})).parent
    done = machine.run("apply", str(together), "--wait")
    assert done.code == 0, done
    jobs = _status(machine, "digits", "plain-seed-1", "plain-seed-2")
    assert {job["outcome"] for job in jobs} == {"Succeeded"}
    assert {job["checkpoints"]["newest"]["name"].rpartition(".")[2] for job in jobs} == {"npz", "safetensors"}
    assert None not in {job["group"] for job in jobs}
    assert len({job["group"] for job in jobs}) == 1
    assert _took_turns(jobs)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_X3_the_example_with_pytorch_saves_what_is_checked_as_such(machine: Machine) -> None:
    """It succeeds with a durable checkpoint of PyTorch's. The tests' own PyTorch: nothing is downloaded."""
    shorter = {"--epochs, 20": "--epochs, 2", "limits:\n  setup: 30m": "setup: none"}
    done = machine.run("apply", _shorter(machine, "torch", **shorter), "--wait")
    assert done.code == 0, done
    newest = machine.status("digits-torch")["checkpoints"]["newest"]
    assert (newest["epoch"], newest["durable"], Path(newest["name"]).suffix) == (2, True, ".pt")
