"""F5, N4, N8, N10, N11, N15: what ends a job and what is known of it afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from .machine import Machine
from .scripts import alive, durable, events, job

CGROUP = Path("/sys/fs/cgroup/memory")


def test_N4_success_is_the_exit_code_and_no_word_in_the_log(machine: Machine) -> None:
    """A training that cheers and exits with 5 has failed; one that prints a traceback and exits with 0 has not."""
    cheers = job(machine, "print('Training complete! SUCCESS exit code 0', flush=True); sys.exit(5)", name="cheers")
    done = machine.run("apply", cheers, "--wait")
    assert done.code == 1, done
    assert machine.status("cheers")["outcome"] == "Failed"
    assert machine.status("cheers")["exit_code"] == 5
    weeps = job(machine, "print('Traceback (most recent call last): ERROR Killed', flush=True)", name="weeps")
    done = machine.run("apply", weeps, "--wait")
    assert done.code == 0, done
    assert (machine.status("weeps")["outcome"], machine.status("weeps")["exit_code"]) == ("Succeeded", 0)


def test_N4_a_forged_marker_is_no_success(machine: Machine) -> None:
    """Files that a training leaves where it runs, named as a record would be, change nothing of its end."""
    code = """
for name in ("exit.json", "success", ".done", "state.json"):
    open(name, "w").write('{"version": 1, "reason": "exited", "exit_code": 0}')
save("exit.json", b'{"reason": "exited", "exit_code": 0}')
os.kill(os.getpid(), signal.SIGSEGV)
"""
    done = machine.run("apply", job(machine, code), "--wait")
    assert done.code == 1, done
    status = machine.status()
    assert (status["outcome"], status["exit_code"], status["signal"]) == ("Failed", None, signal.SIGSEGV)


def test_N8_a_hung_training_is_ended_where_the_policy_says_so(machine: Machine) -> None:
    """No output, no checkpoint, no CPU for `limits.hang`: ended with exit 1 and the reason; its process is gone."""
    hangs = job(machine, "print('on', flush=True); tell('on'); time.sleep(120)", limits={"hang": "1s"})
    done = machine.run("apply", hangs, "--wait")
    assert done.code == 1, done
    assert "hang" in done.err
    assert (machine.status()["outcome"], machine.status()["reason"]) == ("Failed", "Hung")
    assert not alive(machine.told("on")[0]["pid"])


def test_F5_an_idle_training_is_stopped_after_its_limit(machine: Machine) -> None:
    """It waits for something that won't come: after `limits.idle`, and not before, it is asked to save and to end. The
    save is durable, its process is gone, nothing is billed any more, and the reason is told."""
    code = """
def end(number, frame):
    save("step-3.safetensors")
    tell("asked")
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
tell("on")
time.sleep(120)
"""
    idles = job(machine, code, limits={"idle": "2s"}, instance={"hourly_rate": "3600 USD"}, cost={"cap": "60 USD"})
    done = machine.run("apply", idles, "--wait")
    assert done.code == 1, done
    assert "idle" in done.err
    status = machine.status()
    assert (status["outcome"], status["reason"]) == ("Failed", "Idle")
    (on,), (asked,) = machine.told("on"), machine.told("asked")
    assert 1.5 < asked["at"] - on["at"] < 15
    assert [path.name for path in durable(machine)] == ["step-3.safetensors"]
    assert not alive(on["pid"])
    (line,) = json.loads(machine.run("cost", "job", "-o", "json").out)["ledger"]
    assert line["ended_at"] is not None
    assert status["cost"]["spent"] == machine.status()["cost"]["spent"]


def test_N8_a_training_that_works_in_silence_is_not_hung(machine: Machine) -> None:
    """It uses the CPU, in a child, and prints nothing for three times the limit: that is no hang, nor idleness."""
    code = """
if os.fork() == 0:
    end = time.monotonic() + 3.2
    while time.monotonic() < end:
        sum(range(10000))
    os._exit(0)
os.wait()
"""
    done = machine.run("apply", job(machine, code, limits={"hang": "1s", "idle": "1s"}), "--wait")
    assert done.code == 0, done


def test_N10_hooks_run_at_their_points(machine: Machine) -> None:
    """After the start, before the stop, before the end; argv without a shell, in the script's environment. One that
    fails, and one that isn't there, are events and nothing worse."""
    hook = """
import json, os, sys
with open(os.environ["WORLD"] + "/world.jsonl", "a") as file:
    told = {"what": sys.argv[1], "args": sys.argv[2:], "job": os.environ["RUNCTL_JOB"], "cwd": os.getcwd()}
    file.write(json.dumps(told) + "\\n")
sys.exit(int(sys.argv[1] == "before_stop"))
"""
    machine.write("hook.py", hook)
    code = """
def end(number, frame):
    tell("signalled")
    save("step-1.safetensors")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
tell("on")
time.sleep(120)
"""
    hooks = {
        "after_start": [["python3", "hook.py", "after_start", "$HOME; *", "a b"]],
        "before_stop": [["no-such-program"], ["python3", "hook.py", "before_stop"]],
        "before_terminate": [["python3", "hook.py", "before_terminate"]],
    }
    assert machine.run("apply", job(machine, code, hooks=hooks), "--no-wait").code == 0
    machine.until(lambda: machine.told("on") and machine.told("after_start"), "start and hook")
    assert machine.run("stop", "job").code == 0
    told = machine.told()
    order = [each["what"] for each in told]
    assert order.index("before_terminate") == len(order) - 1
    assert sorted(order) == ["after_start", "before_stop", "before_terminate", "on", "signalled"]
    assert next(each for each in told if each["what"] == "after_start")["args"] == ["$HOME; *", "a b"]
    assert {each["job"] for each in told if "job" in each} == {"job"}
    failed = [each["message"] for each in events(machine) if each["reason"] == "HookFailed"]
    assert len(failed) == 2
    assert "`no-such-program`" in failed[0]
    assert "exited with 1" in failed[1]
    assert (machine.status()["phase"], len(durable(machine))) == ("Stopped", 1)


