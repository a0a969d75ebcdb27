"""F5 and S1: the cap holds, by a bill that the tests make themselves; and what is said of money."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest

from .machine import PATIENCE, Machine, machine_in
from .scripts import durable_steps

# A dollar a second: seconds of the world are money.
DOLLAR_A_SECOND = {"hourly_rate": "3600 USD"}


_machine = contextmanager(machine_in)


def _capped(machine: Machine, cap: str, warn_at: list[str] | None = None, **fields: Any) -> str:
    cost = {"cap": cap, "warn_at": warn_at or ["50%"]}
    given = {"instance": DOLLAR_A_SECOND, "cost": cost, "checkpoint": {"every": "1 steps", "grace": "1s"}, **fields}
    return str(machine.training(1000, 0.1, **given))


def _bill(machine: Machine) -> float:
    """Dollars from the start to the last sign of life of each training, at a dollar a second."""
    lives: dict[int, list[float]] = {}
    for line in machine.told():
        lives.setdefault(line["pid"], []).append(line["at"])
    return sum(max(at) - min(at) for at in lives.values())


def _reasons(machine: Machine, name: str = "job") -> list[str]:
    done = machine.run("events", name, "-o", "json")
    assert done.code == 0, done
    return [each["reason"] for each in json.loads(done.out)]


def _warned(machine: Machine, text: str) -> bool:
    """Whether the status of a live job warns of it, in its JSON and its text."""
    told = any(text in each for each in machine.status()["warnings"])
    return told and f"warning: {text}" in machine.run("status", "job").out


@pytest.mark.slow
def test_F5_S1_the_cap_holds_warns_and_goes_on_when_it_is_raised(machine: Machine) -> None:
    """The final save is durable before the money is over; each threshold is said once and in time; after the end
    nothing more is started, and a raised cap goes on from that very checkpoint, in the same ledger."""
    manifest = _capped(machine, "8 USD", warn_at=["20%", "60%"])
    attached = machine.start("apply", manifest, "--wait")
    machine.until(lambda: machine.told("start"), "its start")
    machine.until(lambda: "20% of the cap" in machine.printed(), "the first warning", 10)
    assert _warned(machine, "20% of the cap")
    assert attached.wait(PATIENCE) == 3
    last = machine.told()[-1]
    assert last["what"] == "drained"
    assert max(durable_steps(machine)) == last["step"]
    assert 3.0 < _bill(machine) <= Decimal(machine.status()["cost"]["spent"]) + Decimal("0.01") <= 8
    assert not [each for each in machine.processes() if "train.py" in " ".join(each.cmdline())]

    lines = [line for line in machine.printed().splitlines() if "of the cap is spent" in line]
    assert len(lines) == 2, lines
    for line, share, mark in zip(lines, ("20%", "60%"), (Decimal("1.6"), Decimal("4.8")), strict=True):
        assert share in line
        assert mark <= Decimal(line.split("is spent: ")[1].split(" USD")[0]) <= mark + 2, line
    assert _reasons(machine).count("CostThreshold") == 2
    assert machine.run("apply", manifest, "--wait").code == 3
    assert len(machine.told("start")) == 1
    done = machine.run("apply", _capped(machine, "15 USD", warn_at=["20%", "60%"]), "--wait")
    assert done.code == 3, done
    assert [line["step"] for line in machine.told("start")] == [0, last["step"]]
    assert _bill(machine) <= 15.0
    ledger = json.loads(machine.run("cost", "job", "-o", "json").out)
    assert [each["attempt"] for each in ledger["ledger"]] == [1, 2]
    assert sum(Decimal(each["cost"]) for each in ledger["ledger"]) == Decimal(ledger["spent"]) <= 15
    for each in ledger["ledger"]:
        assert (each["hourly"], each["source"]) == ("3600.00", "instance.hourly_rate")
        assert each["started_at"] < each["ended_at"]
        assert each["quoted_at"]


def test_F5_the_cap_holds_with_the_controllers_killed_for_ever(tmp_path: Path) -> None:
    """Promises 1 and 4. SIGKILL to the only controller. A training that saves has its last save durable in time; one
    that ignores every signal and has forked into another session is gone in time, too. Whoever comes later finds the
    outcome."""
    with _machine(tmp_path / "saving") as saving, _machine(tmp_path / "stubborn") as stubborn:
        stubborn.write("stubborn.py", STUBBORN)
        slow_disk = {"checkpoint": {"every": "1 steps", "grace": "2s"}}  # a save has its time on a busy machine, too
        manifests = {
            saving: _capped(saving, "10 USD", **slow_disk),
            stubborn: _capped(stubborn, "10 USD", script="stubborn.py", **slow_disk),
        }
        attached = [machine.start("apply", manifest, "--wait") for machine, manifest in manifests.items()]
        saving.until(lambda: saving.told("saved"), "a first save")
        signs = stubborn.world / "signs"
        stubborn.until(signs.exists, "a first sign")
        for process in attached:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        for machine in manifests:
            machine.quiet(15)
        assert _bill(saving) <= 10.0
        assert max(durable_steps(saving)) == saving.told("drained")[-1]["step"]
        lived = [float(line) for line in signs.read_text().split()]
        assert 3.0 <= max(lived) - min(lived) <= 10.0
        pids = [int(pid) for pid in (stubborn.world / "pids").read_text().split()]
        assert len(pids) == 2
        assert not [pid for pid in pids if psutil.pid_exists(pid)]
        assert (saving.run("wait", "job").code, stubborn.run("wait", "job").code) == (3, 4)
        assert len(saving.told("start")) == 1


STUBBORN = """\
import os, signal, time

