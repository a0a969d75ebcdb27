from __future__ import annotations

import json
import runpy
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.manifest.catalogue import catalogue
from runctl.manifest.explain import UnknownField, explain
from runctl.manifest.reference import reference
from runctl.manifest.schema import json_schema, schema_text
from tests.manifest import loaded

ROOT = Path(__file__).parents[2]
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

# What a manifest may break although each of its fields is right.
BETWEEN_FIELDS = {
    "cap-above-group", "cap-below-grace", "cap-of-zero", "cap-without-price", "commands-of-one-word",
    "count-of-one-machine", "deadline-below-interval", "field-of-other-platform", "grace-above-deadline",
    "limit-of-zero", "machine-missing", "matrix-too-large", "max-hourly-without-price", "name-too-long",
    "no-effect", "not-ours-to-end",
    "platform-missing", "rate-above-max", "rented-without-cap", "save-signal-ends", "secret-in-args",
    "secret-in-env", "secret-twice", "spot-without-upload", "terminate-without-upload", "type-and-id",
    "unknown-matrix-key", "unused-matrix-key", "upload-inside-workdir", "upload-lost-with-machine",
}  # fmt: skip


def _strategy(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema of the kind that we write accepts."""
    if "anyOf" in schema:
        return st.one_of([_strategy(each) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "string":
            if "pattern" not in schema:
                return st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)
            printable = st.characters(min_codepoint=32, max_codepoint=126)
            return st.from_regex(schema["pattern"], fullmatch=True, alphabet=printable).filter(
                lambda text: len(text) < 80
            )
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.integers(schema["minimum"], 10**6) | st.decimals(0, 1000, places=2).map(float)
        case "array":
            if "prefixItems" in schema:
                first = st.text("ab -#", min_size=1, max_size=5) | st.integers() | st.booleans()
                return st.tuples(first, st.lists(first, max_size=2)).map(lambda parts: [parts[0], *parts[1]])
            return st.lists(_strategy(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
        case "object" if "properties" in schema:
            required = {name: _strategy(schema["properties"][name]) for name in schema["required"]}
            optional = {name: _strategy(each) for name, each in schema["properties"].items() if name not in required}
            return st.fixed_dictionaries(required, optional=optional)
        case "object":
            names = _strategy({"type": "string", **schema["propertyNames"]}).filter(
                lambda name: name.lower() not in {"null", "true", "false"}
            )
            size = {"min_size": schema.get("minProperties", 0), "max_size": schema.get("maxProperties", 2)}
            return st.dictionaries(names, _strategy(schema["additionalProperties"]), **size)
        case kinds:
            assert kinds == ["string", "number", "boolean", "null"]
            return st.text("ab -#", max_size=5) | st.integers() | st.booleans() | st.none()


def _dump(manifest: dict[str, Any]) -> str:
    """YAML as an editor has it: numbers in decimals, without aliases."""
    dumper = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    return yaml.dump(manifest, Dumper=dumper, sort_keys=False)


class _Yaml12(yaml.SafeLoader):
    """PyYAML, but with the booleans of YAML 1.2: `on` and `off` are words."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _yaml_12(text: str) -> Any:
    return yaml.load(text, _Yaml12)


def _refused(manifest: dict[str, Any]) -> set[str]:
    """What `load` refuses, but for rules between fields and the one bound that no pattern can say."""
    return {
        each.code
        for each in loaded(_dump(manifest)).diagnostics
        if each.code not in BETWEEN_FIELDS and "longer than ten years" not in each.message
    }


def test_the_schema_is_the_one_in_the_repository() -> None:
    """`python -m runctl.manifest.schema > schemas/job.v1.json` after a change of the model."""
    assert (ROOT / "schemas/job.v1.json").read_text() == schema_text()


def test_the_reference_is_the_one_in_the_documentation() -> None:
    """`python -m runctl.manifest.reference > docs/manifest.md` after a change of the model."""
    assert (ROOT / "docs/manifest.md").read_text() == reference()


@pytest.mark.parametrize(
    ("module", "text"), [("schema", schema_text), ("reference", reference)], ids=["schema", "reference"]
)
def test_both_are_printed_by_their_modules(module: str, text: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The files of the repository are what the modules print."""
    runpy.run_path(str(ROOT / f"runctl/manifest/{module}.py"), run_name="__main__")
    assert capsys.readouterr().out == text()


def test_the_schema_is_a_schema() -> None:
    """Draft 2020-12, with a description and an example for every field."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(schema_text()) == SCHEMA
    for entry in catalogue():
        assert entry.description.endswith("."), entry.path
        assert entry.section is not None or entry.examples, entry.path
        assert entry.required or entry.default, entry.path


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples/jobs").rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_examples_are_valid(path: Path) -> None:
    """Every example manifest is accepted by the schema and without a word by `load`."""
    for document in path.read_text().split("\n---\n"):
        VALIDATOR.validate(_yaml_12(document))
    assert loaded(path.read_bytes(), str(path.parent)).diagnostics == ()


@pytest.mark.parametrize("entry", [each for each in catalogue() if each.examples], ids=lambda each: str(each.path))
def test_the_examples_of_fields_are_valid(entry: Any) -> None:
    """What the documentation shows is accepted."""
    for example in entry.examples:
        jsonschema.Draft202012Validator(entry.schema).validate(example)


@given(_strategy(SCHEMA))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
def test_what_the_schema_accepts_is_refused_by_rules_between_fields_only(manifest: dict[str, Any]) -> None:
    """An editor that is content and `validate` disagree about no single field."""
    VALIDATOR.validate(manifest)
    assert _refused(manifest) == set(), _dump(manifest)


@pytest.mark.parametrize(
    "entry", [each for each in catalogue() if each.section is None], ids=lambda each: str(each.path)
)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_schema_and_model_agree_on_each_field(entry: Any, data: st.DataObject) -> None:
    """As above, field by field, so that each is reached."""
    value = data.draw(_strategy(entry.schema))
    for name in reversed(entry.path.split(".")):
        value = {name.removesuffix("[]"): [value] if name.endswith("[]") else value}
    manifest = {"name": "a", "script": "a.py"} | value
    around = {"missing-field"} if "[]" in entry.path else set()
    assert _refused(manifest) - around == set(), _dump(manifest)


@pytest.mark.parametrize("entry", catalogue(), ids=lambda each: str(each.path))
def test_every_field_is_explained(entry: Any) -> None:
    """`explain` knows all fields, with their kind, default and meaning."""
    text = explain(entry.path)
    assert text.startswith(f"{entry.path}  (")
    assert " ".join(entry.description.split()) in " ".join(text.split())
    assert entry.path in explain()


def test_an_explanation() -> None:
    """Golden text."""
    assert explain("checkpoint.on_deadline") == (
        "checkpoint.on_deadline  (`warn` · `save` · `stop` · `fail`)\n"
        "\n"
        "What happens then: a warning; a request to save, and a stop if nothing comes; a\n"
        "stop; or the job fails.\n"
        "\n"
        "default:   `warn`\n"
        "why:       a training that can't save is still worth more running than stopped\n"
        "accepted:  warn, save, stop, fail\n"
        "platforms: all\n"
        "\n"
        "examples:\n"
        "  checkpoint: {on_deadline: save}\n"
    )
    assert "accepted:  auto, true, false\n" in explain("wait")


def test_a_section_lists_its_fields_with_their_defaults() -> None:
    """Golden text."""
    assert explain("retry").partition("fields:\n")[2] == (
        "  retry.interruptions\n"
        "    After how many interruptions (the machine was taken away) it starts again\n"
        "    default: `unlimited`\n"
        "  retry.failures\n"
        "    After how many failures of the training it starts again\n"
        "    default: `0`\n"
    )


@pytest.mark.parametrize(
    "entry", [each for each in catalogue() if len(each.examples) == 1], ids=lambda each: str(each.path)
)
def test_the_example_of_an_explanation_is_whole(entry: Any) -> None:
    """Copied into a manifest as it is printed, it lacks nothing."""
    text = textwrap.dedent(explain(entry.path).partition("examples:\n")[2].partition("\nfields:")[0])
    needed = "".join(f"{each}: a.py\n" for each in ("name", "script") if each != entry.path)
    found = {each.code for each in loaded(needed + text).diagnostics}
    assert found - BETWEEN_FIELDS - {"bad-name"} == set(), text


def test_a_list_of_fields_is_cut_only_where_a_width_is_given() -> None:
    """A pipe gets whole lines, a terminal one line for each field."""
    assert "…" not in explain()
    lines = explain("", 60).splitlines()
    assert len(lines) == len(catalogue())
    assert max(map(len, lines)) == 60


def test_paths_of_list_items_may_be_written_in_any_way() -> None:
    """`inputs[0].from`, `inputs[].from` and `inputs.from` are one field."""
    assert explain("inputs[0].from") == explain("inputs[].from") == explain("inputs.from")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("cost.capp", "did you mean `cost.cap`?"),
        ("deadline", "did you mean `checkpoint.deadline`?"),
        ("zzzzzz", "`runctl explain` lists all fields"),
    ],
)
def test_an_unknown_field_is_near_a_known_one(path: str, hint: str) -> None:
    """What was probably meant is said."""
    with pytest.raises(UnknownField, match="no field `") as caught:
        explain(path)
    assert caught.value.hint == hint


def test_the_example_of_the_design_is_valid() -> None:
    """All fields of a manifest together."""
    text = (ROOT / "tests/manifest/every-field.yaml").read_text()
    VALIDATOR.validate(_yaml_12(text))
    found = loaded(text)
    assert found.diagnostics == ()
    assert [each.job.name for each in found.jobs] == ["resnet-cifar-0-1", "resnet-cifar-0-01"]
    written = {path.split("[")[0] for path in found.jobs[0].positions}
    assert {each.path.split("[")[0] for each in catalogue()} - written == {"instance.host", "instance.id"}
