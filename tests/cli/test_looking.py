"""Commands that look: status, logs, events, cost, checkpoints, controller."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import yaml
from acceptance.machine import PATIENCE, RUNCTL, Machine
from planner.kit import Life
from planner.kit import job as spec

from runctl.cli.logs import _Printer
from runctl.home import Home
from runctl.planner.record import Record
from runctl.store.interface import Store, Versioned

NOISY = r"""
import os, sys, time
out = os.fdopen(1, "wb", buffering=0)
out.write(b"\x1b[31mred\x1b[0m \xff\xfe no utf-8 \x00 nul\n")
for n in range(3):
    out.write(b"line %d\r\n" % n)
    time.sleep(0.3)
out.write(b"no line end")
"""


def test_status_has_the_documented_fields(machine: Machine) -> None:
    """The JSON contract, field by field; YAML says the same; a name alone is a name a line."""
    machine.run("apply", str(machine.training(2, instance={"hourly_rate": "3.6 USD"}, cost={"cap": "1 USD"})), "--wait")
    status = machine.status()
    assert status["name"] == "job"
    assert (status["phase"], status["outcome"], status["exit_code"]) == ("Finished", "Succeeded", 0)
    [attempt] = status["attempts"]
    assert {"number", "machine", "started_at", "ended_at", "exit_code", "code_hash"} <= attempt.keys()
    cost = status["cost"]
    assert (cost["currency"], cost["cap"]) == ("USD", "1.00")
    assert 0 < float(cost["spent"]) == float(cost["projected"]) < 1
    assert {"path", "step", "at", "durable"} <= status["checkpoints"]["newest"].keys()
    assert {"type", "status", "reason", "message", "last_transition_time", "observed_generation"} == set(
        status["conditions"][0]
    )
    assert json.loads(machine.run("status", "-o", "json").out) == [status]
    assert yaml.safe_load(machine.run("status", "job", "-o", "yaml").out) == status
    assert machine.run("status", "-o", "name").out == "job\n"
    assert machine.run("status").out.splitlines()[1].split()[:2] == ["job", "Succeeded"]
    assert machine.run("status", "job").out.startswith("job: Succeeded\n")


def test_a_misspelt_name_is_recognised(machine: Machine) -> None:
    """An unknown job is an error that names the near one and how to list them."""
    machine.run("apply", str(machine.training(1, name="resnet")), "--wait")
    for command in ("status", "logs", "events", "cost", "checkpoints", "wait", "stop", "cancel", "delete"):
        done = machine.run(command, "resnte")
        assert done.code == 2, done
        assert "did you mean `resnet`?" in done.err, done


def test_status_says_when_nobody_watches(machine: Machine) -> None:
    """A live training without a controller is named, with what to do; `wait` mends it."""
    machine.run("apply", str(machine.training(1000, 0.1)), "--no-wait")
    assert machine.run("controller", "stop").code == 0
    done = machine.run("status")
    assert "no controller watches `job`" in done.err
    assert machine.status()["controller"] is None
    assert machine.run("wait", "job", "--timeout", "500ms").code == 8
    assert machine.status()["controller"]["what"] == "background controller"


def test_a_time_of_nothing_is_enough_for_what_has_ended(machine: Machine) -> None:
    """`--timeout 0s` asks how it stands: the outcome's code where there is one, else 8."""
    manifest = str(machine.training(2, 0.1, code=5))
    assert machine.run("apply", manifest, "--wait").code == 1
    for command in (["wait", "job"], ["apply", manifest, "--wait"]):
        done = machine.run(*command, "--timeout", "0s")
        assert done.code == 1, done
        assert "the time is over" not in done.err
    machine.run("apply", str(machine.training(1000, 0.1, name="long")), "--no-wait")
    assert machine.run("wait", "long", "--timeout", "0s").code == 8


def test_superseded_runs_go_by_their_uids(machine: Machine) -> None:
    """What `status --all` calls a run is what other commands know it by."""
    manifest = str(machine.training(1, 0.1))
    assert machine.run("apply", manifest, "--wait").code == 0
    first = machine.status()["uid"]
    assert machine.run("apply", manifest, "--wait", "--rerun").code == 0
    assert machine.run("status", "--all", "-o", "name").out.split() == [first, "job"]
    assert first in machine.run("status", "--all").out
    assert machine.run("wait", first).code == 0
    deleted = machine.run("delete", "job", "--yes").err
    assert f"job ({first}): deleted" in deleted
    assert "job: deleted" in deleted


