"""A disk, a directory or a state file that misbehaves: a clear error that says what is safe, and nothing lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from killing import kill_at_once

from .machine import PATIENCE, Done, Machine
from .scripts import durable, job

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")


@contextmanager
def _mounted(path: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small disk of its own at `path`, unmounted at the end; yields a way to mount it anew."""
    path.mkdir(parents=True, exist_ok=True)

    def mount(with_options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", with_options, "tmpfs", str(path)], check=True)

    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"no mount here: {made.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def _clear(done: Done, *codes: int) -> None:
    """An error as a user should read it: its code, what, what is safe; nothing on stdout, no traceback."""
    assert done.code in codes, done
    assert done.out == "", done
    assert done.err.lstrip().startswith(("error:", "warning:")), done
    assert "Traceback" not in done.err, done
    assert "defect" not in done.err, done


@root_only
def test_a_full_disk_under_the_state_changes_nothing(machine: Machine) -> None:
    """No command goes through halfway: exit 7, what is safe and what to do; with room again, the same commands work
    and the finished job is as it was."""
    with _mounted(machine.home, "size=4m,mode=0700"):
        assert machine.run("apply", job(machine, "save('epoch-1.safetensors')"), "--wait").code == 0
        before = machine.status()
        ballast = machine.home / "ballast"
        with ballast.open("wb") as file:
            while True:
                try:
                    os.write(file.fileno(), bytes(4096))
                except OSError:
                    break
        machine.write("big.bin", "x" * 3_000_000)
        other = job(machine, "tell('on')", name="other")
        done = machine.run("apply", other, "--wait")
        _clear(done, 7)
        assert "space" in done.err
        assert "now:" in done.err
        assert not machine.told("on")
        assert durable(machine)
        # Where the files of the project don't fit, it isn't they that can't be read.
        with ballast.open("r+b") as file:
            file.truncate(file.seek(0, os.SEEK_END) - 1_000_000)
        full = machine.run("apply", other, "--wait")
        _clear(full, 7)
        assert f"`{machine.home / 'code'}`: No space left on device" in full.err
        ballast.unlink()
        (machine.project / "big.bin").unlink()
        assert machine.run("apply", other, "--wait").code == 0
        assert machine.status() == before
    assert machine.told("on")


@root_only
def test_a_disk_that_fills_up_under_a_training_costs_no_exit_code(machine: Machine) -> None:
    """Its output, a checkpoint and the state have no place any more: the training goes on, its own code is recorded,
    its earlier checkpoint is whole, and the controller tells what is in the way."""
    code = """
save("epoch-1.safetensors")
tell("on")
while not os.path.exists(os.environ["WORLD"] + "/full"):
    time.sleep(0.02)
print("x" * 200_000, flush=True)
save_error = None
tell("end")
sys.exit(4)
"""
    with _mounted(machine.home, "size=6m,mode=0700"):
        attached = machine.start("apply", job(machine, code), "--wait")
        machine.until(lambda: durable(machine), "a durable checkpoint")
        ballast = machine.home / "ballast"
        with ballast.open("wb") as file:
            try:
                while True:
                    os.write(file.fileno(), bytes(4096))
            except OSError:
                pass
        (machine.world / "full").touch()
        machine.until(lambda: machine.told("end"), "the end of the training")
        run_dir = machine.run_dirs()[0]
        machine.until(lambda: (run_dir / "exit.json").exists() and (run_dir / "exit.json").stat().st_size, "its record")
        ballast.unlink()
        assert attached.wait(PATIENCE) == 1
        status = machine.status()
        assert (status["outcome"], status["exit_code"]) == ("Failed", 4)
        assert machine.run("checkpoints", "verify", "job").code == 0


@root_only
def test_a_read_only_state_directory_is_said_to_be_that(machine: Machine) -> None:
    """Exit 10, what is safe and what to do; mounted for writing again, everything is as it was."""
    with _mounted(machine.home, "size=8m,mode=0700"):
        assert machine.run("apply", job(machine, "print('words')"), "--wait").code == 0
        machine.quiet()
        before = machine.status()
        subprocess.run(["mount", "-o", "remount,ro", str(machine.home)], check=True)
        for args in (
            ["apply", "job.yaml", "--rerun", "--wait"],
            ["stop", "job"],
            ["delete", "job", "--yes"],
            ["status"],
        ):
            done = machine.run(*args)
            _clear(done, 10)
            assert "RUNCTL_HOME" in done.err or "writable" in done.err
        subprocess.run(["mount", "-o", "remount,rw", str(machine.home)], check=True)
        assert machine.status() == before
        assert machine.run("logs", "job").out == "words\n"


def test_a_damaged_or_newer_state_is_left_as_it_is_while_the_training_goes_on(machine: Machine) -> None:
    """Every command names the file, what is safe and what to do, with exit 10, and touches no byte of it; the live
    training saves on, and with the file put back it is adopted as if nothing had happened."""
    code = """
save("epoch-1.safetensors")
while not os.path.exists(os.environ["WORLD"] + "/go"):
    time.sleep(0.02)
tell("end")
sys.exit(6)
"""
    attached = machine.start("apply", job(machine, code), "--wait")
    machine.until(lambda: durable(machine), "a durable checkpoint")
    attached.kill()
    attached.wait()
    state = machine.home / "state.sqlite"
    with sqlite3.connect(state) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    kept = machine.root / "kept.sqlite"
    shutil.copy(state, kept)
    for path in machine.home.glob("state.sqlite-*"):
        path.unlink()
    newer = machine.root / "newer.sqlite"
    shutil.copy(kept, newer)
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA user_version = 999")
    db.close()
    cut, noise = kept.read_bytes()[:5000], b"no database at all, " * 900
    for content, word in ((noise, "damaged"), (cut, "damaged"), (newer.read_bytes(), "999")):
        state.write_bytes(content)
        for args in (["status"], ["apply", "job.yaml", "--wait"], ["stop", "job"], ["cost", "job"]):
            done = machine.run(*args)
            _clear(done, 10)
            assert str(state) in done.err
            assert word in done.err
            assert "trainings that run go on" in done.err or "nothing was changed" in done.err
        assert state.read_bytes() == content
        for path in machine.home.glob("state.sqlite-*"):
            path.unlink()
    shutil.copy(kept, state)
    (machine.world / "go").touch()
    machine.until(lambda: machine.told("end"), "the end of the training")
    done = machine.run("apply", "job.yaml", "--wait")
    assert done.code == 1, done
    status = machine.status()
    assert (status["outcome"], status["exit_code"], len(status["attempts"])) == ("Failed", 6, 1)


@pytest.mark.parametrize("how", ["damaged", "removed"])
def test_a_claim_that_is_lost_hides_nothing(machine: Machine, how: str) -> None:
    """The file by which the guardian claimed the attempt is damaged or gone: orders still reach the agent, and when
    all of them are killed, the attempt is over and the next one goes on from what was durable."""
    manifest = machine.training(1000, 0.1)
    machine.start("apply", str(manifest), "--wait")
    machine.until(lambda: machine.told("saved"), "a save")
    machine.until(lambda: machine.status()["checkpoints"]["count"] > 2, "durable checkpoints")
    claim = machine.run_dirs()[-1] / "claim.json"
    claim.write_text('{"x"') if how == "damaged" else claim.unlink()
    durable = machine.status()["checkpoints"]["newest"]["step"]
    kill_at_once(*machine.agent_pids().values())
    machine.until(lambda: len(machine.told("start")) > 1, "the next attempt")
    assert machine.told("start")[-1]["step"] >= durable
    claim = machine.run_dirs()[-1] / "claim.json"
    claim.write_text('{"x"') if how == "damaged" else claim.unlink()
    assert machine.run("cancel", "job").code == 0
    assert machine.status()["outcome"] == "Cancelled"
    assert machine.told("drained")
    assert not machine.trainings()


def _replaced(path: Path, kind: str) -> bool:
    """Whether the agent hasn't written the file anew in between."""
    path.unlink(missing_ok=True)
    try:
        path.mkdir() if kind == "directory" else os.mkfifo(path)
    except FileExistsError:
        return False
    return True


@pytest.mark.parametrize("name", ["claim.json", "state.json", "checkpoints.jsonl", "exit.json", "orders.json"])
@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_lies_in_place_of_one_job_s_files_harms_no_other(machine: Machine, name: str, kind: str) -> None:
    """A directory or a fifo where a file of one attempt should be: it is told and ended as if the file were gone, and
    the other job's controller goes on."""
    share = {"busy": "share"}
    machine.run("apply", str(machine.training(1000, 0.1, name="odd", instance=share)), "--no-wait")
    machine.until(lambda: machine.told("saved"), "a save")
    pids = machine.agent_pids()
    path = machine.run_dirs()[-1] / name
    machine.until(lambda: _replaced(path, kind), f"a {kind} in the place of {name}")
    if name != "exit.json":
        kill_at_once(pids["agent"], pids["guardian"])
    other = machine.run("apply", job(machine, "save('epoch-1.safetensors')", "other", instance=share), "--wait")
    assert other.code == 0, other
    for command in (["status"], ["status", "odd"], ["cost", "odd"], ["checkpoints", "odd"], ["events", "odd"]):
        done = machine.run(*command)
        assert done.code == 0, done
    assert machine.run("delete", "odd", "--yes", "--force").code == 0
    assert not machine.trainings()
