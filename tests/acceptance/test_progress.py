"""R1: how far a training is, when it ends, and what it will have cost by then."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from cli.terminal import Terminal

from .machine import Machine
from .scripts import job

PRICED = {"instance": {"hourly_rate": "3600 USD"}, "cost": {"cap": "500 USD"}, "checkpoint": {"grace": "1s"}}

EPOCHS = """
for epoch in range(1, 41):
    print(f"epoch {epoch}/40 loss {1 / epoch:.3f}", flush=True)
    time.sleep(0.1)
    if epoch == 30:
        while not os.path.exists(os.environ["WORLD"] + "/go"):
            time.sleep(0.02)
"""


def test_R1_a_terminal_shows_a_bar_an_end_and_a_projected_cost(machine: Machine) -> None:
    """The live line has the bar, the epoch, the loss, the time left and the total that it will come to; the last
    words have all of it."""
    manifest = job(machine, EPOCHS, **PRICED)
    with Terminal(machine, "apply", manifest) as terminal:
        terminal.until(" left")
        terminal.until(" projected")
        lines = terminal.text.splitlines()
        live = next(line for line in reversed(lines) if " left" in line and "projected" in line)
        assert re.search(r"job Training \[#+-*\] \d+% · epoch \d+/40 · loss 0\.\d+ · \d+s left", live), live
        assert re.search(r"of 500 USD, [\d.]+ USD projected", live), live
        (machine.world / "go").touch()
        assert terminal.end() == 0
    assert "100% · epoch 40/40" in terminal.text


def test_R1_status_has_progress_end_and_projection(machine: Machine) -> None:
    """The same in `status`, for people and in JSON; the projection is what is spent and what the time left costs."""
    assert machine.run("apply", job(machine, EPOCHS, **PRICED), "--no-wait").code == 0
    status = machine.until(lambda: _with_eta(machine), "an estimate")
    progress, cost = status["progress"], status["cost"]
    assert 0 < progress["fraction"] < 1
    assert progress["epochs"] == 40
    ahead = Decimal(cost["projected"]) - Decimal(cost["spent"])
    assert abs(float(ahead) - progress["eta_seconds"]) <= 2.5, "a dollar a second"
    text = machine.run("status", "job").out
    assert re.search(r"progress +\[#+-*\] \d+% · epoch \d+/40", text), text
    assert re.search(r"cost +[\d.]+ USD spent · [\d.]+ USD projected · cap 500 USD", text), text
    assert machine.run("cancel", "job").code == 0


def _with_eta(machine: Machine) -> dict[str, Any] | None:
    status = machine.status()
    progress = status["progress"]
    return status if progress and progress["eta_seconds"] is not None and progress["fraction"] > 0 else None


def test_R1_nothing_is_projected_beyond_the_cap(machine: Machine) -> None:
    """A training that needs longer than its money lasts costs the cap, and no more: that is what is projected."""
    capped = {**PRICED, "cost": {"cap": "30 USD"}}
    epochs = EPOCHS.replace("41", "4001").replace("/40", "/4000")
    assert machine.run("apply", job(machine, epochs, **capped), "--no-wait").code == 0
    status = machine.until(lambda: _with_eta(machine), "an estimate")
    assert status["progress"]["eta_seconds"] > 100, "a dollar a second"
    assert status["cost"]["projected"] == "30.00"
    assert machine.run("cancel", "job").code == 0


def test_R1_the_progress_file_and_the_steps_of_the_setup_are_shown(machine: Machine) -> None:
    """Lines of JSON on RUNCTL_PROGRESS count before what is printed; what is prepared is named while it is."""
    machine.write(
        "slow.py", "import os, time\nwhile not os.path.exists(os.environ['WORLD'] + '/set'): time.sleep(0.02)\n"
    )
    code = """
print("epoch 9/9", flush=True)
with open(os.environ["RUNCTL_PROGRESS"], "a") as file:
    for step in (100, 250):
        file.write(json.dumps({"step": step, "steps": 1000, "loss": 0.5, "metrics": {"accuracy": 0.75}}) + "\\n")
while not os.path.exists(os.environ["WORLD"] + "/go"):
    time.sleep(0.02)
"""
    attached = machine.start("apply", job(machine, code, setup=[["python3", "slow.py"]]), "--wait")
    shown = machine.root / "started-0.out"
    machine.until(lambda: re.search("preparing: .*slow.py", shown.read_text()), "the step that is prepared")
    (machine.world / "set").touch()
    machine.until(lambda: '"step":250' in (machine.run_dirs()[0] / "state.json").read_text(), "the newest line")
    progress = machine.status()["progress"]
    assert (progress["fraction"], progress["metrics"], progress["source"]) == (0.25, {"accuracy": 0.75}, "file")
    (machine.world / "go").touch()
    assert attached.wait(30) == 0
