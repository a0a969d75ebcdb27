"""The example trainings, run as users run them: real processes, real files, real signals."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[2] / "examples" / "training"
ENDLESS = "1000000"  # epochs; the number changes nothing about the training but its end
SUFFIXES = {"quickstart": ".safetensors", "digits": ".npz", "digits_torch": ".pt"}
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
SCRIPTS = ["quickstart", "digits", pytest.param("digits_torch", marks=needs_torch)]


class Run:
    """One training process in a directory of its own; its output is followed line by line."""

    def __init__(self, script: str, cwd: Path, *args: str, **env: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RUNCTL_")}
        # One thread: two trainings that run beside each other must add up their floats in one order.
        clean |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(TRAINING / f"{script}.py"), *args],
            cwd=cwd,
            env=clean | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __iter__(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            yield self.lines[-1]

    def until(self, pattern: str) -> str:
        for line in self:
            if re.search(pattern, line):
                return line
        raise AssertionError(f"it ended with {self.process.wait()} before `{pattern}`: {self.lines}")

    def finish(self) -> int:
        for _ in self:
            pass
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(timeout=60)


def newest(directory: Path) -> Path:
    return max(directory.iterdir(), key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)])


def content(checkpoint: Path) -> object:
    """What two equal checkpoints have in common; torch writes the file's name and a checksum of it into the archive."""
    if checkpoint.suffix != ".pt":
        return checkpoint.read_bytes()
    with zipfile.ZipFile(checkpoint) as archive:
        names = [name for name in archive.namelist() if not name.endswith("serialization_id")]
        return {name.partition("/")[2]: archive.read(name) for name in names}


def epochs(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("epoch ")]


@pytest.fixture(params=SCRIPTS)
def script(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_X1_the_loss_falls_and_unseen_digits_are_read(script: str, tmp_path: Path) -> None:
    """It learns: the loss falls by more than half, and most digits of unseen writers are read right."""
    run = Run(script, tmp_path, "--epochs", "4")
    assert run.finish() == 0
    lines = [re.fullmatch(r"epoch (\d)/4 loss=([\d.]+) acc=([\d.]+)", line) for line in epochs(run.lines)]
    assert [line and line[1] for line in lines] == ["1", "2", "3", "4"]
    losses, accuracies = [float(line[2]) for line in lines if line], [float(line[3]) for line in lines if line]
    assert losses[-1] < losses[0] / 2
    assert accuracies[-1] > 0.8


def test_X1_stopped_and_resumed_it_ends_in_the_same_state(script: str, tmp_path: Path) -> None:
    """SIGTERM in mid-epoch saves and exits 0; resumed from there, it ends bit-equal to a run never stopped."""
    stopped = Run(script, tmp_path, "--epochs", ENDLESS, "--checkpoint-dir", "stopped")
    stopped.until("^epoch 2/")
    stopped.process.terminate()
    assert stopped.finish() == 0
    saved = newest(tmp_path / "stopped")
    last = str(int(saved.stem.split("-")[1]) + 2)
    resumed = Run(script, tmp_path, "--epochs", last, "--checkpoint-dir", "resumed", "--resume", str(saved))
    whole = Run(script, tmp_path, "--epochs", last, "--checkpoint-dir", "whole")
    assert (resumed.finish(), whole.finish()) == (0, 0)
    ends = newest(tmp_path / "whole"), newest(tmp_path / "resumed")
    assert ends[0].name == ends[1].name
    assert content(ends[0]) == content(ends[1])
    lines = [line.replace(f"/{ENDLESS} ", f"/{last} ") for line in epochs(stopped.lines)] + epochs(resumed.lines)
    assert lines == epochs(whole.lines)


def test_X1_interval_and_directory_come_from_the_environment(script: str, tmp_path: Path) -> None:
    """RUNCTL_CHECKPOINT_EVERY and RUNCTL_CHECKPOINT_DIR are obeyed, and old checkpoints of the run are pruned."""
    directory = tmp_path / "deep" / "er"
    env = {"RUNCTL_CHECKPOINT_EVERY": "1 epochs", "RUNCTL_CHECKPOINT_DIR": str(directory)}
    run = Run(script, tmp_path, "--epochs", "4", "--keep", "2", **env)
    assert run.finish() == 0
    assert len([line for line in run.lines if line.startswith("saved ")]) == 4
    kept = sorted(path.name for path in directory.iterdir())
    assert [name.split("-")[1] for name in kept] == ["3", "4"]
    assert {Path(name).suffix for name in kept} == {SUFFIXES[script]}


@pytest.mark.parametrize("how", ["signal", "request file"])
def test_X1_asked_for_a_checkpoint_it_saves_and_goes_on(script: str, how: str, tmp_path: Path) -> None:
    """SIGUSR1 and the request file each bring one checkpoint at once, and the training goes on to its end."""
    request = tmp_path / "request"
    env = {"RUNCTL_CHECKPOINT_REQUEST": str(request)}
    run = Run(script, tmp_path, "--epochs", ENDLESS, "--checkpoint-every", "1h", **env)
    for _ in range(2):
        run.until("^epoch ")
        if how == "signal":
            run.process.send_signal(signal.SIGUSR1)
        else:
            request.with_suffix(".new").write_text("{}")
            request.with_suffix(".new").replace(request)
        run.until("^saved ")
    run.until("^epoch ")
    run.until("^epoch ")
    run.process.terminate()
    assert run.finish() == 0
    assert len([line for line in run.lines if line.startswith("saved ")]) == 3, "two asked for, one at the end"


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "one bit flipped", "a directory", "another script's"])
@pytest.mark.parametrize("through", ["flag", "environment"])
def test_X2_a_bad_resume_target_is_an_error(script: str, how: str, through: str, tmp_path: Path) -> None:
    """It exits with 2, says why, trains nothing and saves nothing: never a silent restart from zero."""
    target = tmp_path / f"target{SUFFIXES[script]}"
    if how == "a directory":
        target.mkdir()
    elif how == "another script's":
        target.write_text("{}")
    elif how != "missing":
        assert Run(script, tmp_path, "--epochs", "1", "--checkpoint-dir", "first").finish() == 0
        data = bytearray(newest(tmp_path / "first").read_bytes())
        data[len(data) // 2] ^= 4
        target.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "one bit flipped": data}[how])
    args, env = ["--checkpoint-dir", "second"], {}
    if through == "flag":
        args += ["--resume", str(target)]
    else:
        env["RUNCTL_RESUME_FROM"] = str(target)
    run = Run(script, tmp_path, "--epochs", "1", *args, **env)
    assert run.finish() == 2
    assert run.lines[0].startswith(f"error: can't resume from `{target}`: ")
    assert run.lines[1].startswith("hint: ")
    assert len(run.lines) == 2
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("moment", [".tmp", ".safetensors"], ids=["while it is written", "when it gets its name"])
def test_X1_a_kill_leaves_only_whole_checkpoints(moment: str, tmp_path: Path) -> None:
    """SIGKILL at the instant at which a file appears: whatever has a checkpoint's name can be resumed from."""
    for attempt in range(3):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        run = Run("quickstart", tmp_path, "--checkpoint-every", "1 step", "--checkpoint-dir", str(directory))
        run.until("^saved ")
        before = set(os.listdir(directory))
        while not any(name.endswith(moment) for name in set(os.listdir(directory)) - before):
            pass
        run.process.kill()
        assert run.finish() == -signal.SIGKILL
        found = list(directory.glob("epoch-*.safetensors"))
        assert found
        for path in found:
            again = Run("quickstart", tmp_path, "--epochs", "0", "--resume", str(path))
            assert again.finish() == 0, again.lines