def test_logs_are_the_training_s_bytes(machine: Machine) -> None:
    """Escapes, invalid UTF-8, NUL and a missing last line end arrive unaltered, followed or not."""
    machine.write("noisy.py", NOISY)
    machine.write("noisy.yaml", "name: noisy\nscript: noisy.py\nsetup: none\n")
    machine.run("apply", "noisy.yaml", "--no-wait")
    expected = b"\x1b[31mred\x1b[0m \xff\xfe no utf-8 \x00 nul\nline 0\r\nline 1\r\nline 2\r\nno line end"
    assert _bytes(machine, "logs", "-f", "noisy") == expected
    assert _bytes(machine, "logs", "noisy") == expected
    assert _bytes(machine, "logs", "noisy", "--tail", "2") == b"line 2\r\nno line end"
    assert _bytes(machine, "logs", "noisy", "--tail", "0") == b""


def test_elsewhere_a_training_cannot_play_the_terminal(machine: Machine) -> None:
    """What a training prints reaches the attached view without its escapes; a reason in the events, too."""
    machine.write("noisy.py", NOISY)
    machine.write("noisy.yaml", "name: noisy\nscript: noisy.py\nsetup: none\n")
    done = machine.run("apply", "noisy.yaml", "--wait")
    assert "red " in done.err
    assert not {"\x1b", "\0"} & set(done.err)
    machine.run("apply", str(machine.training(1000, 0.1)), "--no-wait")
    machine.run("stop", "job", "--why", "\x1b]0;owned\x07")
    done = machine.run("events", "job")
    assert "\\x1b]0;owned\\x07" in done.out
    assert "\x1b" not in done.out


def test_logs_go_on_over_attempts(machine: Machine) -> None:
    """All attempts in order, or one; following ends with the job, having seen every line once."""
    job = str(machine.training(40, 0.1))
    machine.run("apply", job)
    machine.until(lambda: len(machine.told("saved")) > 2, "some saves")
    machine.run("stop", "job")
    assert machine.status()["phase"] == "Stopped"
    machine.run("apply", job)
    followed = _bytes(machine, "logs", "-f", "job")
    assert followed == _bytes(machine, "logs", "job")
    first, second = (_bytes(machine, "logs", "job", "--attempt", str(n)) for n in (1, 2))
    assert first + second == followed
    assert first
    assert second.endswith(b"step 40/40\n")
    assert machine.run("logs", "job", "--attempt", "3").code == 2


def test_a_flood_is_followed_over_rotated_segments(machine: Machine) -> None:
    """150 MB without a line end, followed while it is rotated: every byte, once, in order."""
    machine.write(
        "flood.py",
        "import os\nfor n in range(2400):\n    os.write(1, (b'%07d.' % n) * 8192)\n",
    )
    machine.write("flood.yaml", "name: flood\nscript: flood.py\nsetup: none\n")
    machine.run("apply", "flood.yaml", "--no-wait")
    expected = b"".join((b"%07d." % n) * 8192 for n in range(2400))
    assert _bytes(machine, "logs", "-f", "flood") == expected
    assert len(list(machine.run_dirs()[0].glob("output.*.log"))) >= 2


class _Meanwhile:
    """A store of one job that ends, with its last words, at the moment at which it is looked at."""

    def __init__(self, home: Home, record: Record) -> None:
        self._log = home.run_dir(record.uid, 1) / "output.log"
        self._record = record

    def requests(self, uid: str) -> tuple[()]:
        return ()

    def get(self, uid: str) -> Versioned:
        with self._log.open("a") as file:
            file.write("last words\n")
        return Versioned(self._record, 2, 1)


