from __future__ import annotations

import pytest

from runctl.manifest.diagnostics import Severity
from tests.manifest import FIRST, codes, job, loaded

AWS = "instance: {platform: aws, type: g5.xlarge}\n"
SAVED = "checkpoint: {upload: 's3://bucket/x'}\n"
RATE = "instance: {hourly_rate: 1 USD}\n"
CAP = "cost: {cap: 5 USD}\n"


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        (CAP, "cap-without-price", 3, 13),
        ("group: {cap: 5 USD}\n", "cap-without-price", 3, 14),
        ("instance: {platform: slurm}\n" + CAP, "cap-without-price", 4, 13),
        ("instance: {host: box}\n" + CAP, "cap-without-price", 4, 13),
        (AWS + SAVED, "rented-without-cap", 3, 22),
        (AWS + SAVED + "cost: {max_hourly: 2 USD}\n", "rented-without-cap", 5, 1),
        ("instance: {platform: aws, type: a.b, capacity: spot}\n" + CAP, "spot-without-upload", 3, 48),
        (AWS + CAP, "terminate-without-upload", 3, 22),
        ("instance: {platform: aws, type: a.b, on_finish: terminate}\n" + CAP, "terminate-without-upload", 3, 49),
        (AWS + CAP + "checkpoint: {upload: 'file:/x'}\n", "upload-lost-with-machine", 5, 22),
        ("checkpoint: {upload: 'file:copies'}\n", "upload-inside-workdir", 3, 22),
        ("checkpoint: {upload: 'file:.'}\n", "upload-inside-workdir", 3, 22),
        ("checkpoint: {upload: 'file:///project/x'}\n", "upload-inside-workdir", 3, 22),
        ("workdir: ..\ncheckpoint: {upload: 'file:/project/x'}\n", "upload-inside-workdir", 4, 22),
        ("checkpoint: {every: 2h}\n", "deadline-below-interval", 3, 21),
        ("checkpoint: {every: 10m, deadline: 5m}\n", "deadline-below-interval", 3, 36),
        ("checkpoint: {grace: 2h}\n", "grace-above-deadline", 3, 21),
        ("checkpoint: {deadline: 10s}\n", "grace-above-deadline", 3, 24),
        ("limits: {duration: 0s}\n", "limit-of-zero", 3, 20),
        (RATE + "cost: {max_hourly: 0.5 USD}\n", "rate-above-max", 4, 20),
        ("cost: {max_hourly: 2 USD}\n", "max-hourly-without-price", 3, 20),
        ("cost: {warn_at: [5%]}\n", "no-effect", 3, 8),
        (RATE + "cost: {cap: 0.01 USD}\n", "cap-below-grace", 4, 13),
        (RATE + "group: {cap: 0 USD}\n", "cap-of-zero", 4, 14),
        (RATE + CAP + "group: {cap: 1 USD}\n", "cap-above-group", 4, 13),
        (RATE + "cost: {cap: none, warn_at: [5%]}\n", "no-effect", 4, 19),
        ("checkpoint: {resume: never, resume_arg: -r}\n", "no-effect", 3, 29),
        ("checkpoint: {signal: SIGTERM}\n", "save-signal-ends", 3, 22),
        ("instance: {type: g5.xlarge}\n", "platform-missing", 3, 12),
        ("instance: {id: i-0123456789abcdef0}\n", "platform-missing", 3, 12),
        ("instance: {platform: local, region: us-east-1}\n", "field-of-other-platform", 3, 29),
        ("instance: {platform: local, host: box}\n", "field-of-other-platform", 3, 29),
        ("instance: {platform: local, capacity: spot}\n", "field-of-other-platform", 3, 29),
        ("instance: {start: never}\n", "no-effect", 3, 12),
        ("instance: {platform: aws}\n" + CAP + SAVED, "machine-missing", 3, 1),
        ("instance: {platform: ssh}\n", "machine-missing", 3, 1),
        ("instance: {platform: aws, type: a.b, id: i-01234567}\n" + CAP + SAVED, "type-and-id", 3, 27),
        ("instance: {count: 2}\n", "count-of-one-machine", 3, 19),
        ("instance: {platform: aws, id: i-01234567, count: 2}\n" + CAP, "count-of-one-machine", 3, 50),
        ("instance: {on_finish: terminate}\n", "not-ours-to-end", 3, 23),
        ("instance: {platform: aws, id: i-01234567, on_finish: terminate}\n" + CAP + SAVED, "not-ours-to-end", 3, 54),
        ("env: {RUNCTL_X: '1'}\n", "reserved-env-name", 3, 7),
        ("secrets: [RUNCTL_X]\n", "reserved-env-name", 3, 11),
        ("env: {A: '1'}\nsecrets: [A]\n", "secret-twice", 4, 11),
        ("secrets: [A, A]\n", "secret-twice", 3, 14),
        ("env: {HF_TOKEN: abc}\n", "secret-in-env", 3, 7),
        ("env: {X: hf_abcdefghijklmnopqrst}\n", "secret-in-env", 3, 7),
        ("args: [--key=AKIAABCDEFGHIJKLMNOP]\n", "secret-in-args", 3, 8),
        ("setup: [pip, install, x]\n", "commands-of-one-word", 3, 1),
        ("hooks: {before_stop: [echo, hi]}\n", "commands-of-one-word", 3, 9),
        ("args: ['${{ matrix.lr }}']\n", "unknown-matrix-key", 3, 8),
        ("env: {A: '${{matrix.x}}'}\nmatrix: {lr: [1]}\nargs: ['${{ matrix.lr }}']\n", "unknown-matrix-key", 3, 10),
        ("matrix: {lr: [1]}\n", "unused-matrix-key", 3, 10),
    ],
)
def test_rules_between_fields(text: str, code: str, line: int, column: int) -> None:
    """Each rule reports one problem, at the field that breaks it."""
    assert [(each.code, each.line, each.column) for each in loaded(FIRST + text).diagnostics] == [(code, line, column)]


