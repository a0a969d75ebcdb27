from __future__ import annotations

import subprocess
import sys
import time

import pytest
import yaml

from runctl.manifest.compose import EventParser, compose, pure_parser
from runctl.manifest.source import MAX_BYTES, Source
from runctl.manifest.syntax import explain_syntax
from tests.manifest import FIRST, loaded, problems

_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"", [("empty-file", 1, 1)], id="empty"),
        pytest.param(b"# only a comment\n---\n", [("empty-file", 1, 1)], id="comments"),
        pytest.param(b"- a\n- b\n", [("not-a-mapping", 1, 1)], id="a list"),
        pytest.param(b"hello\n", [("not-a-mapping", 1, 1)], id="text"),
        pytest.param(b"a: b: c\n", [("yaml-syntax", 1, 5)], id="not YAML"),
        pytest.param(b"name: 'x\n", [("yaml-syntax", 2, 1)], id="open quote"),
        pytest.param(b"name: [a\n", [("yaml-syntax", 2, 1)], id="open bracket"),
        pytest.param(b"name: a\n\tscript: x\n", [("tab-in-indentation", 2, 1)], id="tab"),
        pytest.param(b"name: a\ncost:\n\tcap: 5\n", [("tab-in-indentation", 3, 1)], id="tab in a section"),
        pytest.param(b"name: a\ncost:\n  \tcap: 5\n  x: 1\n", [("tab-in-indentation", 3, 3)], id="tab after spaces"),
        pytest.param(FIRST.encode() + b"name: b\n", [("duplicate-key", 3, 1)], id="duplicate key"),
        pytest.param(FIRST.encode() + b"args: !x [a]\n", [("custom-tag", 3, 7)], id="tag on a list"),
        pytest.param(FIRST.encode() + b"workdir: !x a\n", [("custom-tag", 3, 10)], id="tag on text"),
        pytest.param(FIRST.encode() + b"args: [!x {a: 1}]\n", [("custom-tag", 3, 8)], id="tag on a mapping"),
        pytest.param(b"name: !!binary eA==\nscript: x.py\n", [("custom-tag", 1, 7)], id="tag of bytes"),
        pytest.param(b"x" * 10_000_000, [("file-too-large", 1, 1)], id="10 MB"),
        pytest.param(b"name: a\nscript: a\x00b\n", [("control-character", 2, 10)], id="NUL"),
        pytest.param(b"name: \x1b[31m\n", [("control-character", 1, 7)], id="escape"),
        pytest.param("name: a\ufeff\n".encode(), [("control-character", 1, 8)], id="inner BOM"),
        pytest.param(b'name: a\nscript: "a\\0b"\n', [("nul-byte", 2, 9)], id="escaped NUL"),
        pytest.param(b"name: a\nscript: \xff\n", [("not-utf-8", 2, 9)], id="not UTF-8"),
        pytest.param("name: a\n".encode("utf-16"), [("not-utf-8", 1, 1)], id="UTF-16"),
        pytest.param(b"\xef\xbb\xbfname: \xc3\x28\n", [("not-utf-8", 1, 7)], id="not UTF-8 behind a BOM"),
        pytest.param(b"[" * 900, [("too-deep", 1, 33)], id="deep brackets"),
        pytest.param(b"{a: " * 100_000, [("too-deep", 1, 129)], id="deep braces"),
        pytest.param(b"".join(b" " * i + b"a:\n" for i in range(900)), [("too-deep", 33, 33)], id="deep blocks"),
        pytest.param(b"- " * 100_000, [("too-deep", 1, 65)], id="deep dashes"),
        pytest.param(_LAUGHS.encode(), [("too-many-nodes", 6, 8)], id="billion laughs"),
        pytest.param(b"a: &x [*x]\n", [("recursive-alias", 1, 8)], id="recursive alias"),
        pytest.param(b"a: &x {b: *x}\n", [("recursive-alias", 1, 11)], id="recursive alias in a mapping"),
        pytest.param(FIRST.encode() + b"workdir: *nope\n", [("unknown-alias", 3, 10)], id="unknown alias"),
        pytest.param(FIRST.encode() + b"1: x\n", [("key-not-text", 3, 1)], id="number as a key"),
        pytest.param(FIRST.encode() + b"true: x\n", [("key-not-text", 3, 1)], id="boolean as a key"),
        pytest.param(FIRST.encode() + b"? \n: x\n", [("key-not-text", 3, 2)], id="no key"),
        pytest.param(FIRST.encode() + b": x\n", [("yaml-syntax", 3, 1)], id="no key and no mark"),
        pytest.param(FIRST.encode() + b"? [a, b]\n: x\n", [("complex-key", 3, 3)], id="list as a key"),
        pytest.param(FIRST.encode() + b"<<: x\n", [("bad-merge", 3, 1)], id="merge of text"),
        pytest.param(b"- a\n" * (MAX_BYTES // 4), [("too-many-nodes", 100_000, 3)], id="many values"),
        pytest.param(b"%YAML 9\n---\nname: a\n", None, id="unknown version of YAML"),
        pytest.param(b"\x89PNG\r\n\x1a\n", [("not-utf-8", 1, 1)], id="an image"),
    ],
)
def test_bad_input_gets_one_diagnostic_with_its_position(
    text: bytes, expected: list[tuple[str, int, int]] | None
) -> None:
    """Whatever the bytes are, there is a diagnostic at the right place, no job, and it takes about a second."""
    started = time.process_time()
    found = loaded(text)
    assert time.process_time() - started < 5.0  # while coverage traces it, on a busy machine
    assert found.jobs == ()
    listed = [(each.code, each.line, each.column) for each in found.diagnostics]
    if expected is None:
        assert listed[0][0] == "yaml-syntax"
    else:
        assert [each for each in listed if each[0] not in {"missing-field", "unknown-field"}] == expected


