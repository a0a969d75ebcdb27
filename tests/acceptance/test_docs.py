"""X1, X3: the documentation is true, and the examples are what it says they are. CONTRIBUTING.md has the convention."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli.terminal import Terminal

from .machine import PATIENCE, RUNCTL, Machine
from .scripts import durable, events, job

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Steps of the set-up commands that aren't runctl's own: what `.ci/run` and everybody's first minute execute.
SET_UP = (
    "python3 -m venv .venv",
    ".venv/bin/pip install -q .",
    "python3 -m venv --without-pip .venv",
    "python3 -m pip --python .venv/bin/python install -q uv",
    ".venv/bin/uv pip install -q --python .venv --compile-bytecode -e '.[dev]'",
    ".venv/bin/python scripts/check.py",
)
PLACEHOLDERS = {"NAME": "job", "FILE…": "job.yaml", "FIELD": "cost.cap"}
# Named without their arguments, these are mentioned and not called.
MENTION = re.compile(r"runctl \w+$")


def _blocks(language: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of that language, with their place."""
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield f"{page.relative_to(ROOT)}:{text[: found.start()].count(chr(10)) + 1}", found[1]


def _mentioned() -> list[str]:
    """Every `runctl …` between backticks, and every command of a shell block that is runctl's."""
    found = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        found += re.findall(r"(?<!`)`(runctl [^`]+)`", prose)
    for _, block in (*_blocks("bash"), *_blocks("console")):
        commands = [part.strip() for line in block.splitlines() for part in line.removeprefix("$ ").split("&&")]
        found += [each for each in commands if each.startswith("runctl ")]
    called = {each.replace("\\|", "|") for each in found}
    mere = {each for each in called if MENTION.match(each)} - {"runctl status"}
    shown = {f"{each} --help" for each in mere if not any(other.startswith(f"{each} ") for other in called)}
    return sorted(called - mere | shown)


def test_X3_every_shell_line_is_a_known_command(machine: Machine) -> None:
    """The shell blocks hold the two set-up commands, and otherwise nothing but runctl."""
    steps = [
        (place, part.strip())
        for language in ("bash", "console")
        for place, block in _blocks(language)
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
        for part in line.removeprefix("$ ").split("&&")
    ]
    assert steps
    unknown = [
        each for each in steps if each[1] not in SET_UP and not re.match(r"(\.venv/bin/)?(runctl|pytest) ", each[1])
    ]
    assert unknown == []


@pytest.mark.slow
def test_X3_every_command_of_the_docs_runs(machine: Machine) -> None:
    """Each is run as it stands, on a finished job `job`, and exits with 0; `delete` asks, and comes last."""
    manifest = job(machine, "print('words')\nsave('epoch-1.safetensors')", instance={"hourly_rate": "1 USD"})
    assert machine.run("apply", manifest, "--wait").code == 0
    commands = _mentioned()
    assert len(commands) > 20
    empty = machine.root / "empty"
    empty.mkdir()

    def run(command: str) -> str:
        for name, value in PLACEHOLDERS.items():
            command = command.replace(name, value)
        directory = empty if command.startswith("runctl init") else machine.project
        # The shell stays as the parent, and has a home of its own: one of the commands teaches it completion.
        line = f"set -o pipefail; {_program()} {command.removeprefix('runctl ')}; exit $?"
        environ = {**machine.environ, "HOME": str(machine.root)}
        done = subprocess.run(
            ["bash", "-c", line], cwd=directory, env=environ, capture_output=True, text=True, timeout=PATIENCE
        )
        return "" if done.returncode in (0, 141) else f"{command}: {done.returncode}\n{done.stderr}"

    ends = ("runctl delete", "runctl stop", "runctl cancel", "runctl controller")
    last = [each for each in commands if each.startswith(ends)]
    with ThreadPoolExecutor(4) as lanes:
        assert [each for each in lanes.map(run, [each for each in commands if each not in last]) if each] == []
    assert [each for each in map(run, [each for each in last if "delete" not in each]) if each] == []
    assert any(each.startswith("runctl delete NAME") for each in last)
    with Terminal(machine, "delete", "job") as terminal:
        terminal.until("?")
        terminal.press(b"y\n")
        assert terminal.end() == 0


