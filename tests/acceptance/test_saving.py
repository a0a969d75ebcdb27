"""F7 and S4: whatever ends a training, its last checkpoint is saved, copied and verified before."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli.terminal import Terminal

from .machine import PATIENCE, Machine
from .scripts import job

# Never saves, whatever it is asked, and dies of SIGTERM at once.
UNSAVED = """\
import os, time

print("on", flush=True)
open(os.environ["WORLD"] + "/on", "w").close()
while True:
    time.sleep(0.05)
"""


def _verified(copies: Path) -> dict[int, int]:
    """Step by sequence number of the durable copies there, each checked against its own manifest by size and hash."""
    found = {}
    for manifest in copies.glob("*/*/*/manifest.json"):
        told = json.loads(manifest.read_text())
        for file in told["files"]:
            content = (manifest.parent / "data" / file["path"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
            found[(told["attempt"], told["seq"])] = json.loads(content)["step"]
    return {number: step for number, (_, step) in enumerate(sorted(found.items()))}


def _newest(machine: Machine) -> int:
    return list(_verified(machine.home / "checkpoints").values())[-1]


@pytest.mark.parametrize(
    ("end", "code"),
    [("stop", 6), ("cancel", 6), ("duration", 3), ("deadline", 5), ("replace", 0)],
)
def test_F7_every_end_saves_copies_and_verifies_first(machine: Machine, end: str, code: int) -> None:
    """The step that the training saved last, on being told to end, is durable when the attempt is recorded as over."""
    checkpoint: dict[str, Any] = {"every": "1 steps", "grace": "5s"}
    fields: dict[str, Any] = {"checkpoint": checkpoint}
    if end == "duration":
        fields["limits"] = {"duration": "2s"}
    if end == "deadline":
        # Saves for a while, and then no more until it is told to end.
        machine.write("late.py", LATE)
        checkpoint |= {"every": "1s", "deadline": "2s", "on_deadline": "stop", "grace": "1s"}
        fields["script"] = "late.py"
    manifest = str(machine.training(1000, 0.1, **fields))
    attached = machine.start("apply", manifest, "--wait")
    machine.until(lambda: len(machine.told("saved")) >= 3, "some saves", 10)
    if end in ("stop", "cancel"):
        assert machine.run(end, "job").code == 0
        assert _newest(machine) == machine.told("drained")[-1]["step"], "said to be over before the save was durable"
    if end == "replace":
        machine.write("new.py", "")
        assert machine.run("apply", manifest, "--replace", "--no-wait").code == 0
        machine.until(lambda: len(machine.told("start")) == 2, "the second attempt")
        drained = machine.told("drained")[0]["step"]
        assert drained in _verified(machine.home / "checkpoints").values()
        assert machine.told("start")[1]["step"] == drained
        return
    assert attached.wait(PATIENCE) == code
    drained = machine.told("drained")[-1]["step"]
    assert _newest(machine) == drained
    assert machine.status()["checkpoints"]["newest"]["step"] == drained


LATE = """\
import json, os, signal, sys, time

def tell(what, step):
    with open(os.environ["WORLD"] + "/world.jsonl", "a") as file:
        file.write(json.dumps({"what": what, "step": step, "pid": os.getpid(), "at": time.time()}) + "\\n")

def save(step, what):
    path = f"{os.environ['RUNCTL_CHECKPOINT_DIR']}/step-{step:06d}.json"
    with open(path + ".tmp", "w") as file:
        json.dump({"step": step}, file)
    os.rename(path + ".tmp", path)
    tell(what, step)

def drain(number, frame):
    save(99, "drained")
    sys.exit(0)

signal.signal(signal.SIGTERM, drain)
for step in range(1, 4):
    save(step, "saved")
    time.sleep(0.1)