@pytest.mark.parametrize(
    ("text", "code", "position"),
    [
        (FIRST + "instnace: {type: x}", "unknown-field", (3, 1)),
        (FIRST + "cost: {capp: 5}", "unknown-field", (3, 8)),
        (FIRST + "args: --epochs 5", "wrong-type", (3, 7)),
        (FIRST + "env: [a]", "wrong-type", (3, 1)),
        (FIRST + "cost: 5", "wrong-type", (3, 7)),
        (FIRST + "instance: {count: lots}", "bad-number", (3, 19)),
        (FIRST + "workdir: [a]", "wrong-type", (3, 1)),
    ],
)
def test_wrong_fields_get_one_diagnostic(text: str, code: str, position: tuple[int, int]) -> None:
    """A field that is unknown or of the wrong type is one problem."""
    assert problems(text) == [(code, *position)]


def test_byte_order_mark_and_line_ends_are_accepted() -> None:
    """A BOM and any line ends change neither jobs nor positions."""
    plain = loaded(FIRST + "env:\n  A: |\n    x\n    y\n")
    for variant in ("\ufeff{}", "{}"):
        for end in ("\r\n", "\r", "\n"):
            text = variant.format(FIRST + "env:\n  A: |\n    x\n    y\n").replace("\n", end)
            other = loaded(text)
            assert other.diagnostics == ()
            assert other.jobs == plain.jobs


def test_problems_past_the_hundredth_are_counted() -> None:
    """A file of another kind doesn't flood the terminal."""
    found = loaded(FIRST + "".join(f"x{number}: 1\n" for number in range(150)))
    assert len(found.diagnostics) == 101
    assert found.diagnostics[-1].message == "50 more problems from here on"


