"""E4 and S2: one training on a machine; what becomes of the second one; and the race of two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from runctl.agent.foreign import TRAINING, Busyness, foreign_trainings
from runctl.planner.observed import Foreign

from .machine import PATIENCE, Machine, machine_in

_machine = contextmanager(machine_in)

TRIES = 1000
RACES = 3

# Two processes for each try: both go for the lock at the instant at which their parent opens the gate.
RACE = """\
import os, sys

from runctl.agent import hostlock

hostlock.PATIENCE_SECONDS = 0.0
tries = int(sys.argv[1])
for number in range(tries):
    gate_out, gate_in = os.pipe()
    said_out, said_in = os.pipe()
    hold_out, hold_in = os.pipe()
    children = []
    for name in (b"a", b"b"):
        pid = os.fork()
        if pid == 0:
            os.close(gate_in)
            os.close(hold_in)
            os.read(gate_out, 1)
            try:
                lock = hostlock.acquire("refuse")
                os.write(said_in, b"W")
            except hostlock.Busy:
                os.write(said_in, b"L")
            os.read(hold_out, 1)
            os._exit(0)
        children.append(pid)
    os.close(gate_out)
    os.close(hold_out)
    os.close(gate_in)
    said = b""
    while len(said) < 2:
        said += os.read(said_out, 2)
    os.close(hold_in)
    for pid in children:
        os.waitpid(pid, 0)
    for descriptor in (said_out, said_in):
        os.close(descriptor)
    print(said.decode())
"""


def test_E4_the_race_has_one_winner_1000_times_out_of_1000(tmp_path: Path) -> None:
    """Two processes go for the host at one instant, a thousand times: always one has it, and one is refused."""
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(TRIES)], env={**os.environ, "RUNCTL_HOST_LOCK_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert [sorted(line) for line in done.stdout.split()] == [["L", "W"]] * TRIES


def test_E4_two_simultaneous_applies_in_two_homes_have_one_winner(tmp_path: Path) -> None:
    """The real command, at the same instant, on one machine: one trains, the other exits with 11 and has started
    nothing."""
    with _machine(tmp_path / "one") as one, _machine(tmp_path / "two") as two:
        two.environ["RUNCTL_HOST_LOCK_DIR"] = str(one.lock)
        both = (one, two)
        for number in range(RACES):
            manifests = [str(each.training(2000, 0.1, name=f"job-{number}")) for each in both]
            started = [each.start("apply", path, "--wait") for each, path in zip(both, manifests, strict=True)]
            one.until(lambda: [p for p in started if p.poll() is not None], "a loser", 30)  # noqa: B023
            loser = 0 if started[0].poll() is not None else 1
            assert started[loser].wait() == 11, both[loser].printed()
            winner = both[1 - loser]
            winner.until(lambda: len(winner.told("start")) + len(both[loser].told("start")) > number, "a start")  # noqa: B023
            assert started[1 - loser].poll() is None
            assert winner.run("cancel", f"job-{number}").code == 0
            assert started[1 - loser].wait(PATIENCE) == 6
            assert len(one.told("start")) + len(two.told("start")) == number + 1


def _long(machine: Machine, name: str) -> int:
    """Start a job that trains on, and wait for its first durable checkpoint; the training's pid."""
    machine.write("second.py", SECOND)
    machine.run("apply", str(machine.training(2000, 0.1, name=name)), "--no-wait")
    started = machine.until(lambda: machine.told("start"), "its start")
    machine.until(lambda: any(machine.home.glob("checkpoints/*/*/*/manifest.json")), "a durable checkpoint")
    pid: int = started[-1]["pid"]
    return pid


def _job(machine: Machine, name: str, busy: str, steps: int = 2) -> str:
    # Not the script that takes a lock for itself: what keeps two apart here is the program alone.
    return str(machine.training(steps, 0.1, name=name, script="second.py", instance={"busy": busy}))


SECOND = """\
import json, os, sys, time

def tell(what):
    with open(os.environ["WORLD"] + "/world.jsonl", "a") as file:
        line = {"what": what, "pid": os.getpid(), "at": time.time(), "job": os.environ["RUNCTL_JOB"]}
        file.write(json.dumps(line) + "\\n")

tell("second-start")
time.sleep(float(sys.argv[2]) * int(sys.argv[1]))
tell("second-end")
"""


