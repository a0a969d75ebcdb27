from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.manifest.diagnostics import Severity, github_annotation, has_errors, to_json
from runctl.manifest.load import load
from runctl.manifest.recognising import Recognition, recognise
from runctl.manifest.render import Theme, render

EVERY_FIELD = (Path(__file__).parent / "every-field.yaml").read_bytes()
_PIECES = [
    b"&a ", b"*a", b"!x ", b"<<: ", b"---\n", b"\t", b"\n", b"  ", b"[", b"]", b"{", b"}", b": ", b"- ", b'"', b"'",
    b"|\n", b"?", b"~", b"%", b"\xff", b"\x00", b"#", b"\xe2\x80\xa8", b"${{ matrix.x }}", b"..", b"5 EUR", b"\\",
    b"@", b"`", b"\r",
]  # fmt: skip


def _check(text: bytes) -> None:
    """There are jobs or errors, each with a place in the file, and every form of them can be made."""
    started = time.process_time()
    found = load(text, "job.yaml", "/project")
    assert time.process_time() - started < 5.0  # while coverage traces it, on a busy machine
    assert found.jobs or has_errors(found.diagnostics)
    lines = len(text.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    for each in found.diagnostics:
        assert 1 <= each.line <= lines, each
        assert each.column >= 1, each
        assert (each.end_line, each.end_column) >= (each.line, each.column), each
        assert each.message, each
        assert "\n" not in github_annotation(each)
    assert "\x1b" not in render([*found.diagnostics, *found.refusals], Theme.PLAIN)
    assert len(to_json(found.diagnostics)) == len(found.diagnostics)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_raise(text: bytes) -> None:
    """Whatever the bytes are, the answer is a value."""
    _check(text)


@given(st.text(st.sampled_from("abc:-[]{}&*!|>'\"%@` \n\t#?,~<1.\\"), max_size=60))
@settings(max_examples=200, deadline=None)
def test_random_yaml_never_raises(text: str) -> None:
    """Neither does what is nearly YAML."""
    _check(text.encode())


@pytest.mark.parametrize("seed", range(4))
def test_mutated_manifests_never_raise(seed: int) -> None:
    """A manifest with parts cut out, doubled, moved and replaced is still read to its end."""
    random_ = random.Random(seed)
    for _ in range(120):
        text = bytearray(EVERY_FIELD)
        for _ in range(random_.randint(1, 4)):
            start = random_.randrange(len(text))
            end = min(start + random_.randint(0, 12), len(text))
            match random_.randrange(3):
                case 0:
                    del text[start:end]
                case 1:
                    text[start:start] = text[start:end]
                case _:
                    text[start:end] = random_.choice(_PIECES)
        _check(bytes(text))


def test_every_line_left_out_or_doubled() -> None:
    """One edit of one line is never too much."""
    lines = EVERY_FIELD.splitlines(keepends=True)
    for index, line in enumerate(lines):
        _check(b"".join(lines[:index] + lines[index + 1 :]))
        _check(b"".join([*lines[:index], line, *lines[index:]]))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", b"apiVersion: runctl/v1\n", Recognition.MANIFEST),
        ("a.yml", b"# x\nname: [\n'apiVersion' : \"runctl/v9\"\n", Recognition.MANIFEST),
        ("a.yaml", b"{apiVersion: runctl/v1}", Recognition.MANIFEST),
        ("a.yaml", b"a: b\n--- \napiVersion: runctl/v1\n", Recognition.MANIFEST),
        ("a.yaml", b"\xef\xbb\xbfapiVersion: runctl/v1\n", Recognition.MANIFEST),
        ("a.yaml", b"apiVersion: apps/v1\n", Recognition.OTHER_CONTENT),
        ("a.yaml", b"spec:\n  apiVersion: runctl/v1\n", Recognition.OTHER_CONTENT),
        ("a.yaml", b"", Recognition.OTHER_CONTENT),
        ("a.txt", b"apiVersion: runctl/v1\n", Recognition.OTHER_NAME),
        (".yaml.swp", b"apiVersion: runctl/v1\n", Recognition.OTHER_NAME),
    ],
)
def test_which_files_of_a_directory_are_manifests(name: str, text: bytes, expected: Recognition) -> None:
    """Those that say so at their top level, also with a mistake or of another version."""
    assert recognise(name, text) is expected


def test_warnings_alone_keep_the_jobs() -> None:
    """A file with a warning still has its job."""
    found = load(b"name: a\nscript: a.py\nmatrix: {x: [1]}\n", "job.yaml", "/")
    assert [each.severity for each in found.diagnostics] == [Severity.WARNING]
    assert [each.job.name for each in found.jobs] == ["a-1"]
