"""The training's process: its environment, its start, its signals, its exit as its parent saw it."""

from __future__ import annotations

import os
import signal

from runctl.agent import processes
from runctl.agent.child import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

    from runctl.agent.clocks import Now
    from runctl.agent.orders import Orders
    from runctl.agent.spec import Spec

    Json = Dict[str, Any]


def environment(spec: Spec, secrets: Dict[str, str]) -> Dict[str, str]:
    """What every process of the attempt sees: the spec's environment, the secrets, and who it belongs to."""
    return {
        "PYTHONUNBUFFERED": "1",
        **spec.env,
        **secrets,
        "RUNCTL_JOB": spec.job,
        "RUNCTL_RUN_ID": spec.run_id,
        "RUNCTL_ATTEMPT": str(spec.attempt),
        "RUNCTL_CHECKPOINT_DIR": spec.checkpoint.dir,
        "RUNCTL_CHECKPOINT_EVERY": spec.checkpoint.every_text,
        "RUNCTL_CHECKPOINT_REQUEST": spec.request_path,
        "RUNCTL_PROGRESS": spec.progress_path,
    }


def take_secrets(spec: Spec) -> Dict[str, str]:
    """The secrets from the agent's own environment. Raises KeyError with the name of one that isn't there."""
    return {name: os.environ[name] for name in spec.secrets}


def deadline_variable(orders: Orders, started: Now, now: Now) -> Dict[str, str]:
    """`RUNCTL_DEADLINE`: the instant at which the attempt ends as things stand, in UTC seconds; none without a
    limit.
    """
    limits = orders.limits
    instants = []
    if limits.money_until is not None:
        instants.append(limits.money_until)
    if limits.money_seconds is not None:
        instants.append(now.wall + limits.money_seconds - (now.boot - started.boot))
    if limits.duration is not None:
        instants.append(now.wall + limits.duration - (now.active - started.active))
    return {"RUNCTL_DEADLINE": f"{min(instants):.0f}"} if instants else {}


class Training:
    """The direct child that runs the script. `status` is what waitpid said of it, None while it runs."""

    def __init__(self, spec: Spec, argv: List[str], env: Dict[str, str], output: int, umask: int, lock: int) -> None:
        """Raises CannotStart."""
        self.oom_before = oom_kills()
        self.pid = spawn(
            argv,
            spec.cwd,
            env,
            output,
            umask=umask,
            run_id=spec.run_id,
            keep=(lock,),
            pdeath=os.getpid() if processes.LINUX else None,
        )
        self.identity: Json = processes.identity(self.pid)
        self.status: Optional[int] = None
        self.killed = False

    def send(self, number: int, to: str) -> None:
        """Signal the leader alone, or every process of its group."""
        if to == "group":
            try:
                os.killpg(self.pid, number)
            except OSError:
                pass
        elif self.status is None:
            processes.signal_one(self.pid, number)

    @property
    def exit_code(self) -> Optional[int]:
        if self.status is None or not os.WIFEXITED(self.status):
            return None
        return os.WEXITSTATUS(self.status)

    @property
    def signal(self) -> Optional[int]:
        if self.status is None or not os.WIFSIGNALED(self.status):
            return None
        return os.WTERMSIG(self.status)

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel's OOM killer has been at work and this died of a SIGKILL that the agent didn't send."""
        return self.signal == signal.SIGKILL and not self.killed and oom_kills() > self.oom_before


def oom_kills() -> int:
    """How many processes the kernel's OOM killer has ended: in this control group where there is one, else on the
    host.
    """
    for path, name in ((_memory_events(), b"oom_kill "), ("/proc/vmstat", b"oom_kill ")):
        try:
            with open(path, "rb") as file:
                for line in file:
                    if line.startswith(name):
                        return int(line[len(name) :])
        except OSError:
            continue
    return 0


def _memory_events() -> str:
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("0::"):
                    return f"/sys/fs/cgroup{line[3:].strip()}/memory.events"
    except OSError:
        pass
    return ""
