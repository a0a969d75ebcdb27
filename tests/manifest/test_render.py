from __future__ import annotations

import re

import pytest

from runctl.manifest.diagnostics import Diagnostic, Severity, github_annotation, has_errors, one_of, to_json
from runctl.manifest.load import load
from runctl.manifest.render import Theme, render, summary
from tests.manifest import FIRST, loaded

_ANSI = re.compile(r"\x1b\[[0-9;]*m")

GOLDEN = [
    (
        "name: a\nscript: a.py\nargs: []\nenv: {}\nlabels: {}\ninstnace: {type: g5.xlarge}\n",
        """\
error: unknown field `instnace`
  --> job.yaml:6:1
   |
 6 | instnace: {type: g5.xlarge}
   | ^^^^^^^^ not a field of a job
   |
hint: did you mean `instance`?
""",
    ),
    (
        FIRST + "cost:\n  cap: 25 USD\n",
        """\
error: a cap needs a price, and a machine of `platform: local` has none of its own
  --> job.yaml:4:8
   |
 4 |   cap: 25 USD
   |        ^^^^^^ can't be held
   |
hint: add `instance.hourly_rate`, such as `hourly_rate: 0.50 USD`
""",
    ),
    (
        FIRST + "#\n" * 7 + "name: b\n",
        """\
error: duplicate field `name`
   --> job.yaml:10:1
    |
  1 | name: a
    | ---- first written here
...
 10 | name: b
    | ^^^^ written again here
    |
hint: keep one of them
""",
    ),
    (
        FIRST + "name: b\n",
        """\
error: duplicate field `name`
  --> job.yaml:3:1
   |
 1 | name: a
   | ---- first written here
...
 3 | name: b
   | ^^^^ written again here
   |
hint: keep one of them
""",
    ),
    (
        "name: a\nscript: a.py\nargs: [--note, --lr\nenv: {}\n",
        """\
error: not YAML: `[` on line 3 isn't closed, or a comma is missing
  --> job.yaml:4:4
   |
 3 | args: [--note, --lr
   |       - opened here
 4 | env: {}
   |    ^ can't go on like this
   |
hint: close it with `]`, or put a comma between its parts
""",
    ),
    (
        FIRST + "labels:\t{日本: x, zzz\u0301: [y]}\n",
        """\
error: `日本` is not a name of a label
  --> job.yaml:3:10
   |
 3 | labels:    {日本: x, zzz\u0301: [y]}
   |             ^^^^
   |
hint: write a name of a label, such as `team`

error: `zzz\u0301` is not a name of a label
  --> job.yaml:3:17
   |
 3 | labels:    {日本: x, zzz\u0301: [y]}
   |                      ^^^
   |
hint: write a name of a label, such as `team`

error: `zzz\u0301` is text, not a list
  --> job.yaml:3:17
   |
 3 | labels:    {日本: x, zzz\u0301: [y]}
   |                      ^^^ expected text
   |
hint: write text
""",
    ),
    (
        FIRST + "env: {HF_TOKEN: hf_abc, RUNCTL_A: b}\n",
        """\
warning: the value of `HF_TOKEN` looks like a secret
  --> job.yaml:3:7
   |
 3 | env: {HF_TOKEN: ••••••, RUNCTL_A: b}
   |       ^^^^^^^^ is stored as it is written
   |
hint: remove it here, and write `secrets: [HF_TOKEN]` to take it from your environment

error: `RUNCTL_A`: names that start with `RUNCTL_` are set by runctl
  --> job.yaml:3:25
   |
 3 | env: {HF_TOKEN: ••••••, RUNCTL_A: b}
   |                         ^^^^^^^^
   |
hint: choose another name
""",
    ),
    (
        FIRST + "workdir: [a,\n  b]\n",
        """\
error: `workdir` is text, not a list
  --> job.yaml:3:1
   |
 3 | workdir: [a,
   | ^^^^^^^ expected text
   |
hint: write text
""",
    ),
    (
        FIRST + 'setup: ["a &&\n  b"]\n',
        """\
error: `&&` needs a shell
  --> job.yaml:3:9
   |
 3 | setup: ["a &&
   |         ^^^^^
   |
hint: nothing is run by a shell unless you write one: `[bash, -c, "a && b"]`
""",
    ),
    (
        FIRST + "cost:\n\tcap: 5\n",
        """\
error: a tab in the indentation
  --> job.yaml:4:1
   |
 4 |     cap: 5
   | ^^^^ YAML indents with spaces only
   |
hint: replace each tab with spaces
""",
    ),
    (
        FIRST + "wait: yes\n",
        """\
error: `yes` is not accepted here
  --> job.yaml:3:7
   |
 3 | wait: yes
   |       ^^^ accepted: auto, true, false
   |
hint: did you mean `true`?
""",
    ),
    (
        "",
        """\
error: the file declares no job
  --> job.yaml:1:1
   |
 1 |
   | ^
   |
hint: write at least `name: …` and `script: …`; `runctl init` makes a manifest to start from
""",
    ),
]


