"""The attempt in the agent's terms: `spec.json`, built from the job, its frozen code and its environment's recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from runctl.agent.placement import passed_environment
from runctl.checkpoints.places import S3
from runctl.home import Home
from runctl.manifest.job import Busy
from runctl.manifest.rules.saving import file_path
from runctl.planner.record import Attempt, Generation, Orders, Record
from runctl.snapshots.manifest import TREE
from runctl.workspace.environment import OF_THE_INTERPRETER, Place, Recipe, Step, check_step, recipe, training_argv
from runctl.workspace.interpreter import Interpreter
from runctl.workspace.problems import WorkspaceError

HOOK_SECONDS = 30.0


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host, as attempts on it are described. `home` has the paths there; `code` is where snapshots can be read here;
    `environ` is what a training may see of the environment there, without secrets; `python` and `uv` are those that the
    script is run and built with; `client` tells where the S3 client is, or will be."""

    home: Home
    code: Path
    environ: Mapping[str, str]
    python: Interpreter | None
    uv: str | None
    path: str
    client: Callable[[], str]


def prepare(host: Host, generation: Generation, work: Path) -> tuple[Recipe, tuple[Step, ...]]:
    """The recipe of the attempt whose code lies in `work`, and all of its preparation steps, the check included."""
    job, source = generation.job, generation.source
    place = Place(
        tree=host.code / source.code_hash / TREE,
        stored=host.home.code / source.code_hash / TREE,
        code_hash=source.code_hash,
        work=work,
        workdir=source.workdir,
        envs=host.home.envs,
        path=host.path,
    )
    made = recipe(place, job.script, job.setup, host.python, host.uv, timeout=job.limits.setup.seconds)
    unfit = next((each for each in made.findings if each.code in OF_THE_INTERPRETER), None)
    if unfit is not None:
        raise WorkspaceError(unfit.message, unfit.hint)
    if not source.imports:
        return made, made.steps
    return made, (*made.steps, check_step(made, source.imports, place))


def build(host: Host, record: Record, attempt: Attempt, generation: Generation, epoch: int) -> dict[str, Any]:
    """`spec.json` of `attempt`. Holds no secret: only their names."""
    job, home = generation.job, host.home
    run_dir = home.run_dir(record.uid, attempt.number)
    cwd = run_dir / "work" / generation.source.workdir
    made, steps = prepare(host, generation, run_dir / "work")
    env = {**passed_environment(host.environ), **made.env, **job.env, "RUNCTL_DEADLINE": _deadline(attempt)}
    return {
        "version": 1,
        "run_id": run_id(record, attempt),
        "job": record.name,
        "uid": record.uid,
        "attempt": attempt.number,
        "epoch": epoch,
        "launch_before": attempt.launch_before.timestamp(),
        "home_fence": str(home.job_dir(record.uid) / "fence"),
        "busy": "share" if job.instance.busy is Busy.SHARE else "refuse",
        "cwd": str(cwd),
        "argv": list(training_argv(job, made)),
        "env": env,
        "secrets": [secret.name for secret in job.secrets],
        "steps": [msgspec.to_builtins(step) for step in steps],
        "setup_timeout": job.limits.setup.seconds,
        "checkpoint": _checkpoint(host, generation, attempt, cwd),
        "stop": {"signal": job.stop.signal, "to": job.stop.to},
        "hooks": {
            "after_start": [list(argv) for argv in job.hooks.after_start],
            "before_stop": [list(argv) for argv in job.hooks.before_stop],
            "before_terminate": [list(argv) for argv in job.hooks.before_terminate],
            "timeout": HOOK_SECONDS,
        },
    }


def orders_json(orders: Orders, epoch: int) -> dict[str, Any]:
    """The orders in the agent's terms."""
    limits = orders.limits
    money = limits.money
    return {
        "serial": orders.serial,
        "epoch": epoch,
        "limits": {
            "money": {"until": money.until.timestamp(), "seconds": money.seconds} if money else None,
            "duration": {"seconds": limits.duration} if limits.duration is not None else None,
            "idle": limits.idle,
            "hang": limits.hang,
            "deadline": limits.deadline,
            "on_deadline": limits.on_deadline,
            "keep": limits.keep,
        },
        "end": {"reason": orders.end} if orders.end else None,
    }


def run_id(record: Record, attempt: Attempt) -> str:
    return f"{record.uid}-{attempt.number}"


def destination(home: Home, generation: Generation) -> str:
    """Where durable copies go: an S3 URL or the path of `checkpoint.upload` (from the user's own workdir), or the
    home."""
    upload = generation.job.checkpoint.upload or ""
    if upload.startswith(S3):
        return upload.rstrip("/")
    path = file_path(upload)
    if path is None:
        return str(home.checkpoints)
    return os.path.normpath(Path(generation.source.root, generation.source.workdir, path))


def _checkpoint(host: Host, generation: Generation, attempt: Attempt, cwd: Path) -> dict[str, Any]:
    policy = generation.job.checkpoint
    to, source = destination(host.home, generation), attempt.resume.path if attempt.resume is not None else ""
    fmt: dict[str, Any] = {"kind": policy.format.kind}
    if policy.format.command:
        fmt["command"] = list(policy.format.command)
    return {
        "dir": str(cwd / policy.dir),
        "every": {"unit": policy.every.unit, "n": policy.every.n},
        "format": fmt,
        "destination": to,
        "client": host.client() if S3 in (to[: len(S3)], source[: len(S3)]) else None,
        "signal": policy.signal,
        "grace": policy.grace.seconds,
        "restore": _restore(generation, attempt),
        "resume_arg": policy.resume_arg,
        "go_on": policy.resume != "never",
    }


def _restore(generation: Generation, attempt: Attempt) -> dict[str, str] | None:
    """The newest durable checkpoint of the job; before there is one, what `checkpoint.resume` names."""
    if attempt.resume is not None:
        return {"kind": "durable", "source": attempt.resume.path, "name": attempt.resume.name}
    named = generation.job.checkpoint.resume
    if named in ("auto", "never"):
        return None
    source = generation.source
    path = Path(os.path.normpath(Path(source.root, source.workdir, file_path(named) or named)))
    return {"kind": "plain", "source": str(path), "name": path.name}


def _deadline(attempt: Attempt) -> str:
    """Seconds since the epoch at which the attempt is over at the latest, empty if nothing says so."""
    money = attempt.orders.limits.money
    return f"{money.until.timestamp():.0f}" if money else ""