def test_last_words_are_printed(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The training prints and ends between two looks of a follower: all of it is printed before that one leaves."""
    home = Home(tmp_path)
    life = Life(spec())
    life.run()
    before = life.job
    life.see(life.ended(code=0))
    log = home.run_dir(before.uid, 1) / "output.log"
    log.parent.mkdir(parents=True)
    log.write_text("first words\n")
    store = cast(Store, _Meanwhile(home, life.job))
    _Printer(home, store, before, 1, only=False, setup=False).run(None, follow=True)
    assert capfdbinary.readouterr().out == b"first words\nlast words\n"


def test_setup_is_streamed_and_kept(machine: Machine) -> None:
    """What the preparation prints is shown while attached, and by `logs --setup` later; its failure is the job's."""
    machine.write("prepare.py", "import sys\nprint('installing things')\nsys.exit(4)\n")
    job = machine.training(1, setup=["python3 prepare.py"])
    done = machine.run("apply", str(job), "--wait")
    assert done.code == 1
    assert "installing things" in done.err
    assert "runctl logs job --setup" in done.err
    assert "installing things" in machine.run("logs", "job", "--setup").out


def test_events_cost_and_checkpoints(machine: Machine) -> None:
    """Events in order, a ledger with rate and source, checkpoints with their durable copies; all in JSON, too."""
    job = machine.training(3, 0.2, instance={"hourly_rate": "3.6 USD"}, checkpoint={"every": "1 steps", "keep": 1})
    machine.run("apply", str(job), "--wait")
    events = json.loads(machine.run("events", "job", "-o", "json").out)
    reasons = [event["reason"] for event in events]
    assert reasons[0] == "Created"
    assert reasons[-1] == "Succeeded"
    followed = [json.loads(line) for line in machine.run("events", "-f", "job", "-o", "json").out.splitlines()]
    assert followed == events
    cost = json.loads(machine.run("cost", "job", "-o", "json").out)
    [interval] = cost["ledger"]
    assert (interval["hourly"], interval["source"], interval["cost"]) == ("3.60", "instance.hourly_rate", cost["spent"])
    total = json.loads(machine.run("cost", "-o", "json").out)
    assert (total["spent"], total["jobs"]) == (cost["spent"], [cost])
    assert "3.60 USD/h" in machine.run("cost", "job").out
    assert machine.run("cost").out.splitlines()[-1].split()[0] == "total"
    found = json.loads(machine.run("checkpoints", "job", "-o", "json").out)
    assert [each["durable"] for each in found][-1] is True
    assert found == json.loads(machine.run("checkpoints", "list", "job", "-o", "json").out)


def test_checkpoints_verify_finds_a_damaged_copy(machine: Machine) -> None:
    """`verify` is 0 while the copies are what was saved, and 1 with the name of the damaged file once one isn't."""
    machine.run("apply", str(machine.training(2)), "--wait")
    assert machine.run("checkpoints", "verify", "job").code == 0
    newest = machine.status()["checkpoints"]["newest"]
    [copy] = [p for p in machine.home.rglob("data/*") if newest["name"] in p.name and newest["path"] in str(p)]
    copy.chmod(0o600)
    copy.write_text(copy.read_text().replace("step", "stop"))
    done = machine.run("checkpoints", "verify", "job")
    assert done.code == 1
    assert "is not what was saved" in done.out


def test_a_reader_that_goes_away_is_no_error(machine: Machine) -> None:
    """`runctl logs | head`: no traceback, no message."""
    machine.write("much.py", "print('x\\n' * 2_000_000)\n")
    machine.write("much.yaml", "name: much\nscript: much.py\nsetup: none\n")
    machine.run("apply", "much.yaml", "--wait")
    with subprocess.Popen(
        [*RUNCTL, "logs", "much"], env=machine.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"x\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 141


def test_names_complete_in_the_shell(machine: Machine) -> None:
    """The shell gets the names of this home's jobs, and none where there is no home."""
    asked = {"_RUNCTL_COMPLETE": "complete_bash", "COMP_WORDS": "runctl status re", "COMP_CWORD": "2"}
    assert machine.run(**asked).out.strip() == ""
    machine.run("apply", str(machine.training(1, name="resnet")), "--wait")
    assert machine.run(**asked).out.split() == ["resnet"]
    # Which shell it is for is read from the process that asks.
    asking = ["bash", "-c", f"{shlex.join(RUNCTL)} --show-completion; exit $?"]
    shown = subprocess.run(asking, env=machine.environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "_RUNCTL_COMPLETE=complete_bash" in shown.stdout


def _bytes(machine: Machine, *args: str) -> bytes:
    done = subprocess.run(
        [*RUNCTL, *args], env=machine.environ, cwd=machine.project, capture_output=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@pytest.mark.parametrize(
    "call", [("status",), ("status", "job", "-o", "json"), ("wait", "job", "--timeout", "1s")], ids=" ".join
)
def test_looking_validates_no_manifest(machine: Machine, call: tuple[str, ...]) -> None:
    """What reads no manifest doesn't load what validates them, which takes as long as all the rest of a look."""
    code = f"import sys; from runctl.cli.main import run; run({list(call)}); sys.exit('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=machine.environ, capture_output=True, check=False)
    assert done.returncode == 0
