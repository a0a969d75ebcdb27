"""What a controller asks of a host: how an attempt is, who trains there, and the end of what nobody else can end.

The answers are plain values, the same for a controller on this host and for one that asks from elsewhere; what they
mean is the controller's to say. What they are made of was written by an agent of ours, but beside a training that may
write there, too: whatever doesn't have the expected shape is treated as not there.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from typing import NamedTuple

from runctl.agent import files, hostlock, leftovers, processes
from runctl.agent.record import TRAINING_STARTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Optional, Tuple

    Json = Dict[str, Any]

# What guardian and agent leave behind once they have begun.
TRACES = ("claim.json", "state.json", "checkpoints.jsonl", "events.jsonl")

# Files that change when something new can be seen.
STAMPED = ("state.json", "exit.json", "events.jsonl", leftovers.SALVAGED)

# A guardian ends at once when its attempt has; one that is there this much later does nothing any more.
LEFTOVER_SECONDS = 5.0
KILL_SECONDS = 1.0
# A claim and a state appear once each: who removes them again and again is no agent.
BEGINNINGS = 3
# In one look; what else there is comes with the next ones.
MOST_EVENTS = 1000
EVENTS_BYTES = 1024 * 1024
# Of a journal the end is looked at: the newest durable checkpoint is there.
JOURNAL_BYTES = 4 * 1024 * 1024

# How JSON has what isn't a character, and halves of some that are.
_SURROGATES = re.compile(rb"\\u[dD]")

ABLE, HELD, GONE = "able", "held", "gone"


class Watcher(NamedTuple):
    """Guardian or agent of an attempt: `able` to do something, `held` (stopped, traced), or `gone`, with no pid."""

    pid: int
    state: str


class Facts(NamedTuple):
    """What is known of one attempt on its host.

    `exit`, `claim` and `state` are the objects in these files, `serial` is that of the orders which lie there, `events`
    are the agent's after a number that was asked for. `guardian` and `agent` are None where nobody has looked for them,
    and the agent where it hasn't said who it is. `left` says that processes of the attempt are there, `locked` that
    somebody holds the run directory, `traces` that an agent began in it, `unreadable` why that can't be told. The
    `journal` is there only of an attempt that is over. `monotonic` is in seconds of the host's clock that stands still
    while it sleeps, in the boot of that id; `wall` is what its clock shows, in seconds since the epoch.
    """

    boot_id: str
    monotonic: float
    wall: float
    exit: Optional[Json] = None
    claim: Optional[Json] = None
    state: Optional[Json] = None
    serial: int = 0
    events: Tuple[Json, ...] = ()
    journal: Tuple[Json, ...] = ()
    traces: bool = False
    unreadable: str = ""
    guardian: Optional[Watcher] = None
    agent: Optional[Watcher] = None
    left: bool = False
    locked: bool = False


def look(run_dir: str, run_id: str, after: int = 0) -> Facts:
    """The attempt of a run directory, with some of its events after number `after`: more at the next look."""
    facts = _written(run_dir, after)
    for _ in range(BEGINNINGS):
        if facts.exit is not None or facts.unreadable:
            break
        guardian, agent = _watchers(run_dir, facts)
        told = facts.claim is not None or facts.state is not None
        if guardian.pid or (agent is not None and agent.pid):
            return facts._replace(guardian=guardian, agent=agent)
        # What they wrote last may have been written between the two looks.
        facts = _written(run_dir, after)
        if not told and (facts.claim is not None or facts.state is not None):
            continue  # one who was just starting has said who he is
        if facts.exit is None:
            left = bool(processes.orphans(run_id, processes.table()))
            locked = not told and leftovers.is_run_held(run_dir)
            facts = facts._replace(guardian=guardian, agent=agent, left=left, locked=locked)
        break
    else:
        facts = facts._replace(left=True)  # whoever does that
    return _over(facts, run_dir)


def files_alone(run_dir: str) -> Facts:
    """What is known of an attempt of which no process is left, as after a power cut."""
    return _over(_written(run_dir, 0), run_dir)


def _over(facts: Facts, run_dir: str) -> Facts:
    """With the journal's end."""
    return facts._replace(journal=tuple(read_lines(f"{run_dir}/checkpoints.jsonl", JOURNAL_BYTES)))


def _written(run_dir: str, after: int) -> Facts:
    end, claim, state = (read_json(f"{run_dir}/{name}.json") for name in ("exit", "claim", "state"))
    orders = read_json(f"{run_dir}/orders.json") or {}
    serial = orders.get("serial")
    traces = any(os.path.lexists(f"{run_dir}/{name}") for name in TRACES)
    return Facts(
        boot_id=processes.boot_id(),
        monotonic=time.monotonic(),
        wall=time.time(),
        exit=end,
        claim=claim,
        state=state,
        serial=serial if isinstance(serial, int) and not isinstance(serial, bool) else 0,
        events=events(run_dir, after),
        traces=traces,
        unreadable=_unreadable(run_dir) if traces and end is None and claim is None and state is None else "",
    )


def _unreadable(run_dir: str) -> str:
    """Why files can't be read that are there (too many open files, say); such a one isn't one that isn't there."""
    for path in (f"{run_dir}/{name}" for name in TRACES):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                return f"`{path}`: {error.strerror}"
    return ""


