"""What a training with checkpoints of gigabytes pays for being watched. Needs PyTorch; on a CPU it is only tried."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.table import Row, Settings

EVERY_STEPS = 200
SAVES = 2
# The first steps are slower: memory is being taken, kernels are being chosen.
WARM_UP_STEPS = 5
PATIENCE_SECONDS = 600.0
Json = dict[str, Any]


def measure(settings: Settings) -> Iterator[Row]:
    """The same training twice, each over two saves: by hand, then under `apply` until both are durable."""
    project = settings.directory / "large"
    (project / ".git").mkdir(parents=True)  # its own root: nothing of the checkout around it is the job's code
    (project / "lock").mkdir()
    shutil.copy(Path(__file__).with_name("gpt.py"), project / "gpt.py")
    bare = _by_hand(project)
    watched, durable = _watched(project)
    alone = _steps(bare)
    copying = [(each["at"], each["at"] + each["saved_in"]) for each in durable]
    beside = [each for each in watched if "step" in each and any(b <= each["at"] <= e for b, e in copying)]
    quiet = _steps([each for each in watched if each not in beside])
    saves = median(each["seconds"] for each in watched if "saved" in each)
    size = durable[-1]["bytes"] / 2**30
    yield Row("a step of a training, watched", f"{quiet / alone:.3f} ×", "none set", f"alone: {alone * 1000:.1f} ms")
    yield Row(
        "the same, while its checkpoint is copied",
        f"{median(each['seconds'] for each in beside) / alone:.3f} ×",
        "none set",
        f"{len(beside)} steps",
    )
    yield Row(
        "from a checkpoint's appearance until it is durable",
        f"{median(each['saved_in'] for each in durable):.1f} s",
        "none set",
        f"{size:.2f} GiB, which the training itself saved in {saves:.1f} s",
    )


def _by_hand(project: Path) -> list[Json]:
    checkpoints, told = project / "checkpoints", project / "bare.jsonl"
    checkpoints.mkdir()
    environ = {"RUNCTL_CHECKPOINT_DIR": str(checkpoints), "RUNCTL_CHECKPOINT_EVERY": f"{EVERY_STEPS} steps"}
    training = subprocess.Popen(
        [sys.executable, "gpt.py", str(told)], cwd=project, env={**os.environ, **environ}, stdout=subprocess.DEVNULL
    )
    try:
        _until(lambda: len([each for each in _read(told) if "saved" in each]) == SAVES)
    finally:
        training.send_signal(signal.SIGKILL)
        training.wait()
        shutil.rmtree(checkpoints)
    return _read(told)


def _watched(project: Path) -> tuple[list[Json], list[Json]]:
    told, home = project / "watched.jsonl", project / "home"
    manifest = {"name": "large", "script": "gpt.py", "args": [str(told)], "setup": "none"}
    checkpoint = {"every": f"{EVERY_STEPS} steps", "keep": SAVES}
    (project / "job.yaml").write_text(json.dumps({**manifest, "checkpoint": checkpoint}))
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RUNCTL_HOME": str(home),
        "RUNCTL_HOST_LOCK_DIR": str(project / "lock"),
    }

    def runctl(*words: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "runctl", *words], cwd=project, env=environ, check=True, capture_output=True
        )

    def durable() -> list[Json]:
        lines = [each for path in home.glob("runs/*/*/checkpoints.jsonl") for each in _read(path)]
        return [each for each in lines if each["status"] == "durable"]

    runctl("apply", "job.yaml", "--no-wait")
    try:
        _until(lambda: len(durable()) >= SAVES)
        return _read(told), durable()
    finally:
        runctl("cancel", "large")


def _steps(lines: list[Json]) -> float:
    return float(median([each["seconds"] for each in lines if "step" in each][WARM_UP_STEPS:]))


def _read(path: Path) -> list[Json]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _until(true: Any) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.2)
