"""What the agent costs the machine while a training runs: its processor time and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.table import Row, Settings

# A line each second, a checkpoint each half minute: what a training does that logs its steps.
SCRIPT = """\
import json, os, sys, time
folder = os.environ["RUNCTL_CHECKPOINT_DIR"]
end, step = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    time.sleep(1)
    step += 1
    print(f"step {step}/{int(float(sys.argv[1]))} loss=0.5", flush=True)
    if step % 30 == 0:
        with open(f"{folder}/step-{step}.json.tmp", "w") as file:
            json.dump({"step": step, "weights": [0.0] * 100_000}, file)
        os.rename(f"{folder}/step-{step}.json.tmp", f"{folder}/step-{step}.json")
"""
WARM_UP_SECONDS = 5.0


def measure(settings: Settings) -> Iterator[Row]:
    project = settings.directory / "agent"
    (project / ".git").mkdir(parents=True)  # its own root: nothing of the checkout around it is the job's code
    (project / "lock").mkdir()
    (project / "train.py").write_text(SCRIPT)
    seconds = settings.minutes * 60
    manifest = {"name": "watched", "script": "train.py", "args": [str(seconds + 30)], "setup": "none"}
    (project / "job.yaml").write_text(json.dumps({**manifest, "checkpoint": {"every": "30 steps"}}))
    home = project / "home"
    environ = {**os.environ, "RUNCTL_HOME": str(home), "RUNCTL_HOST_LOCK_DIR": str(project / "lock")}
    runctl = [sys.executable, "-m", "runctl"]
    quiet = {"cwd": project, "env": environ, "check": True, "capture_output": True, "stdin": subprocess.DEVNULL}
    subprocess.run([*runctl, "apply", "job.yaml", "--no-wait"], **quiet)  # type: ignore[call-overload]
    try:
        time.sleep(WARM_UP_SECONDS)
        agent, guardian = _pids(home)
        before, started = _cpu(agent) + _cpu(guardian), time.monotonic()
        time.sleep(seconds)
        share = (_cpu(agent) + _cpu(guardian) - before) / (time.monotonic() - started)
        memory = psutil.Process(agent).memory_info().rss / 2**20
        second = psutil.Process(guardian).memory_full_info().uss / 2**20
    finally:
        subprocess.run([*runctl, "cancel", "watched"], **quiet)  # type: ignore[call-overload]
    what = f"over {settings.minutes:g} min, a line a second, a checkpoint each 30 s"
    yield Row(
        "agent, resident memory", f"{memory:.1f} MiB", "≤ 12 MiB", f"its guardian adds {second:.1f} MiB of its own"
    )
    yield Row("agent and guardian, processor", f"{share:.2%} of a core", "≤ 0.20%", what)


def _pids(home: Path) -> tuple[int, int]:
    (state,) = home.glob("runs/*/*/state.json")
    content = json.loads(state.read_text())
    return content["agent"]["pid"], content["guardian"]["pid"]


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
