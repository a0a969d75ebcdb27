"""Each exit code of the program, on the real program (docs/exit-codes.md)."""

from __future__ import annotations

import signal
import subprocess

import psutil
from acceptance.machine import PATIENCE, Machine

from runctl.cli.exit_codes import PRECEDENCE, ExitCode, of_group

MORE_THAN_A_PIPE_HOLDS = 256 * 1024
DOLLAR_A_SECOND = {"hourly_rate": "3600 USD"}


def test_0_succeeded(machine: Machine) -> None:
    """An attached training that exits with 0."""
    done = machine.run("apply", str(machine.training(2)), "--wait")
    assert done.code == 0, done
    assert "Succeeded" in done.err


def test_1_training_failed(machine: Machine) -> None:
    """A training that exits with 3: the program exits with 1, its own code is in the JSON."""
    done = machine.run("apply", str(machine.training(1, code=3)), "--wait")
    assert done.code == 1, done
    assert machine.status()["exit_code"] == 3
    assert "runctl logs job --tail 50" in done.err


def test_2_invalid(machine: Machine) -> None:
    """Invalid manifests, unknown commands, options and jobs."""
    machine.write("bad.yaml", "name: bad\n")
    for args in (["apply", "bad.yaml"], ["aply"], ["apply", "--nonsense"], ["apply"], ["status", "nobody"]):
        done = machine.run(*args)
        assert done.code == 2, done
        assert done.err.startswith("error: "), done
        assert "Traceback" not in done.err


def test_3_cap_reached_with_a_checkpoint(machine: Machine) -> None:
    """The cap ends the training; its checkpoint is durable, and the whole stayed within the cap."""
    job = machine.training(
        1000, 0.3, instance=DOLLAR_A_SECOND, cost={"cap": "9 USD"}, checkpoint={"every": "1 steps", "grace": "1s"}
    )
    done = machine.run("apply", str(job), "--wait")
    assert done.code == 3, done
    status = machine.status()
    assert status["outcome"] == "CapReached"
    assert status["checkpoints"]["newest"]["durable"] is True
    assert float(status["cost"]["spent"]) <= 9.0


def test_4_duration_reached_without_a_checkpoint(machine: Machine) -> None:
    """A training that never saves is ended by `limits.duration`, with nothing to go on from."""
    machine.write("never.py", "import time\nprint('on', flush=True)\ntime.sleep(600)\n")
    machine.write("never.yaml", "name: never\nscript: never.py\nsetup: none\nlimits: {duration: 2s}\n"
                  "checkpoint: {grace: 1s}\n")  # fmt: skip
    done = machine.run("apply", "never.yaml", "--wait")
    assert done.code == 4, done
    assert machine.status("never")["outcome"] == "DurationReached"


def test_5_checkpoint_overdue(machine: Machine) -> None:
    """A training that doesn't save as its policy says is ended when its deadline says so."""
    machine.write("never.py", "import time\nprint('on', flush=True)\ntime.sleep(600)\n")
    machine.write("never.yaml", "name: never\nscript: never.py\nsetup: none\n"
                  "checkpoint: {every: 1s, deadline: 3s, on_deadline: fail, grace: 1s}\n")  # fmt: skip
    done = machine.run("apply", "never.yaml", "--wait")
    assert done.code == 5, done
    assert machine.status("never")["outcome"] == "CheckpointOverdue"


def test_6_stopped_or_cancelled(machine: Machine) -> None:
    """An attached command whose job is stopped elsewhere exits with 6, and so does one that is cancelled."""
    for verb, phase in (("stop", "Stopped"), ("cancel", "Finished")):
        attached = machine.start("apply", str(machine.training(1000, 0.2)), "--wait")
        machine.until(lambda: machine.told("saved"), "a first save")
        assert machine.run(verb, "job").code == 0
        assert attached.wait(PATIENCE) == 6
        assert machine.status()["phase"] == phase


def test_7_launch_failed(machine: Machine) -> None:
    """A machine that can't take the agent: the job rests with the reason, and nothing has run."""
    machine.home.mkdir()
    (machine.home / "agents").write_text("not a directory")
    done = machine.run("apply", str(machine.training(1)), "--wait")
    assert done.code == 7, done
    assert machine.status()["reason"] == "LaunchFailed"
    assert machine.told() == []


