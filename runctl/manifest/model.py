"""Every field of a manifest: its kind, its default and why, described once.

This is the edge: pydantic reads the data of a document (`reading.py`) into it, `convert.py` makes the inner `Job`
of it, and the catalogue (`catalogue.py`) turns it into the JSON schema, `runctl explain` and the documentation.
One file, however long: it is read as a table. None means that the manifest doesn't say; defaults that depend on
another field are filled in by `convert.py`.
"""

from typing import Annotated, Literal

from runctl.manifest import job as inner
from runctl.manifest.commands import Command
from runctl.manifest.fields import (
    Argv,
    CapText,
    Count,
    CountOrUnlimited,
    DurationText,
    EveryText,
    LimitText,
    MoneyText,
    OneOrMore,
    Positive,
    RelativePath,
    Resume,
    Shape,
    ShareText,
    Signal,
    SizeText,
    Text,
    Url,
    WaitText,
    choice,
    list_of,
    matching,
    word,
)
from runctl.manifest.quantities import parse_duration, parse_every, parse_share
from runctl.manifest.section import Section, described
from runctl.manifest.shorthands import (
    NAME_PATTERN,
    Env,
    FormatText,
    Labels,
    Matrix,
    SecretText,
    SetupText,
    known_version,
)
from runctl.manifest.written import as_name

API_VERSION = "runctl/v1"
KIND = "Job"

_AWS = ("aws",)
_CLUSTERS = ("aws", "slurm")
_TYPE = "[a-z0-9][a-z0-9-]*(\\.[a-z0-9-]+)?"
_HOST = "([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9._-]*"


class Instance(Section):
    """The machine that the job runs on."""

    platform: Annotated[inner.Platform, *choice(inner.Platform)] | None = described(
        "Where the machine comes from: this computer, a host that you own, Amazon EC2, or a Slurm cluster.",
        default=None,
        says="`local`; `ssh` where `host` is given",
        why="nothing is rented unless the manifest says so",
        examples=("local", "aws"),
    )
    type: Annotated[
        tuple[Annotated[str, *matching("bad-type", _TYPE, "a machine type", "g5.xlarge")], ...],
        OneOrMore,
        Shape(
            "machine type, or a list of them",
            {
                "anyOf": [
                    {"type": "string", "pattern": f"^{_TYPE}$"},
                    {"type": "array", "items": {"type": "string", "pattern": f"^{_TYPE}$"}},
                ]
            },
        ),
    ] = described(
        "The type of machine to rent; several are tried in order of preference.",
        default=(),
        says="none",
        examples=("g5.xlarge", ["g5.xlarge", "g4dn.xlarge"]),
        platforms=_AWS,
    )
    id: (
        Annotated[str, *matching("bad-id", "i-[0-9a-f]{8,17}", "an id of an EC2 instance", "i-0123456789abcdef0")]
        | None
    ) = described(
        "An existing instance to run on, instead of one that is launched for the job.",
        default=None,
        says="none: one is launched",
        examples=("i-0123456789abcdef0",),
        platforms=_AWS,
    )
    host: Annotated[str, *matching("bad-host", _HOST, "a host", "user@box")] | None = described(
        "The host to run on, as the OpenSSH client would take it.",
        default=None,
        says="none",
        examples=("user@box",),
        platforms=("ssh",),
    )
    region: Annotated[str, *matching("bad-region", "[a-z]{2}(-[a-z]+)+-[0-9]", "a region", "us-east-1")] | None = (
        described(
            "The region to rent in.",
            default=None,
            says="the one that your AWS configuration names",
            examples=("us-east-1",),
            platforms=_AWS,
        )
    )
    capacity: Annotated[inner.Capacity, *choice(inner.Capacity)] = described(
        "Which capacity to rent. Spot is cheaper and can be taken away at two minutes' notice; it becomes on-demand"
        " only where the manifest says `spot-then-on-demand`.",
        default=inner.Capacity.ON_DEMAND,
        why="an interruption is something to choose, not to be surprised by",
        examples=("spot",),
        platforms=_AWS,
    )
    count: Positive = described(
        "How many machines the job needs. More than one are a gang: all or none, with torchrun's environment on each.",
        default=1,
        why="most trainings fit one machine",
        examples=(1, 4),
        platforms=_CLUSTERS,
    )
    disk: SizeText | None = described(
        "Size of the root volume.",
        default=None,
        says="what the machine image has",
        examples=("200 GiB",),
        platforms=_AWS,
    )
    hourly_rate: MoneyText | None = described(
        "What an hour of the machine costs, where no provider publishes a price.",
        default=None,
        says="none",
        why="a machine of your own costs what you say it does",
        examples=("1.10 USD",),
    )
    start: Annotated[Literal["auto", "never"], *word("auto", "never")] = described(
        "Whether a stopped instance may be started.",
        default="auto",
        why="a job on a stopped machine would wait for ever",
        examples=("never",),
        platforms=_AWS,
    )
    busy: Annotated[inner.Busy, *choice(inner.Busy)] = described(
        "What to do when a training runs on the machine already: refuse to start, wait for its end, replace it after"
        " its checkpoint is saved, or share the machine.",
        default=inner.Busy.REFUSE,
        why="two trainings on one machine slow or break each other, and neither may be lost for the other",
        examples=("wait",),
    )
    on_finish: Annotated[inner.OnFinish, *choice(inner.OnFinish)] | None = described(
        "What becomes of the machine when the job ends.",
        default=None,
        says="`terminate` for machines that were launched for the job, `keep` for all others",
        why="nothing billable is left behind, and nothing is ended that the job didn't start",
        examples=("stop",),
    )


