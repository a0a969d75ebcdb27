"""The process table, by `/proc` and by `ps`."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys

import pytest

from runctl.agent import processes

from .real_host import until


@pytest.fixture
def sleeper() -> object:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={"RUNCTL_RUN_ID": "x-1"}
    ) as child:
        yield child
        child.kill()


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps")
def test_ps_tells_what_proc_tells(sleeper: subprocess.Popen[bytes]) -> None:
    """Where there is no `/proc`, `ps` gives the same parents, groups and states."""

    def by_ps() -> dict[int, processes.Process]:
        return {process.pid: process for process in processes._ask_ps(["-A"])}

    mine, theirs = by_ps()[sleeper.pid], processes.table()[sleeper.pid]
    assert (mine.ppid, mine.pgid) == (theirs.ppid, theirs.pgid) == (os.getpid(), os.getpgrp())
    assert mine.start
    # It may grow between the two looks, for as long as it isn't asleep.
    until(lambda: abs(by_ps()[sleeper.pid].rss - processes.table()[sleeper.pid].rss) < 4 << 20)
    assert sleeper.pid in processes.descendants(os.getpid(), by_ps())


def test_identity(sleeper: subprocess.Popen[bytes]) -> None:
    """A process is known by pid, start and boot: another start or boot is another process, and a zombie is dead."""
    known = processes.identity(sleeper.pid)
    assert processes.is_alive(known)
    assert not processes.is_alive({**known, "start": 1})
    assert not processes.is_alive({**known, "boot_id": "another"})
    assert not processes.is_alive({"pid": -1})
    assert not processes.is_alive(None)
    sleeper.kill()
    until(lambda: not processes.is_alive(known))


def test_carriers(sleeper: subprocess.Popen[bytes]) -> None:
    """Processes of an attempt are found by the whole run id in their environment."""
    until(lambda: sleeper.pid in processes.carriers("x-1", [sleeper.pid]))
    assert processes.carriers("x-", [sleeper.pid]) == {}
    assert processes.carriers("x-1", [os.getpid()]) == {}


# A child, its child in a session of its own, and one of that run that is nobody's child any more.
FAMILY = """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
    time.sleep(30)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.execve("/bin/sleep", ["sleep", "30"], {"RUNCTL_RUN_ID": os.environ["STRAY"]})
    os._exit(0)
os.wait()
print("family", flush=True)
time.sleep(30)
"""


def test_what_belongs_to_an_attempt() -> None:
    """All that is below its root, however deep, and what carries its run id wherever it is; not what is spared, nor
    what is below that. Killing it leaves nothing, and the root alone."""
    run_id = f"{secrets.token_hex(4)}-1"
    with subprocess.Popen([sys.executable, "-c", FAMILY], env={"STRAY": run_id}, stdout=subprocess.PIPE) as root:
        try:
            assert root.stdout is not None
            root.stdout.readline()
            until(lambda: len(processes.attempt_processes(root.pid, run_id, set())) == 3)
            rows = processes.table()
            (child,) = [pid for pid, row in rows.items() if row.ppid == root.pid and row.state != "Z"]
            (stray,) = processes.attempt_processes(root.pid, run_id, {child})
            assert stray in processes.carriers(run_id, rows)
            assert processes.kill_attempt(root.pid, run_id, set(), 10.0, lambda *_: None)
            assert not processes.attempt_processes(root.pid, run_id, set())
            assert root.poll() is None
        finally:
            root.kill()


@pytest.mark.parametrize(("text", "seconds"), [("00:01", 1.0), ("1-02:03:04", 93784.0), ("2:03.45", 123.45)])
def test_times_of_ps(text: str, seconds: float) -> None:
    """The ways in which systems write CPU time."""
    assert processes._ps_seconds(text) == seconds
