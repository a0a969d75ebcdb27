"""Starting processes without `subprocess`: an argv, or a short-lived fork of the agent that reports by a pipe."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import signal
import sys

from runctl.agent import cgroup, processes
from runctl.agent.prctl import PR_SET_PDEATHSIG, prctl
from runctl.agent.signals import reset_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

    Json = Dict[str, Any]

MAX_REPORT_BYTES = 8 * 1024 * 1024
HELPER_NICENESS = 10


class CannotStart(Exception):
    """An argv could not be executed; `args[0]` says why."""


def spawn(
    argv: Sequence[str],
    cwd: str,
    env: Dict[str, str],
    output: int,
    umask: int,
    run_id: str,
    keep: Iterable[int] = (),
    pdeath: Optional[int] = None,
) -> int:
    """Execute an argv in a process group of its own, stdin empty, stdout and stderr to `output`; returns its pid.

    `argv[0]` without a slash is looked up in `env`'s PATH. `run_id` names the control group that it enters, where
    there is one. `keep` are descriptors that it inherits. `pdeath` is the pid whose death kills it (Linux). Raises
    CannotStart, with nothing left running.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        stage = "be started"
        try:
            os.setpgid(0, 0)
            cgroup.enter(run_id)
            if pdeath is not None:
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != pdeath:  # it died before this could be set
                    os._exit(1)
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            for descriptor in keep:
                os.set_inheritable(descriptor, True)
            reset_signals()
            os.umask(umask)
            stage = f"enter `{cwd}`"
            os.chdir(cwd)
            stage = f"execute `{argv[0]}`"
            os.execvpe(argv[0], list(argv), env)
        except BaseException as error:
            code = error.errno if isinstance(error, OSError) else 0
            os.write(writer, f"{code or 0}\n{stage}\n{error}".encode("utf-8", "replace")[:4000])
        finally:
            os._exit(127)
    os.close(writer)
    with open(reader, "rb") as file:
        message = file.read()
    if not message:
        return pid
    os.waitpid(pid, 0)
    number, stage, text = message.decode("utf-8", "replace").split("\n", 2)
    raise CannotStart(_explain(int(number), stage, text, argv[0], cwd, env))


def _explain(number: int, stage: str, text: str, program: str, cwd: str, env: Dict[str, str]) -> str:
    if not stage.startswith("execute"):
        return f"could not {stage}: {os.strerror(number) if number else text}"
    if number == errno.ENOENT and "/" not in program:
        return f"could not {stage}: no such program in PATH ({env.get('PATH', os.defpath)})"
    if number == errno.ENOENT and os.path.exists(os.path.join(cwd, program)):
        return f"could not {stage}: the interpreter that its first line names doesn't exist"
    if number == errno.ENOEXEC:
        return f"could not {stage}: it is neither a binary of this machine nor a script with a `#!` line"
    return f"could not {stage}: {os.strerror(number) if number else text}"


class Helper:
    """A short-lived fork of the agent that does something heavy and reports in lines of JSON."""

    __slots__ = ("_buffer", "_size", "deadline", "descriptor", "pid", "purpose")

    def __init__(self, pid: int, descriptor: int, purpose: str, deadline: Optional[float]) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self.purpose = purpose
        self.deadline = deadline
        self._buffer = b""
        self._size = 0

    def reports(self) -> List[Json]:
        """What it has reported since the last call."""
        while self.descriptor >= 0:
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self._size += len(data)
            if not data or self._size > MAX_REPORT_BYTES:
                self.close()
                break
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def kill(self) -> None:
        """End it with what it started."""
        for target in (-self.pid, self.pid):
            processes.signal_one(target, signal.SIGKILL)


def fork_helper(
    work: Callable[[Callable[[Json], None]], None], purpose: str, deadline: Optional[float] = None
) -> Helper:
    """Fork the agent and run `work(report)` there. An exception of it is reported as `{"error": text}`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            gc.disable()  # it ends before there could be much, and would copy the agent's memory only to look at it
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            reset_signals()
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            os.close(reader)
            os.nice(HELPER_NICENESS)

            def report(value: Json) -> None:
                data = memoryview(json.dumps(value).encode() + b"\n")
                while data:
                    data = data[os.write(writer, data) :]

            try:
                work(report)
            except Exception as error:
                number = error.errno if isinstance(error, OSError) else None
                report({"error": str(error) or type(error).__name__, "errno": number})
                if not isinstance(error, OSError):
                    sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        os.setpgid(pid, pid)  # here, too: a kill of the group may come before the child has run
    except OSError:
        pass
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK)
    return Helper(pid, reader, purpose, deadline)
