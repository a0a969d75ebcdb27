"""Where checkpoints go, how old they may be, and what a job goes on from."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from runctl.manifest.diagnostics import Finding
from runctl.manifest.job import Capacity, Job, OnFinish, Platform
from runctl.manifest.rules.rule import Rule, Written, no_effect


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


def upload_in_workdir(job: Job, base: str) -> Iterator[Finding]:
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
        yield no_effect("checkpoint.resume_arg", "with `resume: never` there is nothing to go on from")
    if job.checkpoint.signal is not None and job.checkpoint.signal == job.stop.signal:
        yield Finding(
            code="save-signal-ends",
            path="checkpoint.signal",
            message=f"`{job.stop.signal}` can't mean both: save and go on, and: save and exit",
            hint="write `checkpoint.signal: SIGUSR1`, or remove it",
            reads=("stop.signal",),
        )


RULES: tuple[Rule, ...] = (
    _upload,
    _times,
    _resume,
)
