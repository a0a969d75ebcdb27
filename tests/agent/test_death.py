"""Whatever dies, nothing runs on unwatched, and no exit code is made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from killing import kill_at_once

from runctl.agent import cgroup, processes

from .real_host import PATIENCE, Host, until

# A child in its own session whose parent is gone, one that has emptied its environment, and the leader.
FAMILY = """
import os, time
def away(clean):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        if clean:
            os.execve('/bin/sleep', ['sleep', '600'], {})
        time.sleep(600)
    os.wait()
away(False)
away(True)
if os.fork() == 0:
    time.sleep(600)
print('family', flush=True)
"""


def family_pids(host: Host, run: object) -> list[int]:
    from .real_host import Run

    assert isinstance(run, Run)
    pids = [process.pid for process in psutil.Process(run.state["agent"]["pid"]).children(recursive=True)]
    assert len(pids) == 4
    return pids


def are_gone(pids: list[int]) -> bool:
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True


def test_leftovers_of_a_training_that_ends(host: Host) -> None:
    """Children that a training leaves behind, daemons too, are gone when its exit is recorded."""
    run = host.script(FAMILY + "time.sleep(0.5); raise SystemExit(4)")
    run.printed("family")
    run.training()
    pids = family_pids(host, run)
    ended = run.exit()
    assert (ended["exit_code"], ended["descendants_gone"]) == (4, True)
    assert are_gone(pids)


@pytest.mark.parametrize("victims", [["agent"], ["guardian"], ["agent", "guardian"], ["guardian", "agent"]])
def test_killed(host: Host, victims: list[str]) -> None:
    """When the agent or the guardian is killed the attempt ends as lost; when both are, the next start here cleans
    up.
    """
    run = host.script(FAMILY + "time.sleep(600)")
    run.printed("family")
    state = run.training()
    pids = family_pids(host, run)
    kill_at_once(*(state[victim]["pid"] for victim in victims))
    if len(victims) == 1:
        ended = run.exit()
        assert (ended["reason"], ended["exit_code"], ended["signal"]) == ("lost", None, None)
        assert ended["descendants_gone"]
        assert are_gone(pids)
        until(host.is_free)
        assert host.script("pass").exit()["exit_code"] == 0
    else:
        ended = host.script("pass").exit()
        assert (ended["reason"], ended["exit_code"]) == ("exited", 0)
        until(lambda: run.processes() == [])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signals are Linux's")
def test_the_leader_dies_with_both(host: Host) -> None:
    """The training's leader doesn't outlive guardian and agent, though no other start follows."""
    run = host.script("import time; print('up', flush=True); time.sleep(600)")
    state = run.training()
    for who in ("guardian", "agent"):
        os.kill(state[who]["pid"], signal.SIGKILL)
    until(lambda: are_gone([state["training"]["pid"]]))


def _has_groups() -> bool:
    """Whether a process can enter a control group; asked by one that ends."""
    asking = "from runctl.agent import cgroup; raise SystemExit(not cgroup.enter('probe'))"
    made = subprocess.run([sys.executable, "-c", asking], check=False).returncode == 0
    cgroup.remove("probe")
    return made


@pytest.mark.skipif(not _has_groups(), reason="no control group of version 2 can be made here")
@pytest.mark.parametrize("victims", [["agent"], ["agent", "guardian"]])
def test_who_hides_in_every_other_way_is_in_the_control_group(host: Host, victims: list[str]) -> None:
    """A daemon with no open file, no environment and no parent of the attempt is found when nobody was there to adopt
    it; the group is taken away in the end.
    """
    hidden = host.root / "hidden"
    run = host.script(HIDING.replace("HIDDEN", repr(str(hidden))))
    pid = int(until(lambda: hidden.exists() and hidden.read_text()))
    state = run.training()
    run_id = run.spec["run_id"]
    assert run_id in Path(f"/proc/{pid}/cgroup").read_text()
    kill_at_once(*(state[victim]["pid"] for victim in victims))
    if len(victims) == 1:
        run.exit()
    else:
        assert not are_gone([pid])
        assert pid in processes.orphans(run_id, processes.table())
        host.script("pass").exit()
    until(lambda: are_gone([pid]))
    until(lambda: run_id not in _groups())


HIDING = """
import os, time
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 256)
    if os.fork():
        os._exit(0)
    os.open('/dev/null', os.O_RDWR)
    code = "import os,time; f=open(os.sys.argv[1]+'.new','w'); f.write(str(os.getpid())); f.close()"
    code += "; os.rename(f.name, os.sys.argv[1]); time.sleep(600)"
    os.execve(os.sys.executable, ['python', '-c', code, HIDDEN], {})
