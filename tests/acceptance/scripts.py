"""Jobs of a script of the test's own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil

from .machine import Machine

# What a script of a test begins with: a way to tell the world that survives anything.
TELL = """\
import json, os, signal, sys, time

def tell(what, **more):
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.time(), **more})
    with open(os.environ["WORLD"] + "/world.jsonl", "a") as file:
        file.write(line + "\\n")

# The smallest safetensors file. It shows by itself that it is whole; other files must first be left alone for a second.
WHOLE = b"\\x08" + bytes(7) + b"{}      "

def save(name, content=WHOLE):
    path = os.environ["RUNCTL_CHECKPOINT_DIR"] + "/" + name
    with open(path + ".tmp", "wb") as file:
        file.write(content)
    os.rename(path + ".tmp", path)

"""


def job(machine: Machine, code: str, name: str = "job", **fields: Any) -> str:
    """Write a script of that code, and a manifest that runs it; the manifest's name."""
    machine.write(f"{name}.py", TELL + code)
    manifest = {
        "name": name,
        "script": f"{name}.py",
        "env": {"WORLD": str(machine.world)},
        "setup": "none",
        "checkpoint": {"grace": "2s"},
        **fields,
    }
    return machine.write(f"{name}.yaml", json.dumps(manifest, indent=1)).name


def repository(directory: Path) -> None:
    """Make the directory what git takes for an empty repository, also where git isn't installed."""
    for name in ("objects", "refs"):
        (directory / ".git" / name).mkdir(parents=True)
    (directory / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (directory / ".git" / "config").write_text("[core]\n\trepositoryformatversion = 0\n")


def events(machine: Machine, name: str = "job") -> list[dict[str, Any]]:
    done = machine.run("events", name, "-o", "json")
    assert done.code == 0, done
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def durable(machine: Machine) -> list[Path]:
    """The files of the durable copies on the disk, those alone that have their manifest."""
    manifests = sorted(machine.home.glob("checkpoints/*/*/*/manifest.json"))
    return [path for each in manifests for path in sorted(each.parent.glob("data/**/*")) if path.is_file()]


def durable_steps(machine: Machine) -> list[int]:
    """Which steps the durable copies of a machine's own training are of, by their content."""
    return [json.loads(path.read_text())["step"] for path in durable(machine)]


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def crash(machine: Machine) -> dict[str, int]:
    """Kill agent, guardian and training of the newest attempt at once, as a power cut does; who they were."""
    pids = machine.agent_pids()
    for pid in pids.values():  # stopped first, so that none of them can record the death of another
        os.kill(pid, signal.SIGSTOP)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    machine.until(lambda: not any(map(alive, pids.values())), "the crash")
    return pids
