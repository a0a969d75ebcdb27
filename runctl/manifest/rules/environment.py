"""Names and values that reach the script by its environment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runctl.manifest.diagnostics import At, Finding, Severity
from runctl.manifest.job import Job
from runctl.manifest.matrix import REFERENCE
from runctl.manifest.rules.rule import Rule, Written


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


RULES: tuple[Rule, ...] = (
    _environment,
    _secret_values,
)