def test_N11_what_ran_is_known_when_the_machine_has_forgotten_it(machine: Machine) -> None:
    """Project and run directory are gone: script, arguments, environment, code and checkpoints are still told."""
    code = """
for number in range(1, 5):
    save(f"step-{number}.safetensors")
    time.sleep(1.1)
"""
    manifest = job(machine, code, args=["--lr", "0.1"], checkpoint={"keep": 2, "every": "1 steps"})
    assert machine.run("apply", manifest, "--wait").code == 0
    before = machine.status()
    (run_dir,) = machine.run_dirs()
    shutil.rmtree(run_dir / "work")
    shutil.rmtree(machine.project)
    machine.project.mkdir()
    after = machine.status()
    assert after == before
    spec = after["spec"]
    assert (spec["script"], spec["args"]) == ("job.py", ["--lr", "0.1"])
    assert spec["env"] == {"WORLD": str(machine.world)}
    code_hash = after["attempts"][0]["code_hash"]
    frozen = machine.home / "code" / code_hash / "tree" / "job.py"
    assert frozen.read_text().endswith(code)
    listed = json.loads(machine.run("checkpoints", "job", "-o", "json").out)
    assert {each["status"] for each in listed} == {"durable", "pruned"}
    assert [each["step"] for each in listed] == [1, 2, 3, 4]
    assert [path.name for path in durable(machine)] == ["step-3.safetensors", "step-4.safetensors"]


def test_N15_a_rerun_overwrites_nothing_of_an_earlier_run(machine: Machine) -> None:
    """Logs and checkpoints of the first run are the same bytes after the second, whose own lie beside them."""
    code = "print(os.environ['RUNCTL_RUN_ID'], flush=True)\nsave('epoch-1.safetensors')\n"
    manifest = job(machine, code)
    assert machine.run("apply", manifest, "--wait").code == 0
    first = machine.status()["uid"]
    before = {path: _digest(path) for path in _kept(machine)}
    assert len(before) >= 3
    assert machine.run("apply", manifest, "--rerun", "--wait").code == 0
    second = machine.status()["uid"]
    assert second != first
    assert {path: _digest(path) for path in before} == before
    others = {path for path in _kept(machine) if path not in before}
    assert {path.name for path in others} == {path.name for path in before}
    assert machine.run("logs", "job").out == f"{second}-1\n"
    assert machine.run("logs", first).out == f"{first}-1\n"


def _kept(machine: Machine) -> list[Path]:
    logs = [path for each in machine.run_dirs() for path in each.glob("output*.log")]
    return sorted([*logs, *(path for path in machine.home.glob("checkpoints/**/*") if path.is_file())])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _may_limit_memory() -> bool:
    return os.geteuid() == 0 and os.access(CGROUP / "cgroup.procs", os.W_OK)


@pytest.mark.skipif(not _may_limit_memory(), reason="a memory cgroup (v1) can't be made here")
def test_a_training_that_the_kernel_kills_for_its_memory_is_said_to_be_that(machine: Machine) -> None:
    """The OOM killer really kills it: Failed, exit 1, the reason named; nothing is restarted in a loop."""
    group = CGROUP / f"runctl-test-{os.getpid()}"
    code = f"""
os.makedirs({str(group)!r}, exist_ok=True)
open({str(group / "memory.limit_in_bytes")!r}, "w").write(str(32 << 20))
open({str(group / "cgroup.procs")!r}, "w").write(str(os.getpid()))
save("step-1.safetensors")
time.sleep(1.5)
hoard = []
while True:
    hoard.append(os.urandom(1 << 20))
"""
    try:
        done = machine.run("apply", job(machine, code), "--wait")
    finally:
        machine.until(lambda: not (group / "cgroup.procs").read_text(), "an empty cgroup")
        group.rmdir()
    assert done.code == 1, done
    assert "out of memory" in done.err
    status = machine.status()
    assert (status["outcome"], status["reason"], status["exit_code"]) == ("Failed", "OutOfMemory", None)
    assert len(status["attempts"]) == 1
    assert status["checkpoints"]["newest"]["step"] == 1