def test_E4_S2_a_second_training_is_refused_or_waits(machine: Machine) -> None:
    """Refused before anything starts, naming holder and choices. `busy: wait` is queued, says for whom, and starts
    after the first one's last save. A dead holder's words in the lock file hold nobody up."""
    pid = _long(machine, "first")
    assert "won't start: job `first` (pid " in machine.run("plan", _job(machine, "second", "refuse")).out
    assert "waits: job `first` (pid " in machine.run("plan", _job(machine, "third", "wait")).out
    done = machine.run("apply", _job(machine, "second", "refuse"), "--wait")
    assert done.code == 11, done
    assert "`first`" in done.err
    for choice in ("wait", "replace"):
        assert choice in done.err.split("hint", 1)[1], done
    assert psutil.pid_exists(pid)

    attached = machine.start("apply", _job(machine, "third", "wait"), "--wait")
    status = machine.until(lambda: (s := _status(machine, "third")) and s["phase"] == "Queued" and s, "the queue")
    assert "`first`" in status["waiting_for"]
    assert machine.told("second-start") == []
    assert machine.run("cancel", "first").code == 0
    assert attached.wait(PATIENCE) == 0
    assert machine.told("second-start")[0]["at"] > machine.told("drained")[-1]["at"]

    (machine.lock / "runctl-host.lock").write_text(
        json.dumps({"run_id": "x-1", "job": "ghost", "agent": {"pid": 1, "start": 0, "boot_id": "none"}})
    )
    assert machine.run("apply", _job(machine, "fourth", "refuse"), "--wait").code == 0


def _status(machine: Machine, name: str) -> dict[str, object] | None:
    done = machine.run("status", name, "-o", "json")
    return json.loads(done.out) if done.code == 0 else None


def test_E4_S2_a_replacing_one_saves_the_first_before_it_starts(machine: Machine) -> None:
    """`busy: replace`: the first one's last save is durable; it is stopped, and goes on when it is applied again."""
    _long(machine, "first")
    done = machine.run("apply", _job(machine, "second", "replace"), "--wait")
    assert done.code == 0, done
    drained = machine.told("drained")[-1]
    assert machine.told("second-start")[0]["at"] > drained["at"]
    status = machine.status("first")
    assert status["phase"] == "Stopped"
    assert status["checkpoints"]["newest"]["step"] == drained["step"]
    assert "second" in machine.run("events", "first").out
    assert machine.run("apply", str(machine.training(drained["step"] + 2, 0.1, name="first")), "--wait").code == 2
    assert machine.run("apply", str(machine.training(2000, 0.1, name="first")), "--no-wait").code == 0
    machine.until(lambda: len(machine.told("start")) == 2, "its going on")
    assert machine.told("start")[-1]["step"] == drained["step"]


def test_E4_S2_what_cannot_be_replaced_from_here_is_not_to_be(tmp_path: Path) -> None:
    """`busy: replace` beside a job of another home: refused, with the reason, and no advice to do what was just
    refused."""
    with _machine(tmp_path / "one") as one, _machine(tmp_path / "two") as two:
        two.environ["RUNCTL_HOST_LOCK_DIR"] = str(one.lock)
        pid = _long(one, "first")
        two.write("second.py", SECOND)
        done = two.run("apply", _job(two, "second", "replace"), "--wait")
        assert done.code == 11, done
        said, hint = done.err.split("hint", 1)
        assert "can't be replaced from here" in said
        assert "`wait`" in hint
        assert "`replace`" not in hint
        assert psutil.pid_exists(pid)


def test_E4_a_sharing_one_runs_beside_the_first(machine: Machine) -> None:
    """`busy: share` insists: both are alive at one instant. One that doesn't share waits for both."""
    pid = _long(machine, "first")
    done = machine.run("apply", _job(machine, "second", "share", steps=3), "--wait")
    assert done.code == 0, done
    assert len(machine.told("second-end")) == 1
    assert psutil.pid_exists(pid)
    sharing = machine.start("apply", _job(machine, "third", "share", steps=100), "--wait")
    machine.until(lambda: len(machine.told("second-start")) == 2, "the third")
    machine.run("cancel", "first")
    assert machine.run("apply", _job(machine, "fourth", "refuse"), "--wait").code == 11
    assert sharing.poll() is None


def test_E4_members_of_a_group_take_turns(machine: Machine) -> None:
    """Three jobs of one `apply`: in the order of the manifest, never two at once, each with its own outcome."""
    machine.write("second.py", SECOND)
    jobs = [
        {"apiVersion": "runctl/v1", "name": f"member-{n}", "script": "second.py", "args": ["1", "0.2"], "setup": "none",
         "env": {"WORLD": str(machine.world)}}
        for n in range(3)
    ]  # fmt: skip
    machine.write("group.yaml", "\n---\n".join(json.dumps(job) for job in jobs))
    done = machine.run("apply", "group.yaml", "--wait")
    assert done.code == 0, done
    told = [(line["what"], line["job"]) for line in machine.told()]
    assert told == [(what, f"member-{n}") for n in range(3) for what in ("second-start", "second-end")]


others_are_seen = pytest.mark.skipif(
    sys.platform != "linux", reason="runctl looks for trainings that it didn't start on Linux only"
)