def test_X1_time_is_an_interval_too(tmp_path: Path) -> None:
    """With `300ms` it saves again and again, and no two saves are nearer to each other than that."""
    run = Run("quickstart", tmp_path, "--epochs", ENDLESS, "--checkpoint-every", "300ms", "--keep", "9")
    for _ in range(3):
        run.until("^saved ")
    run.process.kill()
    assert run.finish() == -signal.SIGKILL
    instants = sorted(path.stat().st_mtime for path in (tmp_path / "checkpoints").glob("*.safetensors"))
    assert all(later - earlier > 0.29 for earlier, later in pairwise(instants))


@pytest.mark.parametrize("interval", ["", "2", "0 epochs", "every day", "-1 steps", "2 epochs or so"])
def test_X1_a_bad_interval_is_a_usage_error(interval: str, tmp_path: Path) -> None:
    """An interval that can't be read is refused before any training."""
    run = Run("quickstart", tmp_path, "--epochs", "0", "--checkpoint-every", interval)
    assert run.finish() == 2
    assert "is not an interval" in run.lines[-1]


def test_X1_progress_goes_to_the_file_named_in_the_environment(script: str, tmp_path: Path) -> None:
    """Each epoch is a line of JSON: where it stands, of how much, with loss and accuracy."""
    run = Run(script, tmp_path, "--epochs", "2", RUNCTL_PROGRESS=str(tmp_path / "progress"))
    assert run.finish() == 0
    lines = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert [(line["epoch"], line["epochs"]) for line in lines] == [(1, 2), (2, 2)]
    assert lines[1]["step"] == lines[1]["steps"] == 2 * lines[0]["step"]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert 0 < lines[1]["metrics"]["accuracy"] <= 1


def test_X1_what_was_not_written_right_gets_no_name(tmp_path: Path) -> None:
    """A disk that returns other bytes than were saved ends the training, and no checkpoint appears."""
    for name in ("checkpointing.py", "dataset.py"):
        shutil.copy(TRAINING / name, tmp_path / name)
    shutil.copytree(TRAINING / "data", tmp_path / "data")
    source = (TRAINING / "quickstart.py").read_text()
    broken = source.replace("path.write_bytes(", "path.write_bytes(b'x' + ", 1)
    assert broken != source
    (tmp_path / "broken.py").write_text(broken)
    done = subprocess.run([sys.executable, "broken.py", "--epochs", "1"], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert list((tmp_path / "checkpoints").iterdir()) == []


DEVICES = """\
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import torch
import digits_torch

path = Path("saved.pt")
training = digits_torch.Training(0, "cpu", 0.1)
training.model(torch.zeros(1, 64)).sum().backward()
training.optimizer.step()
training.write(path)
# A device of which no content comes back: what is put there can be compared with nothing.
training.device = "meta"
training.check(path)
again = digits_torch.Training(1, "cpu", 0.1)
again.device = "meta"
again.read(path)
again.check(path)
print("whole")
"""


@needs_torch
def test_X1_a_checkpoint_of_pytorch_is_compared_away_from_the_device_that_trains(tmp_path: Path) -> None:
    """On a GPU the optimizer keeps a part of its state on the CPU: a checkpoint that is loaded onto the GPU as a whole
    is equal to nothing."""
    done = subprocess.run(
        [sys.executable, "-c", DEVICES, str(TRAINING)], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert (done.stdout, done.returncode) == ("whole\n", 0), done.stderr


@pytest.mark.parametrize("name", ["quickstart", "digits", "digits_torch"])
def test_the_examples_use_no_newer_python_than_hosts_have(name: str) -> None:
    """Each script compiles with Python 3.9's grammar."""
    for path in (TRAINING / f"{name}.py", TRAINING / "checkpointing.py", TRAINING / "dataset.py"):
        ast.parse(path.read_text(), feature_version=(3, 9))
