"""`spec.json`: what this attempt is to run. Written once by the controller before the start."""

from __future__ import annotations

import os
import signal

from runctl.agent.files import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    Json = Dict[str, Any]

VERSION = 1
DEFAULT_SEGMENT_BYTES = 64 * 1024 * 1024


class BadSpec(ValueError):
    """`spec.json` can't be used; `args[0]` says where and why."""


class Spec:
    """The attempt as frozen by the controller; durations in seconds, signals as numbers."""

    def __init__(self, value: Json, run_dir: str) -> None:
        """Raises BadSpec."""
        if value.get("version") != VERSION:
            raise BadSpec(f"`version` is {value.get('version')!r}, this agent reads {VERSION}")
        self.run_dir = run_dir
        self.run_id: str = _get(value, "run_id", str)
        self.job: str = _get(value, "job", str)
        self.uid: str = _component(value, "uid")
        self.attempt: int = _get(value, "attempt", int)
        self.epoch: int = _get(value, "epoch", int, 0)
        self.launch_before: Optional[float] = _seconds(value, "launch_before")
        self.home_fence: Optional[str] = value.get("home_fence")
        self.busy: str = _one_of(value, "busy", ("refuse", "share"), "refuse")
        self.cwd: str = _get(value, "cwd", str)
        self.argv: List[str] = _argv(value, "argv")
        self.env: Dict[str, str] = _strings(value, "env")
        self.secrets: List[str] = _list(value, "secrets")
        self.steps: List[Step] = [Step(step, self.cwd) for step in _get(value, "steps", list, [])]
        self.setup_timeout: Optional[float] = _seconds(value, "setup_timeout")
        self.checkpoint = Checkpoints(_get(value, "checkpoint", dict), run_dir)
        stop = _get(value, "stop", dict, {})
        self.stop_signal: int = _signal(stop.get("signal", "SIGTERM"), "stop.signal")
        self.stop_to: str = _one_of(stop, "to", ("leader", "group"), "leader")
        self.hooks = Hooks(_get(value, "hooks", dict, {}))
        log = _get(value, "log", dict, {})
        self.segment_bytes: int = max(1, _get(log, "segment_bytes", int, DEFAULT_SEGMENT_BYTES))

    @property
    def request_path(self) -> str:
        return os.path.join(self.run_dir, "checkpoint-request")

    @property
    def progress_path(self) -> str:
        return os.path.join(self.run_dir, "progress")


class Step:
    """One preparation step: skipped if `unless` exists, run under the `lock` where there is one."""

    def __init__(self, value: Json, cwd: str) -> None:
        self.name: str = _get(value, "name", str)
        self.argv: List[str] = _argv(value, "argv")
        self.cwd: str = _get(value, "cwd", str, cwd)
        self.env: Dict[str, str] = _strings(value, "env")
        self.timeout: Optional[float] = _seconds(value, "timeout")
        self.unless: Optional[str] = value.get("unless")
        self.lock: Optional[str] = value.get("lock")


class Checkpoints:
    """Where checkpoints appear, how often, in which format, and where their durable copies go."""

    def __init__(self, value: Json, run_dir: str) -> None:
        self.dir: str = os.path.abspath(_get(value, "dir", str))
        every = _get(value, "every", dict, {})
        self.every_unit: str = _one_of(every, "unit", ("epochs", "steps", "time"), "epochs")
        self.every_n: int = max(1, _get(every, "n", int, 2))
        format_ = _get(value, "format", dict, {})
        kinds = ("auto", "torch", "safetensors", "npz", "directory", "command")
        self.format: str = _one_of(format_, "kind", kinds, "auto")
        self.command: List[str] = _argv(format_, "command") if self.format == "command" else []
        self.destination: str = value.get("destination") or os.path.join(run_dir, "checkpoints")
        self.client: Optional[str] = value.get("client")  # the directory of the S3 client
        name = value.get("signal")
        self.signal: Optional[int] = None if name is None else _signal(name, "checkpoint.signal")
        self.grace: float = _seconds(value, "grace") or 0.0
        self.restore: Optional[Restore] = None
        if value.get("restore") is not None:
            self.restore = Restore(_get(value, "restore", dict))
        self.resume_arg: Optional[str] = value.get("resume_arg")
        self.go_on: bool = value.get("go_on") is True  # whatever it has stored itself

    @property
    def every_text(self) -> str:
        """The interval as the script reads it: `2 epochs`, `500 steps`, `600s`."""
        if self.every_unit == "time":
            return f"{self.every_n / 1000:g}s"
        return f"{self.every_n} {self.every_unit}"