class Sync(Section):
    """What of the working directory gets to the machine."""

    exclude: Annotated[tuple[Text, ...], Shape("list of patterns", {"type": "array", "items": {"type": "string"}})] = (
        described(
            "Patterns of files that are left behind, as in `.gitignore`; they are added to the ignore files' own.",
            default=(),
            says="none",
            why="`.gitignore` and `.runctlignore` leave out most of it already",
            examples=(["data/"],),
        )
    )


class Input(Section):
    """Data that is brought to the machine before the training."""

    source: Url = described("Where the data is.", alias="from", examples=("s3://bucket/data/",))
    target: RelativePath = described("Where it goes to, relative to `workdir`.", alias="to", examples=("data/",))


class Output(Section):
    """Results that are taken from the machine after the training."""

    source: RelativePath = described("What to take, relative to `workdir`.", alias="from", examples=("results/",))
    target: Url = described("Where it goes to.", alias="to", examples=("s3://bucket/results/",))


class Checkpoint(Section):
    """How often the training saves, where the copies go, and what happens when it doesn't save."""

    dir: RelativePath = described(
        "Where the script saves, relative to `workdir`; created before it starts.",
        default="checkpoints",
        why="the name that most scripts use",
        examples=("checkpoints",),
    )
    every: EveryText = described(
        "How often the script is asked to save: epochs, steps or time.",
        default=parse_every("2 epochs"),
        why="at most two epochs of work are lost",
        examples=("2 epochs", "500 steps", "10m"),
    )
    deadline: DurationText = described(
        "How old the newest durable checkpoint may be.",
        default=parse_duration("1h"),
        why="an hour of work is what most people would still like to lose",
        examples=("30m",),
    )
    on_deadline: Annotated[inner.OnDeadline, *choice(inner.OnDeadline)] = described(
        "What happens then: a warning; a request to save, and a stop if nothing comes; a stop; or the job fails.",
        default=inner.OnDeadline.WARN,
        why="a training that can't save is still worth more running than stopped",
        examples=("save",),
    )
    signal: Signal | None = described(
        "A signal on which the script saves and goes on. Only for scripts that handle it: an unhandled SIGUSR1 kills.",
        default=None,
        says="none: a file asks for the save",
        examples=("SIGUSR1",),
    )
    upload: Url | None = described(
        "Where durable copies go to.",
        default=None,
        says="the run directory, on machines that outlive the job",
        why="a machine that is ended takes its disk along",
        examples=("s3://bucket/checkpoints/", "file:/data/checkpoints"),
    )
    keep: Positive = described(
        "How many of the newest durable checkpoints are kept.",
        default=3,
        why="one may be of a training that has diverged already",
        examples=(3,),
    )
    grace: DurationText = described(
        "Time for a last save, its copy and its verification. The cap's reserve holds it.",
        default=parse_duration("60s"),
        why="enough for a model of some gigabytes, and half of a spot notice",
        examples=("5m",),
    )
    format: FormatText = described(
        "What a whole checkpoint looks like; one that isn't whole doesn't count. A command gets the path in place"
        " of `{}`.",
        default=inner.Format(),
        says="`auto`: told by the files",
        examples=("safetensors", {"command": ["python", "check.py", "{}"]}),
    )
    resume: Resume = described(
        "What a new attempt goes on from: the newest durable checkpoint, nothing, or this path or URL.",
        default="auto",
        why="work that is done is not done again",
        examples=("never", "checkpoints/epoch-4.pt"),
    )
    resume_arg: Text | None = described(
        "An argument that is appended with the checkpoint's path when there is one to go on from.",
        default=None,
        says="none: the path is in `RUNCTL_RESUME_FROM`",
        examples=("--resume",),
    )