def _program() -> str:
    return shlex.join(RUNCTL)


def test_X3_every_manifest_of_the_docs_is_valid(machine: Machine) -> None:
    """`yaml` blocks are whole manifests; a `yaml fragment` is one once it has a name and a script."""
    whole = list(_blocks("yaml"))
    fragments = [(place, f"name: x\nscript: x.py\n{text}") for place, text in _blocks("yaml fragment")]
    assert len(whole) >= 2
    for place, text in (*whole, *fragments):
        done = machine.run("validate", "-", stdin=text.encode())
        assert done.code == 0, (place, done)


def test_X3_every_json_of_the_docs_is_json() -> None:
    """`json` blocks parse."""
    blocks = list(_blocks("json"))
    assert blocks
    for place, text in blocks:
        assert json.loads(text), place


def test_X3_the_readme_warns_of_common_mistakes() -> None:
    """A section of its own, with checkpoints and costs first among them, each mistake with its remedy."""
    section = (ROOT / "README.md").read_text().partition("## Common mistakes\n")[2].partition("\n## ")[0]
    mistakes = re.findall(r"^\*\*(.+?)\*\*", section, re.MULTILINE)
    assert len(mistakes) >= 8
    for word in ("checkpoint", "cap", "SIGTERM", "zero", "args"):
        assert word in section


def test_X3_every_example_can_be_planned(machine: Machine) -> None:
    """All manifests in examples/ at once: a plan for each job, without an error."""
    done = subprocess.run(
        [*RUNCTL, "plan", "examples/jobs"],
        cwd=ROOT,
        env=machine.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done
    assert done.stdout.count("will be created") >= 6, done


@pytest.mark.slow
def test_X1_the_main_example_learns_is_stopped_and_goes_on(machine: Machine) -> None:
    """The README's own job, by its own command: progress and cost are shown, `stop` saves, `apply` goes on from that
    very step, and the loss falls from the first attempt to the second."""
    apply = [*RUNCTL, "apply", "examples/jobs/quickstart.yaml", "--no-wait"]
    run = {"cwd": ROOT, "env": machine.environ, "check": True, "capture_output": True, "timeout": PATIENCE}
    subprocess.run(apply, **run)  # type: ignore[call-overload]
    machine.until(lambda: durable(machine), "a first checkpoint")
    assert machine.run("stop", "quickstart").code == 0
    first = machine.status("quickstart")
    saved = first["checkpoints"]["newest"]
    assert 0 < float(first["cost"]["spent"]) < 0.05
    assert 0 < first["progress"]["fraction"] < 1
    losses = _losses(machine)
    subprocess.run(apply, **run)  # type: ignore[call-overload]
    machine.until(lambda: len(_losses(machine)) > len(losses), "an epoch of the second attempt")
    assert machine.run("cancel", "quickstart").code == 0
    second = machine.status("quickstart")
    assert second["attempts"][1]["resumed_from"]["step"] == saved["step"]
    assert f"step {saved['step']}" in machine.run("logs", "quickstart", "--attempt", "2").out.splitlines()[0]
    assert _losses(machine)[-1] < losses[0] / 2
    assert "CheckpointSaved" in {each["reason"] for each in events(machine, "quickstart")}
    assert machine.run("checkpoints", "verify", "quickstart").code == 0


def _losses(machine: Machine) -> list[float]:
    printed = "".join(path.read_text() for each in machine.run_dirs() for path in each.glob("output.log"))
    return [float(each) for each in re.findall(r"loss[ =:]+(\d+\.\d+)", printed)]
