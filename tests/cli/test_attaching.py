"""Attaching, detaching and going on: apply, wait, stop, cancel, delete."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess

from acceptance.machine import PATIENCE, RUNCTL, Machine

from .terminal import Terminal

LONG = {"steps": 1000, "pause": 0.1}


def starts(machine: Machine) -> int:
    return len(machine.told("start"))


def test_a_terminal_shows_output_progress_and_the_outcome(machine: Machine) -> None:
    """On a terminal `apply` stays by itself, shows the training's lines and a live line, and ends with the outcome."""
    job = str(machine.training(8, 0.3, instance={"hourly_rate": "3.6 USD"}, cost={"cap": "1 USD"}))
    with Terminal(machine, "apply", job) as terminal:
        terminal.until("step 1/8")
        terminal.until("job Training [")
        terminal.until("CheckpointSaved: `step-")
        assert terminal.end() == 0
        assert "of 1 USD" in terminal.text
        assert "job: Succeeded: " in terminal.text
        assert "durable checkpoints in all" in terminal.text


def test_ctrl_c_detaches_and_says_how_to_come_back(machine: Machine) -> None:
    """Ctrl-C on an attached command ends it with 0; the training goes on under a controller in the background."""
    with Terminal(machine, "apply", str(machine.training(**LONG))) as terminal:
        terminal.until("step 3/")
        terminal.press(b"\x03")
        assert terminal.end() == 0
        for command in ("runctl logs -f job", "runctl wait job", "runctl stop job"):
            assert command in terminal.text
    status = machine.status()
    assert status["phase"] == "Training"
    assert status["controller"]["what"] == "background controller"
    before = machine.told("saved")[-1]["step"]
    machine.until(lambda: machine.told("saved")[-1]["step"] > before, "the training goes on")
    assert starts(machine) == 1