BURN = """\
import sys

while True:
    pass
"""


@pytest.fixture
def burner(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python that burns a core in a session of its own, with no agent of ours."""
    script = tmp_path / "someone_elses.py"
    script.write_text(BURN)
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@others_are_seen
def test_E4_S2_a_foreign_training_is_found_by_its_use_of_the_cpu(burner: subprocess.Popen[bytes]) -> None:
    """Not while it is too young to be judged, nor in the session of whoever asks; then by name and pid; and not when
    it is gone."""
    assert burner.pid not in _foreign(os.getpid(), TRAINING)
    end = time.monotonic() + PATIENCE
    while burner.pid not in _foreign(os.getpid(), SOON) and time.monotonic() < end:
        time.sleep(0.1)
    found = _foreign(os.getpid(), SOON)[burner.pid]
    assert "someone_elses.py" in found.command
    assert "of a core" in found.evidence
    assert burner.pid not in _foreign(burner.pid, SOON)
    burner.kill()
    burner.wait()
    assert burner.pid not in _foreign(os.getpid(), SOON)


# What the tool of the GPUs says, and exits with 9, when there is nothing to ask.
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n\n"
)


@pytest.fixture
def on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a tool of the GPUs print this."""
    (tmp_path / "bin").mkdir()
    words = tmp_path / "words"
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat {words}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def prints(text: str) -> None:
        words.write_text(text)

    return prints


@others_are_seen
def test_E4_S2_a_foreign_training_is_found_by_its_use_of_the_gpu(on_gpu: Callable[[str], None]) -> None:
    """At once, whatever it does with the CPU, and also one that the asking shell has put into its background: two on
    one GPU are two. Not the notebook that asks, or from which who asks descends; and nothing where no driver is."""
    sleeping = [sys.executable, "-c", "input()", "train.py"]
    with subprocess.Popen(sleeping, stdin=subprocess.PIPE) as beside:
        on_gpu(f"{beside.pid}\n{os.getpid()}\n{os.getppid()}\n")
        found = _foreign(os.getpid(), TRAINING)
        # Whatever else is busy on this machine is found for that.
        assert [pid for pid, each in found.items() if each.evidence == "uses the GPU"] == [beside.pid]
        assert found[beside.pid].command.endswith("train.py")
        assert os.getpid() not in _foreign(beside.pid, TRAINING)
        for text in ("", NO_DRIVER):
            on_gpu(text)
            assert beside.pid not in _foreign(os.getpid(), TRAINING)
        beside.kill()


@others_are_seen
def test_S2_a_training_of_ours_is_no_foreign_one(tmp_path: Path) -> None:
    """What carries a run id has an agent that watches it, whichever session it is in: the lock speaks for it."""
    script = tmp_path / "ours.py"
    script.write_text(BURN)
    environ = {**os.environ, "RUNCTL_RUN_ID": "x-1"}
    with subprocess.Popen([sys.executable, str(script)], env=environ, start_new_session=True) as ours:
        try:
            began = time.monotonic()
            while not _busy_for(ours.pid, time.monotonic() - began) and time.monotonic() < began + PATIENCE:
                time.sleep(0.1)
            assert _busy_for(ours.pid, time.monotonic() - began)
            assert ours.pid not in _foreign(os.getpid(), SOON)
        finally:
            ours.kill()


def _busy_for(pid: int, seconds: float) -> bool:
    """Whether that is long enough, and it has used enough of the CPU, to be told from others by a wide margin."""
    return seconds > 2 * SOON.age and sum(psutil.Process(pid).cpu_times()[:2]) / seconds > 2 * SOON.share


# On a machine that runs other tests, too, and after half a second already.
SOON = Busyness(age=0.5, share=0.05)


def _foreign(asking: int, least: Busyness) -> dict[int, Foreign]:
    return {each.pid: each for each in foreign_trainings(asking, least)}


@others_are_seen
@pytest.mark.skipif("RUNCTL_TEST_FOREIGN" not in os.environ, reason="burns half a minute; set RUNCTL_TEST_FOREIGN")
def test_E4_S2_a_foreign_training_is_refused_like_ours(machine: Machine, burner: subprocess.Popen[bytes]) -> None:
    """The real command, on the real machine's lock, meets somebody else's training: exit 11, with its pid."""
    del machine.environ["RUNCTL_HOST_LOCK_DIR"]
    machine.write("second.py", SECOND)
    machine.until(lambda: burner.pid in _foreign(os.getpid(), TRAINING), "its being old enough", 90)
    done = machine.run("apply", _job(machine, "second", "refuse"), "--wait")
    assert done.code == 11, done
    assert f"pid {burner.pid}" in done.err
    assert machine.told("second-start") == []
    assert machine.run("apply", _job(machine, "third", "share"), "--wait").code == 0