class Cost(Section):
    """What the job may spend, over all of its attempts and machines."""

    cap: CapText | None = described(
        "The most that the job may spend, final save included; or `none`.",
        default=None,
        says="none on machines without a price; rented machines need one, or `cap: none` in so many words",
        why="what is rented has to end by itself",
        examples=("25 USD", "none"),
    )
    warn_at: Annotated[tuple[ShareText, ...], list_of(ShareText, "list of percentages")] = described(
        "Parts of the cap at which a warning is given.",
        default=tuple(parse_share(each) for each in ("50%", "80%", "95%")),
        says="`[50%, 80%, 95%]`",
        why="half-way, when it matters, and when it is nearly over",
        examples=(["80%"],),
    )
    max_hourly: MoneyText | None = described(
        "The most that an hour of the job's machines may cost; a dearer one isn't launched.",
        default=None,
        says="none",
        examples=("2 USD",),
    )


class Limits(Section):
    """Time that the job may take; each may be `off`."""

    duration: LimitText = described(
        "How long the trainings of the job may run, all attempts together.",
        default="off",
        why="nobody but you knows how long it takes",
        examples=("12h",),
    )
    idle: LimitText | None = described(
        "How long the machine may do nothing (no GPU, no CPU, no log, no checkpoint) before it is released.",
        default=None,
        says="`30m` on aws and slurm, else `off`",
        why="an idle machine that is rented costs like a busy one",
        examples=("30m",),
        platforms=(),
    )
    setup: DurationText = described(
        "How long the preparation may take.",
        default=parse_duration("20m"),
        why="a large environment installs in less",
        examples=("20m",),
    )
    hang: LimitText = described(
        "How long the training may show no sign of life before it is ended.",
        default="off",
        why="a long evaluation looks like a hang",
        examples=("1h",),
    )


class Stop(Section):
    """How the training is told to end."""

    signal: Signal = described(
        "The signal that means: save and exit.",
        default="SIGTERM",
        why="what every supervisor sends",
        examples=("SIGTERM",),
    )
    to: Annotated[Literal["leader", "group"], *word("leader", "group")] = described(
        "Who gets it first: the training itself, then its group; or the whole group at once.",
        default="leader",
        why="data loaders that die first turn a save into a crash",
        examples=("group",),
    )


class Retry(Section):
    """How often the job is started again."""

    interruptions: CountOrUnlimited = described(
        "After how many interruptions (the machine was taken away) it starts again.",
        default="unlimited",
        why="an interruption isn't the training's fault, and the cap bounds them",
        examples=("unlimited", 5),
    )
    failures: Count = described(
        "After how many failures of the training it starts again.",
        default=0,
        why="a script that fails will mostly fail again",
        examples=(1,),
    )


_Commands = Annotated[tuple[Command, ...], list_of(Command, "list of commands")]


class Hooks(Section):
    """Commands on the machine at turning points, without a shell, each limited to 30 seconds."""

    after_start: _Commands = described(
        "After the training has started.", default=(), says="none", examples=([["python", "notify.py", "started"]],)
    )
    before_stop: _Commands = described(
        "Before the training is told to end.", default=(), says="none", examples=([["python", "notify.py", "ending"]],)
    )
    before_terminate: _Commands = described(
        "When the training is gone: on a rented machine, before that is ended.",
        default=(),
        says="none",
        examples=([["python", "copy_logs.py"]],),
    )


_Event = Annotated[Literal["outcome", "warning", "checkpoint"], *word("outcome", "warning", "checkpoint")]


class Webhook(Section):
    """Somebody to tell."""

    webhook: Annotated[
        str, *matching("bad-url", "https?://[^\\s/]+(/\\S*)?", "a web address", "https://hooks.example/x")
    ] = described("The address that gets a JSON object by POST.", examples=("https://hooks.example/x",))
    on: Annotated[tuple[_Event, ...], list_of(_Event, "list of `outcome` · `warning` · `checkpoint`")] = described(
        "What to tell of.",
        default=("outcome", "warning"),
        says="`[outcome, warning]`",
        why="checkpoints come too often for most people",
        examples=(["outcome"],),
    )


