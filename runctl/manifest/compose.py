"""Text → documents: YAML's events, put together by our own rules.

libyaml reads the characters (the pure parser where it is missing); what the events mean is decided here. Every
scalar keeps its text, so that nothing is a date, an octal number or a boolean before a field asks for one. Anchors,
aliases and `<<` work, within a budget that counts aliases as what they stand for; tags, duplicate keys and keys
that aren't text are errors, and don't hide the other problems of the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import yaml

from runctl.manifest.diagnostics import Diagnostic, closest
from runctl.manifest.job import Position
from runctl.manifest.nodes import Broken, Mapping, Node, Scalar, Sequence, is_text
from runctl.manifest.source import Source
from runctl.manifest.syntax import explain_syntax

MAX_DEPTH = 32
"""A manifest needs five levels; the bound keeps recursion far from the interpreter's."""

MAX_NODES = 100_000
"""Nodes of one file with aliases expanded: what 1 MiB of hostile text may cost is bounded by it, not by the text."""

MAX_DOCUMENTS = 1000
MAX_SYNTAX_ERRORS = 20

_STANDARD_TAG = re.compile(r"!|tag:yaml\.org,2002:(?:str|int|float|bool|null|map|seq)")
_DOCUMENT_START = re.compile(r"^---(?=[ \t\n]|\Z)", re.MULTILINE)
_NOT_ENCODABLE = re.compile("[\0\ud800-\udfff]")
_YAML_11_BREAKS = "\x85\u2028\u2029"
_MERGE = "<<"

EventParser = Callable[[str], Any]
"""Makes an object whose `get_event()` returns PyYAML's events."""


class Document(msgspec.Struct, frozen=True):
    """One document of a file, `number` from 1. `root` is None when a problem left nothing to look at."""

    number: int
    root: Node | None
    problems: tuple[Diagnostic, ...]


class _Unreadable(Exception):
    """The rest of the file can't be composed; the problem has been noted."""


def fastest_parser() -> EventParser:
    """libyaml's, or PyYAML's own where it was built without."""
    if yaml.__with_libyaml__:
        from yaml.cyaml import CParser  # type: ignore[attr-defined]

        return CParser
    return pure_parser


def pure_parser(text: str) -> Any:
    return yaml.SafeLoader(text)


def compose(source: Source, parser: EventParser | None = None) -> Iterator[Document]:
    """The documents of a file in order, empty ones left out. Never raises."""
    composer = _Composer(source, parser or fastest_parser())
    while not composer.done:
        yield from composer.documents()


