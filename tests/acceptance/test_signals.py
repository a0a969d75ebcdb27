"""N19, and trainings that don't want to end: the signal reaches the training itself, and nothing of it is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .machine import Machine
from .scripts import alive, durable, job

SAVES_SLOWLY = """
def end(number, frame):
    tell("asked")
    time.sleep(2.5)
    save("epoch-7.safetensors")
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
tell("on")
time.sleep(120)
"""

# All the ways out of a process group: a fork, a new session, a daemon, and a daemon that forgets its environment.
CLINGS = """
def linger(what):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell(what)
    time.sleep(120)
    os._exit(0)

if "forgets" in sys.argv:
    os.closerange(0, 10)
    os.environ["WORLD"] = sys.argv[-1]
    linger("forgets")
if os.fork() == 0:
    linger("fork")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        linger("daemon")
    os._exit(0)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, __file__, "forgets", os.environ["WORLD"]], {})
    os._exit(0)
if sys.argv[1] == "exits":
    for _ in range(500):
        time.sleep(0.01)
        path = os.environ["WORLD"] + "/world.jsonl"
        if os.path.exists(path) and open(path).read().count("\\n") == 3:
            sys.exit(5)
linger("leader")
"""


IN_A_SESSION = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:], start_new_session=True))"


@pytest.mark.parametrize(
    "wrapper",
    [["sh", "-c", '"$@"; exit 1', "sh", "python3"], ["python3", "-c", IN_A_SESSION, "python3"]],
    ids=["a shell", "another session"],
)
def test_N19_the_signal_reaches_the_training_below_its_wrapper(machine: Machine, wrapper: list[str]) -> None:
    """A wrapper that dies of SIGTERM at once is not the training: that one has its grace, and its save is kept."""
    manifest = job(machine, SAVES_SLOWLY, launcher=wrapper, checkpoint={"grace": "8s"})
    assert machine.run("apply", manifest, "--no-wait").code == 0
    machine.until(lambda: machine.told("on"), "the training's start")
    assert machine.run("stop", "job").code == 0
    assert machine.told("asked")
    assert [path.name for path in durable(machine)] == ["epoch-7.safetensors"]
    assert machine.status()["phase"] == "Stopped"


@pytest.mark.parametrize("how", ["stays", "exits"])
def test_N19_no_descendant_outlives_the_end(machine: Machine, how: str) -> None:
    """Forks, sessions and daemons that ignore SIGTERM are gone when the end is recorded, and the machine is free."""
    manifest = job(machine, CLINGS, args=[how], stop={"to": "leader"})
    if how == "exits":
        done = machine.run("apply", manifest, "--wait")
        assert done.code == 1, done
        assert machine.status()["exit_code"] == 5
    else:
        assert machine.run("apply", manifest, "--no-wait").code == 0
        machine.until(lambda: len(machine.told()) == 4, "all of the four")
        assert machine.run("stop", "job").code == 0
        assert _drained_in(machine.run_dirs()[0]) < 4, "the grace is 2 s"
        assert machine.status()["phase"] == "Stopped"
    told = machine.told()
    assert {each["what"] for each in told} >= {"fork", "daemon", "forgets"}
    assert not [each for each in told if alive(each["pid"])]
    again = machine.run("apply", job(machine, "print('free')", name="next"), "--wait")
    assert again.code == 0, again


def _drained_in(run_dir: Path) -> float:
    """Seconds from the begin of the drain to its end, by the agent's own records."""
    told = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    begun = next(float(each["at"]) for each in told if each["event"] == "drain_started")
    return float(json.loads((run_dir / "exit.json").read_text())["ended_at"]) - begun
