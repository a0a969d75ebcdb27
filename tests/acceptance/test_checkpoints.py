"""R2, R4, X2 and trainings that save badly: what counts as a checkpoint, who hears of it, and what a resume accepts."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from cli.terminal import Terminal

from .machine import Machine
from .scripts import durable, durable_steps, events, job

# Writes a whole and a broken file of each format, each under its final name.
FORMATS = """
import io, struct, zipfile
import numpy as np

def torch_like():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"\\x80\\x02}q\\x00.")
        archive.writestr("model/version", b"3\\n")
        archive.writestr("model/data/0", bytes(4096))
    return buffer.getvalue()

def npz():
    buffer = io.BytesIO()
    np.savez(buffer, w=np.arange(4096.0))
    return buffer.getvalue()

def safetensors():
    header = json.dumps({"w": {"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4096)

made = {"pt": torch_like(), "npz": npz(), "safetensors": safetensors()}
for suffix, content in made.items():
    save(f"epoch-1.{suffix}", content)
    save(f"epoch-2.{suffix}", content[:-100])
time.sleep(2.5)
"""


def test_R2_only_whole_checkpoints_count(machine: Machine) -> None:
    """Of torch, npz and safetensors files the whole ones are durable, byte for byte; the cut ones are listed as
    invalid with the reason, are said at once, and are nothing to go on from."""
    done = machine.run("apply", job(machine, FORMATS, checkpoint={"keep": 9}), "--wait")
    assert done.code == 0, done
    listed = json.loads(machine.run("checkpoints", "job", "-o", "json").out)
    assert {each["name"]: each["status"] for each in listed} == {
        f"epoch-{epoch}.{suffix}": status
        for suffix in ("pt", "npz", "safetensors")
        for epoch, status in ((1, "durable"), (2, "invalid"))
    }
    assert all(each["detail"] for each in listed if each["status"] == "invalid")
    assert "epoch-2.npz" in done.err
    assert machine.status()["checkpoints"]["count"] == 3
    copies = {path.name: path for path in durable(machine)}
    assert set(copies) == {"epoch-1.pt", "epoch-1.npz", "epoch-1.safetensors"}
    assert np.load(copies["epoch-1.npz"])["w"][-1] == 4095
    verified = machine.run("checkpoints", "verify", "job")
    assert verified.code == 0, verified
    copies["epoch-1.pt"].write_bytes(copies["epoch-1.pt"].read_bytes()[:-1] + b"x")
    assert machine.run("checkpoints", "verify", "job").code == 1


def test_R2_the_users_own_command_decides(machine: Machine) -> None:
    """`format: {command: …}`: what it accepts is durable, what it refuses is not, with its words as the reason."""
    machine.write(
        "judge.py", "import sys\nsys.exit(0 if open(sys.argv[1]).read() == 'good' else 'not what I call good')\n"
    )
    code = "save('epoch-1.bin', b'good')\nsave('epoch-2.bin', b'bad')\ntime.sleep(2.2)\n"
    form = {"format": {"command": ["python3", str(machine.project / "judge.py"), "{}"]}}
    assert machine.run("apply", job(machine, code, checkpoint=form), "--wait").code == 0
    listed = {each["name"]: each for each in json.loads(machine.run("checkpoints", "job", "-o", "json").out)}
    assert (listed["epoch-1.bin"]["status"], listed["epoch-2.bin"]["status"]) == ("durable", "invalid")
    assert "not what I call good" in listed["epoch-2.bin"]["detail"]


def test_R4_each_durable_checkpoint_is_told(machine: Machine) -> None:
    """On the terminal while the training runs, and as an event; the newest stands in the status."""
    code = """
for epoch in (1, 2):
    save(f"epoch-{epoch}.safetensors")
    while not os.path.exists(os.environ["WORLD"] + f"/go-{epoch}"):
        time.sleep(0.02)
"""
    manifest = job(machine, code)
    with Terminal(machine, "apply", manifest) as terminal:
        for epoch in (1, 2):
            terminal.until(f"CheckpointSaved: `epoch-{epoch}.safetensors`")
            (machine.world / f"go-{epoch}").touch()
        assert terminal.end() == 0
    assert machine.status()["checkpoints"]["newest"]["epoch"] == 2
    told = [each["message"] for each in events(machine) if each["reason"] == "CheckpointSaved"]
    assert [message.split("`")[1] for message in told] == ["epoch-1.safetensors", "epoch-2.safetensors"]


def test_R4_a_script_that_saves_faster_than_its_files_settle_has_durable_ones(machine: Machine) -> None:
    """Ten opaque files a second, of which one is kept: some are durable long before the end, as a crash shows."""
    code = """
for step in range(1000):
    save(f"step-{step}.bin", b"%d" % step)
    time.sleep(0.1)
"""
    manifest = job(machine, code, checkpoint={"every": "1 steps", "keep": 1, "grace": "1s"})
    assert machine.run("apply", manifest, "--no-wait").code == 0
    machine.until(lambda: durable(machine), "a durable checkpoint", 10)
    assert machine.run("cancel", "job").code == 0


def test_ten_thousand_checkpoints_are_no_burden(machine: Machine) -> None:
    """All are counted, the newest are durable, no more than `keep` lie on the disk, and it ends in time."""
    code = """
folder = os.environ["RUNCTL_CHECKPOINT_DIR"]
for step in range(10_000):
    with open(f"{folder}/step-{step:05d}.json", "w") as file:
        file.write('{"step": %d}' % step)
tell("saved")
"""
    done = machine.run(
        "apply", job(machine, code, checkpoint={"every": "1 steps", "grace": "2s"}), "--wait", timeout=30
    )
    assert done.code == 0, done
    kept = durable_steps(machine)
    assert kept == [9997, 9998, 9999]
    assert machine.status()["checkpoints"]["newest"]["step"] == 9999
    assert len(machine.run("checkpoints", "job").out.splitlines()) < 100
    assert len(done.err) < 20_000


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_X2_a_checkpoint_that_is_not_what_was_saved_is_never_a_restart_from_zero(machine: Machine, damage: str) -> None:
    """The durable copy is gone, or changed by a byte: going on ends with exit 1 before the script's first line."""
    code = """
tell("on", resumed=os.environ.get("RUNCTL_RESUME_FROM"))
save("epoch-1.safetensors")
time.sleep(120)
"""
    manifest = job(machine, code, checkpoint={"grace": "1s"})
    assert machine.run("apply", manifest, "--no-wait").code == 0
    machine.until(lambda: durable(machine), "a durable checkpoint")
    assert machine.run("stop", "job").code == 0
    (copy,) = {path.parent.parent for path in durable(machine)}
    (file,) = copy.glob("data/*")
    content = file.read_bytes()
    if damage == "missing":
        os.rename(copy, machine.root / "elsewhere")
    else:
        file.write_bytes(content[:-1] + b"x")
    done = machine.run("apply", manifest, "--wait")
    assert done.code == 1, done
    assert "checkpoint" in done.err
    assert len(machine.told("on")) == 1, "the script started over"
    status = machine.status()
    assert (status["outcome"], status["exit_code"]) == ("Failed", None)
    assert "StartFailed" in status["reason"]


@pytest.mark.parametrize("resume", ["no/such.npz", "cut.npz", "loop.npz", "folder"])
def test_X2_a_named_checkpoint_that_cannot_be_used_is_an_error(machine: Machine, resume: str) -> None:
    """`checkpoint.resume` names what is missing, damaged, a loop or empty: the script never runs."""
    whole = machine.project / "whole.npz"
    np.savez(whole, w=np.arange(100.0))
    (machine.project / "cut.npz").write_bytes(whole.read_bytes()[:-30])
    (machine.project / "loop.npz").symlink_to("loop.npz")
    (machine.project / "folder").mkdir()
    manifest = job(
        machine, "tell('on')", checkpoint={"resume": resume, "format": "npz"}, sync={"exclude": ["loop.npz"]}
    )
    done = machine.run("apply", manifest, "--wait")
    assert done.code in (1, 2), done
    assert resume in done.err
    assert "Traceback" not in done.err
    assert not machine.told("on")


def test_X2_a_named_checkpoint_is_handed_to_the_script(machine: Machine) -> None:
    """A whole one arrives, by the variable and by `resume_arg`, with the same bytes."""
    whole = machine.project / "whole.npz"
    np.savez(whole, w=np.arange(100.0))
    code = """
import numpy as np
path = os.environ["RUNCTL_RESUME_FROM"]
tell("on", argv=sys.argv[1:] == ["--resume", path], last=float(np.load(path)["w"][-1]))
"""
    manifest = job(machine, code, checkpoint={"resume": "whole.npz", "resume_arg": "--resume"})
    done = machine.run("apply", manifest, "--wait")
    assert done.code == 0, done
    (told,) = machine.told("on")
    assert (told["argv"], told["last"]) == (True, 99.0)
    assert Path(whole).exists()


def test_F2_the_newest_good_checkpoint_is_gone_on_from(machine: Machine) -> None:
    """The newest durable copy is damaged, by a bad disk or a hand: the one before it is taken, and that is said; with
    none left the start fails, and nothing begins at zero."""
    manifest = str(machine.training(1000, 0.1))
    machine.run("apply", manifest, "--no-wait")
    machine.until(lambda: len(machine.told("saved")) >= 4, "checkpoints")
    machine.run("stop", "job")
    copies = sorted(machine.home.glob("checkpoints/*/000001/*/data/*"))
    last, before = (json.loads(copy.read_text())["step"] for copy in (copies[-1], copies[-2]))
    copies[-1].write_text('{"step": 99999}')
    machine.run("apply", manifest, "--no-wait")
    start = machine.until(lambda: [each for each in machine.told("start") if each["attempt"] == 2], "a start")
    assert start[0]["step"] == before <= last  # a stop right after a save is answered by one of the same step
    told = f"going on from `step-{before:06d}.json` of attempt 1"
    machine.until(lambda: told in machine.run("events", "job").out, "the word of it")
    assert machine.status()["attempts"][1]["resumed_from"]["step"] == before
    machine.run("stop", "job")
    for copy in machine.home.glob("checkpoints/*/*/*/data/*"):
        copy.write_text("{}")
    done = machine.run("apply", manifest, "--wait")
    assert done.code == 1, done
    assert "can't be used" in done.err
    assert "`runctl checkpoints verify job`" in done.err
    assert machine.run("checkpoints", "verify", "job").code != 0
    assert len(machine.told("start")) == 2


# A check of the user's own that takes as long as the test wants: as long as some gigabytes would take.
SLOW_CHECK = """\
import os, sys, time

with open(sys.argv[1] + "/checking", "w"):
    pass
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.05)
"""
SAVING = "save('step-1.bin', b'weights')\ntime.sleep(600)\n"


def test_R4_what_takes_long_around_a_large_checkpoint_is_told(machine: Machine) -> None:
    """While a dead training's last checkpoint is copied, and while the next attempt's is restored, `status` says so: in
    neither does anything train."""
    check = machine.write("check.py", SLOW_CHECK)
    form = {"command": [sys.executable, str(check), str(machine.world), "{}"]}
    manifest = job(machine, SAVING, checkpoint={"grace": "30s", "format": form})
    assert machine.run("apply", manifest, "--no-wait").code == 0
    checking, go = machine.world / "checking", machine.world / "go"
    machine.until(checking.exists, "the check")
    os.kill(machine.agent_pids()["agent"], signal.SIGKILL)
    status = machine.until(lambda: "agent has died" in str((s := machine.status())["waiting_for"]) and s, "the copying")
    assert status["phase"] == "Training"
    assert "waiting for" in machine.run("status", "job").out
    go.touch()
    machine.until(lambda: len(machine.run_dirs()) == 2 and machine.agent_pids().get("training"), "the next attempt")
    assert machine.status()["waiting_for"] is None
    (saved,) = durable(machine)
    assert machine.run("cancel", "job").code == 0

    go.unlink()
    again = {"grace": "30s", "format": form, "resume": str(saved)}
    assert machine.run("apply", job(machine, SAVING, "second", checkpoint=again), "--no-wait").code == 0
    machine.until(lambda: "restore step-1.bin" in machine.run("status", "second").out, "the restoring")
    go.touch()
    machine.until(lambda: "restore" not in machine.run("status", "second").out, "the training")
    assert machine.run("cancel", "second").code == 0


def test_a_name_that_is_no_text_is_as_good_as_any(machine: Machine) -> None:
    """A checkpoint whose name isn't UTF-8 is durable, and gone on from; beside it another job comes to its end."""
    code = """
directory = os.fsencode(os.environ["RUNCTL_CHECKPOINT_DIR"])
resumed = os.environ.get("RUNCTL_RESUME_FROM")
tell("begins", resumed=bool(resumed) and os.path.exists(resumed))
with open(directory + b"/.tmp", "wb") as file:
    file.write(WHOLE)
os.rename(directory + b"/.tmp", directory + b"/mod\\xe8le-1.safetensors")
time.sleep(1.5)
sys.exit(0 if resumed else 7)
"""
    odd = job(machine, code, name="odd", instance={"busy": "share"}, retry={"failures": 1})
    plain = job(machine, "time.sleep(1)", name="plain", instance={"busy": "share"})
    done = machine.run("apply", odd, plain, "--wait")
    assert done.code == 0, done
    assert "defect" not in done.out + done.err
    assert [each["resumed"] for each in machine.told("begins")] == [False, True]
    assert r"mod\udce8le-1.safetensors" in machine.run("checkpoints", "odd").out
    assert machine.status("plain")["outcome"] == "Succeeded"
