"""One training a host, unless sharing is asked for; an older attempt never starts."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from runctl.agent import hostlock

from .real_host import Host, until

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def test_a_second_training_is_refused(host: Host) -> None:
    """A start on a host that is held is refused, and says by whom."""
    first = host.script(SLEEP)
    first.training()
    ended = host.script("pass").exit()
    assert (ended["reason"], ended["training_started"]) == ("refused", False)
    assert ended["holder"]["run_id"] == first.spec["run_id"]
    assert ended["holder"]["agent"] == first.state["agent"]
    first.order(end="stop")
    assert first.exit()["reason"] == "stop"
    assert host.script("pass").exit()["reason"] == "exited"


def test_sharing(host: Host) -> None:
    """`busy: share` starts beside another; an exclusive start needs all of them gone."""
    first, second = host.script(SLEEP), None
    first.training()
    second = host.script(SLEEP, busy="share")
    second.training()
    first.order(end="stop")
    first.exit()
    first.gone()
    assert host.script("pass").exit()["reason"] == "refused"
    second.order(end="stop")
    second.exit()
    second.gone()
    assert host.script("pass").exit()["reason"] == "exited"


def test_two_starts_race(host: Host) -> None:
    """Of starts at the same time exactly one wins, each time."""
    for _ in range(5):
        runs = [host.prepare([sys.executable, "-c", SLEEP]) for _ in range(4)]
        environment = {**os.environ, "RUNCTL_HOST_LOCK_DIR": str(host.locks)}
        argv = [sys.executable, "-I", "-S", "-E", str(host.agent / "launch.py")]
        started = [subprocess.Popen([*argv, str(run.path)], env=environment) for run in runs]
        for process in started:
            assert process.wait() == 0
        until(lambda: sum(run.read("exit.json") is not None for run in runs) == 3)  # noqa: B023
        assert [run.read("exit.json") or {"reason": "wins"} for run in runs].count({"reason": "wins"}) == 1
        for run in runs:
            if run.read("exit.json") is None:
                run.training()
                run.order(end="cancel")
                assert run.exit()["reason"] == "cancel"
                run.gone()


def test_an_older_attempt_is_refused(host: Host) -> None:
    """An attempt below the highest that was started of its job doesn't start, nor does one of a lower epoch."""
    uid = secrets.token_hex(4)
    assert host.script("pass", uid=uid, attempt=2).exit()["reason"] == "exited"
    ended = host.script("pass", uid=uid, attempt=1).exit()
    assert ended["reason"] == "refused"
    assert "attempt 2" in ended["detail"]
    assert host.script("pass", uid=uid, attempt=3, epoch=5).exit()["reason"] == "exited"
    assert host.script("pass", uid=uid, attempt=4, epoch=4).exit()["reason"] == "refused"


def test_a_lock_that_is_a_link(host: Host) -> None:
    """A link in the lock's place is not followed."""
    target = host.root / "precious"
    target.write_text("precious")
    (host.locks / "runctl-host.lock").symlink_to(target)
    ended = host.script("pass").exit()
    assert ended["reason"] == "launch_failed"
    assert "can't be opened" in ended["detail"]
    assert target.read_text() == "precious"


def test_a_lock_file_that_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening and the locking the file is removed, and another start makes and locks a new one: who locked
    the old one doesn't have the host."""
    path = tmp_path / "runctl-host.lock"
    others: list[int] = []
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if not others:
            path.unlink()
            others.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
            real(others[0], fcntl.LOCK_EX)
        real(descriptor, operation)

    monkeypatch.setenv(hostlock.DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(hostlock.Busy):
        hostlock.acquire("refuse")
    os.close(others[0])
    lock = hostlock.acquire("refuse")
    assert os.fstat(lock.descriptor).st_ino == path.stat().st_ino
    os.close(lock.descriptor)


def test_the_lock_outlives_its_watchers(host: Host) -> None:
    """The training itself holds the lock, so that no other start can slip in before it is gone."""
    run = host.script(SLEEP)
    pid = run.training()["training"]["pid"]
    run.printed("up")  # before that its Python opens and closes files
    held = {each.path for each in psutil.Process(pid).open_files()}
    assert str((host.locks / "runctl-host.lock").resolve()) in held
    assert not any(str(run.path.resolve()) in path for path in held)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says of an open file that it was deleted")
def test_a_lock_file_that_is_deleted_still_locks(host: Host) -> None:
    """Whoever sweeps `/tmp` lets no second training start: the first one holds the deleted file open."""
    first = host.script(SLEEP)
    first.training()
    (host.locks / "runctl-host.lock").unlink()
    for _ in range(2):
        ended = host.script("pass").exit()
        assert (ended["reason"], ended["holder"]["run_id"]) == ("refused", first.spec["run_id"])
    first.order(end="stop")
    first.exit()
    first.gone()
    assert host.script("pass").exit()["reason"] == "exited"
