"""What is left when guardian and agent of an attempt died at once: its processes, which the next start here ends."""

from __future__ import annotations

import fcntl
import os
import signal
import time

from runctl.agent import cgroup, hostlock, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Set

# In a run directory: what the attempt had saved was looked through, by a process of its own.
SALVAGED = "salvaged.json"
# However short the grace is, there is this much for that, unless the money is over before.
SALVAGE_SECONDS = 30.0
SWEEP_SECONDS = 10.0
UNWATCHED_SECONDS = 1.0


def salvage_seconds(grace: float, money_left: Optional[float]) -> float:
    """What there is for salvaging: as much as the training itself would have had for its last checkpoint."""
    seconds = max(SALVAGE_SECONDS, grace)
    return seconds if money_left is None else max(0.0, min(seconds, money_left))


def sweep() -> None:
    """Kill this user's processes of attempts that hold, or held, this host and have neither guardian nor agent any
    more.
    """
    cgroup.sweep()
    for holder in hostlock.recorded_holders():
        run_id = holder.get("run_id")
        if not isinstance(run_id, str) or not run_id or holder.get("uid") != os.getuid():
            continue
        if processes.is_alive(holder.get("agent")) or processes.is_alive(holder.get("guardian")):
            continue
        _end(run_id, str(holder["path"]))


def end_unwatched(run_id: str) -> None:
    """Kill this user's processes of one attempt that nobody watches over any more."""
    _end(run_id, "", UNWATCHED_SECONDS)


def _end(run_id: str, lock_path: str, seconds: float = SWEEP_SECONDS) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        orphans = _orphans(run_id) | (_orphaned_holders(lock_path) if lock_path else set())
        for pid in orphans:
            processes.signal_one(pid, signal.SIGKILL)
        if not orphans:
            cgroup.remove_anywhere(run_id)
            return
        time.sleep(processes.KILL_ROUND_SECONDS)


def _orphans(run_id: str) -> Set[int]:
    rows = processes.table()
    carriers = processes.carriers(run_id, set(rows) - {os.getpid()})
    roots = {pid for pid, environment in carriers.items() if not _is_watched(environment)}
    if len(roots) == len(carriers):  # nobody of that run is watched: neither are those who have emptied theirs
        roots |= {pid for pid in cgroup.members_anywhere(run_id) & set(rows) if processes.is_mine(pid)}
    found = set(roots)
    for pid in roots:
        found |= processes.descendants(pid, rows)
    return {pid for pid in found if rows[pid].state != "Z"} - {os.getpid()}


def _orphaned_holders(lock_path: str) -> Set[int]:
    """This user's processes that hold the lock by a descriptor which they inherited from a guardian that is dead.

    They may have emptied their environment. Who only has the file open (a probe, another start) doesn't hold it.
    """
    if not processes.LINUX:
        return set()
    try:
        wanted = os.stat(lock_path, follow_symlinks=False)
    except OSError:
        return set()
    held: Dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            owner = _lock_owner(int(name), wanted)
            if owner is not None:
                held[int(name)] = owner
    return {pid for pid, owner in held.items() if owner not in held} - {os.getpid()}


def _lock_owner(pid: int, wanted: os.stat_result) -> Optional[int]:
    """The process that took the lock which this one holds a descriptor of; None if it holds none."""
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.getuid():
            return None
        for number in os.listdir(f"/proc/{pid}/fd"):
            found = os.stat(f"/proc/{pid}/fd/{number}")
            if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
                continue
            with open(f"/proc/{pid}/fdinfo/{number}") as file:
                for line in file:
                    fields = line.split()  # lock: 1: FLOCK ADVISORY WRITE <pid> <device:inode> 0 EOF
                    if len(fields) > 5 and fields[0] == "lock:" and fields[2] == "FLOCK":
                        return int(fields[5])
    except (OSError, ValueError):
        pass
    return None


def _is_watched(environment: Dict[str, str]) -> bool:
    """Whether a guardian or agent still holds the process's own run directory. The lock file, which anybody may write,
    is not believed in this: it could name a living attempt."""
    request = environment.get("RUNCTL_CHECKPOINT_REQUEST", "")
    if not os.path.isabs(request):
        return False
    return is_run_held(os.path.dirname(request))


def is_run_held(run_dir: str) -> bool:
    """Whether a guardian or an agent of that run directory is alive."""
    try:
        descriptor = os.open(os.path.join(run_dir, "run.lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
