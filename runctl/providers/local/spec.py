"""The attempt in the agent's terms: `spec.json`, built from the job, its frozen code and its environment's recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from runctl.home import Home
from runctl.manifest.job import Busy
from runctl.manifest.rules.saving import file_path
from runctl.planner.record import Attempt, Generation, Record
from runctl.workspace.environment import Place, Recipe, Step, check_step, recipe, training_argv
from runctl.workspace.interpreter import Interpreter

# What a training may see of the environment that runctl was called in; everything else is the manifest's to pass.
PASSED = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "RUNCTL_HOST_LOCK_DIR"),
    )
)
PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "PIP_", "UV_")

HOOK_SECONDS = 30.0


def passed_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the caller's environment that every attempt sees."""
    return {k: v for k, v in environ.items() if k in PASSED or k.startswith(PASSED_PREFIXES)}


def prepare(home: Home, generation: Generation, work: Path) -> tuple[Recipe, tuple[Step, ...]]:
    """The recipe of the attempt whose code lies in `work`, and all of its preparation steps, the check included."""
    job, source = generation.job, generation.source
    place = Place(
        tree=home.code / source.code_hash / "tree",
        code_hash=source.code_hash,
        work=work,
        workdir=source.workdir,
        envs=home.envs,
        path=source.path,
    )
    python = Interpreter(path=source.python, version=source.python_version) if source.python else None
    made = recipe(place, job.script, job.setup, python, source.uv, timeout=job.limits.setup.seconds)
    if not source.imports:
        return made, made.steps
    return made, (*made.steps, check_step(made, source.imports, place))


def build(
    home: Home, record: Record, attempt: Attempt, generation: Generation, epoch: int, environ: Mapping[str, str]
) -> dict[str, Any]:
    """`spec.json` of `attempt`. Holds no secret: only their names."""
    job = generation.job
    run_dir = home.run_dir(record.uid, attempt.number)
    cwd = run_dir / "work" / generation.source.workdir
    made, steps = prepare(home, generation, run_dir / "work")
    env = {**passed_environment(environ), **made.env, **job.env, "RUNCTL_DEADLINE": _deadline(attempt)}
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
        "checkpoint": _checkpoint(home, generation, attempt, cwd),
        "stop": {"signal": job.stop.signal, "to": job.stop.to},
        "hooks": {
            "after_start": [list(argv) for argv in job.hooks.after_start],
            "before_stop": [list(argv) for argv in job.hooks.before_stop],
            "before_terminate": [list(argv) for argv in job.hooks.before_terminate],
            "timeout": HOOK_SECONDS,
        },
    }


def run_id(record: Record, attempt: Attempt) -> str:
    return f"{record.uid}-{attempt.number}"


def destination(home: Home, generation: Generation) -> Path:
    """Where durable copies go: the path of `checkpoint.upload` (from the user's own workdir), or the home."""
    path = file_path(generation.job.checkpoint.upload or "")
    if path is None:
        return home.checkpoints
    return Path(os.path.normpath(Path(generation.source.root, generation.source.workdir, path)))


def _checkpoint(home: Home, generation: Generation, attempt: Attempt, cwd: Path) -> dict[str, Any]:
    policy = generation.job.checkpoint
    fmt: dict[str, Any] = {"kind": policy.format.kind}
    if policy.format.command:
        fmt["command"] = list(policy.format.command)
    return {
        "dir": str(cwd / policy.dir),
        "every": {"unit": policy.every.unit, "n": policy.every.n},
        "format": fmt,
        "destination": str(destination(home, generation)),
        "signal": policy.signal,
        "grace": policy.grace.seconds,
        "restore": _restore(generation, attempt),
        "resume_arg": policy.resume_arg,
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
