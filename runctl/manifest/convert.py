"""The model as read → the inner `Job`: shorthands resolved, every default filled in."""

from __future__ import annotations

from runctl.manifest import job as inner
from runctl.manifest import model
from runctl.manifest.quantities import Duration, Money, parse_duration

IDLE_WHERE_RENTED = parse_duration("30m")
"""Long enough for a slow start or an evaluation, half an hour's price at the most."""

_RENTED = frozenset({inner.Platform.AWS, inner.Platform.SLURM})


def to_job(manifest: model.Manifest) -> inner.Job:
    """The job of a manifest; of one with a `matrix`, the job before it is expanded."""
    instance = _instance(manifest.instance)
    checkpoint, cost, retry, stop = manifest.checkpoint, manifest.cost, manifest.retry, manifest.stop
    return inner.Job(
        name=manifest.name,
        script=manifest.script,
        labels=manifest.labels,
        instance=instance,
        workdir=manifest.workdir,
        args=manifest.args,
        env=manifest.env,
        secrets=manifest.secrets,
        launcher=manifest.launcher,
        setup=manifest.setup,
        sync_exclude=manifest.sync.exclude,
        inputs=tuple(inner.Transfer(source=each.source, target=each.target) for each in manifest.inputs),
        outputs=tuple(inner.Transfer(source=each.source, target=each.target) for each in manifest.outputs),
        checkpoint=inner.Checkpoint(
            dir=checkpoint.dir,
            every=checkpoint.every,
            deadline=checkpoint.deadline,
            on_deadline=checkpoint.on_deadline,
            signal=checkpoint.signal,
            upload=checkpoint.upload,
            keep=checkpoint.keep,
            grace=checkpoint.grace,
            format=checkpoint.format,
            resume=checkpoint.resume,
            resume_arg=checkpoint.resume_arg,
        ),
        cost=inner.Cost(
            cap=cost.cap if isinstance(cost.cap, Money) else None,
            uncapped=cost.cap == "none",
            warn_at=cost.warn_at,
            max_hourly=cost.max_hourly,
        ),
        limits=_limits(manifest.limits, instance.platform),
        stop=inner.Stop(signal=stop.signal, to=stop.to),
        retry=inner.Retry(
            interruptions=None if retry.interruptions == "unlimited" else retry.interruptions,
            failures=retry.failures,
        ),
        wait=manifest.wait,
        hooks=inner.Hooks(
            after_start=manifest.hooks.after_start,
            before_stop=manifest.hooks.before_stop,
            before_terminate=manifest.hooks.before_terminate,
        ),
        notify=tuple(inner.Webhook(webhook=each.webhook, on=each.on) for each in manifest.notify),
        group=inner.Group(cap=manifest.group.cap, max_parallel=manifest.group.max_parallel),
        matrix={},
    )


def _instance(instance: model.Instance) -> inner.Instance:
    platform = instance.platform
    if platform is None:
        platform = inner.Platform.LOCAL if instance.host is None else inner.Platform.SSH
    on_finish = instance.on_finish
    if on_finish is None:
        launched = platform is inner.Platform.AWS and instance.id is None
        on_finish = inner.OnFinish.TERMINATE if launched else inner.OnFinish.KEEP
    return inner.Instance(
        platform=platform,
        type=instance.type,
        id=instance.id,
        host=instance.host,
        region=instance.region,
        capacity=instance.capacity,
        count=instance.count,
        disk=instance.disk,
        hourly_rate=instance.hourly_rate,
        start=instance.start,
        busy=instance.busy,
        on_finish=on_finish,
    )


def _limits(limits: model.Limits, platform: inner.Platform) -> inner.Limits:
    idle = limits.idle
    if idle is None:
        idle = IDLE_WHERE_RENTED if platform in _RENTED else "off"
    return inner.Limits(
        duration=_or_off(limits.duration), idle=_or_off(idle), setup=limits.setup, hang=_or_off(limits.hang)
    )


def _or_off(limit: Duration | str) -> Duration | None:
    return limit if isinstance(limit, Duration) else None
