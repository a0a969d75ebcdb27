"""Caps, and the prices without which they can't be held."""

from __future__ import annotations

from collections.abc import Iterator

from runctl.manifest.diagnostics import Finding, Severity
from runctl.manifest.job import Job, Platform
from runctl.manifest.quantities import format_money
from runctl.manifest.rules.rule import Rule, Written, no_effect

_HOUR_MILLIS = 3_600_000
_PRICED_BY_RATE = frozenset({Platform.LOCAL, Platform.SSH, Platform.SLURM})


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
    if cost.cap is None and "cost.warn_at" in written:
        yield no_effect("cost.warn_at", "there is no cap to warn of")
    if cost.max_hourly is not None and unpriced:
        yield Finding(
            code="max-hourly-without-price",
            path="cost.max_hourly",
            message=f"a machine of `platform: {instance.platform.value}` has no price of its own to compare with",
            label="can't be held",
            hint="add `instance.hourly_rate`, such as `hourly_rate: 0.50 USD`, or remove the field",
            reads=("instance.platform", "instance.host", "instance.hourly_rate"),
        )


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


RULES: tuple[Rule, ...] = (
    _cap,
    _rate,
    _cap_of_zero,
    _group_cap,
)