@pytest.mark.parametrize(
    "text",
    [
        RATE + CAP,
        RATE + "cost: {cap: none}\n",
        AWS + CAP + SAVED,
        "instance: {platform: aws, type: a.b, count: 4, on_finish: stop}\n" + CAP,
        "instance: {platform: aws, id: i-01234567, on_finish: stop, start: never}\n" + CAP,
        "instance: {platform: slurm, count: 4}\n",
        "instance: {platform: local, capacity: on-demand}\n",
        "checkpoint: {upload: 'file:../copies'}\n",
        "checkpoint: {upload: 'file:/project-copies'}\n",
        "checkpoint: {every: 10m, deadline: 10m}\n",
        "checkpoint: {signal: SIGUSR1}\n",
        RATE + "cost: {cap: 5 USD, max_hourly: 1 USD}\ngroup: {cap: 20 USD}\n",
        "env: {PWD: /x, TOKENIZERS_PARALLELISM: 'false', API_KEY: ''}\n",
        "setup: [[pip], [install]]\n",
        "setup: [pytest]\n",
        "args: ['${{ other.thing }}']\n",
        "limits: {duration: off}\n",
    ],
)
def test_what_breaks_no_rule(text: str) -> None:
    """The neighbours of every rule are accepted without a word."""
    assert codes(text) == []


def test_warnings_keep_no_job_from_running() -> None:
    """A warning comes with the job."""
    found = loaded(FIRST + "env: {HF_TOKEN: abc}\n")
    assert [each.severity for each in found.diagnostics] == [Severity.WARNING]
    assert len(found.jobs) == 1


def test_a_rule_says_nothing_about_what_was_refused() -> None:
    """A cap that can't be read isn't also missing, a rate that can't be read leaves the cap alone."""
    assert codes(AWS + SAVED + "cost: {cap: lots}\n") == ["bad-money"]
    assert codes("instance: {hourly_rate: x}\n" + CAP) == ["bad-money"]
    assert codes("matrix: 5\nargs: ['${{ matrix.lr }}']\n") == ["wrong-type"]


def test_a_root_as_workdir_holds_everything() -> None:
    """Below `/` every directory is inside."""
    assert codes("workdir: /\ncheckpoint: {upload: 'file:/data'}\n") == ["upload-inside-workdir"]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (AWS + CAP + SAVED, [(3, 22)]),
        (SAVED, []),
        ("instance: {host: box}\n", []),
        ("instance: {host: box}\ncheckpoint: {upload: 'file:../x'}\n", [(4, 22)]),
        ("instance: {platform: slurm, count: 2}\n", [(3, 22), (3, 36)]),
        ("checkpoint: {resume: 's3://bucket/x'}\n", [(3, 22)]),
        ("inputs: [{from: 's3://bucket/x', to: x}]\noutputs: [{from: x, to: 'file:/x'}]\n", [(3, 1), (4, 1)]),
        ("notify: [{webhook: 'https://h/x'}]\nsecrets: [A, B: 'ssm:/x']\n", [(3, 1), (4, 14)]),
        ("secrets: [A]\n", []),
    ],
)
def test_what_apply_has_to_refuse_in_this_version(text: str, places: list[tuple[int, int]]) -> None:
    """Valid, not supported yet: never ignored."""
    found = loaded(FIRST + text)
    assert found.diagnostics == ()
    assert len(found.jobs) == 1
    assert [(each.line, each.column) for each in found.refusals] == places
    assert {each.code for each in found.refusals} <= {"not-supported-yet"}


def test_the_hint_for_commands_of_one_word_quotes_what_needs_it() -> None:
    """Copied as it is printed, it is one command of the same words."""
    (problem,) = loaded(FIRST + "setup: [pip, install, \"'torch>=2, <3'\"]\n").diagnostics
    assert problem.hint == 'for one command write `[[pip, install, "torch>=2, <3"]]`'
    assert job('setup: [[pip, install, "torch>=2, <3"]]\n').setup.commands == (("pip", "install", "torch>=2, <3"),)
