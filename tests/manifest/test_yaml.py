from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.manifest import compose as composing
from runctl.manifest.compose import compose, fastest_parser, pure_parser
from runctl.manifest.recognising import Recognition, looks_like_a_job, recognise
from runctl.manifest.source import Source, decode
from tests.manifest import FIRST, job, loaded


@pytest.mark.parametrize(
    ("item", "argument"),
    [
        ("1e-4", "1e-4"),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", "true"),
        ("010", "010"),
        ("0755", "0755"),
        ("12:30:00", "12:30:00"),
        ("2026-01-01", "2026-01-01"),
        ("1.10", "1.10"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        (".5", ".5"),
        ("~", "~"),
        ("null", "null"),
        (".inf", ".inf"),
        ("=", "="),
        ("", ""),
        ("''", ""),
        ('"no"', "no"),
        ("'it''s'", "it's"),
        ('"a\\nb"', "a\nb"),
        ("!!str 010", "010"),
        ("! ~", "~"),
        ("|\n  x\n  y", "x\ny\n"),
        ("a\n  b", "a b"),
        ("--flag", "--flag"),
        ("ünï 🎉", "ünï 🎉"),
        ("a\u2028b\x85c", "a\u2028b\x85c"),
    ],
)
def test_F9_arguments_arrive_as_written(item: str, argument: str) -> None:
    """No YAML type changes an argument, a variable, a label or a matrix value."""
    assert job(f"args:\n- {item}\n").args == (argument,)
    if "\n" not in item:
        assert job(f"env:\n  A: {item}\nlabels:\n  b: {item}\n").env == {"A": argument}


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30), max_size=6))
@settings(max_examples=150, deadline=None)
def test_F9_any_list_of_text_survives_a_dump(arguments: list[str]) -> None:
    """What PyYAML writes for a list of text is what the script gets, byte for byte."""
    text = yaml.safe_dump({"name": "a", "script": "a.py", "args": arguments})
    assert loaded(text).jobs[0].job.args == tuple(arguments)


def test_anchors_aliases_and_merges_work() -> None:
    """An alias is what it stands for; own keys win over merged ones, and the first of several merges."""
    found = job(
        "env: &base {A: '1', B: '2'}\n"
        "labels: &other {B: '3', c: &word x}\n"
        "checkpoint: {dir: *word}\n"
        "args: &args [*word, *word]\n"
        "launcher: *args\n"
    )
    assert (found.checkpoint.dir, found.launcher) == ("x", ("x", "x"))
    merged = job("env:\n  <<: [{A: '1', B: '2'}, {B: '3', C: '4'}]\n  A: own\nmatrix: {}\n")
    assert merged.env == {"A": "own", "B": "2", "C": "4"}
    assert job("labels: &l {a: b}\nenv: {<<: *l, C: d}\n").env == {"a": "b", "C": "d"}


def test_a_merged_alias_keeps_the_place_where_it_was_written() -> None:
    """A problem in what an alias stands for is shown where it stands."""
    found = loaded(FIRST + "checkpoint: &c {every: x}\ncost:\n  <<: *c\n")
    assert {(each.code, each.line, each.column) for each in found.diagnostics} >= {
        ("bad-interval", 3, 24),
        ("unknown-field", 3, 17),
    }


def test_unknown_alias_says_what_was_meant() -> None:
    """A mistyped alias is near an anchor."""
    (problem,) = loaded(FIRST + "env: &common {A: b}\nlabels: *comon\n").diagnostics
    assert problem.hint == "did you mean `*common`?"


def test_an_anchor_ends_with_its_document() -> None:
    """YAML 1.2.2, 3.2.2.2: an alias can't stand for something in another document."""
    found = loaded(FIRST + "workdir: &here sub\n---\nname: b\nscript: b.py\nworkdir: *here\n")
    assert [(each.code, each.line) for each in found.diagnostics] == [("unknown-alias", 7)]


def test_a_duplicate_key_shows_both_places() -> None:
    """The first place belongs to the problem."""
    (problem,) = loaded(FIRST + "name: b\n").diagnostics
    (first,) = problem.related
    assert (problem.line, first.position.line, first.label) == (3, 1, "first written here")


def test_a_quoted_merge_key_is_a_key() -> None:
    """`"<<"` in quotes merges nothing."""
    assert [each.code for each in loaded(FIRST + 'labels: {"<<": a}\n').diagnostics] == ["bad-label"]


def test_empty_documents_are_skipped_and_counted() -> None:
    """A document's number is its place in the file."""
    found = loaded("---\n---\n" + FIRST + "---\n---\nname: b\nscript: b.py\n")
    assert [(each.job.name, each.document) for each in found.jobs] == [("a", 2), ("b", 4)]
    assert found.diagnostics == ()


def test_text_with_every_spare_character_keeps_its_line_separators() -> None:
    """With no unused character left, the separators of YAML 1.1 stay as the parser takes them."""
    text = "".join(map(chr, range(0xE000, 0xF900)))
    found = loaded(FIRST + f"args: ['{text}', \"a\x85b\"]\n")
    assert found.diagnostics == ()
    assert found.jobs[0].job.args[0] == text


@pytest.mark.parametrize(
    "text",
    [
        FIRST + "args:\n  - 1e-4\n  - 'x'\nenv: {A: 010}\n",
        "a: &x [*x]\n? [a]\n: b\n1: 2\n<<: 3\nname: !t x\n",
        "a:\n- b\n-c\n",
        "a: b: c\n---\nname: 'x\n",
        "\ta: b\n",
        FIRST + 'args: ["\\0"]',
    ],
)
def test_the_pure_parser_gives_the_same(text: str) -> None:
    """Without libyaml the same jobs come out and the same problems, if not always at the same column."""
    source = decode(text.encode(), "job.yaml")
    assert isinstance(source, Source)
    fast, slow = (list(compose(source, parser)) for parser in (fastest_parser(), pure_parser))
    assert [each.root and type(each.root) for each in fast] == [each.root and type(each.root) for each in slow]
    assert [[one.code for one in each.problems] for each in fast] == [
        [one.code for one in each.problems] for each in slow
    ]


def test_surrogates_that_the_pure_parser_lets_through_are_refused() -> None:
    """Half of a pair can't be passed to a program."""
    source = Source("job.yaml", 'a: "\\ud83d"')
    (document,) = compose(source, pure_parser)
    assert [each.code for each in document.problems] == ["nul-byte"]


def test_the_pure_parser_is_taken_where_libyaml_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML says whether it was built with libyaml."""
    monkeypatch.setattr(composing.yaml, "__with_libyaml__", False)
    assert fastest_parser() is pure_parser


@pytest.mark.parametrize(
    ("text", "found"),
    [(b"name: a\nscript: a.py\n", True), (b"script : x\nname : y\n", True), (b"a:\n  name: x\n  script: y\n", False)],
)
def test_a_job_without_its_version_is_told_from_other_yaml(text: bytes, found: bool) -> None:
    """`name` and `script` at the top level: it is no manifest to a directory, but worth a word."""
    assert recognise("a.yaml", text) is Recognition.OTHER_CONTENT
    assert looks_like_a_job(text) is found