time.sleep(600)
"""


def test_F7_a_save_that_is_damaged_is_not_taken_for_one(machine: Machine) -> None:
    """The last file that the training leaves is no whole checkpoint: the one before stays the newest durable one."""
    machine.write("torn.py", LATE.replace('save(99, "drained")', TORN))
    attached = machine.start("apply", str(machine.training(script="torn.py")), "--wait")
    machine.until(lambda: len(machine.told("saved")) == 3, "three saves")
    assert machine.run("stop", "job").code == 0
    assert attached.wait(PATIENCE) == 6
    assert machine.told("drained")
    assert _newest(machine) == 3
    assert machine.status()["checkpoints"]["newest"]["step"] == 3


TORN = """\
with open(os.environ["RUNCTL_CHECKPOINT_DIR"] + "/step-000099.json", "w") as file:
        file.write('{"step": 99, "weights": [0.1, ')
    tell("drained", 99)"""


def test_F7_a_destination_of_the_users_own_gets_the_last_save_too(machine: Machine) -> None:
    """`checkpoint.upload: file:…`: the copies are there, verified, and outlive even `delete`."""
    place = machine.root / "elsewhere"
    checkpoint = {"every": "1 steps", "grace": "5s", "upload": f"file:{place}", "keep": 2}
    machine.run("apply", str(machine.training(1000, 0.1, checkpoint=checkpoint)))
    machine.until(lambda: len(machine.told("saved")) >= 4, "some saves")
    machine.run("stop", "job")
    kept = _verified(place)
    assert list(kept.values())[-1] == machine.told("drained")[-1]["step"]
    assert len(kept) == 2
    assert machine.run("delete", "job", "--yes").code == 0
    assert _verified(place) == kept
    assert not (machine.home / "runs").exists() or not machine.run_dirs()


def test_F7_S4_deleting_unsaved_work_needs_force(machine: Machine) -> None:
    """Without a durable checkpoint: `--yes` alone doesn't do, the loss is named, and the training goes on. `--force`
    ends it for good."""
    machine.write("unsaved.py", UNSAVED)
    machine.run("apply", str(machine.training(script="unsaved.py", checkpoint={"grace": "1s"})))
    machine.until((machine.world / "on").exists, "the training")
    pid = machine.until(lambda: machine.agent_pids().get("training"), "the agent's word about it")
    refused = machine.run("delete", "job", "--yes")
    assert refused.code == 2, refused
    assert "without a durable checkpoint" in refused.err
    assert "--force" in refused.err
    assert psutil.pid_exists(pid)
    assert machine.status()["phase"] == "Training"
    assert machine.run("delete", "job", "--yes", "--force").code == 0
    assert not psutil.pid_exists(pid)
    assert machine.run("status", "job").code == 2


def test_S4_deleting_what_is_newer_than_the_durable_ones_needs_force(machine: Machine) -> None:
    """There is a durable checkpoint, and a newer one that couldn't be copied yet: its loss is named, and nothing is
    changed."""
    machine.write("twice.py", LATE.replace("    time.sleep(0.1)", WAITS_FOR_IT))
    machine.run("apply", str(machine.training(script="twice.py", checkpoint={"every": "1 steps", "grace": "1s"})))
    machine.until(lambda: _verified(machine.home / "checkpoints"), "a durable checkpoint")
    (copies,) = (machine.home / "checkpoints").glob("*/000001")
    copies.rename(machine.root / "aside")
    copies.write_text("a file in its place")
    (machine.world / "go-1").touch()
    machine.until(lambda: '"name":"step-000002.json"' in _state(machine), "the copy that fails")
    refused = machine.run("delete", "job", "--yes")
    assert refused.code == 2, refused
    assert "isn't durable yet" in refused.err
    assert machine.status()["phase"] == "Training"
    assert machine.run("delete", "job", "--yes", "--force").code == 0


def _state(machine: Machine) -> str:
    return (machine.run_dirs()[0] / "state.json").read_text()


WAITS_FOR_IT = """
    while not os.path.exists(f"{os.environ['WORLD']}/go-{step}"):
        time.sleep(0.02)"""


def test_S4_deleting_asks_on_a_terminal_and_needs_yes_without_one(machine: Machine) -> None:
    """It asks, naming what is kept; `n` and the end of input change nothing; `y` deletes, and the checkpoints stay."""
    assert machine.run("apply", str(machine.training(3, 0.2)), "--wait").code == 0
    newest = _newest(machine)
    refused = machine.run("delete", "job")
    assert refused.code == 2, refused
    assert "--yes" in refused.err
    with Terminal(machine, "delete", "job") as terminal:
        terminal.until("checkpoints are kept")
        terminal.press(b"n\n")
        assert terminal.end() == 6
    assert machine.status()["phase"] == "Finished"
    with Terminal(machine, "delete", "job") as terminal:
        terminal.until("checkpoints are kept")
        terminal.press(b"y\n")
        assert terminal.end() == 0
    assert machine.run("status", "job").code == 2
    assert _newest(machine) == newest


def test_F7_a_training_that_is_held_saves_when_it_is_to_end(machine: Machine) -> None:
    """Somebody has stopped the training (SIGSTOP): it is continued to answer, and its last save is durable."""
    code = """
def leave(*_):
    save("step-7.safetensors")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
tell("on")
while True: time.sleep(0.05)
"""
    assert machine.run("apply", job(machine, code, checkpoint={"grace": "10s"}), "--no-wait").code == 0
    (told,) = machine.until(lambda: machine.told("on"), "the training")
    os.kill(told["pid"], signal.SIGSTOP)
    assert machine.run("stop", "job").code == 0
    assert machine.status()["attempts"][0]["exit_code"] == 0
    assert machine.status()["checkpoints"]["newest"]["step"] == 7