class Group(Section):
    """Limits over all jobs that are applied together: several files, or the combinations of a matrix."""

    cap: MoneyText | None = described(
        "The most that they may spend together.", default=None, says="none", examples=("100 USD",)
    )
    max_parallel: Positive | None = described(
        "How many may run at one time.", default=None, says="as many as there are machines", examples=(4,)
    )


class Manifest(Section):
    """A training job: the machine, the script, its checkpoints and what it may cost."""

    api_version: Annotated[str, *known_version(API_VERSION)] = described(
        "The version of the manifest's fields.",
        default=API_VERSION,
        why="there is one so far",
        examples=(API_VERSION,),
        alias="apiVersion",
    )
    kind: Annotated[Literal["Job"], *word(KIND)] = described(
        "What the document declares.", default=KIND, why="there is one so far", examples=(KIND,)
    )
    name: Annotated[
        str,
        *matching(
            "bad-name",
            NAME_PATTERN,
            "a name of 1 to 63 lowercase letters, digits and `-`",
            "resnet-cifar",
            "name",
            as_name,
        ),
    ] = described(
        "The job's identity in its store: applying the same name again attaches to the same job.",
        examples=("resnet-cifar",),
    )
    labels: Labels = described(
        "Free words to find the job by.", default={}, says="none", examples=({"team": "vision"},)
    )
    instance: Instance = described("", default=Instance.model_construct())
    workdir: Text = described(
        "The project's directory, relative to the manifest's own. It is what gets to the machine and where the"
        " script runs; all other paths are relative to it.",
        default=".",
        why="manifests mostly lie beside the script",
        examples=("..",),
    )
    script: RelativePath = described("The training script, relative to `workdir`.", examples=("train.py",))
    args: Argv = described(
        "The script's arguments, each as written: no shell, and no YAML types.",
        default=(),
        says="none",
        examples=(["--epochs", 50, "--note", "it's fine"],),
    )
    env: Env = described(
        "The script's environment variables, each as written.",
        default={},
        says="none",
        examples=({"WANDB_MODE": "offline"},),
    )
    secrets: Annotated[tuple[SecretText, ...], list_of(SecretText, "list of secrets")] = described(
        "Environment variables with values that are stored nowhere: taken from your own environment, or from a"
        " parameter store.",
        default=(),
        says="none",
        examples=(["HF_TOKEN", {"WANDB_API_KEY": "ssm:/team/wandb"}],),
    )
    launcher: Argv = described(
        "A command to put before the script.",
        default=(),
        says="none: the environment's own Python",
        examples=(["accelerate", "launch"],),
    )
    setup: SetupText = described(
        "How the script's environment is built: from uv.lock, pyproject.toml, requirements.txt or PEP 723 metadata;"
        " not at all; or by these commands, without a shell.",
        default=inner.Setup(),
        says="`auto`",
        why="the project says already what it needs",
        examples=("auto", ["uv sync --frozen"]),
    )
    sync: Sync = described("", default=Sync.model_construct())
    inputs: tuple[Input, ...] = described(
        "Data to bring to the machine before the training.",
        default=(),
        says="none",
        examples=([{"from": "s3://bucket/data/", "to": "data/"}],),
    )
    outputs: tuple[Output, ...] = described(
        "Results to take from the machine after the training.",
        default=(),
        says="none",
        examples=([{"from": "results/", "to": "s3://bucket/results/"}],),
    )
    checkpoint: Checkpoint = described("", default=Checkpoint.model_construct())
    cost: Cost = described("", default=Cost.model_construct())
    limits: Limits = described("", default=Limits.model_construct())
    stop: Stop = described("", default=Stop.model_construct())
    retry: Retry = described("", default=Retry.model_construct())
    wait: WaitText = described(
        "Whether `apply` stays until the job ends; `auto`: on a terminal and under CI.",
        default=inner.Wait.AUTO,
        why="a person and a pipeline want the outcome, a script in the background doesn't",
        examples=("auto", True),
    )
    hooks: Hooks = described("", default=Hooks.model_construct())
    notify: tuple[Webhook, ...] = described(
        "Whom to tell of what happens.",
        default=(),
        says="none",
        examples=([{"webhook": "https://hooks.example/x", "on": ["outcome"]}],),
    )
    group: Group = described("", default=Group.model_construct())
    matrix: Matrix = described(
        "Values to combine: one job for each combination, with `${{ matrix.KEY }}` in `args`, `env` and `labels`"
        " replaced.",
        default={},
        says="none",
        examples=({"lr": [0.1, 0.01]},),
    )
