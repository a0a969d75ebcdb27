"""When to save, where, and how to leave: what a training needs to be stopped and resumed at any moment.

Standard library only, for every format: the script brings `write` and `read` for its own. The rules it keeps:

- A checkpoint gets its name only after it is on the disk, read back and found equal to what was to be saved.
- SIGTERM saves and leaves with exit code 0. SIGUSR1 and a request file save and go on.
- Signals only set a flag. Saving happens between two steps, where the state is whole.
- A resume target that is missing or damaged ends the script. Starting from zero would cost the whole run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, NoReturn

DEFAULT_EVERY = "2 epochs"
RESUME_FAILED = 2  # the exit code of every usage error, which a bad resume target is
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Damaged(Exception):
    """A checkpoint file that can't be resumed from; the text says why."""


class Interval:
    """`2 epochs`, `500 steps`, `10m`: how often to save."""

    def __init__(self, text: str) -> None:
        count = re.fullmatch(r"\s*(\d+)\s*(epoch|step)s?\s*", text)
        spans = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", text)
        if count:
            self.unit, self.n = count[2], float(count[1])
        elif spans and not re.sub(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", "", text).strip():
            self.unit, self.n = "second", sum(float(n) * SECONDS[unit] for n, unit in spans)
        else:
            self.unit, self.n = "", 0.0
        if not self.n:
            raise argparse.ArgumentTypeError(f"`{text}` is not an interval: write `2 epochs`, `500 steps` or `10m`")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every example; a flag beats the environment, which runctl fills from the manifest."""
    env = os.environ.get
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        default=Path(env("RUNCTL_CHECKPOINT_DIR") or "checkpoints"),
        metavar="DIR",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=Interval,
        default=env("RUNCTL_CHECKPOINT_EVERY") or DEFAULT_EVERY,
        metavar="INTERVAL",
        help="`2 epochs` (default), `500 steps` or `10m`",
    )
    parser.add_argument("--keep", type=int, default=3, metavar="N", help="newest checkpoints of this run to keep")
    parser.add_argument(
        "--resume",
        default=env("RUNCTL_RESUME_FROM") or None,
        metavar="FILE",
        help="go on from this checkpoint; it is an error if it is missing or damaged",
    )


def resume(path: str, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of the file, or the end of the script: never a silent start from zero."""
    try:
        return read(Path(path))
    except Exception as error:  # a damaged file makes its reader fail in any way that it likes
        if isinstance(error, Damaged):
            why = str(error)
        else:
            why = getattr(error, "strerror", None) or f"not a whole checkpoint of this script ({error!r:.80})"
        print(f"error: can't resume from `{path}`: {why}", file=sys.stderr)
        print("hint: name another checkpoint, or leave out --resume to start from zero", file=sys.stderr)
        raise SystemExit(RESUME_FAILED) from None


def write_whole(path: Path, write: Callable[[Path], None], check: Callable[[Path], None]) -> None:
    """Write under a temporary name, get it onto the disk, check it, and only then give it its name.

    Whoever looks at `path`, now or after a power cut, sees the old file or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        check(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Checkpoints:
    """Saves by the interval, on request and on SIGTERM.

    `write(path)` writes the training's present state; `check(path)` raises unless the file holds just that.
    Call `after_step` between any two steps and `after_epoch` between two epochs.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        suffix: str,
        write: Callable[[Path], None],
        check: Callable[[Path], None],
    ) -> None:
        self.directory: Path = args.checkpoint_dir
        self.every: Interval = args.checkpoint_every
        self.keep: int = args.keep
        self.suffix, self.write, self.check = suffix, write, check
        request_file = os.environ.get("RUNCTL_CHECKPOINT_REQUEST")
        self.request_file = Path(request_file) if request_file else None
        self.request_seen: tuple[int, int] | None = None
        self.saved_at = time.monotonic()
        self.saved: list[Path] = []
        self.terminating = self.asked = False
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGUSR1, self._on_sigusr1)

    def _on_sigterm(self, *_: object) -> None:
        self.terminating = True

    def _on_sigusr1(self, *_: object) -> None:
        self.asked = True

    def _requested(self) -> bool:
        """Whether somebody asked since the last look; a replaced request file is a new request."""
        asked, self.asked = self.asked, False
        if self.request_file:
            try:
                found = self.request_file.stat()
            except OSError:
                return asked
            seen, self.request_seen = self.request_seen, (found.st_ino, found.st_mtime_ns)
            return asked or seen != self.request_seen
        return asked

    def after_step(self, epoch: int, step: int) -> None:
        """`epoch` and `step` count what is finished."""
        due = (self.every.unit == "step" and step % self.every.n == 0) or (
            self.every.unit == "second" and time.monotonic() - self.saved_at >= self.every.n
        )
        if self._requested() or due or self.terminating:
            self.save(epoch, step)
        if self.terminating:
            leave(f"stopping as asked at epoch {epoch}, step {step}")

    def after_epoch(self, epoch: int, step: int, last: int) -> None:
        """Saves when the interval says so, and after the last epoch in any case."""
        if (self.every.unit == "epoch" and epoch % self.every.n == 0) or epoch == last:
            self.save(epoch, step)

    def save(self, epoch: int, step: int) -> None:
        path = self.directory / f"epoch-{epoch}-step-{step}{self.suffix}"
        if self.saved[-1:] == [path]:
            return
        started = time.monotonic()
        write_whole(path, self.write, self.check)
        self.saved_at = time.monotonic()
        self.saved.append(path)
        print(f"saved {path} ({path.stat().st_size} bytes, {self.saved_at - started:.2f} s)", flush=True)
        while len(self.saved) > max(self.keep, 1):
            self.saved.pop(0).unlink(missing_ok=True)


def leave(why: str) -> NoReturn:
    print(why, flush=True)
    raise SystemExit(0)


class Progress:
    """Tells how far the training is: a line for people, and a line of JSON where `RUNCTL_PROGRESS` says."""

    def __init__(self, epochs: int, steps: int) -> None:
        self.epochs, self.steps = epochs, steps
        path = os.environ.get("RUNCTL_PROGRESS")
        self.file = open(path, "a", encoding="utf-8", buffering=1) if path else None

    def report(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        print(f"epoch {epoch}/{self.epochs} loss={loss:.4f} acc={accuracy:.4f}", flush=True)
        if self.file:
            line: dict[str, Any] = {"epoch": epoch, "epochs": self.epochs, "step": step, "steps": self.steps}
            line.update(loss=loss, metrics={"accuracy": accuracy})
            self.file.write(json.dumps(line) + "\n")
