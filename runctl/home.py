"""Where the program keeps its state: one directory, named by `RUNCTL_HOME` or the platform's custom."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec


class Home(msgspec.Struct, frozen=True):
    """The paths inside one home. Two homes share nothing but the machines' locks."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "state.sqlite"

    @property
    def clients(self) -> Path:
        """What agents store checkpoints in S3 with."""
        return self.root / "clients"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def code(self) -> Path:
        return self.root / "code"

    @property
    def envs(self) -> Path:
        return self.root / "envs"

    @property
    def checkpoints(self) -> Path:
        """Durable copies of jobs that name no other destination."""
        return self.root / "checkpoints"

    @property
    def agents(self) -> Path:
        return self.root / "agents"

    @property
    def controller_pid(self) -> Path:
        return self.root / "controller.pid"

    @property
    def controller_log(self) -> Path:
        return self.root / "controller.log"

    def job_dir(self, uid: str) -> Path:
        return self.runs / uid

    def run_dir(self, uid: str, attempt: int) -> Path:
        return self.runs / uid / f"{attempt:06d}"


def find_home(environ: Mapping[str, str]) -> Home:
    """`RUNCTL_HOME`, else `~/Library/Application Support/runctl` on macOS, else `$XDG_STATE_HOME/runctl` or
    `~/.local/state/runctl`."""
    named = environ.get("RUNCTL_HOME")
    if named:
        return Home(Path(named).expanduser().absolute())
    user = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if sys.platform == "darwin":
        return Home(user / "Library" / "Application Support" / "runctl")
    state = environ.get("XDG_STATE_HOME")
    return Home((Path(state) if state and Path(state).is_absolute() else user / ".local" / "state") / "runctl")
