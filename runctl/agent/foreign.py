"""Trainings on this machine that no agent of ours watches: found by the GPU, or by what they have used of the CPU.

A training is what a person would call one: a process that has something on a GPU, or a Python (or launcher) process
that has kept at least half a core busy for half a minute. Who asks is spared, with all from whom it descends (a
notebook that calls runctl); of those that are known by their use of the CPU alone, so are all in the sessions of these
(a test runner's workers).
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import NamedTuple

from runctl.agent.processes import LINUX, RUN_ID_VARIABLE, environment_of, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Set, Tuple

    from runctl.agent.processes import Process

GPU_QUERY_SECONDS = 5.0
TRAINERS = ("python", "torchrun", "accelerate", "deepspeed", "julia", "pypy")


class Foreign(NamedTuple):
    """A training that no agent of ours watches: its command, short enough for a line, and by what it is known."""

    pid: int
    command: str
    evidence: str


class Busyness(NamedTuple):
    """What makes a training of a process: `share` of a core, as a mean over its life of at least `age` seconds."""

    age: float
    share: float


TRAINING = Busyness(age=30.0, share=0.5)


def foreign_trainings(spare_sessions_of: int, least: Busyness = TRAINING) -> Tuple[Foreign, ...]:
    """Foreign trainings, GPU users first. `spare_sessions_of`: a pid whose ancestors are none, nor what is only busy in
    their sessions. A training that was put into the background of the shell that asks is one, by its GPU.

    Linux only: elsewhere nothing is known of other processes' sessions, and nothing is reported.
    """
    if not LINUX:
        return ()
    rows = table()
    asking = _lineage(spare_sessions_of, rows)
    spared = {_session(pid) for pid in asking} - {-1}
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    gpu = _gpu_pids()
    for process in rows.values():
        if process.state == "Z" or process.pid in asking:
            continue
        on_gpu = process.pid in gpu
        age = uptime - int(process.start) / ticks
        share = process.cpu / age if age > 0 else 0.0
        if not on_gpu and (age < least.age or share < least.share):
            continue
        command = _command(process.pid)
        if not on_gpu and not _trains(command):
            continue
        if (not on_gpu and _session(process.pid) in spared) or _is_ours(process.pid):
            continue
        evidence = "uses the GPU" if on_gpu else f"{share:.0%} of a core since its start"
        found.append(Foreign(pid=process.pid, command=_shown(command), evidence=evidence))
    return tuple(sorted(found, key=lambda f: (not f.evidence.startswith("uses the GPU"), f.pid)))


def _trains(command: List[str]) -> bool:
    return bool(command) and os.path.basename(command[0]).startswith(TRAINERS)


def _is_ours(pid: int) -> bool:
    """Watched by an agent: the host lock speaks for it."""
    return any(entry.startswith(RUN_ID_VARIABLE + "=") for entry in environment_of(pid))


def _command(pid: int) -> List[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read()
    except OSError:
        return []
    text = raw.decode(errors="replace").replace("\x1b", "?")
    return [part for part in text.split("\0") if part]


def _shown(command: List[str]) -> str:
    """Short enough for a line, with the script's name in it: paths by their last part."""
    return " ".join(os.path.basename(word) if word.startswith("/") else word for word in command)[:80]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _lineage(pid: int, rows: Dict[int, Process]) -> Set[int]:
    """A process with all of its ancestors."""
    found = {pid}
    while pid in rows and pid > 1:
        found.add(pid)
        pid = rows[pid].ppid
    return found


def _gpu_pids() -> Set[int]:
    """Processes that compute on an NVIDIA GPU; empty where there is none or it doesn't answer."""
    argv = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GPU_QUERY_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return {int(line) for line in done.stdout.splitlines() if line.strip().isdigit()}
