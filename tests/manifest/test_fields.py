from __future__ import annotations

import subprocess
import sys

import pytest

from runctl.manifest.job import (
    Busy,
    Format,
    Instance,
    Limits,
    OnDeadline,
    OnFinish,
    Platform,
    Position,
    Secret,
    Setup,
    Transfer,
    Wait,
    Webhook,
)
from runctl.manifest.quantities import parse_duration, parse_money
from tests.manifest import FIRST, codes, job, loaded

AWS = "instance: {platform: aws, type: g5.xlarge}\ncost: {cap: 5 USD}\ncheckpoint: {upload: 's3://bucket/x'}\n"


def test_two_fields_are_enough() -> None:
    """Everything else has a default."""
    found = job("")
    assert found.instance == Instance()
    assert (found.workdir, found.args, found.env, found.setup, found.wait) == (".", (), {}, Setup(), Wait.AUTO)
    checkpoint = found.checkpoint
    assert (checkpoint.dir, str(checkpoint.every), str(checkpoint.deadline)) == ("checkpoints", "2 epochs", "1h")
    assert (checkpoint.keep, str(checkpoint.grace), checkpoint.on_deadline) == (3, "60s", OnDeadline.WARN)
    assert (checkpoint.signal, checkpoint.upload, checkpoint.resume) == (None, None, "auto")
    assert found.limits == Limits(duration=None, idle=None, setup=parse_duration("20m"), hang=None)
    assert (found.stop.signal, found.stop.to) == ("SIGTERM", "leader")
    assert (found.retry.interruptions, found.retry.failures) == (None, 0)
    assert (found.cost.cap, found.cost.uncapped) == (None, False)
    assert [str(each) for each in found.cost.warn_at] == ["50%", "80%", "95%"]