@pytest.mark.parametrize("parser", [None, pure_parser], ids=["libyaml", "pure"])
@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("a: [", "not YAML: `[` on line 1 isn't closed", (1, 5)),
        ("a: [[1]\n\n", "not YAML: `[` on line 1 isn't closed", (3, 1)),
        ("a: [b\n---\nc: d\n", "not YAML: `[` on line 1 isn't closed", (2, 1)),
        ("--- 1\n---\na: {b: c\n", "not YAML: `{` on line 3 isn't closed", (4, 1)),
        ("a:\n- [x, {b: 1]\n", "not YAML: `{` on line 2 isn't closed, or a comma is missing", (2, 12)),
    ],
)
def test_a_bracket_that_is_not_closed_is_named(
    text: str, message: str, position: tuple[int, int], parser: EventParser | None
) -> None:
    """Which bracket, and on which line; with either parser."""
    found = [each for document in compose(Source("job.yaml", text), parser) for each in document.problems]
    assert [(each.message, each.line, each.column) for each in found] == [(message, *position)]


def test_a_value_that_is_missing_in_brackets_is_no_open_bracket() -> None:
    """`[a, , b]` is closed."""
    (problem,) = loaded("a: [b, , c]\n").diagnostics
    assert (problem.label, problem.column) == ("a value is missing here", 8)


def test_a_syntax_error_ends_its_document_only() -> None:
    """The documents before and after one with a syntax error are read, and the numbers of lines stay right."""
    text = FIRST + "---\nname: [x\n---\nname: B\nscript: b.py\n---\nname: 'x\n---\nname: c\nscript: c.py\n"
    found = loaded(text)
    assert [(each.job.name, each.document) for each in found.jobs] == [("a", 1), ("c", 5)]
    assert [(each.code, each.line, each.document) for each in found.diagnostics] == [
        ("yaml-syntax", 5, 2),
        ("bad-name", 6, 3),
        ("yaml-syntax", 10, 4),
    ]


def test_syntax_errors_are_followed_up_to_a_bound() -> None:
    """Documents without end, each with a syntax error, are given up."""
    assert len(loaded("--- [\n" * 1000).diagnostics) == 20


def test_brackets_without_end_are_too_deep() -> None:
    """Wherever the parser stops reading: before the first of them is told, or not at all."""
    (problem,) = loaded(b"[" * 100_000).diagnostics
    assert (problem.code, problem.line) == ("too-deep", 1)
    mark = yaml.Mark("", 0, 0, 1000, None, None)
    error = yaml.MarkedYAMLError("while increasing flow level", mark, "exceeded maximum nesting depth 1000", mark)
    deep = explain_syntax(error, Source("job.yaml", "[" * 2000), 0, 1)
    assert (deep.code, deep.line, deep.column) == ("too-deep", 1, 1001)


def test_documents_have_a_bound() -> None:
    """More than a thousand documents are refused."""
    found = loaded("---\n" + FIRST + "".join("---\n" for _ in range(1001)))
    assert [(each.code, each.line) for each in found.diagnostics] == [("too-many-documents", 1003)]


def test_surrogate_halves_are_refused() -> None:
    """An escape that no program could be passed is refused, with the way to write the character."""
    (problem,) = loaded(FIRST + 'args: ["\\ud83d\\ude00"]').diagnostics
    assert problem.code == "yaml-syntax"
    assert "U0001F600" in problem.hint


_WORST = r"""
import re, resource, sys
from runctl.manifest.load import load
for text in (
    b"x" * 10_000_000, b"- a\n" * 262_144, b"[" * 1_000_000, b"[a," * 300_000, b"a: 1\n---\n" * 100_000,
    b"x: 1\n" * 200_000,
):
    assert load(text, "job.yaml", "/").diagnostics
# Linux hands on the peak of whoever started this to `ru_maxrss`; its own is told elsewhere.
if sys.platform == "linux":
    print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_the_worst_input_stays_below_200_megabytes() -> None:
    """Memory is bounded by the limits of a file, not by what it says."""
    found = subprocess.run([sys.executable, "-c", _WORST], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 200 * 1024
