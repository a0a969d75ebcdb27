"""What a controller does on a host: it places an attempt there and starts it, orders it, copies what it had saved, and
removes it. Each is safe to do twice.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

from runctl.agent import hostside
from runctl.agent.files import write_json
from runctl.agent.leftovers import is_run_held
from runctl.checkpoints.lasting import make_directories
from runctl.checkpoints.places import S3
from runctl.checkpoints.storage import empty
from runctl.snapshots.errors import SnapshotError
from runctl.snapshots.materialize import materialize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

    Json = Dict[str, Any]

# What a training may see of the environment around it; everything else is the manifest's to pass.
PASSED = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "RUNCTL_HOST_LOCK_DIR"),
    )
)
# What the copying of checkpoints into object storage finds credentials by: the agent's, never the training's.
STORAGE_PREFIX = "AWS_"
PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "PIP_", "UV_")

# The launcher only forks and execs; a machine that takes longer swaps itself to death.
LAUNCHER_SECONDS = 30.0
CLAIM_SECONDS = 5.0
# What is salvaged within this doesn't keep the job waiting for another look.
SALVAGE_SECONDS = 2.0


class Salvaged(NamedTuple):
    """`over`: nothing is left to be copied, or nobody will; `begun`: the process that does it was started just now."""

    over: bool
    begun: bool = False


class Answer(NamedTuple):
    """`refused`: it definitely had no effect, and why; `unknown`: it may have had one. Neither: it is done."""

    refused: str = ""
    unknown: str = ""


def passed_environment(environ: Mapping[str, str]) -> Dict[str, str]:
    """The part of an environment that every attempt sees."""
    return {k: v for k, v in environ.items() if k in PASSED or k.startswith(PASSED_PREFIXES)}


def agent_environment(environ: Mapping[str, str], spec: Json) -> Dict[str, str]:
    """What the agent of this attempt sees."""
    found = passed_environment(environ)
    checkpoint = spec.get("checkpoint")
    destination = checkpoint.get("destination") if isinstance(checkpoint, dict) else None
    if isinstance(destination, str) and destination.startswith(S3):
        found.update((name, value) for name, value in environ.items() if name.startswith(STORAGE_PREFIX))
    return found


def launch(run_dir: str, snapshot: str, spec: Json, orders: Json, entry: str, environ: Mapping[str, str]) -> Answer:
    """Prepare the run directory with a copy of the stored snapshot, and start the attempt by the agent's `entry`."""
    if os.path.exists(f"{run_dir}/claim.json"):
        return Answer()
    try:
        make_run_dir(run_dir)
        if not os.path.exists(f"{run_dir}/work"):
            materialize(snapshot, f"{run_dir}/work")
        write_json(f"{run_dir}/spec.json", spec)
        order(run_dir, orders)
    except (OSError, SnapshotError) as error:
        return Answer(refused=said(error))
    answer = start(entry, [run_dir], environ)
    if answer == Answer():
        _await(lambda: any(os.path.exists(f"{run_dir}/{name}.json") for name in ("claim", "exit")), CLAIM_SECONDS)
    return answer


def make_run_dir(run_dir: str) -> None:
    """Make it, with names that a power cut doesn't take back up to the home's: an attempt whose directory is gone would
    count as never started, and be started again.
    """
    make_directories(run_dir, levels=4)


def start(entry: str, arguments: Iterable[str], environ: Mapping[str, str]) -> Answer:
    """Start one of the agent's programs, which detaches itself."""
    argv = [sys.executable, "-I", "-S", "-E", entry, *arguments]
    try:
        done = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=LAUNCHER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        # What it forked may live on.
        return Answer(unknown=f"the agent's launcher hangs: {error}")
    except OSError as error:
        return Answer(refused=f"the agent couldn't be started: {said(error)}")
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()[-500:]
        return Answer(refused=f"the agent couldn't be started (exit {done.returncode}): {text}")
    return Answer()


def order(run_dir: str, orders: Json) -> None:
    """Replace `orders.json`. Raises OSError."""
    write_json(f"{run_dir}/orders.json", orders)


def salvage(run_dir: str, entry: str, environ: Mapping[str, str], begin: bool) -> Salvaged:
    """See to it that what a dead attempt had saved is copied, by a process that needs no controller. `environ`: all of
    it; `begin`: nobody has started that process yet; one that was killed isn't started again.
    """
    if not hostside.may_have_unsaved(run_dir):
        return Salvaged(over=True)
    begun = begin and not is_run_held(run_dir)
    if begun:
        spec = hostside.read_json(f"{run_dir}/spec.json")
        if start(entry, ["--salvage", run_dir], agent_environment(environ, spec or {})) != Answer():
            return Salvaged(over=True, begun=True)
        _await(lambda: not hostside.may_have_unsaved(run_dir), SALVAGE_SECONDS)
    return Salvaged(not (hostside.may_have_unsaved(run_dir) and is_run_held(run_dir)), begun)


def forget(places: Iterable[str], client: Optional[str] = None) -> None:
    """Remove directories of a job that is gone, and its checkpoints in object storage, with the S3 client that was
    delivered to `client`. Raises OSError for what can't be removed, and for an attempt that lives after all, which is
    told to save and end.
    """
    places = list(places)
    for place in places:
        _end_what_lives(place)
    for place in places:
        if place.startswith(S3):
            empty(place, client)
        else:
            _remove(place)


def _end_what_lives(place: str) -> None:
    """Whoever took it for dead was wrong: without its directory nobody could tell it anything any more."""
    try:
        attempts = sorted(os.listdir(place))
    except OSError:
        return
    for name in attempts:
        run_dir = os.path.join(place, name)
        if is_run_held(run_dir):
            orders = hostside.read_json(f"{run_dir}/orders.json") or {}
            if orders.get("end") is None:
                serial = orders.get("serial")
                serial = serial + 1 if isinstance(serial, int) else 1
                order(run_dir, {**orders, "serial": serial, "end": {"reason": "cancel"}})
            raise OSError(errno.EBUSY, f"attempt {int(name)} still runs there; it was told to save and end", run_dir)


def _remove(place: str) -> None:
    """Raises OSError for the first thing that stays, when all else is gone."""
    failed: List[OSError] = []

    def note(_function: object, _path: str, failure: Any) -> None:
        error = failure[1]
        if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            failed.append(error)

    shutil.rmtree(place, onerror=note)
    if failed and os.path.lexists(place):
        raise failed[0]


def _await(is_there: Callable[[], bool], seconds: float) -> None:
    """Give a process the moment that it needs, so that the next look sees what it did."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not is_there():
        time.sleep(0.002)


def said(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.strerror or error}: `{os.fsdecode(error.filename)}`"
    return hostside.plain(text)