def test_defaults_that_depend_on_the_machine() -> None:
    """A machine that is launched for the job is terminated with it and watched for idleness; others aren't."""
    rented = job(AWS)
    assert (rented.instance.on_finish, rented.limits.idle) == (OnFinish.TERMINATE, parse_duration("30m"))
    adopted = job("instance: {platform: aws, id: i-0123456789abcdef0}\ncost: {cap: none}\n")
    assert (adopted.instance.on_finish, adopted.cost.uncapped) == (OnFinish.KEEP, True)
    owned = job("instance: {host: user@box}\n")
    assert (owned.instance.platform, owned.instance.on_finish) == (Platform.SSH, OnFinish.KEEP)
    assert owned.limits.idle is None
    assert job("instance: {platform: slurm}\nlimits: {idle: off}\n").limits.idle is None


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("setup: none", "setup", Setup(kind="none")),
        ("setup: [uv sync --frozen, [a, 'b c']]", "setup.commands", (("uv", "sync", "--frozen"), ("a", "b c"))),
        ("setup: [\"pip install 'x>=1' \\\"y z\\\"\"]", "setup.commands", (("pip", "install", "x>=1", "y z"),)),
        ("secrets: [A, {B: 'ssm:/x'}]", "secrets", (Secret(name="A"), Secret(name="B", source="ssm:/x"))),
        ("checkpoint: {format: torch}", "checkpoint.format", Format(kind="torch")),
        ("checkpoint: {format: {command: 'a {}'}}", "checkpoint.format", Format(kind="command", command=("a", "{}"))),
        ("limits: {duration: 12h, hang: 10m}", "limits.duration", parse_duration("12h")),
        ("limits: {hang: off}", "limits.hang", None),
        ("retry: {interruptions: 3, failures: 0x2}", "retry.interruptions", 3),
        ("retry: {interruptions: unlimited, failures: 0x2}", "retry.failures", 2),
        ("retry: {failures: 0o17}", "retry.failures", 15),
        ("wait: true", "wait", Wait.YES),
        ("wait: FALSE", "wait", Wait.NO),
        ("wait: auto", "wait", Wait.AUTO),
        ("instance: {busy: wait, hourly_rate: $1}\ncost: {cap: 25}", "cost.cap", parse_money("25 USD")),
        ("instance: {busy: wait}", "instance.busy", Busy.WAIT),
        ("sync: {exclude: ['data/', '!x']}", "sync_exclude", ("data/", "!x")),
        ("inputs: [{from: 's3://bucket/d', to: d}]", "inputs", (Transfer(source="s3://bucket/d", target="d"),)),
        ("outputs: [{from: r/, to: 'file:/d'}]", "outputs", (Transfer(source="r/", target="file:/d"),)),
        ("hooks: {after_start: [[a], b c]}", "hooks.after_start", (("a",), ("b", "c"))),
        (
            "notify: [{webhook: 'https://h/x'}, {webhook: 'https://h/y', on: [checkpoint]}]",
            "notify",
            (
                Webhook(webhook="https://h/x", on=("outcome", "warning")),
                Webhook(webhook="https://h/y", on=("checkpoint",)),
            ),
        ),
        ("group: {max_parallel: 4}", "group.max_parallel", 4),
        ("launcher: [accelerate, launch]", "launcher", ("accelerate", "launch")),
        ("workdir: ..", "workdir", ".."),
        ("checkpoint: {resume: 'file:/x/y', resume_arg: --resume}", "checkpoint.resume", "file:/x/y"),
        ("checkpoint: {resume: old/model.pt}", "checkpoint.resume", "old/model.pt"),
        ("apiVersion: runctl/v1\nkind: Job", "name", "a"),
        (AWS.replace("g5.xlarge", "[a.b, c.d]"), "instance.type", ("a.b", "c.d")),
    ],
)  # fmt: skip
def test_what_fields_accept(text: str, path: str, value: object) -> None:
    """Every shorthand means what it says."""
    found: object = job(text + "\n")
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("apiVersion: runctl/v2", "unknown-version", "apiVersion: runctl/v1"),
        ("kind: Service", "unknown-value", "`Job`"),
        ("instance: {platform: azure}", "unknown-value", "`local`, `ssh`, `aws` or `slurm`"),
        ("instance: {platform: awss}", "unknown-value", "did you mean `aws`?"),
        ("instance: {busy: [wait]}", "wrong-type", "`refuse`"),
        ("instance: {count: 0}", "bad-number", "1 or more"),
        ("instance: {count: 1.5}", "bad-number", "1 or more"),
        ("instance: {platform: aws, type: A}", "bad-type", "`g5.xlarge`"),
        ("instance: {platform: aws, id: x}", "bad-id", "i-0123456789abcdef0"),
        ("instance: {host: -oProxyCommand=x}", "bad-host", "user@box"),
        ("instance: {platform: aws, id: i-0123456789abcdef0, region: here}", "bad-region", "us-east-1"),
        ("instance: {disk: 5}", "bad-size", "`200 GiB`"),
        ("checkpoint: {keep: 0}", "bad-number", "1 or more"),
        ("checkpoint: {every: [1]}", "wrong-type", "2 epochs"),
        ("checkpoint: {every: 0 steps}", "bad-interval", "2 epochs"),
        ("checkpoint: {deadline: 5}", "bad-duration", "`30m`"),
        ("checkpoint: {signal: SIGKILL}", "uncatchable-signal", "SIGTERM"),
        ("checkpoint: {signal: TERM}", "unknown-signal", "did you mean `SIGTERM`?"),
        ("checkpoint: {signal: whatever}", "unknown-signal", "SIGABRT"),
        ("checkpoint: {dir: /abs}", "path-outside", "relative"),
        ("checkpoint: {dir: a/../..}", "path-outside", "workdir"),
        ("checkpoint: {dir: ../x}", "path-outside", "workdir"),
        ("checkpoint: {dir: ./}", "bad-path", "inside it"),
        ("checkpoint: {upload: 'gs://b/x'}", "bad-url", "s3://bucket/prefix/"),
        ("checkpoint: {upload: 's3://B'}", "bad-url", "s3://bucket/prefix/"),
        ("checkpoint: {upload: plain}", "bad-url", "s3://bucket/prefix/"),
        ("checkpoint: {upload: 'file://host/x'}", "bad-url", "file:/data/checkpoints"),
        ("checkpoint: {upload: 'file:~/x'}", "bad-url", "file:/data/checkpoints"),
        ("checkpoint: {resume: 'http://x'}", "bad-url", "s3://"),
        ("checkpoint: {format: tensor}", "unknown-value", "{command: […]}"),
        ("checkpoint: {format: {cmd: x}}", "missing-field", "command"),
        ("cost: {cap: 5 EUR}", "bad-money", "only `USD` is known"),
        ("cost: {cap: [5]}", "wrong-type", "`none`"),
        ("cost: {warn_at: [120%]}", "bad-percentage", "`80%`"),
        ("limits: {duration: never}", "bad-duration", "write `off`"),
        ("limits: {duration: soon}", "bad-duration", "`30m`"),
        ("limits: {duration: {}}", "wrong-type", "`off`"),
        ("retry: {interruptions: -1}", "bad-number", "0 or more"),
        ("retry: {interruptions: {a: b}}", "wrong-type", "whole number"),
        ("retry: {failures: [1]}", "wrong-type", "whole number"),
        ("wait: yes", "unknown-value", "did you mean `true`?"),
        ("wait: sometimes", "unknown-value", "`auto`, `true` or `false`"),
        ("wait: []", "wrong-type", "`auto`"),
        ("setup: pip install x", "unknown-value", "`setup: [[pip, install, x]]`"),
        ("setup: atuo", "unknown-value", "did you mean `auto`?"),
        ("setup: ''", "unknown-value", "`auto`"),
        ("setup: [a && b]", "shell-syntax", "[bash, -c, "),
        ("setup: [a | b]", "shell-syntax", "[bash, -c, "),
        ("setup: ['a > b']", "shell-syntax", "[bash, -c, "),
        ("setup: ['a; b']", "shell-syntax", "[bash, -c, "),
        ("setup: ['echo \"$HOME\"']", "shell-syntax", "[bash, -c, "),
        ("setup: [\"a\\nb\"]", "shell-syntax", "[bash, -c, "),
        ("setup: [rm *.pyc]", "shell-syntax", "[bash, -c, "),
        ("setup: [A=1 b]", "shell-syntax", "`env`"),
        ("setup: [\"a 'b\"]", "bad-command", "close the quote"),
        ("setup: [[]]", "bad-command", "program"),
        ("setup: ['']", "bad-command", "program"),
        ("setup: [\"''\"]", "bad-command", "program"),
        ("secrets: [{A: 'x'}]", "bad-secret", "ssm:/"),
        ("secrets: [{A: 'ssm:/x', B: 'ssm:/y'}]", "bad-secret", "HF_TOKEN"),
        ("secrets: [a b]", "bad-env-name", "WANDB_MODE"),
        ("env: {a-b: c}", "bad-env-name", "WANDB_MODE"),
        ("labels: {'a b': c}", "bad-label", "team"),
        ("matrix: {lr: []}", "empty-list", "at least one"),
        ("matrix: {lr: 0.1}", "wrong-type", "[0.1]"),
        ("notify: [{webhook: ftp://x}]", "bad-url", "https://"),
        ("notify: [{webhook: 'https://x/y', on: [end]}]", "unknown-value", "`outcome`"),
        ("args: [{a: b}]", "wrong-type", "quote the value"),
        ("args: [[a]]", "wrong-type", "write text"),
        ("args: {a: b}", "wrong-type", "write a list"),
        ("inputs: [{from: 's3://bucket/x'}]", "missing-field", "to: data/"),
        ("inputs: {from: x}", "wrong-type", "write a list"),
        ("inputs: [x]", "wrong-type", "its fields are `from` or `to`"),
        ("checkpoint: x", "wrong-type", "its fields are"),
        ("sync: x", "wrong-type", "its field is `exclude`"),
        ("labels: x", "wrong-type", "write a mapping"),
        ("instance: [a]", "wrong-type", "its fields are"),
        ("args: --note 'x", "wrong-type", "close the quote"),
        ("instance: {spot: false}", "unknown-field", "did you mean `capacity: on-demand`?"),
        ("cost:", "missing-value", "remove the line"),
        ("cost: {cap: ~}", "missing-value", "default"),
        ("sync: {exclude: [a, ]}\ncheckpoint: {dir: null}", "missing-value", "default"),
        ("sync: {exclude: [~]}", "missing-value", "remove the line"),
        ("gpu: 1", "unknown-field", "accepted: apiVersion"),
        ("cap: 5", "unknown-field", "did you mean `cost.cap`?"),
        ("checkpoint: {format: {command: [a], x: b}}", "unknown-field", "accepted: command"),
    ],
)  # fmt: skip
def test_what_fields_refuse(text: str, code: str, hint: str) -> None:
    """Each refusal is one problem that says what would be accepted."""
    found = loaded(FIRST + text + "\n")
    assert found.jobs == ()
    assert code in [each.code for each in found.diagnostics]
    assert any(hint in each.hint + each.label for each in found.diagnostics if each.code == code), found.diagnostics[
        0
    ].hint
    assert len(found.diagnostics) <= 3


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("args: --epochs 30", "args: [--epochs, 30]"),
        ("args: --note 'it is fine' -", 'args: [--note, "it is fine", "-"]'),
        ("args: ''", "args: []"),
        ("launcher: accelerate launch", "launcher: [accelerate, launch]"),
        ("setup: pip install torch", "setup: [[pip, install, torch]]"),
        ("setup: pip install torch && echo ok", 'setup: [[bash, -c, "pip install torch && echo ok"]]'),
        ("setup: A=1 make", 'setup: [[bash, -c, "A=1 make"]]'),
        ("secrets: HF_TOKEN", "secrets: [HF_TOKEN]"),
        ("inputs: data", 'inputs: [{from: "s3://bucket/data/", to: data/}]'),
        ("notify: me", 'notify: [{webhook: "https://hooks.example/x", on: [outcome]}]'),
        ("retry: 3", "retry: {failures: 3}"),
        ("retry: unlimited", "retry: {interruptions: unlimited}"),
        ("cost: 5 USD\ninstance: {hourly_rate: 1 USD}", "cost: {cap: 5 USD}"),
        ("limits: 12h", "limits: {duration: 12h}"),
        ("checkpoint: 10m", "checkpoint: {every: 10m}"),
        ("instance: local", "instance: {platform: local}"),
        ("spot: true", "instance: {capacity: spot}"),
    ],
)
def test_a_hint_that_shows_the_field_works_as_it_is_printed(text: str, mended: str) -> None:
    """What stands between the backticks can be copied in place of the line: the field is accepted then."""
    line, _, rest = text.partition("\n")
    (problem,) = loaded(f"{FIRST}{text}\n").diagnostics
    assert f"`{mended}`" in problem.hint
    if line != "spot: true":  # is of another platform, which the next run says
        assert loaded(f"{FIRST}{mended}\n{rest}\n").diagnostics == ()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("limits: {hang: Never}", "off"),
        ("cost: {cap: unlimited}", "none"),
        ("retry: {interruptions: off}", "unlimited"),
    ],
)
def test_the_word_for_no_limit_is_named(text: str, word: str) -> None:
    """Each kind of field has one such word; whoever writes another is told it."""
    (problem,) = loaded(f"{FIRST}{text}\n").diagnostics
    assert problem.hint == f"write `{word}`"


