"""Processes: who they are, whose descendants, and ending them until they are gone.

A process is known by pid, start time and boot id. Linux reads `/proc`; elsewhere `ps` is asked.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from runctl.agent import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Union

LINUX = sys.platform.startswith("linux")
RUN_ID_VARIABLE = "RUNCTL_RUN_ID"
# A process's state in the table: it was sent SIGSTOP, or is held by a debugger.
STOPPED = "T"
# Between two rounds of killing; what is in the kernel's hands (a flush to a dead disk) needs a while to go.
KILL_ROUND_SECONDS = 0.02
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """One row of the process table. `start` is in clock ticks since boot (Linux) or the text of `ps -o lstart=`;
    `cpu` is in
    seconds, with that of children that were waited for where the system says so; `rss` in bytes."""

    __slots__ = ("cpu", "pgid", "pid", "ppid", "rss", "start", "state")

    def __init__(
        self, pid: int, ppid: int, pgid: int, state: str, start: Union[int, str], cpu: float, rss: int
    ) -> None:
        self.pid = pid
        self.ppid = ppid
        self.pgid = pgid
        self.state = state
        self.start = start
        self.cpu = cpu
        self.rss = rss


def boot_id() -> str:
    if LINUX:
        try:
            with open("/proc/sys/kernel/random/boot_id") as file:
                return file.read().strip()
        except OSError:
            return ""
    return capture(["sysctl", "-n", "kern.bootsessionuuid"]).strip()


def identity(pid: int) -> Dict[str, Any]:
    """`{pid, start, boot_id}` of a process; `start` is null when it is gone."""
    found = look(pid)
    return {"pid": pid, "start": None if found is None else found.start, "boot_id": boot_id()}


def is_alive(known: object) -> bool:
    """Whether the process of that identity still runs: the same pid, start time and boot. A zombie doesn't."""
    return look_for(known) is not None


def look_for(known: object) -> Optional[Process]:
    """The process of that identity, if it still runs."""
    if not isinstance(known, dict) or not isinstance(known.get("pid"), int) or known["pid"] <= 0:
        return None
    found = look(known["pid"])
    if found is None or found.state == "Z" or found.start != known.get("start"):
        return None
    return found if known.get("boot_id") == boot_id() else None


def programs(run_dir: str) -> Dict[str, Process]:
    """This user's processes of the agent's code for one run directory, by the option that names their program."""
    found = {}
    for process in table().values():
        if process.state == "Z" or not is_mine(process.pid):
            continue
        argv = _argv_of(process.pid)
        if run_dir in argv and argv.index(run_dir) > 0:
            found[argv[argv.index(run_dir) - 1]] = process
    return found


def _argv_of(pid: int) -> List[str]:
    if not LINUX:
        return capture(["ps", "-o", "command=", "-p", str(pid)]).split()
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(part) for part in file.read().split(b"\0")]
    except OSError:
        return []


def look(pid: int) -> Optional[Process]:
    if LINUX:
        return _read_stat(pid)
    for process in _ask_ps(["-p", str(pid)]):
        return process
    return None


def table() -> Dict[int, Process]:
    """Every process of the host by pid."""
    if not LINUX:
        return {process.pid: process for process in _ask_ps(["-A"])}
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = _read_stat(int(name))
            if process is not None:
                found[process.pid] = process
    return found


def _read_stat(pid: int) -> Optional[Process]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The command in parentheses may hold spaces and parentheses itself.
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 22:
        return None
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        state=fields[0].decode(),
        start=int(fields[19]),
        cpu=sum(int(field) for field in fields[11:15]) / TICKS,
        rss=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )


def _ask_ps(selection: List[str]) -> List[Process]:
    found = []
    for line in capture(["ps", *selection, "-o", "pid=,ppid=,pgid=,stat=,rss=,time=,lstart="]).splitlines():
        fields = line.split(None, 6)
        if len(fields) < 7:
            continue
        pid, ppid, pgid, state, rss, cpu, start = fields
        try:
            process = Process(
                int(pid), int(ppid), int(pgid), state[0], start.strip(), _ps_seconds(cpu), int(rss) * 1024
            )
        except ValueError:
            continue
        found.append(process)
    return found


