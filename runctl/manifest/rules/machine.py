"""Which machine, and what may be done with it."""

from __future__ import annotations

from collections.abc import Iterator

from runctl.manifest.diagnostics import At, Finding
from runctl.manifest.job import Capacity, Job, OnFinish, Platform
from runctl.manifest.rules.rule import Rule, Written, no_effect

_OWNED = frozenset({Platform.LOCAL, Platform.SSH})


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
        yield no_effect("instance.start", "only instances of `platform: aws` can be stopped and started")


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


RULES: tuple[Rule, ...] = (
    _platform_fields,
    _machine,
    _count,
    _on_finish,
)
