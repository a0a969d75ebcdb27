"""The process table, by `/proc` and by `ps`."""

from __future__ import annotations

import os
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
    by_ps = {process.pid: process for process in processes._ask_ps(["-A"])}
    by_proc = processes.table()
    mine, theirs = by_ps[sleeper.pid], by_proc[sleeper.pid]
    assert (mine.ppid, mine.pgid) == (theirs.ppid, theirs.pgid) == (os.getpid(), os.getpgrp())
    assert mine.start
    assert abs(mine.rss - theirs.rss) < 4 << 20
    assert sleeper.pid in processes.descendants(os.getpid(), by_ps)


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


@pytest.mark.parametrize(("text", "seconds"), [("00:01", 1.0), ("1-02:03:04", 93784.0), ("2:03.45", 123.45)])
def test_times_of_ps(text: str, seconds: float) -> None:
    """The ways in which systems write CPU time."""
    assert processes._ps_seconds(text) == seconds