def _ps_seconds(text: str) -> float:
    """`1-02:03:04`, `02:03.45` and the like, in seconds."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + (int(days) * 86400 if days else 0)


def capture(argv: List[str]) -> str:
    """What a short command prints, "" when it can't be run. No subprocess: it would cost the agent 2 MiB for good."""
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawnp(
            argv[0],
            argv,
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
    except OSError:
        os.close(reader)
        os.close(writer)
        return ""
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as file:
        text = file.read()
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    return text


def descendants(root: int, rows: Dict[int, Process]) -> Set[int]:
    """The pids below a process, from a table."""
    children: Dict[int, List[int]] = {}
    for process in rows.values():
        children.setdefault(process.ppid, []).append(process.pid)
    found: Set[int] = set()
    queue = [root]
    while queue:
        for pid in children.get(queue.pop(), ()):
            if pid not in found:
                found.add(pid)
                queue.append(pid)
    return found


def tree(root: int) -> List[Process]:
    """The living processes below a process, by walking only them where the kernel lists children."""
    if not (LINUX and os.path.exists(f"/proc/{root}/task/{root}/children")):
        rows = table()
        return [rows[pid] for pid in descendants(root, rows)]
    found: List[Process] = []
    queue = [root]
    while queue:
        pid = queue.pop()
        for child in _children(pid):
            process = _read_stat(child)
            if process is not None:
                found.append(process)
                queue.append(child)
    return found


def _children(pid: int) -> List[int]:
    found: List[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(int(child) for child in file.read().split())
        except OSError:
            continue
    return found


def carriers(run_id: str, rows: Iterable[int]) -> Dict[int, Dict[str, str]]:
    """The processes of this user that carry that run id in their environment, with it, by pid."""
    wanted = f"{RUN_ID_VARIABLE}={run_id}"
    found = {}
    for pid in rows:
        environment = environment_of(pid)
        if wanted in environment:
            found[pid] = dict(entry.partition("=")[::2] for entry in environment)
    return found


def orphans(run_id: str, rows: Dict[int, Process]) -> Set[int]:
    """What is alive of an attempt whose guardian and agent are gone, from a table."""
    found = set(carriers(run_id, rows)) | cgroup.members_anywhere(run_id) & set(rows)
    return {pid for pid in found if rows[pid].state != "Z"}


def environment_of(pid: int) -> List[str]:
    """The `NAME=value` of a process as it was started, if it is this user's; else []."""
    if not LINUX:
        return capture(["ps", "-E", "-ww", "-p", str(pid), "-o", "command="]).split()
    try:
        if not is_mine(pid):
            return []
        with open(f"/proc/{pid}/environ", "rb") as file:
            return os.fsdecode(file.read()).split("\0")
    except OSError:
        return []


def is_mine(pid: int) -> bool:
    """Whether a process of Linux is this user's."""
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()
    except OSError:
        return False


def signal_one(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def reap(on_exit: Callable[[int, int], None]) -> bool:
    """Collect every child that has ended; False when there are no children left at all."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        on_exit(pid, status)


def attempt_processes(root: int, run_id: str, spare: Set[int]) -> Set[int]:
    """What is alive of an attempt: below `root`, in its control group, or carrying the run id; without zombies, and
    without `spare` and what is below it.
    """
    rows = table()
    spared = set(spare)
    for pid in spare:
        spared |= descendants(pid, rows)
    found = descendants(root, rows)
    for pid in cgroup.members(run_id) & set(rows):
        found |= {pid} | descendants(pid, rows)
    for pid in carriers(run_id, set(rows) - found - spared):
        found.add(pid)
        found |= descendants(pid, rows)
    return {pid for pid in found - spared - {root} if rows[pid].state != "Z"}


def kill_attempt(root: int, run_id: str, spare: Set[int], seconds: float, on_exit: Callable[[int, int], None]) -> bool:
    """SIGKILL everything of an attempt, again and again, until nothing is left (True) or the time is over (False)."""
    until = time.monotonic() + seconds
    while True:
        alive = attempt_processes(root, run_id, spare)
        for pid in alive:
            signal_one(pid, signal.SIGKILL)
        reap(on_exit)
        if not alive:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(KILL_ROUND_SECONDS)