@pytest.mark.parametrize(
    ("name", "near"),
    [("My Job", "my-job"), ("a_b", "a-b"), ("résumé", "resume"), ("-A-", "a"), ("x" * 63 + "_y", "x" * 63)],
)
def test_a_name_that_is_refused_has_a_near_one(name: str, near: str) -> None:
    """The hint is a name that is accepted."""
    (problem,) = loaded(f"name: {name}\nscript: a.py\n").diagnostics
    assert problem.hint == f"did you mean `{near}`?"
    assert loaded(f"name: {near}\nscript: a.py\n").diagnostics == ()


@pytest.mark.parametrize(
    "name", ["A", "a_b", "a/b", "..", "-a", "a-", "", "a" * 64, "ä", "a b", "a\\n"],
)  # fmt: skip
def test_names_are_refused_that_could_be_paths(name: str) -> None:
    """A name is 1 to 63 lowercase letters, digits and `-`."""
    (problem,) = loaded(f'name: "{name}"\nscript: a.py\n').diagnostics
    assert problem.code == "bad-name"


def test_a_broken_value_is_reported_once() -> None:
    """A value that YAML can't give isn't also of the wrong type, in a list neither."""
    assert codes("env: *a\nargs: [x, *b]\nlabels: {c: *d}\ncost: {cap: *e}\n") == ["unknown-alias"] * 4
    assert codes('? "a\\0b"\n: c\n') == ["nul-byte"]
    assert codes("<<: *a\n") == ["unknown-alias"]
    assert [each.code for each in loaded("*a\n").diagnostics] == ["unknown-alias"]