def test_a_terminal_that_goes_away_without_a_hang_up_is_no_pipe(machine: Machine) -> None:
    """Who isn't of the terminal's session learns of its end by the first write to it."""
    master, slave = pty.openpty()
    command = [*RUNCTL, "apply", str(machine.training(**LONG))]
    process = subprocess.Popen(
        command, env=machine.environ, cwd=machine.project, stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    machine.until(lambda: machine.told("start"), "a start")
    os.close(master)
    assert process.wait(PATIENCE) == 0
    assert machine.trainings()


def test_a_terminal_that_goes_away_hands_over_silently(machine: Machine) -> None:
    """Closing the window detaches as Ctrl-C does; the training and its care go on."""
    with Terminal(machine, "apply", str(machine.training(**LONG))) as terminal:
        terminal.until("step 3/")
        terminal.hang_up()
        assert terminal.end() == 0
    assert machine.status()["controller"]["what"] == "background controller"
    assert starts(machine) == 1


def test_sigterm_hands_over_silently(machine: Machine) -> None:
    """A session that ends takes neither the training nor its care with it."""
    attached = machine.start("apply", str(machine.training(**LONG)), "--wait")
    machine.until(lambda: machine.told("saved"), "a first save")
    attached.send_signal(signal.SIGTERM)
    assert attached.wait(PATIENCE) == 0
    assert machine.status()["controller"]["what"] == "background controller"


def test_without_a_terminal_apply_leaves_when_the_start_is_acknowledged(machine: Machine) -> None:
    """`wait: auto` detaches in a script, stays under CI, and `--wait` and `--no-wait` decide."""
    done = machine.run("apply", str(machine.training(3, 0.1)))
    assert done.code == 0
    assert "runctl wait job" in done.err
    assert machine.run("wait", "job").code == 0
    done = machine.run("apply", str(machine.training(1, name="ci")), CI="true")
    assert (done.code, machine.status("ci")["outcome"]) == (0, "Succeeded")


def test_detach_now_leaves_as_soon_as_a_controller_has_the_job(machine: Machine) -> None:
    """`--detach=now` doesn't wait for the start; the controller in the background does it."""
    assert machine.run("apply", str(machine.training(2)), "--detach=now").code == 0
    assert machine.run("wait", "job").code == 0
    assert starts(machine) == 1


def test_a_second_apply_attaches_instead_of_failing(machine: Machine) -> None:
    """Two applies of one manifest show one training, and both exit with its outcome."""
    job = str(machine.training(20, 0.1))
    first = machine.start("apply", job, "--wait")
    machine.until(lambda: machine.told("saved"), "a first save")
    second = machine.run("apply", job, "--wait")
    assert second.code == 0
    assert "step 20/20" in second.err
    assert (first.wait(PATIENCE), starts(machine)) == (0, 1)


def test_simultaneous_applies_of_one_manifest_are_one_job(machine: Machine) -> None:
    """Five applies at once: one training, and all of them end with its outcome."""
    job = str(machine.training(10, 0.1))
    started = [machine.start("apply", job, "--wait") for _ in range(5)]
    assert [each.wait(PATIENCE) for each in started] == [0] * 5
    assert starts(machine) == 1


def test_apply_again_reports_and_starts_nothing_unless_told_to_rerun(machine: Machine) -> None:
    """A finished, unchanged job: its outcome and its code. `--rerun`: a new uid and a new training."""
    job = str(machine.training(1, code=3))
    assert machine.run("apply", job, "--wait").code == 1
    uid = machine.status()["uid"]
    done = machine.run("apply", job, "--wait")
    assert (done.code, starts(machine)) == (1, 1)
    assert machine.run("apply", job, "--wait", "--rerun").code == 1
    assert starts(machine) == 2
    assert machine.status()["uid"] != uid


def test_a_change_that_needs_a_new_attempt_is_refused_with_the_difference(machine: Machine) -> None:
    """Changed args on a live job: the difference, the exact command, nothing done; `--replace` goes on from there."""
    machine.run("apply", str(machine.training(**LONG)))
    machine.until(lambda: len(machine.told("saved")) > 2, "some saves")
    changed = str(machine.training(1000, 0.05))
    done = machine.run("apply", changed, "--wait")
    assert done.code == 2
    assert "! args: [1000, 0.1, 0] → [1000, 0.05, 0]" in done.err
    assert f"`runctl apply {changed} --replace`" in done.err
    assert starts(machine) == 1
    assert machine.run("apply", changed, "--replace").code == 0
    again = machine.until(lambda: machine.told("start")[1:], "the new attempt")[0]
    assert again["step"] >= 2
    assert machine.run("cancel", "job").code == 0


def test_stop_saves_and_apply_goes_on_from_there(machine: Machine) -> None:
    """stop, apply: the second attempt begins at the first one's last step; nothing is run twice."""
    job = str(machine.training(**LONG))
    machine.run("apply", job)
    machine.until(lambda: len(machine.told("saved")) > 2, "some saves")
    done = machine.run("stop", "job", "--why", "lunch")
    assert done.code == 0
    assert "StopRequested: lunch" in done.err
    last = machine.told("drained")[-1]["step"]
    assert machine.status()["phase"] == "Stopped"
    assert machine.run("stop", "job").code == 0  # nothing to do
    assert machine.run("apply", job).code == 0
    machine.until(lambda: starts(machine) == 2, "the second attempt")
    assert machine.told("start")[-1]["step"] == last
    assert machine.run("cancel", "job").code == 0
    assert machine.status()["outcome"] == "Cancelled"


def test_delete_asks_and_keeps_the_checkpoints_unless_told(machine: Machine) -> None:
    """Without a terminal `--yes` is needed; the record and the logs go, the durable checkpoints stay or go as asked."""
    job = str(machine.training(2))
    machine.run("apply", job, "--wait")
    assert machine.run("delete", "job").code == 2
    assert machine.status()["outcome"] == "Succeeded"
    kept = machine.status()["checkpoints"]["newest"]["path"]
    done = machine.run("delete", "job", "--yes")
    assert done.code == 0
    assert machine.run("status", "job").code == 2
    assert not machine.run_dirs()
    assert list((machine.home / "checkpoints").rglob("manifest.json")), kept
    machine.run("apply", job, "--wait")
    gone = machine.status()["uid"]
    assert machine.run("delete", "job", "--yes", "--checkpoints").code == 0
    assert not (machine.home / "checkpoints" / gone).exists()


def test_delete_says_what_would_be_lost(machine: Machine) -> None:
    """A training without a durable checkpoint isn't deleted without `--force`; the terminal is asked."""
    machine.write("never.py", "import time\nprint('on', flush=True)\ntime.sleep(600)\n")
    machine.write("never.yaml", "name: never\nscript: never.py\nsetup: none\ncheckpoint: {grace: 1s}\n")
    machine.run("apply", "never.yaml")
    machine.until(lambda: machine.status("never")["phase"] == "Training", "the training")
    done = machine.run("delete", "never", "--yes")
    assert done.code == 2
    assert "without a durable checkpoint" in done.err
    with Terminal(machine, "delete", "never", "--force") as terminal:
        terminal.until("[y/N]")
        terminal.press(b"n\n")
        assert terminal.end() == 6
    assert machine.status("never")["phase"] == "Training"
    assert machine.run("delete", "never", "--force", "--yes").code == 0
    machine.quiet()


def test_several_jobs_are_shown_together_and_take_turns(machine: Machine) -> None:
    """One apply of two manifests: a group, lines with the job's name, one training at a time, one exit code."""
    first = str(machine.training(2, name="first"))
    second = str(machine.training(2, code=3, name="second"))
    done = machine.run("apply", first, second, "--wait")
    assert done.code == 1
    assert "first | step 2/2" in done.err
    assert "second | step 2/2" in done.err
    assert machine.status("first")["group"] == machine.status("second")["group"] is not None
    assert machine.told("double") == []


def test_apply_in_json_is_pure_json_lines(machine: Machine) -> None:
    """The plan, then events and transitions; the last transition has the outcome. Nothing else is on stdout."""
    done = machine.run("apply", str(machine.training(2)), "--wait", "-o", "json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines[0]["type"] == "plan"
    assert lines[0]["jobs"][0]["action"] == "create"
    assert {line["type"] for line in lines[1:]} == {"event", "transition"}
    transitions = [line for line in lines if line["type"] == "transition"]
    assert transitions[-1]["outcome"] == "Succeeded"
    assert transitions[-1]["exit_code"] == 0
    assert "Training" in [line["phase"] for line in transitions]
    assert done.err == ""


def test_a_saved_plan_is_applied_as_it_stands_or_refused(machine: Machine) -> None:
    """`plan --out`, `apply --plan`; refused once the code, the manifest or the job has moved."""
    job = str(machine.training(1))
    done = machine.run("plan", job, "--out", "saved.plan")
    assert done.code == 2
    assert "a part of the code" in done.err
    machine.write(".runctlignore", "*.plan\n")
    assert machine.run("plan", job, "--out", "saved.plan").code == 0
    script = machine.project / "train.py"
    text = script.read_text()
    script.write_text(text + "# edited\n")
    done = machine.run("apply", "--plan", "saved.plan", "--wait")
    assert (done.code, starts(machine)) == (2, 0)
    assert "the code of `job`" in done.err
    script.write_text(text)
    machine.training(2)
    assert "the manifest of `job`" in machine.run("apply", "--plan", "saved.plan").err
    machine.training(1)
    assert machine.run("apply", "--plan", "saved.plan", "--wait").code == 0
    done = machine.run("apply", "--plan", "saved.plan", "--wait")
    assert (done.code, starts(machine)) == (2, 1)
    assert "another run" in done.err


def test_what_is_wrong_with_the_script_is_said_before_anything_starts(machine: Machine) -> None:
    """A syntax error has its place in the script and the manifest's line; no job is made of it."""
    machine.write("bad.py", "def f(:\n    pass\n")
    machine.write("bad.yaml", "name: bad\nscript: bad.py\n")
    done = machine.run("apply", "bad.yaml")
    assert done.code == 2
    assert "bad.py:1:" in done.err
    assert "bad.yaml:2:9" in done.err
    machine.write("gone.yaml", "name: gone\nscript: gone.py\n")
    done = machine.run("apply", "gone.yaml")
    assert done.code == 2
    assert "--> gone.yaml:2:9" in done.err
    assert machine.run("status", "-o", "name").out == ""


def test_changes_in_quick_succession_are_all_made(machine: Machine) -> None:
    """Each apply is planned against what was asked before it, and has been done when it says so."""
    for cap in ("50 USD", "40 USD", "30 USD", "20 USD"):
        manifest = machine.training(**LONG, instance={"hourly_rate": "3.6 USD"}, cost={"cap": cap})
        done = machine.run("apply", str(manifest), "--no-wait")
        assert done.code == 0, done
        assert machine.status()["cost"]["cap"] == f"{cap[:2]}.00", done
    assert starts(machine) == 1
    assert "ApplyRefused" not in machine.run("events", "job").out


def test_an_apply_right_after_a_stop_goes_on(machine: Machine) -> None:
    """The stop is open still: what is applied is a job that is being stopped. It goes on, from what the stop saved or,
    if that was not begun, as if nothing had been asked."""
    manifest = str(machine.training(**LONG))
    machine.run("apply", manifest, "--no-wait")
    machine.until(lambda: machine.told("saved"), "a checkpoint")
    machine.run("stop", "job", "--no-wait")
    done = machine.run("apply", manifest, "--no-wait")
    assert (done.code, "goes on" in done.err) == (0, True), done
    step = machine.told("saved")[-1]["step"]
    machine.until(lambda: machine.told("saved")[-1]["step"] > step + 5, "more checkpoints")
    assert machine.status()["phase"] == "Training"
    assert [each["step"] for each in machine.told("start")[1:]] == [each["step"] for each in machine.told("drained")]


def test_an_apply_right_after_a_cancel_does_not_say_that_it_goes_on(machine: Machine) -> None:
    manifest = str(machine.training(**LONG))
    machine.run("apply", manifest, "--no-wait")
    machine.run("cancel", "job", "--no-wait")
    rerun = machine.run("apply", manifest, "--no-wait", "--rerun")
    assert rerun.code in (0, 2), rerun
    assert "goes on (" not in rerun.err
    machine.until(lambda: machine.status()["phase"] in ("Finished", "Training"), "the end, or a new run")


def test_a_command_that_is_held_does_not_hold_the_job(machine: Machine) -> None:
    """Ctrl-Z on an attached apply: another command takes the job over; let go, the first finds that out and follows."""
    held = machine.start("apply", str(machine.training(**LONG)), "--wait")
    machine.until(lambda: machine.told("saved"), "a checkpoint")
    held.send_signal(signal.SIGSTOP)
    stopped = machine.run("stop", "job", "--timeout", "30s")
    assert stopped.code == 0, stopped
    assert machine.told("drained")
    held.send_signal(signal.SIGCONT)
    assert held.wait(PATIENCE) == 6
    assert starts(machine) == 1


def test_a_superseded_run_can_be_deleted_and_goes_with_its_name(machine: Machine) -> None:
    """By its uid alone; with its name, all runs of it; and `status --all` and `cost` know them until then."""
    manifest = str(machine.training(1, instance={"hourly_rate": "3.6 USD"}))
    for _ in range(3):
        assert machine.run("apply", manifest, "--wait", "--rerun").code == 0
    runs = json.loads(machine.run("status", "--all", "-o", "json").out)
    first, second, third = (each["uid"] for each in runs)
    assert machine.status()["uid"] == third
    assert len(json.loads(machine.run("cost", "-o", "json").out)["jobs"]) == 3
    assert machine.run("delete", first, "--yes").code == 0
    assert [each["uid"] for each in json.loads(machine.run("status", "--all", "-o", "json").out)] == [second, third]
    assert machine.run("delete", "job", "--yes").code == 0
    assert json.loads(machine.run("status", "--all", "-o", "json").out) == []
    assert not machine.run_dirs()