world = os.environ["WORLD"]
child = os.fork()
if child == 0:
    os.setsid()
with open(world + "/pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    with open(world + "/signs", "a") as file:
        file.write(f"{time.time()}\\n")
    time.sleep(0.05)
"""


def test_F5_what_does_not_fit_is_not_launched(machine: Machine) -> None:
    """A cap that only the final save would fit in starts no process at all."""
    manifest = _capped(machine, "20 USD", checkpoint={"every": "1 steps", "grace": "15s"})
    done = machine.run("apply", manifest, "--wait")
    assert done.code == 4, done
    assert "will not start" in done.err
    assert machine.told() == []
    assert machine.run_dirs() == []
    assert Decimal(machine.status()["cost"]["spent"]) == 0


def test_F5_a_cap_that_cannot_be_priced_is_refused_at_its_line(machine: Machine) -> None:
    """No price, no cap: an error with the place, and nothing is started."""
    machine.write("train.py", "print('never')\n")
    machine.write("a.yaml", "name: a\nscript: train.py\ncost:\n  cap: 5 USD\n")
    done = machine.run("apply", "a.yaml", "--wait")
    assert done.code == 2, done
    assert "a.yaml:4:" in done.err
    assert "instance.hourly_rate" in done.err
    assert not (machine.home / "runs").exists()


def test_S1_warnings_without_a_cap_and_of_a_dear_machine(machine: Machine) -> None:
    """More than $5/h is in the plan before anything else; more than $10 without a cap is said when it is reached."""
    manifest = str(machine.training(1000, 0.1, instance={"hourly_rate": "36000 USD"}))
    plan = machine.run("plan", manifest)
    assert "costs more than 5.00 USD an hour" in plan.out
    assert "no cap" in plan.out
    assert machine.run("apply", manifest).code == 0
    machine.until(lambda: "CostWithoutCap" in _reasons(machine), "the warning", 10)
    assert "DearMachine" in _reasons(machine)
    assert any("no cap" in each for each in machine.status()["warnings"])
    assert _bill(machine) >= 0.3, "said long before ten dollars, at ten a second from the start of the agent"


def test_F5_S5_spent_and_projected_while_it_trains(machine: Machine) -> None:
    """What is spent so far, and with the progress and its ETA, what it will be in the end: a dollar a second."""
    pause, steps = 0.2, 100
    machine.run("apply", str(machine.training(steps, pause, instance=DOLLAR_A_SECOND, cost={"cap": "900 USD"})))

    def projected() -> dict[str, Any] | None:
        status = machine.status()
        return status if status["cost"]["projected"] and (status["progress"]["step"] or 0) >= 10 else None

    machine.until(lambda: len(machine.told("saved")) >= 12, "progress")
    status = machine.until(projected, "a projection", 20)
    cost, progress = status["cost"], status["progress"]
    assert progress["steps"] == steps
    assert Decimal(cost["spent"]) + Decimal(progress["eta_seconds"] - 2) < Decimal(cost["projected"])
    assert steps * pause <= Decimal(cost["projected"]) <= 2 * steps * pause
    assert json.loads(machine.run("cost", "job", "-o", "json").out)["cap"] == "900.00"
    assert "projected" in machine.run("status", "job").out


def test_E4_the_cap_that_ends_a_group_is_the_one_to_raise(machine: Machine) -> None:
    """When the group's cap leaves too little, the advice is to raise that one, whatever the job's own leaves."""
    manifest = machine.training(
        1000,
        0.1,
        instance={"hourly_rate": "3600 USD"},
        cost={"cap": "60 USD"},
        group={"cap": "9 USD"},
        checkpoint={"every": "1 steps", "grace": "1s"},
    )
    done = machine.run("apply", str(manifest), "--wait")
    assert done.code == 3, done
    assert "raise `group.cap`" in done.err
    assert "raise `cost.cap`" not in done.err
    assert float(machine.status()["cost"]["spent"]) <= 9