def test_positions_are_known_by_path() -> None:
    """A scalar's value, a section's key, an item's start; lines and columns from 1."""
    (only,) = loaded(FIRST + "cost:\n  warn_at: [5%]\nargs:\n  - a\n  - 'bc'\ninputs:\n- from: file:/x\n  to: y\n").jobs
    places = only.positions
    assert places["name"] == Position(line=1, column=7, end_line=1, end_column=8)
    assert places["cost"] == Position(line=3, column=1, end_line=3, end_column=5)
    assert places["cost.warn_at[0]"] == Position(line=4, column=13, end_line=4, end_column=15)
    assert places["args[1]"] == Position(line=7, column=5, end_line=7, end_column=9)
    assert places["inputs[0]"] == Position(line=9, column=3, end_line=9, end_column=4)
    assert places["inputs[0].to"].line == 10
    assert places[""].line == 1


def test_all_problems_are_found_at_once() -> None:
    """Fields, sections and rules are looked at even where others are wrong, and no mistake is reported twice."""
    text = (
        "name: A\ninstnace: {}\ninstance: {platform: aws, on_finish: stop}\ncost: {cap: 5 EUR}\n"
        "checkpoint: {every: 2h, deadline: 1h, keep: 0}\nargs: [ok, [x]]\nstop: {signal: SIGKILL}\n"
    )
    assert [each.code for each in loaded(text).diagnostics] == [
        "missing-field",
        "bad-name",
        "unknown-field",
        "machine-missing",
        "bad-money",
        "deadline-below-interval",
        "bad-number",
        "wrong-type",
        "uncatchable-signal",
    ]


def test_a_document_that_can_not_be_read_without_its_mistakes_is_still_reported() -> None:
    """Taking out what is wrong may leave a section that lacks something; then the rules have to wait."""
    text = FIRST + "inputs: [{from: nope, to: x}]\ncheckpoint: {format: {command: ['']}}\nlimits: {idle: {}}\n"
    assert len(loaded(text).diagnostics) == 3


def test_only_the_text_of_a_manifest_is_needed() -> None:
    """The inner job can be imported without pydantic or YAML."""
    code = "import sys, runctl.manifest.job; print(sorted({'pydantic', 'yaml'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