print('up', flush=True)
time.sleep(600)
"""


def _groups() -> str:
    return " ".join(names for _, found, _ in os.walk("/sys/fs/cgroup") for names in found)


def test_a_held_agent_holds_no_cap_so_its_guardian_does(host: Host) -> None:
    """An agent that is stopped can't end its training when the money is over: the guardian ends both, in time."""
    money = {"until": time.time() + 3, "seconds": 3.0}
    sleeping = "import time; print('up', flush=True); time.sleep(600)"
    run = host.script(sleeping, checkpoint={"grace": 0.5}, limits={"money": money})
    run.printed("up")
    state = run.training()
    os.kill(state["agent"]["pid"], signal.SIGSTOP)
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"]) == ("lost", None)
    assert "no sign of life" in ended["detail"]
    assert ended["active"] < 8
    until(lambda: are_gone([state["training"]["pid"], state["agent"]["pid"]]))


def test_an_agent_that_goes_on_is_no_dead_one(host: Host) -> None:
    """A short hold, as a debugger's or a busy machine's, costs nothing."""
    run = host.script("import time; print('up', flush=True); time.sleep(4); raise SystemExit(3)")
    state = run.training()
    os.kill(state["agent"]["pid"], signal.SIGSTOP)
    time.sleep(1)
    os.kill(state["agent"]["pid"], signal.SIGCONT)
    assert run.exit()["exit_code"] == 3


def test_the_guardian_dies_at_the_very_end(host: Host) -> None:
    """The training has exited, and its end isn't recorded yet: it is lost, and the code that nobody vouches for any
    more isn't told."""
    hooks = {"after_start": [], "before_stop": [], "before_terminate": [["sleep", "600"]], "timeout": 20.0}
    run = host.script("raise SystemExit(0)", hooks=hooks)
    state = run.wait_state(lambda state: state["phase"] == "draining")
    os.kill(state["guardian"]["pid"], signal.SIGKILL)
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"], ended["signal"]) == ("lost", None, None)
    run.gone()


def test_a_defect_of_the_agent(host: Host) -> None:
    """An agent that can't go on (here: its events have no place to go, its state neither) loses nothing of the end."""
    run = host.script("import time; print('up', flush=True); time.sleep(600)")
    state = run.training()
    os.kill(state["agent"]["pid"], signal.SIGSEGV)
    ended = run.exit()
    assert ended["reason"] == "lost"
    run.gone()


def test_the_host_shuts_down(host: Host) -> None:
    """SIGTERM to the agent or guardian, as at a shutdown, drains the attempt as an interruption."""
    run = host.script(
        "import signal, sys, time\n"
        "def save(*_):\n open('checkpoints/last.bin', 'wb').write(b'x'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('up', flush=True)\ntime.sleep(600)"
    )
    run.printed("up")
    os.kill(run.training()["guardian"]["pid"], signal.SIGTERM)
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"]) == ("interruption", 0)
    assert ended["newest_durable"]["name"] == "last.bin"


def test_a_process_of_another_attempt_is_left_alone(host: Host, tmp_path: object) -> None:
    """A lock file that names a living attempt (anybody may write there) gets nobody killed."""
    import json

    run = host.script("import time; print('up', flush=True); time.sleep(600)")
    run.printed("up")
    second = Host(host.root / "second", host.agent) if (host.root / "second").mkdir() is None else host
    forged = {
        "run_id": run.spec["run_id"],
        "uid": os.getuid(),
        "agent": {"pid": 1, "start": 0, "boot_id": ""},
        "guardian": None,
    }
    (second.locks / "runctl-host.lock").write_text(json.dumps(forged))
    assert second.script("pass").exit()["exit_code"] == 0
    run.order(end="stop")
    assert run.exit()["reason"] == "stop"


def test_a_guardian_that_died_before_its_agent_had_looked(host: Host) -> None:
    """Its parent is another process by then: the agent knows by the pipe between them alone, and ends at once."""
    run = host.prepare([sys.executable, "-c", "import time; time.sleep(600)"])
    host.locks.mkdir(exist_ok=True)
    reader, writer = os.pipe()
    os.close(writer)
    heard, beats = os.pipe()
    locks = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in (run.path / "run.lock", host.locks / "lock")]
    descriptors = (reader, *locks, beats)
    agent = subprocess.Popen(
        [host.python, "-I", "-S", "-E", str(host.agent / "launch.py"), "--agent", str(run.path), "22",
         *map(str, descriptors)],
        pass_fds=descriptors, env={**os.environ, "RUNCTL_HOST_LOCK_DIR": str(host.locks)},
    )  # fmt: skip
    try:
        agent.wait(PATIENCE)
    finally:
        agent.kill()
        agent.wait()
        for descriptor in (*descriptors, heard):
            os.close(descriptor)
    assert run.exit()["reason"] == "lost"
    run.gone()