def _as_yaml_12(text: str) -> tuple[str, dict[int, str]]:
    """The text with `\\n` as its only line break, and the way back for what has been replaced by unused characters.

    NEL, LS and PS are ordinary characters in YAML 1.2, but line breaks in 1.1 and so in libyaml, which would fold
    them.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    present = [each for each in _YAML_11_BREAKS if each in text]
    if not present:
        return text, {}
    used = set(text)
    spare = (code for code in range(0xE000, 0xF900) if chr(code) not in used)
    restore = dict(zip(spare, present, strict=False))
    return text.translate({ord(original): code for code, original in restore.items()}), restore


class _Composer:
    """The state of reading one file; after a syntax error it goes on behind the next `---`."""

    def __init__(self, source: Source, parser: EventParser) -> None:
        self.done = False
        self._source = source
        self._parser = parser
        self._text, self._restore = _as_yaml_12(source.text)
        self._first_line = 0
        self._number = 0
        self._nodes = 0
        self._syntax_errors = 0
        self._problems: list[Diagnostic] = []
        self._anchors: dict[str, Node | None] = {}
        self._open: list[Any] = []
        self._next: Callable[[], Any]

    def documents(self) -> Iterator[Document]:
        """The documents up to the end of the file or up to a syntax error, which is its document's last problem."""
        self._next = self._parser(self._text).get_event
        started: int | None = None
        try:
            self._next()
            while type(event := self._next()) is not yaml.StreamEndEvent:
                started = event.start_mark.line
                self._begin_document(event)
                root = self._node(self._next(), 0)
                self._next()
                started = None
                if not (isinstance(root, Scalar) and root.plain and root.text == ""):
                    yield Document(self._number, root, tuple(self._problems))
        except yaml.MarkedYAMLError as error:
            if started is None:
                self._number += 1
                self._problems, self._open = [], []
            problem = explain_syntax(error, self._source, self._first_line, self._number, self._open_bracket())
            yield Document(self._number, None, (*self._problems, problem))
            self._resume_behind(error, started)
        except _Unreadable:
            yield Document(self._number, None, tuple(self._problems))
            self.done = True
        else:
            self.done = True

    def _begin_document(self, event: Any) -> None:
        self._number += 1
        self._problems, self._anchors, self._open = [], {}, []
        if self._number > MAX_DOCUMENTS:
            raise self._stop(
                event,
                "too-many-documents",
                f"more than {MAX_DOCUMENTS:,} documents in one file",
                "split it into several files",
            )

    def _open_bracket(self) -> Position | None:
        """The innermost `[` or `{` that has been read without its end."""
        mark = next((each.start_mark for each in reversed(self._open) if each.flow_style), None)
        if mark is None:
            return None
        line = self._first_line + mark.line + 1
        return Position(line, mark.column + 1, line, mark.column + 2)

    def _resume_behind(self, error: yaml.MarkedYAMLError, started: int | None) -> None:
        """Go on at the next `---`: nothing but the start of a document can stand there, not even inside quotes."""
        self._syntax_errors += 1
        mark = error.problem_mark or error.context_mark
        at = mark.line if mark is not None else 0
        first = at + 1 if started is None else max(at, started + 1)
        line, counted = 0, 0
        if self._syntax_errors < MAX_SYNTAX_ERRORS:
            for match in _DOCUMENT_START.finditer(self._text):
                line += self._text.count("\n", counted, match.start())
                counted = match.start()
                if line >= first:
                    self._text = self._text[match.start() :]
                    self._first_line += line
                    return
        self.done = True

    def _node(self, event: Any, depth: int) -> Node:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self._count(1, event)
            leaf = self._scalar(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = leaf
            return leaf
        if kind is yaml.AliasEvent:
            return self._alias(event)
        self._count(1, event)
        if depth >= MAX_DEPTH:
            raise self._stop(
                event, "too-deep", f"nested more than {MAX_DEPTH} levels deep", "a manifest needs five levels"
            )
        understood = event.tag is None or self._check_tag(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        before = self._nodes
        self._open.append(event)
        node: Sequence | Mapping
        if kind is yaml.SequenceStartEvent:
            node = self._sequence(event, depth + 1)
        else:
            node = self._mapping(event, depth + 1)
        self._open.pop()
        node.size += self._nodes - before
        # What a tag means that we don't know might have been of the right type; of a whole job, the fields are told.
        found: Node = node if understood or depth == 0 else Broken(node.span)
        if event.anchor is not None:
            self._anchors[event.anchor] = found
        return found

    def _scalar(self, event: Any) -> Scalar | Broken:
        tag, text = event.tag, event.value
        if tag is not None and not self._check_tag(event):
            return Broken(self._span(event))
        if self._restore:
            text = text.translate(self._restore)
        span = self._span(event)
        if (not text.isascii() or "\0" in text) and not self._is_encodable(text, span):
            return Broken(span)
        return Scalar(text, not event.style and tag is None, span)

    def _is_encodable(self, text: str, span: Position) -> bool:
        found = _NOT_ENCODABLE.search(text)
        if found is None:
            return True
        what = "a NUL byte" if found[0] == "\0" else "half of a surrogate pair"
        self._problem(span, "nul-byte", f"{what} can't be passed to a program", hint="remove the escape that writes it")
        return False

    def _alias(self, event: Any) -> Node:
        name, span = event.anchor, self._span(event)
        if name not in self._anchors:
            near = closest(name, self._anchors)
            self._problem(
                span,
                "unknown-alias",
                f"no anchor `&{name}` above this alias",
                hint=f"did you mean `*{near}`?" if near else "quote the value if it isn't meant as an alias",
            )
            return Broken(span)
        target = self._anchors[name]
        if target is None:
            self._problem(
                span, "recursive-alias", f"`*{name}` stands inside what it stands for", hint="remove the alias"
            )
            return Broken(span)
        self._count(1 if isinstance(target, Scalar) else target.size, event)
        return target

    def _sequence(self, start: Any, depth: int) -> Sequence:
        items: list[Node] = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            items.append(self._node(event, depth))
        return Sequence(items, self._collection_span(start, event))

    def _mapping(self, start: Any, depth: int) -> Mapping:
        entries: dict[str, tuple[Position, Node]] = {}
        merged: list[Mapping] = []
        while type(event := self._next()) is not yaml.MappingEndEvent:
            key = self._node(event, depth)
            value = self._node(self._next(), depth)
            if isinstance(key, Broken):
                continue
            if not isinstance(key, Scalar):
                self._problem(
                    self._span(event), "complex-key", "a list or mapping as a key", hint="keys are plain words"
                )
            elif key.plain and key.text == _MERGE:
                merged += self._merged(value, key.span)
            elif not is_text(key):
                self._problem(
                    key.span,
                    "key-not-text",
                    f"the key `{key.text}` isn't text" if key.text else "a key without text",
                    hint=f'quote it: `"{key.text}"`' if key.text else "write `key: value`",
                )
            elif key.text in entries:
                first = entries[key.text][0]
                self._problem(
                    key.span,
                    "duplicate-key",
                    f"duplicate field `{key.text}`",
                    label="written again here",
                    hint="keep one of them",
                    related=((first, "first written here"),),
                )
            else:
                entries[key.text] = (key.span, value)
        for mapping in merged:
            for name, entry in mapping.entries.items():
                entries.setdefault(name, entry)
        return Mapping(entries, self._collection_span(start, event))

    def _merged(self, value: Node, key: Position) -> list[Mapping]:
        values = value.items if isinstance(value, Sequence) else [value]
        mappings = [each for each in values if isinstance(each, Mapping)]
        if any(isinstance(each, Scalar | Sequence) for each in values):
            self._problem(
                key,
                "bad-merge",
                "`<<` merges mappings, and this isn't one",
                hint="write `<<: *anchor`, or `<<: [*one, *other]`",
            )
        return mappings

    def _check_tag(self, event: Any) -> bool:
        """Whether the value is what it would be without its tag."""
        if _STANDARD_TAG.fullmatch(event.tag) is not None:
            return True
        self._problem(
            self._span(event),
            "custom-tag",
            f"the tag `{event.tag}` means nothing in a manifest",
            hint="remove it, or quote the value if `!` belongs to it",
        )
        return False

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._stop(
                event,
                "too-many-nodes",
                f"more than {MAX_NODES:,} values in one file, with aliases counted as what they stand for",
                "a manifest has some dozens",
            )

    def _stop(self, event: Any, code: str, message: str, hint: str) -> _Unreadable:
        self._problem(self._span(event), code, message, hint=hint)
        return _Unreadable()

    def _problem(
        self,
        span: Position,
        code: str,
        message: str,
        *,
        hint: str,
        label: str = "here",
        related: tuple[tuple[Position, str], ...] = (),
    ) -> None:
        self._problems.append(
            self._source.diagnose(span, code, message, label=label, hint=hint, document=self._number, related=related)
        )

    def _span(self, event: Any) -> Position:
        start, end, first = event.start_mark, event.end_mark, self._first_line + 1
        return Position(first + start.line, start.column + 1, first + end.line, end.column + 1)

    def _collection_span(self, start: Any, end: Any) -> Position:
        """From bracket to bracket; of a block, whose end is the next token, the first character."""
        if start.flow_style:
            a, z = start.start_mark, end.end_mark
        else:
            a = z = start.start_mark
        first = self._first_line + 1
        return Position(first + a.line, a.column + 1, first + z.line, z.column + 1 + (a is z))
