"""Commands that look at text alone: validate, explain, schema, init."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from acceptance.machine import Machine

GOOD = "name: good\nscript: train.py\n"
BAD = "name: bad\nscript: train.py\ninstnace: {}\n"


def test_validate_reports_every_problem_of_every_file_in_one_run(machine: Machine) -> None:
    """Two files with two problems each are four errors, a summary on stderr, and nothing on stdout."""
    machine.write("a.yaml", "name: a\nscript: train.py\ninstnace: {}\ncots: {}\n")
    machine.write("b.yaml", "name: b\nscript: train.py\nargs: 3x\nlimits: {durations: 1h}\n")
    done = machine.run("validate", "a.yaml", "b.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("error: ") == 4
    assert "a.yaml:3:1" in done.err
    assert "did you mean `instance`?" in done.err
    assert done.err.rstrip().endswith("2 files, 0 jobs: 4 errors")


def test_validate_in_json_is_a_pure_list_of_the_documented_fields(machine: Machine) -> None:
    """stdout is one JSON list of file, line, column, code, severity, message and hint; stderr stays empty."""
    machine.write("a.yaml", BAD)
    done = machine.run("validate", "a.yaml", "-o", "json")
    assert (done.code, done.err) == (2, "")
    [problem] = json.loads(done.out)
    assert problem == {
        "file": "a.yaml",
        "line": 3,
        "column": 1,
        "code": "unknown-field",
        "severity": "error",
        "message": "unknown field `instnace`",
        "hint": "did you mean `instance`?",
    }


def test_validate_without_a_problem_is_an_empty_list_and_0(machine: Machine) -> None:
    """No problems: `[]`, exit 0."""
    machine.write("a.yaml", GOOD)
    done = machine.run("validate", "a.yaml", "-o", "json")
    assert (done.code, json.loads(done.out), done.err) == (0, [], "")


def test_validate_speaks_to_github(machine: Machine) -> None:
    """`-o github` prints one workflow command a problem."""
    machine.write("a.yaml", BAD)
    done = machine.run("validate", "a.yaml", "-o", "github")
    assert done.code == 2
    assert done.out.startswith("::error file=a.yaml,line=3,")


def test_validate_takes_directories_documents_and_the_standard_input(machine: Machine) -> None:
    """A directory is searched for manifests, other YAML is skipped and counted, `-` is the standard input."""
    machine.write("jobs/deep/one.yaml", "apiVersion: runctl/v1\n" + GOOD)
    machine.write("jobs/two.yml", "apiVersion: runctl/v1\nname: x\nscript: a.py\n---\nname: y\nscript: a.py\n")
    machine.write("jobs/.hidden/bad.yaml", "apiVersion: runctl/v1\n" + BAD)
    machine.write("jobs/values.yaml", "a: 1\n")
    done = machine.run("validate", "jobs", "-", stdin=GOOD.replace("good", "stdin").encode())
    assert done.code == 0, done
    assert done.err.strip() == "3 files, 4 jobs, 1 other YAML file skipped: no problems"


def test_validate_names_what_cannot_be_read(machine: Machine) -> None:
    """A missing file, a device and a directory without manifests are errors, beside the problems of the others."""
    machine.write("a.yaml", BAD)
    machine.write("empty/x.txt", "")
    done = machine.run("validate", "a.yaml", "missing.yaml", "/dev/null")
    assert done.code == 2
    assert "  --> missing.yaml\n" in done.err
    assert "no such file" in done.err
    assert "`instnace`" in done.err
    assert machine.run("validate", "empty").code == 2


def test_a_file_that_is_missing_has_near_names(machine: Machine) -> None:
    """What its directory holds is looked at; the hint names what is there."""
    machine.write("jobs/llama.yaml", GOOD)
    machine.write("jobs/b.yml", GOOD)
    machine.write("jobs/notes.txt", "")
    assert "did you mean `jobs/llama.yaml`?" in machine.run("validate", "jobs/lama.yaml").err
    assert "`jobs` holds `b.yml` or `llama.yaml`" in machine.run("validate", "jobs/zzz").err
    assert "there is no directory `jbos`" in machine.run("plan", "jbos/llama.yaml").err


def test_validate_names_the_job_that_lacks_its_version(machine: Machine) -> None:
    """A directory whose only YAML has `name` and `script` but no `apiVersion`: the file is named, with the command
    that works."""
    machine.write("values.yaml", "a: 1\n")
    machine.write("my job.yaml", GOOD)
    done = machine.run("validate")
    assert done.code == 2
    assert "  --> my job.yaml\n" in done.err
    assert "it has no `apiVersion: runctl/v1`" in done.err
    assert "`runctl validate 'my job.yaml'`" in done.err
    assert machine.run("validate", "my job.yaml").code == 0


def test_validate_names_what_this_version_refuses(machine: Machine) -> None:
    """Each part is shown at its place; it is valid all the same, and no problem for a program that reads the JSON."""
    machine.write("a.yaml", GOOD + "instance: {platform: slurm}\nnotify: [{webhook: 'https://x/y'}]\n")
    done = machine.run("validate", "a.yaml")
    assert done.code == 0
    assert done.err.count("warning: ") == 2
    assert "`platform: slurm` is not supported by this version of runctl" in done.err
    assert "a.yaml:4:" in done.err
    assert done.err.rstrip().endswith(
        "1 file, 1 job: no problems; `apply` of this version refuses 2 parts, shown above"
    )
    assert json.loads(machine.run("validate", "a.yaml", "-o", "json").out) == []


def test_text_commands_leave_no_home_behind(machine: Machine) -> None:
    """Looking at text, help and status make no state directory."""
    machine.write("a.yaml", GOOD)
    for args in (["validate", "a.yaml"], ["explain"], ["schema"], ["status"], ["--help"], ["controller", "status"]):
        assert machine.run(*args).code == 0
    assert not machine.home.exists()


def test_explain_documents_a_field_and_suggests_a_near_one(machine: Machine) -> None:
    """`explain cost.cap` prints it on stdout; an unknown field is an error with a suggestion."""
    done = machine.run("explain", "cost.cap")
    assert done.code == 0
    assert done.out.startswith("cost.cap")
    done = machine.run("explain", "cost.capp")
    assert (done.code, done.out) == (2, "")
    assert "did you mean `cost.cap`?" in done.err


def test_explain_cuts_nothing_in_a_pipe(machine: Machine) -> None:
    """The list of all fields has whole sentences."""
    assert "…" not in machine.run("explain", COLUMNS="40").out


def test_schema_is_json(machine: Machine) -> None:
    """`schema` prints a draft 2020-12 schema."""
    assert json.loads(machine.run("schema").out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_init_makes_a_manifest_that_validates_and_never_overwrites(machine: Machine) -> None:
    """`init` writes job.yaml (and with --example a script that runs); a second one refuses and leaves it alone."""
    assert machine.run("init", "new", "--example").code == 0
    assert machine.run("validate", "new").code == 0
    manifest = machine.project / "new" / "job.yaml"
    manifest.write_text("mine")
    done = machine.run("init", "new")
    assert done.code == 2
    assert "`new/job.yaml` exists" in done.err
    assert manifest.read_text() == "mine"


def test_init_of_a_file_is_refused(machine: Machine) -> None:
    """Its argument is a directory: a script named instead stays as it is."""
    script = machine.write("train.py", "pass\n")
    done = machine.run("init", "train.py")
    assert (done.code, "`train.py` is not a directory" in done.err) == (2, True)
    assert script.read_text() == "pass\n"


def test_init_says_what_comes_next(machine: Machine) -> None:
    """Without a script it has to be set first; with one, or with the example, the plan is next and works."""
    assert (
        "set `script` in it first, as there is no `empty/train.py`; then runctl plan"
        in machine.run("init", "empty").err
    )
    machine.write("mine/train_net.py", "")
    assert machine.run("init", "mine").err.endswith("next: runctl plan mine/job.yaml\n")
    assert machine.run("plan", "mine/job.yaml").code == 0
    assert machine.run("init", "new", "--example").err.endswith("next: runctl plan new/job.yaml\n")


@pytest.mark.parametrize("every", ["1 epoch", "30 steps", "700ms"])
def test_an_example_of_init_trains_to_its_end(machine: Machine, every: str) -> None:
    """The script that `init --example` writes succeeds as a job, with durable checkpoints by each kind of interval."""
    machine.run("init", "new", "--example")
    manifest = machine.project / "new" / "job.yaml"
    text = manifest.read_text().replace("every: 2 epochs", f"every: {every}").replace("args: []", "args: [--epochs, 3]")
    manifest.write_text(text)
    done = machine.run("apply", "new", "--wait")
    assert done.code == 0, done
    assert machine.status("new")["checkpoints"]["count"] >= 2


def test_an_example_of_init_saves_when_asked_and_goes_on_from_there(machine: Machine) -> None:
    """The request file makes it save at once and train on; `stop` makes it save and end; `apply` goes on."""
    machine.run("init", "new", "--example")
    manifest = machine.project / "new" / "job.yaml"
    manifest.write_text(manifest.read_text().replace("every: 2 epochs", "every: 1h"))
    assert machine.run("apply", "new", "--no-wait").code == 0
    machine.until(lambda: "epoch 1/" in machine.run("logs", "new").out, "a first epoch")
    (training,) = machine.trainings()
    Path(training.environ()["RUNCTL_CHECKPOINT_REQUEST"]).touch()
    machine.until(lambda: "saved epoch-" in machine.run("logs", "new").out, "the checkpoint that was asked for")
    assert machine.run("stop", "new").code == 0
    saved = machine.status("new")["checkpoints"]["newest"]["step"]
    assert machine.run("apply", "new", "--no-wait").code == 0
    machine.until(lambda: "epoch" in machine.run("logs", "new", "--attempt", "2").out, "an epoch of the second attempt")
    assert machine.status("new")["attempts"][1]["resumed_from"]["step"] == saved
    assert machine.run("cancel", "new").code == 0