@pytest.mark.parametrize(("text", "golden"), GOLDEN, ids=[str(number) for number in range(len(GOLDEN))])
def test_diagnostics_read_like_this(text: str, golden: str) -> None:
    """Golden texts: what, where, why, what now; readable without colour."""
    assert render(loaded(text).diagnostics) == golden


@pytest.mark.parametrize(("text", "golden"), GOLDEN, ids=[str(number) for number in range(len(GOLDEN))])
def test_colour_adds_nothing_but_colour(text: str, golden: str) -> None:
    """Without its ANSI codes the coloured text is the plain one."""
    coloured = render(loaded(text).diagnostics, Theme.ANSI)
    assert coloured != golden
    assert _ANSI.sub("", coloured) == golden


def test_secrets_of_several_lines_are_struck_out_everywhere() -> None:
    """No excerpt shows a part of a value that looks like a secret, also not that of another problem."""
    found = loaded(FIRST + 'env: {API_KEY: "first\n  second", RUNCTL_A: "x"}\nname: b\n')
    text = render(found.diagnostics)
    assert "first" not in text.replace("first written here", "")
    assert "second" not in text
    block = loaded(FIRST + "env:\n  API_KEY: |\n    first\n    second\n  RUNCTL_A: |\n    x\n")
    assert "first" not in render(block.diagnostics)


def test_long_lines_are_cut_around_what_is_meant() -> None:
    """Both ends of a long line are replaced by an ellipsis, and the carets stay under their text."""
    found = loaded(FIRST + f"labels: {{{'x' * 60}: {'y' * 200}, '?': {'z' * 200}}}\n")
    lines = render(found.diagnostics).splitlines()
    assert max(map(len, lines)) < 140
    shown, carets = lines[3], lines[4]
    assert shown.startswith(" 3 | …")
    assert shown.endswith("…")
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "'?'"


def test_terminal_escapes_are_shown_as_codes() -> None:
    """A hostile manifest can neither move the cursor nor reorder text."""
    text = FIRST + '"a\\e]0;x\\a": 1\n\u202e\u200fbad: 2\nlabels: {"\\u2028\\x85": c}\n'
    rendered = render(load(text.encode(), "ev\x1bil.yaml", "/").diagnostics)
    assert not set(rendered) & set("\x1b\x07\u202e\u200f\u2028\x85")
    assert "unknown field `a\\x1b]0;x\\x07`" in rendered
    assert "ev\\x1bil.yaml:3:1" in rendered
    assert "\\u{202e}\\u{200f}bad" in rendered


def test_carets_behind_the_end_of_a_line() -> None:
    """A problem at the end of a file has one caret."""
    text = render(loaded("name: 'x\n").diagnostics)
    assert "\n 2 |\n   | ^ a quote isn't closed\n" in text


def test_without_excerpt_or_hint() -> None:
    """What there is not to show is left out."""
    plain = Diagnostic(
        file="f", line=1, column=1, end_line=1, end_column=2, code="x", severity=Severity.ERROR, message="no"
    )
    assert render([plain]) == "error: no\n  --> f:1:1\n"
    assert render([]) == ""
    (problem,) = loaded(b"x" * 2_000_000).diagnostics
    assert render([problem]).startswith(
        "error: the file is larger than 1,048,576 bytes, and a manifest isn't\n  --> job.yaml\n"
    )


def test_summary() -> None:
    """Errors and warnings are counted."""
    found = loaded(FIRST + "env: {HF_TOKEN: abc}\nx: 1\ny: 2\n").diagnostics
    assert summary(found) == "2 errors, 1 warning"
    assert summary(found[:1]) == "1 warning"
    assert summary(()) == ""
    assert has_errors(found)
    assert not has_errors(found[:1])


def test_json_has_the_documented_fields() -> None:
    """`validate -o json`: file, line, column, code, severity, message, hint."""
    assert to_json(loaded(FIRST + "x: 1\n").diagnostics)[0] == {
        "file": "job.yaml",
        "line": 3,
        "column": 1,
        "code": "unknown-field",
        "severity": "error",
        "message": "unknown field `x`",
        "hint": to_json(loaded(FIRST + "x: 1\n").diagnostics)[0]["hint"],
    }


def test_github_annotations_are_escaped() -> None:
    """Neither a name of a file nor a message can end the command or start another."""
    (problem,) = load((FIRST + '"x\\n::error::%": 1\n').encode(), "a,b:c%.yaml", "/").diagnostics
    text = github_annotation(problem)
    assert text.startswith(
        "::error file=a%2Cb%3Ac%25.yaml,line=3,endLine=3,col=1,endColumn=16,title=unknown-field::unknown field"
    )
    assert "\n" not in text
    assert "x%0A::error::%25" in text
    (long,) = loaded(FIRST + 'setup: ["a &&\n  b"]\n').diagnostics
    assert "col=" not in github_annotation(long)
    bare = Diagnostic(
        file="f", line=1, column=1, end_line=1, end_column=2, code="x", severity=Severity.WARNING, message="no"
    )
    assert github_annotation(bare) == "::warning file=f,line=1,endLine=1,col=1,endColumn=2,title=x::no"


def test_values_in_prose() -> None:
    """A single value has no comma."""
    assert (one_of(["a"]), one_of(["a", "b", "c"])) == ("`a`", "`a`, `b` or `c`")
