"""Signs of life: when CPU, GPU, output, checkpoints or progress were last seen to move."""

from __future__ import annotations

import os

from runctl.agent import processes
from runctl.agent.child import Helper, fork_helper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional, Set, Tuple, Union

    from runctl.agent.clocks import Now
    from runctl.agent.orders import Limits

    Json = Dict[str, Any]

SAMPLE_SECONDS = 15.0
# So many samples fit into the shortest of the limits, so that a limit isn't overrun by much.
SAMPLES_PER_LIMIT = 4
GPU_SECONDS = 30.0
# Less than this share of one core is not work: interpreters with timers and progress bars use that much.
CPU_SHARE = 0.05
GPU_PERCENT = 5.0
NVIDIA_DEVICE = "/dev/nvidiactl"


class Activity:
    """Instants of the active clock; None where nothing was seen yet."""

    def __init__(self) -> None:
        self.cpu_at: Optional[float] = None
        self.gpu_at: Optional[float] = None
        self.log_at: Optional[float] = None
        self.checkpoint_at: Optional[float] = None
        self.progress_at: Optional[float] = None
        self.cpu_share: Optional[float] = None
        self.rss = 0
        self.sampled_at: Optional[float] = None
        self._cpu: Dict[Tuple[int, Union[int, str]], float] = {}
        self._gpu_asked_at: Optional[float] = None
        self.gpu_helper: Optional[Helper] = None

    @property
    def busy_at(self) -> float:
        return max(self.cpu_at or 0.0, self.gpu_at or 0.0)

    @property
    def alive_at(self) -> float:
        return max(self.log_at or 0.0, self.checkpoint_at or 0.0, self.progress_at or 0.0)

    def state(self, now: Now) -> Json:
        def wall(active: Optional[float]) -> Optional[float]:
            return None if active is None else now.wall_of(active)

        return {
            "cpu": wall(self.cpu_at),
            "gpu": wall(self.gpu_at),
            "log": wall(self.log_at),
            "checkpoint": wall(self.checkpoint_at),
            "cpu_share": self.cpu_share,
            "rss": self.rss,
        }

    def sample(self, now: Now, limits: Limits, spare: Set[int], elsewhere: Callable[[], bool]) -> bool:
        """Look at the CPU that the agent's descendants used, if it is time to; whether it was."""
        interval = SAMPLE_SECONDS
        for limit in (limits.idle, limits.hang):
            if limit is not None:
                interval = min(interval, limit / SAMPLES_PER_LIMIT)
        since = self.sampled_at
        if since is not None and now.active - since < interval:
            return False
        self.sampled_at = now.active
        found = [process for process in processes.tree(os.getpid()) if process.pid not in spare]
        usage = {(process.pid, process.start): process.cpu for process in found}
        self.rss = sum(process.rss for process in found)
        if since is not None:
            grown = sum(max(0.0, cpu - self._cpu.get(key, 0.0)) for key, cpu in usage.items())
            # A child that has ended reappears in its parent's time: what was counted of it already is taken off, unless
            # it was not waited for.
            gone = sum(cpu for key, cpu in self._cpu.items() if key not in usage)
            own = sum(max(0.0, cpu - self._cpu[key]) for key, cpu in usage.items() if key in self._cpu)
            used = max(grown - gone, min(own, grown), 0.0) if gone else grown
            self.cpu_share = round(used / max(0.001, now.active - since), 3)
            if self.cpu_share >= CPU_SHARE:
                self.cpu_at = now.active
            elif (limits.idle is not None or limits.hang is not None) and elsewhere():
                self._ask_gpu(now, min(GPU_SECONDS, 2 * interval))
        self._cpu = usage
        return True

    def _ask_gpu(self, now: Now, interval: float) -> None:
        """The GPU is asked only when the CPU seems idle: a call of nvidia-smi costs more than the agent may."""
        recent = self._gpu_asked_at is not None and now.active - self._gpu_asked_at < interval
        if recent or self.gpu_helper is not None:
            return
        self._gpu_asked_at = now.active
        self.gpu_helper = fork_helper(_report_gpu, "gpu", now.active + GPU_SECONDS)

    def hear_gpu(self, now: Now) -> None:
        """Take in what the helper that asks the GPU has found, if one is under way."""
        helper = self.gpu_helper
        if helper is None:
            return
        for report in helper.reports():
            self.on_gpu(report, now)
        overdue = now.active > (helper.deadline or 0.0)
        if overdue:
            self.on_gpu({"gpu": None}, now)
        if helper.descriptor < 0 or overdue:
            helper.kill()
            helper.close()
            self.gpu_helper = None

    def on_gpu(self, report: Json, now: Now) -> None:
        """A GPU whose use can't be told (`[N/A]` with MIG, a driver that hangs) counts as used: nobody ends for it."""
        share = report.get("gpu")
        if share is None or share >= GPU_PERCENT:
            self.gpu_at = now.active


def has_gpu() -> bool:
    return os.path.exists(NVIDIA_DEVICE)


def _report_gpu(report: Callable[[Json], None]) -> None:
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    report({"gpu": gpu_percent(processes.capture(query))})


def gpu_percent(text: str) -> Optional[float]:
    """The highest use of a GPU that nvidia-smi printed, one a line; None when that of any can't be told."""
    words = text.split()
    if not words or not all(word.isdigit() for word in words):
        return None
    return max(float(word) for word in words)
