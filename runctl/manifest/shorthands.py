"""Fields that may be written in more than one way, and what each way means."""

from typing import Annotated, Any

from pydantic import AfterValidator, GetPydanticSchema
from pydantic_core import CoreSchema, core_schema

from runctl.manifest import job as inner
from runctl.manifest.commands import COMMAND, Command, as_setup
from runctl.manifest.diagnostics import closest
from runctl.manifest.fields import VERBATIM, Shape, matching, refuse, refuse_word
from runctl.manifest.section import Section

NAME_PATTERN = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
ENV_PATTERN = "[A-Za-z_][A-Za-z0-9_]*"
LABEL_PATTERN = "[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?"

EnvName = Annotated[str, *matching("bad-env-name", ENV_PATTERN, "a name of an environment variable", "WANDB_MODE")]
_Value = Annotated[str, VERBATIM]

Labels = Annotated[
    dict[Annotated[str, *matching("bad-label", LABEL_PATTERN, "a name of a label", "team")], _Value],
    Shape(
        "mapping of text",
        {"type": "object", "propertyNames": {"pattern": f"^{LABEL_PATTERN}$"}, "additionalProperties": VERBATIM.schema},
    ),
]
Env = Annotated[
    dict[EnvName, _Value],
    Shape(
        "mapping of text, as written",
        {
            "type": "object",
            "propertyNames": {"pattern": f"^(?!RUNCTL_){ENV_PATTERN}$"},
            "additionalProperties": VERBATIM.schema,
        },
    ),
]


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if values:
        return values
    raise refuse("empty-list", "an empty list", "write at least one value, or remove the field")


_SomeValues = Annotated[tuple[_Value, ...], AfterValidator(_some)]
Matrix = Annotated[
    dict[Annotated[str, *matching("bad-matrix-key", ENV_PATTERN, "a name of a matrix key", "lr")], _SomeValues],
    Shape(
        "mapping of lists, as written",
        {
            "type": "object",
            "propertyNames": {"pattern": f"^{ENV_PATTERN}$"},
            "additionalProperties": {"type": "array", "items": VERBATIM.schema, "minItems": 1},
        },
    ),
]

_SECRET_SOURCE = "ssm:/[A-Za-z0-9_./-]+"


def _secret(value: Any) -> Any:
    """A name, or a mapping of one name to where its value is."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1:
        name, source = next(iter(value.items()))
        return {"name": name, "source": source}
    raise refuse(
        "bad-secret",
        "neither the name of a secret nor one name with its source",
        "write `- HF_TOKEN`, or `- HF_TOKEN: ssm:/path`",
    )


class SecretEntry(Section):
    name: EnvName
    source: (
        Annotated[str, *matching("bad-secret", _SECRET_SOURCE, "a source of a secret", "ssm:/team/hf-token")] | None
    ) = None


def _wrapped(model: Any, before: Any, after: Any) -> GetPydanticSchema:
    """Read by `before`, then by `model`, then made an inner value by `after`; `before` may answer with the latter."""

    def schema(_source: Any, handler: Any) -> CoreSchema:
        def wrap(value: Any, read: core_schema.ValidatorFunctionWrapHandler) -> Any:
            prepared = before(value)
            return prepared if isinstance(prepared, (inner.Setup, inner.Format)) else after(read(prepared))

        return core_schema.no_info_wrap_validator_function(wrap, handler.generate_schema(model))

    return GetPydanticSchema(schema)


SecretText = Annotated[
    inner.Secret,
    _wrapped(SecretEntry, _secret, lambda entry: inner.Secret(name=entry.name, source=entry.source)),
    Shape(
        "name, or mapping of a name to its source",
        {
            "anyOf": [
                {"type": "string", "pattern": f"^(?!RUNCTL_){ENV_PATTERN}$"},
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "propertyNames": {"pattern": f"^(?!RUNCTL_){ENV_PATTERN}$"},
                    "additionalProperties": {"type": "string", "pattern": f"^{_SECRET_SOURCE}$"},
                },
            ]
        },
    ),
]

_SETUP_WORDS = ("auto", "none")


def _setup(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value in _SETUP_WORDS:
        return inner.Setup(kind=value)  # type: ignore[arg-type]
    raise refuse(
        "unknown-value",
        f"`{value}` is not a way to set up",
        _meant_by_setup(value),
    )


def _meant_by_setup(value: str) -> str:
    near = closest(value, _SETUP_WORDS)
    if near is not None:
        return f"did you mean `{near}`?"
    return (
        f"write `auto`, `none`, or a list of commands: `setup: {as_setup(value)}`"
        if value
        else "write `auto` or `none`"
    )


SetupText = Annotated[
    inner.Setup,
    _wrapped(tuple[Command, ...], _setup, lambda commands: inner.Setup(kind="commands", commands=commands)),
    Shape(
        "`auto` · `none` · list of commands",
        {"anyOf": [{"enum": list(_SETUP_WORDS)}, {"type": "array", "items": COMMAND.schema}]},
    ),
]

_FORMATS = ("auto", "torch", "safetensors", "npz", "directory")


class FormatCommand(Section):
    command: Command


def _format(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value in _FORMATS:
        return inner.Format(kind=value)  # type: ignore[arg-type]
    raise refuse_word(value, (*_FORMATS, "{command: […]}"))


FormatText = Annotated[
    inner.Format,
    _wrapped(FormatCommand, _format, lambda entry: inner.Format(kind="command", command=entry.command)),
    Shape(
        " · ".join(f"`{each}`" for each in _FORMATS) + " · `{command: […]}`",
        {
            "anyOf": [
                {"enum": list(_FORMATS)},
                {
                    "type": "object",
                    "properties": {"command": COMMAND.schema},
                    "required": ["command"],
                    "additionalProperties": False,
                },
            ]
        },
    ),
]


def known_version(version: str) -> tuple[AfterValidator, Shape]:
    """The one version of the fields that is known; what another means can't be guessed."""

    def check(text: str) -> str:
        if text == version:
            return text
        raise refuse(
            "unknown-version",
            f"`{text}` is not a version of the manifest that this runctl knows",
            f"write `apiVersion: {version}`, or install the runctl that the manifest was written for",
            f"known: {version}",
        )

    return AfterValidator(check), Shape("version", {"const": version})
