"""Commands that look at text alone: validate, explain, schema, init."""

from __future__ import annotations

import json

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
    assert "missing.yaml:1:1" in done.err
    assert "no such file" in done.err
    assert "`instnace`" in done.err
    assert machine.run("validate", "empty").code == 2


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


def test_an_example_of_init_trains_to_its_end(machine: Machine) -> None:
    """The script that `init --example` writes succeeds as a job, with durable checkpoints."""
    machine.run("init", "new", "--example")
    done = machine.run("apply", "new", "--wait")
    assert done.code == 0, done
    assert machine.status("new")["checkpoints"]["count"] > 0
