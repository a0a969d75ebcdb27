"""Rules between fields. Each is a small function from a job, and the paths that its manifest writes, to findings.

A rule is an error where the job couldn't do what it says, a warning where something that is written has no effect.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Container, Iterator

from runctl.manifest.diagnostics import At, Finding, Severity
from runctl.manifest.job import Capacity, Job, OnFinish, Platform
from runctl.manifest.matrix import REFERENCE, substituted_fields
from runctl.manifest.quantities import format_money

Written = Container[str]
Rule = Callable[[Job, Written], Iterator[Finding]]

_HOUR_MILLIS = 3_600_000
_OWNED = frozenset({Platform.LOCAL, Platform.SSH})
_PRICED_BY_RATE = frozenset({Platform.LOCAL, Platform.SSH, Platform.SLURM})


def check(job: Job, base: str, written: Written) -> Iterator[Finding]:
    """All findings of all rules. `base` is the directory that `workdir` starts from."""
    for rule in _RULES:
        yield from rule(job, written)
    yield from _upload_in_workdir(job, base)


# Machine


def _platform_fields(job: Job, written: Written) -> Iterator[Finding]:
    """Fields that mean something on one platform only."""
    instance = job.instance
    only: dict[str, Platform] = dict.fromkeys(("type", "id", "region", "capacity", "disk"), Platform.AWS)
    only["host"] = Platform.SSH
    for name, platform in only.items():
        path = f"instance.{name}"
        if (
            path not in written
            or instance.platform is platform
            or (name, instance.capacity) == ("capacity", Capacity.ON_DEMAND)
        ):
            continue
        guessed = "instance.platform" not in written
        yield Finding(
            code="platform-missing" if guessed else "field-of-other-platform",
            path=path,
            message=f"`instance.{name}` means nothing on `platform: {instance.platform.value}`",
            label=f"only on `platform: {platform.value}`",
            hint=f"add `platform: {platform.value}`"
            if guessed
            else f"write `platform: {platform.value}`, or remove the field",
            at=At.KEY,
            reads=("instance.platform", "instance.host"),
        )
    if "instance.start" in written and instance.platform is not Platform.AWS:
        yield _no_effect("instance.start", "only instances of `platform: aws` can be stopped and started")


def _machine(job: Job, written: Written) -> Iterator[Finding]:
    instance = job.instance
    reads = ("instance.platform", "instance.type", "instance.id", "instance.host")
    if instance.platform is Platform.AWS and not instance.type and instance.id is None:
        yield Finding(
            code="machine-missing",
            path="instance",
            message="`platform: aws` needs to know which machine",
            hint="add `type: g5.xlarge` to launch one, or `id: i-…` to use one that exists",
            at=At.KEY,
            reads=reads,
        )
    if instance.type and instance.id is not None:
        yield Finding(
            code="type-and-id",
            path="instance.type",
            message="`type` launches a machine, `id` names one that exists",
            label="conflicts with `id`",
            hint="keep one of the two",
            at=At.KEY,
            reads=reads,
        )
    if instance.platform is Platform.SSH and instance.host is None:
        yield Finding(
            code="machine-missing",
            path="instance",
            message="`platform: ssh` needs to know which machine",
            hint="add `host: user@box`",
            at=At.KEY,
            reads=reads,
        )


def _count(job: Job, written: Written) -> Iterator[Finding]:
    instance = job.instance
    if instance.count == 1:
        return
    if instance.platform in _OWNED or instance.id is not None:
        what = f"`platform: {instance.platform.value}`" if instance.platform in _OWNED else "`instance.id`"
        yield Finding(
            code="count-of-one-machine",
            path="instance.count",
            message=f"{what} is one machine, not {instance.count}",
            hint="remove `count`, or rent the machines by `platform: aws` and `type`",
            reads=("instance.platform", "instance.host", "instance.id"),
        )


def _on_finish(job: Job, written: Written) -> Iterator[Finding]:
    instance = job.instance
    if instance.on_finish is OnFinish.KEEP:
        return
    reads = ("instance.platform", "instance.id", "instance.host", "instance.on_finish")
    if instance.platform is not Platform.AWS:
        yield Finding(
            code="not-ours-to-end",
            path="instance.on_finish",
            message=f"a machine of `platform: {instance.platform.value}` isn't runctl's to {instance.on_finish.value}",
            hint="write `keep`, or remove the field",
            reads=reads,
        )
    elif instance.id is not None and instance.on_finish is OnFinish.TERMINATE:
        yield Finding(
            code="not-ours-to-end",
            path="instance.on_finish",
            message="an instance that existed before the job isn't terminated with it",
            hint="write `stop` or `keep`",
            reads=reads,
        )


# Money


def _cap(job: Job, written: Written) -> Iterator[Finding]:
    instance, cost = job.instance, job.cost
    unpriced = instance.platform in _PRICED_BY_RATE and instance.hourly_rate is None
    for path, cap in (("cost.cap", cost.cap), ("group.cap", job.group.cap)):
        if cap is not None and unpriced:
            yield Finding(
                code="cap-without-price",
                path=path,
                message="a cap needs a price, and a machine of "
                f"`platform: {instance.platform.value}` has none of its own",
                label="can't be held",
                hint="add `instance.hourly_rate`, such as `hourly_rate: 0.50 USD`",
                reads=("instance.platform", "instance.host", "instance.hourly_rate"),
            )
    if instance.platform is Platform.AWS and cost.cap is None and not cost.uncapped:
        yield Finding(
            code="rented-without-cap",
            path="cost" if "cost" in written else "instance.platform",
            message="a rented machine needs a cap",
            label="bills until it is ended",
            hint="add `cost: {cap: 25 USD}`, or `cost: {cap: none}` if it may cost what it will",
            reads=("instance.platform", "cost.cap"),
        )
    if cost.uncapped and "cost.warn_at" in written:
        yield _no_effect("cost.warn_at", "there is no cap to warn of")


def _rate(job: Job, written: Written) -> Iterator[Finding]:
    rate, most, cap = job.instance.hourly_rate, job.cost.max_hourly, job.cost.cap
    if rate is None:
        return
    rate_micros = rate.micros * job.instance.count
    if most is not None and rate_micros > most.micros:
        yield Finding(
            code="rate-above-max",
            path="cost.max_hourly",
            message=f"the machine costs {format_money(rate_micros)} an hour, more than `cost.max_hourly`",
            hint="raise `max_hourly`, or correct `instance.hourly_rate`",
            reads=("instance.hourly_rate", "instance.count"),
        )
    grace_micros = rate_micros * job.checkpoint.grace.millis // _HOUR_MILLIS
    if cap is not None and cap.micros <= grace_micros:
        yield Finding(
            code="cap-below-grace",
            path="cost.cap",
            message=f"`checkpoint.grace` alone costs {format_money(grace_micros)}: nothing is left to train with",
            hint="raise the cap, or shorten `checkpoint.grace`",
            reads=("instance.hourly_rate", "instance.count", "checkpoint.grace"),
        )


def _cap_of_zero(job: Job, written: Written) -> Iterator[Finding]:
    for path, cap in (
        ("cost.cap", job.cost.cap),
        ("group.cap", job.group.cap),
        ("cost.max_hourly", job.cost.max_hourly),
    ):
        if cap is not None and cap.micros == 0:
            hint = "write an amount" + (", or `none`" if path == "cost.cap" else ", or remove the field")
            yield Finding(code="cap-of-zero", path=path, message="nothing can run for nothing", hint=hint)


def _group_cap(job: Job, written: Written) -> Iterator[Finding]:
    group, cap = job.group.cap, job.cost.cap
    if group is not None and cap is not None and cap.micros > group.micros:
        yield Finding(
            code="cap-above-group",
            path="cost.cap",
            message=f"one job may spend {cap}, all together only {group}",
            hint="lower `cost.cap`, or raise `group.cap`",
            severity=Severity.WARNING,
            reads=("group.cap",),
        )


# Checkpoints


def _upload(job: Job, written: Written) -> Iterator[Finding]:
    instance, upload = job.instance, job.checkpoint.upload
    reads = ("instance.capacity", "instance.platform", "checkpoint.upload")
    rented = instance.platform is Platform.AWS
    if upload is None and rented and instance.capacity is not Capacity.ON_DEMAND:
        yield Finding(
            code="spot-without-upload",
            path="instance.capacity",
            message="a spot machine can be taken away, and its checkpoints with it",
            hint="add `checkpoint: {upload: s3://bucket/prefix/}`",
            reads=reads,
        )
    elif upload is None and rented and instance.on_finish is OnFinish.TERMINATE:
        yield Finding(
            code="terminate-without-upload",
            path="instance.on_finish" if "instance.on_finish" in written else "instance.platform",
            message="the machine is ended after the job, and its checkpoints with it",
            hint="add `checkpoint: {upload: s3://bucket/prefix/}`, or write `on_finish: stop`",
            reads=(*reads, "instance.on_finish", "instance.id"),
        )
    elif upload is not None and upload.startswith("file:") and rented:
        yield Finding(
            code="upload-lost-with-machine",
            path="checkpoint.upload",
            message="a directory on a rented machine goes when the machine goes",
            hint="write an `s3:` URL",
            reads=reads,
        )


def _upload_in_workdir(job: Job, base: str) -> Iterator[Finding]:
    """Copies inside the synced tree would be copied to the machine again with the next attempt."""
    path = file_path(job.checkpoint.upload or "")
    if path is None:
        return
    workdir = posixpath.normpath(posixpath.join(base, job.workdir))
    target = posixpath.normpath(posixpath.join(workdir, path))
    if target == workdir or target.startswith(workdir.rstrip("/") + "/"):
        yield Finding(
            code="upload-inside-workdir",
            path="checkpoint.upload",
            message="the copies would lie inside the tree that is sent to the machine",
            label="inside `workdir`",
            hint="name a directory outside of `workdir`, such as `file:/data/checkpoints`",
            reads=("workdir",),
        )


def file_path(url: str) -> str | None:
    """The path of a `file:` URL, taken literally; None for other URLs."""
    if not url.startswith("file:"):
        return None
    path = url.removeprefix("file:")
    return path.removeprefix("//") if path.startswith("///") else path


def _times(job: Job, written: Written) -> Iterator[Finding]:
    checkpoint = job.checkpoint
    if checkpoint.every.unit == "time" and checkpoint.deadline.millis < checkpoint.every.n:
        yield Finding(
            code="deadline-below-interval",
            path="checkpoint.deadline" if "checkpoint.deadline" in written else "checkpoint.every",
            message=f"`deadline: {checkpoint.deadline}` is over before `every: {checkpoint.every}` saves once",
            hint="write a deadline of at least the interval and the time that a save takes",
            reads=("checkpoint.deadline", "checkpoint.every"),
        )
    if checkpoint.grace.millis > checkpoint.deadline.millis:
        yield Finding(
            code="grace-above-deadline",
            path="checkpoint.grace" if "checkpoint.grace" in written else "checkpoint.deadline",
            message=f"a save may take {checkpoint.grace}, longer than a checkpoint may be old ({checkpoint.deadline})",
            hint="shorten `checkpoint.grace`, or write a longer `checkpoint.deadline`",
            reads=("checkpoint.deadline", "checkpoint.grace"),
        )
    duration = job.limits.duration
    if duration is not None and duration.millis == 0:
        yield Finding(
            code="limit-of-zero",
            path="limits.duration",
            message="no training takes no time",
            hint="write `off` for no limit",
        )


def _resume(job: Job, written: Written) -> Iterator[Finding]:
    if job.checkpoint.resume == "never" and job.checkpoint.resume_arg is not None:
        yield _no_effect("checkpoint.resume_arg", "with `resume: never` there is nothing to go on from")
    if job.checkpoint.signal is not None and job.checkpoint.signal == job.stop.signal:
        yield Finding(
            code="save-signal-ends",
            path="checkpoint.signal",
            message=f"`{job.stop.signal}` can't mean both: save and go on, and: save and exit",
            hint="write `checkpoint.signal: SIGUSR1`, or remove it",
            reads=("stop.signal",),
        )


# Environment


def _environment(job: Job, written: Written) -> Iterator[Finding]:
    paths = {f"env.{name}": name for name in job.env}
    paths |= {f"secrets[{index}]": secret.name for index, secret in enumerate(job.secrets)}
    for path, name in paths.items():
        if name.startswith("RUNCTL_"):
            yield Finding(
                code="reserved-env-name",
                path=path,
                message=f"`{name}`: names that start with `RUNCTL_` are set by runctl",
                hint="choose another name",
                at=At.KEY,
            )
    seen: set[str] = set()
    for index, secret in enumerate(job.secrets):
        if secret.name in job.env or secret.name in seen:
            where = "in `env`" if secret.name in job.env else "among the secrets"
            yield Finding(
                code="secret-twice",
                path=f"secrets[{index}]",
                message=f"`{secret.name}` is {where} already",
                hint="keep one of them",
                reads=("env",),
            )
        seen.add(secret.name)


_SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PWD|CREDENTIALS?|(API|ACCESS|SECRET|PRIVATE)_?KEY)(_ID)?$"
)
_SECRET_VALUE = re.compile(
    r"(hf_[A-Za-z]{16,}|gh[pousr]_\w{20,}|sk-[\w-]{20,}|(AKIA|ASIA)[A-Z0-9]{16}|xox[abpr]-[\w-]{10,}"
    r"|-----BEGIN .*PRIVATE KEY)"
)


def _secret_values(job: Job, written: Written) -> Iterator[Finding]:
    for name, value in job.env.items():
        named = _SECRET_NAME.search(name.upper()) is not None and value and name not in {"PWD", "OLDPWD"}
        if (named and REFERENCE.search(value) is None) or _SECRET_VALUE.match(value):
            yield Finding(
                code="secret-in-env",
                path=f"env.{name}",
                message=f"the value of `{name}` looks like a secret",
                label="is stored as it is written",
                hint=f"remove it here, and write `secrets: [{name}]` to take it from your environment",
                severity=Severity.WARNING,
                at=At.SECRET,
            )
    for index, argument in enumerate(job.args):
        if _SECRET_VALUE.search(argument):
            yield Finding(
                code="secret-in-args",
                path=f"args[{index}]",
                message="this argument looks like a secret",
                label="is stored as it is written",
                hint="let the script read it from its environment, and name it in `secrets`",
                severity=Severity.WARNING,
                at=At.SECRET,
            )


# Commands and matrix


def _single_words(job: Job, written: Written) -> Iterator[Finding]:
    """`[pip, install, x]` where a list of commands is meant to stand: three commands of one word."""
    lists = {
        "setup": job.setup.commands,
        "hooks.after_start": job.hooks.after_start,
        "hooks.before_stop": job.hooks.before_stop,
        "hooks.before_terminate": job.hooks.before_terminate,
    }
    for path, commands in lists.items():
        if len(commands) > 1 and all(len(each) == 1 for each in commands) and f"{path}[0][0]" not in written:
            words = ", ".join(each[0] for each in commands)
            yield Finding(
                code="commands-of-one-word",
                path=path,
                message=f"these are {len(commands)} commands of one word each",
                hint=f"for one command write `[[{words}]]`",
                severity=Severity.WARNING,
            )


def _matrix(job: Job, written: Written) -> Iterator[Finding]:
    """`job` is not expanded yet: its `matrix` names the keys."""
    used: set[str] = set()
    for path, text in substituted_fields(job):
        for match in REFERENCE.finditer(text):
            used.add(match[1])
            if match[1] not in job.matrix:
                known = ", ".join(f"`{each}`" for each in job.matrix)
                yield Finding(
                    code="unknown-matrix-key",
                    path=path,
                    message=f"`{match[0]}` names no key of `matrix`",
                    hint=f"its keys are {known}" if known else f"add `matrix: {{{match[1]}: […]}}`",
                    reads=("matrix",),
                )
    for key in job.matrix:
        if key not in used:
            yield Finding(
                code="unused-matrix-key",
                path=f"matrix.{key}",
                message=f"no argument, variable or label uses `matrix.{key}`: its jobs would all be alike",
                hint=f"write `${{{{ matrix.{key} }}}}` where its value belongs",
                severity=Severity.WARNING,
                at=At.KEY,
                reads=("args", "env", "labels"),
            )


def _no_effect(path: str, why: str) -> Finding:
    return Finding(
        code="no-effect",
        path=path,
        message=f"`{path}` has no effect: {why}",
        hint="remove it",
        severity=Severity.WARNING,
        at=At.KEY,
        reads=("instance.platform", "instance.host", "cost.cap", "checkpoint.resume"),
    )


_RULES: tuple[Rule, ...] = (
    _platform_fields,
    _machine,
    _count,
    _on_finish,
    _cap,
    _rate,
    _cap_of_zero,
    _group_cap,
    _upload,
    _times,
    _resume,
    _environment,
    _secret_values,
    _single_words,
    _matrix,
)