def test_8_wait_timed_out(machine: Machine) -> None:
    """`wait --timeout` leaves a training that runs on."""
    machine.run("apply", str(machine.training(1000, 0.2)), "--no-wait")
    done = machine.run("wait", "job", "--timeout", "1s")
    assert done.code == 8, done
    assert machine.status()["phase"] in ("Preparing", "Training")


def test_9_lost(machine: Machine) -> None:
    """Agent and guardian die: how the training ended can't be known, and no retry is allowed."""
    job = machine.training(1000, 0.2, retry={"interruptions": 0})
    attached = machine.start("apply", str(job), "--wait")
    machine.until(lambda: machine.told("saved"), "a first save")
    pids = machine.agent_pids()
    for role in ("guardian", "agent"):
        psutil.Process(pids[role]).kill()
    assert attached.wait(PATIENCE) == 9
    assert machine.status()["exit_code"] is None


def test_10_missing_secret(machine: Machine) -> None:
    """A secret that isn't in the environment is named before anything is started; with it, the training sees it."""
    machine.write("secret.py", "import os\nprint('it is', os.environ['HF_TOKEN'])\n")
    machine.write("s.yaml", "name: s\nscript: secret.py\nsetup: none\nsecrets: [HF_TOKEN]\n")
    done = machine.run("apply", "s.yaml", "--wait")
    assert done.code == 10, done
    assert "`HF_TOKEN`" in done.err
    assert machine.run("status", "s").code == 2
    done = machine.run("apply", "s.yaml", "--wait", HF_TOKEN="hunter2")
    assert done.code == 0, done
    assert machine.run("logs", "s").out == "it is hunter2\n"


def test_10_no_permission_for_the_state(machine: Machine) -> None:
    """A home that can't be made is an error that says where it is and what is safe."""
    machine.write("file", "")
    done = machine.run("apply", str(machine.training(1)), RUNCTL_HOME=str(machine.project / "file" / "home"))
    assert done.code == 10, done
    assert "now:" in done.err
    assert "Traceback" not in done.err


def test_11_busy(machine: Machine) -> None:
    """The machine is taken: the second job says by whom, and what can be done; the first is untouched."""
    machine.run("apply", str(machine.training(1000, 0.2, name="first")), "--no-wait")
    done = machine.run("apply", str(machine.training(1, name="second")), "--wait")
    assert done.code == 11, done
    assert "first" in done.err.split("second: Stopped", 1)[1]
    assert "`wait`" in done.err
    assert machine.status("first")["phase"] == "Training"


def test_12_plan_with_changes(machine: Machine) -> None:
    """`plan --detailed-exitcode` exits with 12 if applying would change something, else with 0."""
    job = str(machine.training(1))
    assert machine.run("plan", job).code == 0
    assert machine.run("plan", job, "--detailed-exitcode").code == 12
    machine.run("apply", job, "--wait")
    assert machine.run("plan", job, "--detailed-exitcode").code == 0


def test_70_a_defect(machine: Machine) -> None:
    """What nobody expected is a short message without a traceback; RUNCTL_DEBUG shows that, too."""
    machine.write("broken/yaml.py", "raise RuntimeError('nobody expects this')\n")
    machine.write("a.yaml", "name: a\nscript: a.py\n")
    broken = str(machine.project / "broken")
    done = machine.run("validate", "a.yaml", PYTHONPATH=broken)
    assert done.code == 70, done
    assert "nobody expects this" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in machine.run("validate", "a.yaml", PYTHONPATH=broken, RUNCTL_DEBUG="1").err


def test_130_interrupted_before_anything_was_started(machine: Machine) -> None:
    """Ctrl-C while a command still reads its input, and nothing has been started yet."""
    process = subprocess.Popen(
        [*_program(), "validate", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=machine.environ
    )
    assert process.stdin is not None
    process.stdin.write(b"#" * MORE_THAN_A_PIPE_HOLDS)  # returns when most of it has been read
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, b"")


def test_a_group_exits_with_the_first_code_of_the_precedence() -> None:
    """0 if all did, else the first of 70 9 10 7 4 3 5 1 11 6 8."""
    assert of_group([ExitCode.OK, ExitCode.OK]) == 0
    for index, code in enumerate(PRECEDENCE):
        assert of_group([ExitCode.OK, *reversed(PRECEDENCE[index:])]) == code


def _program() -> list[str]:
    from acceptance.machine import RUNCTL

    return RUNCTL