def _watchers(run_dir: str, facts: Facts) -> Tuple[Watcher, Optional[Watcher]]:
    """Guardian and agent by what they have written of themselves; by their command lines where that is gone. The state
    names the guardian, too: a claim that was lost or damaged since hides nothing."""
    guardian = (facts.claim or {}).get("guardian") or (facts.state or {}).get("guardian")
    if guardian is not None and facts.state is not None:
        return _watcher(processes.look_for(guardian)), _watcher(processes.look_for(facts.state.get("agent")))
    found = processes.programs(run_dir)
    known = found.get("--guardian") if guardian is None else processes.look_for(guardian)
    return _watcher(known), _watcher(found["--agent"]) if "--agent" in found else None


def _watcher(process: Optional[processes.Process]) -> Watcher:
    if process is None:
        return Watcher(0, GONE)
    return Watcher(process.pid, HELD if process.state == processes.STOPPED else ABLE)


def stamp(run_dir: str, watchers: Iterable[int]) -> Tuple[object, ...]:
    """Differs from what it was when a look would find something new. Cheap: meant to be asked often. Guardian and agent
    that are killed together leave no trace in any file: `watchers` are their pids."""
    return (*(_mtime(f"{run_dir}/{name}") for name in STAMPED), *(_exists(pid) for pid in watchers))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def may_have_unsaved(run_dir: str) -> bool:
    """Whether an attempt found dead may have saved something that nobody has looked through since."""
    if os.path.lexists(f"{run_dir}/{leftovers.SALVAGED}"):
        return False
    state = read_json(f"{run_dir}/state.json")
    if state is None or state.get("training") is not None:
        return True
    # After a power cut the state may be one of before the training; events are synced.
    return any(line.get("event") == TRAINING_STARTED for line in read_lines(f"{run_dir}/events.jsonl"))


def holder(home_runs: str, ending_leftovers: bool) -> Optional[Json]:
    """Who trains on this host by its lock, as he has written himself down. With `ending_leftovers` a guardian of that
    home that outlives its attempt, because it is held, is ended and holds nothing."""
    try:
        holders = hostlock.recorded_holders()
    except (hostlock.LockUnusable, OSError):
        return None
    for each in holders:
        if processes.is_alive(each.get("agent")):
            return each
        if processes.is_alive(each.get("guardian")) and not (ending_leftovers and _end_leftover(each, home_runs)):
            return each
    return None


def _end_leftover(held_by: Json, home_runs: str) -> bool:
    run_dir, guardian = str(held_by.get("run_dir", "")), held_by.get("guardian")
    if not is_below(run_dir, home_runs) or not isinstance(guardian, dict):
        return False
    try:
        over_for = time.time() - os.lstat(f"{run_dir}/exit.json").st_mtime
    except OSError:
        return False
    return over_for >= LEFTOVER_SECONDS and processes.signal_one(int(guardian["pid"]), signal.SIGKILL)


def is_below(path: str, directory: str) -> bool:
    """Whether a path that has no `..` in it lies in a directory."""
    return path.startswith(directory.rstrip("/") + "/") and ".." not in path.split("/")


def end(pids: Iterable[int]) -> None:
    """Kill guardian and agent of an attempt that can't do anything, and give them the moment in which they go."""
    left = [pid for pid in pids if processes.signal_one(pid, signal.SIGKILL)]
    until = time.monotonic() + KILL_SECONDS
    while any(map(_is_there, left)) and time.monotonic() < until:
        time.sleep(0.002)


def _is_there(pid: int) -> bool:
    found = processes.look(pid)
    return found is not None and found.state != "Z"


def end_unwatched(run_id: str) -> None:
    """Kill what is left of an attempt that nobody watches over any more."""
    leftovers.end_unwatched(run_id)


def events(run_dir: str, after: int) -> Tuple[Json, ...]:
    """The agent's own events with a number above `after`. A torn last line is left for the next look."""
    found: List[Json] = []
    size = 0
    for line in read_lines(f"{run_dir}/events.jsonl"):
        if not isinstance(line.get("seq"), int) or isinstance(line["seq"], bool) or line["seq"] <= after:
            continue
        size += len(str(line))
        if found and (len(found) == MOST_EVENTS or size > EVENTS_BYTES):
            break
        found.append(line)
    return tuple(found)


def journal(run_dir: str) -> Tuple[Json, ...]:
    """What the agent has noted of its checkpoints."""
    return tuple(read_lines(f"{run_dir}/checkpoints.jsonl"))


def read_json(path: str) -> Optional[Json]:
    """The object in a file; None if it isn't there or isn't one."""
    try:
        data = files.read_file(path, files.MAX_JSON_BYTES + 1)
        found = files.parse_json(data)
        return _plain(found) if _SURROGATES.search(data) else found
    except (OSError, ValueError, RecursionError):
        return None


def read_lines(path: str, most: int = 0) -> List[Json]:
    """The objects of a JSON Lines file, without a torn last line and what isn't an object; those of its last `most`
    bytes, if that is given."""
    try:
        data = files.read_file(path).rpartition(b"\n")[0]
        if 0 < most < len(data):
            data = data[-most:].partition(b"\n")[2]
        found = files.parse_lines(data)
        return [_plain(line) for line in found] if _SURROGATES.search(data) else found
    except (OSError, ValueError, RecursionError):
        return []


def plain(text: str) -> str:
    """A text that can be stored and printed: bytes of a name that isn't UTF-8 are shown as `\\udc…`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
