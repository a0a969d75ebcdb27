"""A host's side of a conversation with a controller elsewhere: requests in, answers out, a JSON object a line.

`{"id": 1, "ask": "look", …}` is answered by `{"id": 1, "value": …}` or `{"id": 1, "error": "…"}`. Between answers
`{"changed": RUN_DIR}` says that a watched run directory isn't as it was. Nothing that matters is kept here: another
process that is asked the same things says the same. It ends with its input.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

from runctl.agent import clocks, hostlock, hostside, placement, processes
from runctl.agent.files import write_all
from runctl.agent.transcript import read_journal, read_output, read_setup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

    Json = Dict[str, Any]

# Raised when a controller of before could no longer understand the answers, or ask the same things.
PROTOCOL = 1
WATCH_SECONDS = 0.25
MAX_REQUEST_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
PYTHON_SECONDS = 20.0
# In one answer, of each log.
MOST_OF_A_LOG = 512 * 1024
MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")


def hello(home: str) -> Json:
    """Who this host is, and what its clocks say. Two hosts never have the same machine id, two boots never the same
    boot id; "" where there is none."""
    now = clocks.now()
    return {
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "machine_id": _machine_id(),
        "node": platform.node(),
        "boot_id": processes.boot_id(),
        "uid": os.getuid(),
        "home": home,
        "free": _free(home),
        "now": {"wall": now.wall, "boot": now.boot, "active": now.active},
    }


def _machine_id() -> str:
    for path in MACHINE_IDS:
        try:
            with open(path) as file:
                return file.read(64).strip()
        except OSError:
            continue
    return ""


def _free(path: str) -> int:
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def tools() -> Json:
    """What a training finds here by itself: the PATH, the Python that `python3` means on it with its version, uv, and
    what of the environment every attempt sees."""
    path = os.environ.get("PATH", os.defpath)
    return {
        "path": path,
        "python": _python(path),
        "uv": shutil.which("uv", path=path),
        "environ": placement.passed_environment(os.environ),
    }


def _python(path: str) -> Optional[List[str]]:
    for name in ("python3", "python"):
        found = shutil.which(name, path=path)
        if found is None:
            continue
        try:
            argv = [found, "-I", "-S", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.executable)"]
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PYTHON_SECONDS, check=False
            )
        except (OSError, subprocess.SubprocessError):
            continue
        version, _, executable = done.stdout.decode(errors="replace").strip().partition(" ")
        if done.returncode == 0 and os.path.isabs(executable):
            return [executable, version]
    return None


def launch(run_dir: str, snapshot: str, spec: Json, orders: Json, entry: str, secrets: Dict[str, str]) -> Json:
    environ = {**placement.agent_environment(os.environ, spec), **secrets}
    return placement.launch(run_dir, snapshot, spec, orders, entry, environ)._asdict()


def salvage(run_dir: str, entry: str, begin: bool) -> Json:
    return placement.salvage(run_dir, entry, os.environ, begin)._asdict()


def tail(run_dir: str, output: int, setup: int, journal: int) -> Json:
    """What an attempt's logs and journal have from these bytes on, some of it, in base64; and its state."""
    place = Path(run_dir)
    return {
        "output": _text(read_output(place, output, MOST_OF_A_LOG)),
        "setup": _text(read_setup(place, setup, MOST_OF_A_LOG)),
        "journal": _text(read_journal(place, journal, MOST_OF_A_LOG)),
        "state": hostside.read_json(f"{run_dir}/state.json"),
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def look(run_dir: str, run_id: str, after: int) -> Json:
    return hostside.look(run_dir, run_id, after)._asdict()


def machine(home_runs: str, ending_leftovers: bool) -> Json:
    """Who holds this host, and trainings of others: none where an administrator has divided it."""
    from runctl.agent.foreign import foreign_trainings

    divided = hostlock.DIRECTORY_VARIABLE in os.environ
    found = () if divided else foreign_trainings(os.getpid())
    return {
        "holder": hostside.holder(home_runs, ending_leftovers),
        "foreign": [each._asdict() for each in found],
    }


ASKED: Dict[str, Callable[..., Any]] = {
    "hello": hello,
    "tools": tools,
    "look": look,
    "tail": tail,
    "exists": os.path.lexists,
    "machine": machine,
    "launch": launch,
    "order": placement.order,
    "end": hostside.end,
    "end_unwatched": hostside.end_unwatched,
    "salvage": salvage,
    "forget": placement.forget,
}


class Conversation:
    """Reads requests from one descriptor and writes answers to another, until there are no more."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._read = b""
        # By run directory: the pids of guardian and agent, and what could be seen at the last glance.
        self._watched: Dict[str, Tuple[List[int], Tuple[object, ...]]] = {}

    def run(self) -> None:
        looked = time.monotonic()
        for line in self._lines():
            if line:
                self._say(self._answer(line))
            if time.monotonic() - looked >= WATCH_SECONDS:
                looked = time.monotonic()
                self._look_at_watched()

    def _lines(self) -> Iterator[bytes]:
        """Requests as they come, and b"" now and then while there are none."""
        while True:
            line, newline, rest = self._read.partition(b"\n")
            if newline:
                self._read = rest
                yield line
                continue
            if len(self._read) > MAX_REQUEST_BYTES:
                raise ValueError("a request is too long")
            ready, _, _ = select.select([self._source], [], [], WATCH_SECONDS if self._watched else None)
            if not ready:
                yield b""
                continue
            data = os.read(self._source, CHUNK_BYTES)
            if not data:
                return
            self._read += data

    def _answer(self, line: bytes) -> Json:
        try:
            request = json.loads(line)
            number, ask = request.pop("id"), request.pop("ask")
        except (ValueError, RecursionError, KeyError, AttributeError, TypeError):
            return {"id": None, "error": "not a request"}
        try:
            if ask == "watch":
                # What is watched already may have changed since the last glance at it.
                known = dict(self._watched)
                self._watched = {
                    run_dir: known[run_dir]
                    if run_dir in known and known[run_dir][0] == pids
                    else (pids, hostside.stamp(run_dir, pids))
                    for run_dir, pids in request["runs"]
                }
                return {"id": number, "value": None}
            return {"id": number, "value": ASKED[ask](**request)}
        except Exception as error:  # whatever it is, the next request is answered
            return {"id": number, "error": f"{type(error).__name__}: {error}"}

    def _look_at_watched(self) -> None:
        for run_dir, (pids, before) in list(self._watched.items()):
            now = hostside.stamp(run_dir, pids)
            if now != before:
                self._watched[run_dir] = pids, now
                self._say({"changed": run_dir})

    def _say(self, answer: Json) -> None:
        write_all(self._sink, json.dumps(answer, separators=(",", ":")).encode() + b"\n")


def main() -> int:
    """What a host's libraries or shell print belongs to nobody's answers."""
    sink = os.dup(1)
    os.dup2(2, 1)
    try:
        Conversation(0, sink).run()
    except (BrokenPipeError, ConnectionResetError):
        return 0
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
