"""N16: JSON on stdout is JSON and nothing else, and each class of failure has its own exit code."""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .machine import PATIENCE, RUNCTL, Machine
from .scripts import job

ONE = (
    ["status", "job"],
    ["status"],
    ["events", "job"],
    ["cost", "job"],
    ["checkpoints", "job"],
    ["checkpoints", "verify", "job"],
    ["validate", "job.yaml"],
    ["plan", "job.yaml"],
)
LINES = (["apply", "job.yaml"], ["wait", "job"], ["events", "job", "--follow"], ["status", "job", "--watch"])
WRONG = (
    ["status", "nobody"],
    ["checkpoints", "nobody"],
    ["wait", "nobody"],
    ["validate", "no-such-file.yaml"],
    ["validate", "bad.yaml"],
    ["plan", "bad.yaml"],
    ["apply", "bad.yaml"],
    ["apply", "changed.yaml"],
)


# Ends when its progress is known, and shown wherever it is.
HAS_PROGRESS = """
print("epoch 1/2 loss 0.5", flush=True)
state = os.path.dirname(os.environ["RUNCTL_PROGRESS"]) + "/state.json"
while '"epochs":2' not in open(state).read():
    time.sleep(0.05)
time.sleep(0.3)
"""


def _json(machine: Machine, args: list[str]) -> tuple[int, list[Any], str]:
    """The exit code, the JSON values of stdout (one a line, or one in all), and stderr."""
    done = machine.run(*args, "-o", "json")
    return done.code, _values(done.out) if done.out else [], done.err


def test_N16_stdout_is_pure_json_of_every_command(machine: Machine) -> None:
    """A job whose name, output and events are full of control characters, finished: one value of each command that
    shows, one a line of each that follows; of a command that fails nothing, or a value with the problem."""
    code = "print('\\x1b[31m{\"not\": json}', flush=True)\n"
    code += "save('epoch-1.safetensors')\nprint('ende \\xfc', file=sys.stderr)\n" + HAS_PROGRESS
    fields = {"instance": {"hourly_rate": "1 USD"}, "cost": {"cap": "5 USD"}, "labels": {"team": 'a"b'}}
    manifest = job(machine, code, **fields)
    machine.write("bad.yaml", "name: bad\nscritp: x.py\n")
    machine.write("changed.yaml", (machine.project / "job.yaml").read_text().replace('"job.py"', '"other.py"'))
    machine.write("other.py", "")
    (first, *more), code_of_it = _apply(machine, manifest)
    assert code_of_it == 0
    assert more[-1]["type"] == "transition"
    assert more[-1]["outcome"] == "Succeeded"
    assert isinstance(first, dict)
    assert all(isinstance(each, dict) for each in more)
    with ThreadPoolExecutor(4) as lanes:
        for args, (exit_code, values, _) in zip(ONE, lanes.map(lambda args: _json(machine, args), ONE), strict=True):
            assert exit_code == 0, args
            assert len(values) == 1, args
        for args, (exit_code, values, _) in zip(
            LINES, lanes.map(lambda args: _json(machine, args), LINES), strict=True
        ):
            assert exit_code == 0, args
            assert all(isinstance(each, dict) for each in values), args
        for args, (exit_code, values, err) in zip(
            WRONG, lanes.map(lambda args: _json(machine, args), WRONG), strict=True
        ):
            assert exit_code in (1, 2), args
            assert values or err, args
            assert "Traceback" not in err
            assert args[0] == "validate" or "error" in err, args
    assert machine.run("schema").code == 0
    json.loads(machine.run("schema").out)


def _apply(machine: Machine, manifest: str) -> tuple[list[Any], int]:
    done = machine.run("apply", manifest, "--wait", "-o", "json")
    return [json.loads(line) for line in done.out.splitlines()], done.code


# Below these the keys are the user's own, or a manifest's.
FREE = frozenset({"env", "labels", "metrics", "details", "job", "leases"})
PROGRESS = 'open(os.environ[\'RUNCTL_PROGRESS\'], \'a\').write(\'{"epoch": 1, "epochs": 2, "metrics": {"a": 1}}\\n\')\n'


def _keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return {key for each in value for key in _keys(each)}
    if not isinstance(value, dict):
        return set()
    return {*value, *(key for name, each in value.items() if name not in FREE for key in _keys(each))}


