"""A host over SSH, by the commands: jobs there are as jobs here. The host is this computer under another home, behind a
server of its own that runs real processes.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .machine import Machine
from .scripts import events

SERVER = Path(__file__).parents[1] / "transports" / "sshd.py"


class Host:
    """The far side. `root` is where its home is."""

    def __init__(self, machine: Machine) -> None:
        self.home = machine.root / "there"
        self.place = machine.root / "sshd"
        environ = {**machine.environ, "RUNCTL_HOME": str(self.home)}
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER), str(self.place)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._heard("ready")
        user = machine.root / "user"
        (user / ".ssh").mkdir(parents=True)
        (user / ".ssh" / "config").write_text((self.place / "config").read_text())
        machine.environ["HOME"] = str(user)

    def cut(self) -> None:
        """Every connection is lost."""
        assert self._server.stdin is not None
        self._server.stdin.write(b"cut\n")
        self._server.stdin.flush()
        self._heard("cut")

    def end(self) -> None:
        self._server.communicate(timeout=20)

    def _heard(self, word: str) -> None:
        assert self._server.stdout is not None
        assert self._server.stdout.readline().decode().strip() == word


@pytest.fixture
def host(machine: Machine) -> Iterator[Host]:
    made = Host(machine)
    try:
        yield made
    finally:
        machine.end()
        made.end()


def far(machine: Machine, steps: int = 5, code: int = 0, **fields: Any) -> str:
    """A training on that host."""
    return machine.training(steps, 0.1, code, instance={"host": "box"}, **fields).name


@pytest.mark.parametrize("code", [0, 7])
def test_E5_the_exit_code_is_the_trainings(machine: Machine, host: Host, code: int) -> None:
    """With its output, its checkpoints and its progress, as of a training here; and nothing of it is here."""
    done = machine.run("apply", far(machine, code=code), "--wait")
    assert done.code == (0 if code == 0 else 1), done
    status = machine.status()
    assert (status["outcome"], status["exit_code"]) == ("Succeeded" if code == 0 else "Failed", code)
    assert machine.run("logs", "job").out == "".join(f"step {step}/5\n" for step in range(1, 6))
    assert status["checkpoints"]["newest"]["path"].startswith(str(host.home))
    listed = machine.run("checkpoints", "job", "-o", "json")
    assert '"step": 5' in listed.out
    assert not (machine.home / "checkpoints").exists()
    assert "box" in machine.run("checkpoints", "verify", "job").err
    machine.quiet_but_for(str(SERVER))


def test_N22_a_follower_gets_every_line_once_over_cuts(machine: Machine, host: Host) -> None:
    """Whoever follows a job that another command has started."""
    machine.run("apply", far(machine, steps=30), "--no-wait")
    follower = machine.start("logs", "job", "--follow")
    for _ in range(2):
        machine.until(lambda: machine.printed(follower).count("\n") >= 3, "some lines")
        host.cut()
    assert machine.run("wait", "job").code == 0
    assert follower.wait(20) == 0
    assert machine.printed(follower) == "".join(f"step {step}/30\n" for step in range(1, 31))
    assert len(machine.told("start")) == 1


def test_E4_a_killed_controller_is_followed_by_another(machine: Machine, host: Host) -> None:
    """Promise 6: kill it, apply again: adopted, nothing started twice, no exit code lost."""
    manifest = far(machine, steps=25, code=7)
    first = machine.start("apply", manifest, "--wait")
    machine.until(lambda: machine.told("start"), "the start")
    first.kill()
    done = machine.run("apply", manifest, "--wait")
    assert done.code == 1, done
    assert machine.status()["exit_code"] == 7
    assert len(machine.told("start")) == 1


def test_stop_saves_and_apply_goes_on_from_there(machine: Machine, host: Host) -> None:
    """On the host, from the checkpoint that is durable there; `delete` then leaves nothing of it."""
    manifest = far(machine, steps=40)
    machine.run("apply", manifest, "--no-wait")
    machine.until(lambda: machine.told("saved"), "a checkpoint")
    assert machine.run("stop", "job").code == 0
    assert machine.status()["phase"] == "Stopped"
    drained = machine.told("drained")[-1]["step"]
    assert machine.run("apply", manifest, "--wait").code == 0
    assert [each["step"] for each in machine.told("start")] == [0, drained]
    assert machine.run("delete", "job", "--yes", "--checkpoints").code == 0
    uids = {path.name for path in (host.home / "runs").iterdir()} | {
        path.name for path in (host.home / "checkpoints").iterdir()
    }
    assert uids == set()


def test_a_host_that_is_not_known_is_refused_and_waited_for(machine: Machine, host: Host) -> None:
    """With its fingerprint and the line that makes it known; when it is, the job starts by itself."""
    known = host.place / "known_hosts"
    line = known.read_text()
    known.write_text("")
    manifest = far(machine, steps=2)
    done = machine.run("apply", manifest, "--no-wait")
    assert done.code == 0, done
    assert machine.status()["phase"] == "Queued"
    first = {each["message"] for each in machine.status()["conditions"] if "box" in each["message"]}
    assert not any("nobody keeps" in each for each in first)

    def told() -> set[str]:
        return {each["message"] for each in machine.status()["conditions"] if "isn't known yet" in each["message"]}

    (message,) = machine.until(told, "that it isn't known")
    assert "box isn't known yet: its key is ssh-ed25519 SHA256:" in message
    assert "ssh-keyscan -p" in message
    assert not machine.told()
    known.write_text(line)
    assert machine.run("wait", "job").code == 0
    assert any(each["reason"] == "Succeeded" for each in events(machine))


def test_a_host_that_is_gone_is_said_and_can_be_left(machine: Machine, host: Host) -> None:
    """Its job can be deleted only when the user vouches that it never comes back; where what stays there lies is said,
    and until then why nothing goes on."""
    machine.run("apply", far(machine, steps=600), "--no-wait")
    machine.until(lambda: machine.told("saved"), "a checkpoint")
    host.end()
    asked = machine.start("stop", "job")
    machine.until(lambda: "HostAway" in machine.printed(asked), "a word about it")
    asked.send_signal(signal.SIGTERM)
    asked.wait(20)
    assert any("its host can't be asked" in each for each in machine.status()["warnings"])
    done = machine.run("wait", "job", "--timeout", "1s")
    assert done.code == 8
    assert "warning: job: its host can't be asked" in done.err
    done = machine.run("stop", "job", "--assume-dead")
    assert done.code == 0, done
    assert machine.status()["attempts"][0]["reason"] == "lost"
    deleting = machine.start("delete", "job", "--yes")
    machine.until(lambda: "RemovalWaits: what it left can't be removed" in machine.printed(deleting), "why it waits")
    deleting.send_signal(signal.SIGTERM)
    deleting.wait(20)
    done = machine.run("delete", "job", "--yes", "--assume-dead")
    assert done.code == 0, done
    assert f"not removed, if it couldn't be asked: box:{host.home}/runs/" in done.err
    assert machine.run("status", "job").code != 0


def test_promise_1_a_lower_cap_that_cannot_be_told_is_not_said_to_hold(machine: Machine, host: Host) -> None:
    """Not by apply, nor by status: the agent on the host goes on by the cap that it knows."""
    priced = {"host": "box", "hourly_rate": "36 USD"}
    manifest = machine.training(600, 0.1, 0, instance=priced, cost={"cap": "5 USD"}).name
    machine.run("apply", manifest, "--no-wait")
    machine.until(lambda: machine.told("saved"), "a checkpoint")
    host.end()
    machine.training(600, 0.1, 0, instance=priced, cost={"cap": "1 USD"})
    machine.run("apply", manifest, "--no-wait")

    def budget() -> dict[str, Any]:
        (found,) = [each for each in machine.status()["conditions"] if each["type"] == "WithinBudget"]
        return found

    machine.until(lambda: budget()["reason"] == "NotDelivered", "that the cap isn't known there")
    assert budget()["status"] == "Unknown"
    assert "cap 1 USD, of which its agent hasn't heard: it may spend up to 5.00 USD" in budget()["message"]
    assert "may spend up to 5.00 USD" in machine.run("status", "job").out
