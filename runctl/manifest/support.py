"""What this version of runctl can't do yet: a valid manifest that `apply` refuses, instead of ignoring a part of it."""

from __future__ import annotations

from collections.abc import Iterator

from runctl.manifest.diagnostics import At, Finding
from runctl.manifest.job import Job, Platform
from runctl.manifest.rules.saving import file_path


def unsupported(job: Job) -> Iterator[Finding]:
    """One finding for each part of the job that `apply` has to refuse."""
    instance, checkpoint = job.instance, job.checkpoint
    if instance.platform not in (Platform.LOCAL, Platform.SSH):
        path = "instance.platform"
        yield _refused(path, f"`platform: {instance.platform.value}`", "write `platform: local` or `platform: ssh`")
    if instance.count > 1:
        yield _refused("instance.count", "more than one machine", "write `count: 1`")
    if checkpoint.resume.startswith("s3:"):
        hint = "write a `file:` URL; what `checkpoint.upload` keeps in S3 is gone on from by itself"
        yield _refused("checkpoint.resume", "a start from S3", hint)
    for path, url in (("checkpoint.upload", checkpoint.upload or ""), ("checkpoint.resume", checkpoint.resume)):
        place = file_path(url)
        if instance.platform is Platform.SSH and place is not None and not place.startswith("/"):
            yield _refused(path, "a relative path on another host", "write a path from `/` on, of that host")
    if job.inputs:
        yield _refused("inputs", "`inputs`", "let the script read the data, or bring it there before")
    if job.outputs:
        yield _refused("outputs", "`outputs`", "let the script write its results where they belong")
    if job.notify:
        yield _refused("notify", "`notify`", "use a hook, or follow `runctl events`")
    for index, secret in enumerate(job.secrets):
        if secret.source is not None:
            hint = f"write `{secret.name}` alone, to take it from your environment"
            yield _refused(f"secrets[{index}]", "secrets from a parameter store", hint)


def _refused(path: str, what: str, hint: str) -> Finding:
    return Finding(
        code="not-supported-yet",
        path=path,
        message=f"{what} is not supported by this version of runctl",
        label="accepted by `validate`, refused by `apply`",
        hint=hint,
        at=At.VALUE,
    )