def test_N16_every_key_is_documented(machine: Machine) -> None:
    """Of a job that trains, has told of its progress and went on from a checkpoint, and of a manifest with a problem:
    whatever key a command prints is named in docs/json.md."""
    code = f"{PROGRESS}save('epoch-1.safetensors')\ntell('on')\ntime.sleep(120)"
    manifest = job(machine, code, instance={"hourly_rate": "1 USD"}, cost={"cap": "5 USD"}, labels={"team": "a"})
    machine.write("bad.yaml", "name: bad\nscritp: x.py\n")
    assert machine.run("apply", manifest, "--no-wait").code == 0
    machine.until(lambda: machine.status()["checkpoints"]["newest"], "a first checkpoint")
    assert machine.run("stop", "job").code == 0
    printed = [machine.run("plan", manifest, "-o", "json").out, machine.run("apply", manifest, "-o", "json").out]
    machine.until(lambda: machine.status()["progress"] and machine.status()["controller"], "progress")
    printed += [machine.run(*args, "-o", "json").out for args in (*ONE, ["cost"], ["controller", "status"])]
    assert machine.run("cancel", "job").code == 0
    printed += [machine.run(*args, "-o", "json").out for args in (["wait", "job"], ["validate", "bad.yaml"])]
    machine.write("job.yaml", (machine.project / "job.yaml").read_text().replace('"5 USD"', '"6 USD"'))
    printed.append(machine.run("plan", manifest, "-o", "json").out)
    found = {key for text in printed for value in _values(text) for key in _keys(value)}
    assert {"resumed_from", "eta_seconds", "hourly", "why", "worst_case", "before", "pid", "severity"} <= found
    page = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text()
    named = {word for quoted in re.findall(r"`([^`]+)`", page) for word in re.findall(r"\w+", quoted)}
    assert found - named == set()


def _values(text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def test_N16_money_and_instants_keep_their_form(machine: Machine) -> None:
    """Money is a decimal string, an instant a string in UTC, and what isn't known is null, not zero."""
    unpriced = job(machine, "pass", name="free")
    priced = job(machine, "pass", name="dear", instance={"hourly_rate": "3600 USD"}, cost={"cap": "50.50 USD"})
    assert machine.run("apply", unpriced, "--wait").code == 0
    assert machine.run("apply", priced, "--wait").code == 0
    free, dear = machine.status("free"), machine.status("dear")
    assert free["cost"] == {"currency": "USD", "cap": None, "spent": None, "projected": None}
    assert dear["cost"]["cap"] == "50.50"
    assert 0 < float(dear["cost"]["spent"]) < 50
    for status in (free, dear):
        for instant in (status["created_at"], status["attempts"][0]["started_at"], status["finished_at"]):
            assert instant.endswith("Z")
    assert {each["name"] for each in json.loads(machine.run("status", "-o", "json").out)} == {"free", "dear"}


def test_N16_each_class_of_failure_has_its_own_code(machine: Machine) -> None:
    """Of the same command on the same machine: succeeded, failed, invalid, stopped, timed out, no secret, busy,
    changes; the others (limits, deadline, lost, no permission, defect) are in tests/cli/test_exit_codes.py."""
    goes_on = job(machine, "tell('on')\ntime.sleep(120)", name="goes-on")
    fails = job(machine, "sys.exit(7)", name="fails")
    secret = job(machine, "pass", name="secret", secrets=["NOT_THERE"])
    machine.write("bad.yaml", "name: bad\n")
    found = {
        "invalid": machine.run("apply", "bad.yaml", "--wait").code,
        "no secret": machine.run("apply", secret, "--wait").code,
        "changes": machine.run("plan", fails, "--detailed-exitcode").code,
        "failed": machine.run("apply", fails, "--wait").code,
        "detached": machine.run("apply", goes_on, "--no-wait").code,
        "busy": machine.run("apply", job(machine, "pass", name="other"), "--wait").code,
        "timed out": machine.run("wait", "goes-on", "--timeout", "300ms").code,
        "stop": machine.run("stop", "goes-on").code,
        "stopped": machine.run("wait", "goes-on").code,
    }
    assert found == {
        "invalid": 2, "no secret": 10, "changes": 12, "failed": 1, "detached": 0, "busy": 11, "timed out": 8,
        "stop": 0, "stopped": 6,
    }  # fmt: skip


def test_N16_a_reader_that_leaves_and_a_closed_stdout_are_no_defect(machine: Machine) -> None:
    """`| head -1` and `>&-`: no traceback, no message about a defect."""
    assert machine.run("apply", job(machine, "print('x' * 1000000)"), "--wait").code == 0
    program = " ".join(RUNCTL)
    for line in (
        f"{program} logs job | head -c 10",
        f"{program} status job -o json >&-",
        f"{program} schema | head -1",
    ):
        done = subprocess.run(["bash", "-c", line], env=machine.environ, capture_output=True, timeout=PATIENCE)
        assert b"Traceback" not in done.stderr, (line, done)
        assert b"defect" not in done.stderr, (line, done)
