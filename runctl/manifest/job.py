"""The desired state of one job: what the rest of the program sees of a manifest.

Plain frozen values, every default filled in. The pydantic model that reads the text is `model.py`; nothing
past the manifest package imports it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from runctl.manifest.quantities import Duration, Every, Money, Share, Size


class Platform(StrEnum):
    LOCAL = "local"
    SSH = "ssh"
    AWS = "aws"
    SLURM = "slurm"


class Capacity(StrEnum):
    ON_DEMAND = "on-demand"
    SPOT = "spot"
    SPOT_THEN_ON_DEMAND = "spot-then-on-demand"


class Busy(StrEnum):
    """What to do when another training holds the machine."""

    REFUSE = "refuse"
    WAIT = "wait"
    REPLACE = "replace"
    SHARE = "share"


class OnFinish(StrEnum):
    TERMINATE = "terminate"
    STOP = "stop"
    KEEP = "keep"


class OnDeadline(StrEnum):
    """What a checkpoint that is older than `checkpoint.deadline` leads to."""

    WARN = "warn"
    SAVE = "save"
    STOP = "stop"
    FAIL = "fail"


class Wait(StrEnum):
    AUTO = "auto"
    YES = "true"
    NO = "false"


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Instance(_Value, frozen=True):
    platform: Platform = Platform.LOCAL
    type: tuple[str, ...] = ()
    id: str | None = None
    host: str | None = None
    region: str | None = None
    capacity: Capacity = Capacity.ON_DEMAND
    count: int = 1
    disk: Size | None = None
    hourly_rate: Money | None = None
    start: Literal["auto", "never"] = "auto"
    busy: Busy = Busy.REFUSE
    on_finish: OnFinish = OnFinish.KEEP


class Secret(_Value, frozen=True):
    """A secret by reference; `source` is None for the caller's environment, else a URL such as `ssm:/path`."""

    name: str
    source: str | None = None


class Setup(_Value, frozen=True):
    """`auto` builds from the declared dependencies, `none` builds nothing, `commands` runs argv lists."""

    kind: Literal["auto", "none", "commands"] = "auto"
    commands: tuple[tuple[str, ...], ...] = ()


class Transfer(_Value, frozen=True):
    source: str
    target: str


class Format(_Value, frozen=True):
    kind: Literal["auto", "torch", "safetensors", "npz", "directory", "command"] = "auto"
    command: tuple[str, ...] = ()


class Checkpoint(_Value, frozen=True):
    dir: str
    every: Every
    deadline: Duration
    on_deadline: OnDeadline
    signal: str | None
    upload: str | None
    keep: int
    grace: Duration
    format: Format
    resume: str  # "auto", "never", or a path or URL
    resume_arg: str | None


class Cost(_Value, frozen=True):
    """`cap` is None when the manifest names none; `uncapped` is true when it says `cap: none` in so many words."""

    cap: Money | None
    uncapped: bool
    warn_at: tuple[Share, ...]
    max_hourly: Money | None


class Limits(_Value, frozen=True):
    """None is `off`."""

    duration: Duration | None
    idle: Duration | None
    setup: Duration
    hang: Duration | None


class Stop(_Value, frozen=True):
    signal: str
    to: Literal["leader", "group"]


class Retry(_Value, frozen=True):
    """`interruptions` is None for unlimited."""

    interruptions: int | None
    failures: int


class Hooks(_Value, frozen=True):
    after_start: tuple[tuple[str, ...], ...] = ()
    before_stop: tuple[tuple[str, ...], ...] = ()
    before_terminate: tuple[tuple[str, ...], ...] = ()


class Webhook(_Value, frozen=True):
    webhook: str
    on: tuple[Literal["outcome", "warning", "checkpoint"], ...]


class Group(_Value, frozen=True):
    cap: Money | None = None
    max_parallel: int | None = None


class Job(_Value, frozen=True):
    """One job; of a manifest with a `matrix`, one combination of it (`matrix` holds its values as written)."""

    name: str
    script: str
    labels: dict[str, str]
    instance: Instance
    workdir: str
    args: tuple[str, ...]
    env: dict[str, str]
    secrets: tuple[Secret, ...]
    launcher: tuple[str, ...]
    setup: Setup
    sync_exclude: tuple[str, ...]
    inputs: tuple[Transfer, ...]
    outputs: tuple[Transfer, ...]
    checkpoint: Checkpoint
    cost: Cost
    limits: Limits
    stop: Stop
    retry: Retry
    wait: Wait
    hooks: Hooks
    notify: tuple[Webhook, ...]
    group: Group
    matrix: dict[str, str]


class Position(_Value, frozen=True):
    """A place in a file; lines and columns count from 1, `end_column` is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


class SourcedJob(_Value, frozen=True):
    """A job with where it was read: `file` as the user named it (`-` for stdin), `base` the directory that its
    paths start from, `positions` by dotted path (`cost.cap`, `args[2]`)."""

    job: Job
    file: str
    base: str
    document: int
    positions: dict[str, Position]