class Restore:
    """What the training goes on from: a durable copy (verified by its manifest), or plain files (by their format)."""

    def __init__(self, value: Json) -> None:
        self.source: str = _get(value, "source", str)
        self.name: str = _component(value, "name")
        self.kind: str = _one_of(value, "kind", ("durable", "plain"), "durable")


class Hooks:
    def __init__(self, value: Json) -> None:
        self.after_start: List[List[str]] = _argvs(value, "after_start")
        self.before_stop: List[List[str]] = _argvs(value, "before_stop")
        self.before_terminate: List[List[str]] = _argvs(value, "before_terminate")
        self.timeout: float = _seconds(value, "timeout") or 30.0


def read_spec(run_dir: str) -> Spec:
    """Raises BadSpec."""
    path = os.path.join(run_dir, "spec.json")
    try:
        return Spec(read_json(path), run_dir)
    except BadSpec as error:
        raise BadSpec(f"`spec.json` can't be used: {error}") from None
    except (OSError, ValueError) as error:
        raise BadSpec(f"`spec.json` can't be read: {error}") from None


_REQUIRED = object()


def _get(value: Json, name: str, kind: type, default: Any = _REQUIRED) -> Any:
    found = value.get(name)
    if found is None:
        if default is _REQUIRED:
            raise BadSpec(f"`{name}` is missing")
        return default
    if not isinstance(found, kind) or isinstance(found, bool):
        raise BadSpec(f"`{name}` is a {type(found).__name__}, not a {kind.__name__}")
    return found


def _one_of(value: Json, name: str, accepted: Tuple[str, ...], default: str) -> str:
    found: str = _get(value, name, str, default)
    if found not in accepted:
        raise BadSpec(f"`{name}` is `{found}`, not one of {', '.join(accepted)}")
    return found


def _component(value: Json, name: str) -> str:
    """A text that is one component of a path."""
    found: str = _get(value, name, str)
    if found in ("", ".", "..") or "/" in found or "\0" in found:
        raise BadSpec(f"`{name}` is `{found}`, not the name of one file")
    return found


def _list(value: Json, name: str) -> List[str]:
    found: List[str] = _get(value, name, list, [])
    if not all(isinstance(item, str) and "\0" not in item for item in found):
        raise BadSpec(f"`{name}` holds something that isn't text")
    return found


def _argv(value: Json, name: str) -> List[str]:
    found = _list(value, name)
    if not found:
        raise BadSpec(f"`{name}` is empty")
    return found


def _argvs(value: Json, name: str) -> List[List[str]]:
    return [_argv({name: argv}, name) for argv in _get(value, name, list, [])]


def _strings(value: Json, name: str) -> Dict[str, str]:
    found: Dict[str, str] = _get(value, name, dict, {})
    for key, text in found.items():
        if not isinstance(text, str) or "\0" in text or "\0" in key or "=" in key or not key:
            raise BadSpec(f"`{name}.{key}` can't be an environment variable")
    return found


def _seconds(value: Json, name: str) -> Optional[float]:
    found = value.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < 1e12:
        raise BadSpec(f"`{name}` is not a number of seconds")
    return float(found)


def _signal(name: object, where: str) -> int:
    number = getattr(signal, name, None) if isinstance(name, str) and name.startswith("SIG") else None
    if not isinstance(number, signal.Signals):
        raise BadSpec(f"`{where}` is `{name}`, not the name of a signal of this host")
    return int(number)
