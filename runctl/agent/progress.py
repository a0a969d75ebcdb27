"""How far the training is: from what it prints anyway, from Hugging Face's `trainer_state.json`, or from lines of
JSON on the
file named in `RUNCTL_PROGRESS`.

All of it is written by the training and taken as hostile: bounded reads, numbers checked, links not followed.
"""

from __future__ import annotations

import json
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

    from runctl.agent.clocks import Now
    from runctl.agent.output import Output
    from runctl.agent.spec import Spec

    Json = Dict[str, Any]

LOOK_SECONDS = 1.0
MAX_FILE_TAIL = 8192
MAX_TRAINER_STATE = 4 * 1024 * 1024
MAX_METRICS = 16
MAX_COUNT = 10**15

_NUMBER = r"(\d{1,15})"
# Each pattern is tried where its keyword stands, from the end of the text backwards: searching 8 KiB with all of them
# each second would cost more than the agent may.
_EPOCH_OF = re.compile(rf"(?<![a-z])epochs?\b\s*[:=#]?\s*[\[(]?\s*{_NUMBER}\s*(?:/|of)\s*{_NUMBER}")
_EPOCH = re.compile(rf"(?<![a-z])epoch\b\s*[:=#]?\s*[\[(]?\s*{_NUMBER}\b(?!\s*(?:/|of\b|\.\d|%))")
_STEP_OF = re.compile(
    rf"(?<![a-z])(?:steps?|iters?|iterations?|batch)\b\s*[:=#]?\s*[\[(]?\s*{_NUMBER}\s*(?:/|of)\s*{_NUMBER}"
)
_STEP = re.compile(rf"(?<![a-z])(?:step|iter|iteration)\b\s*[:=#]?\s*{_NUMBER}\b(?!\s*(?:/|of\b|\.\d|%))")
_LOSS = re.compile(
    r"(?:(?<![a-z0-9_])|(?<=train_))(?<!val )(?<!eval )(?<!test )"
    r"loss['\"]?\s*[:=]?\s*([-+]?\d{1,12}(?:\.\d{1,15})?(?:e[-+]?\d{1,3})?)"
)
# `Epoch 2:  40%|████      | 40/100 [00:10<00:15,  4.00it/s]`
_TQDM = re.compile(rf"%\|[^|]{{0,200}}\|\s*{_NUMBER}/{_NUMBER}\s*\[")
_STEP_WORDS = ("step", "iter", "batch")
WINDOW = 300
MAX_TRIES = 32


class Progress:
    """The newest that is known. None is unknown."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file_seen = (0, 0)
        self._trainer_seen: object = None
        self._looked_at = 0.0
        self.epoch: Optional[float] = None
        self.epochs: Optional[float] = None
        self.step: Optional[float] = None
        self.steps: Optional[float] = None
        self.loss: Optional[float] = None
        self.told_fraction: Optional[float] = None
        self.metrics: Dict[str, float] = {}
        self.source: Optional[str] = None
        self.at = 0.0
        self._began = 0.0
        self._first_fraction: Optional[float] = None
        self._first_epoch: Optional[float] = None
        self._first_step: Optional[float] = None

    def begin(self, now: Now) -> None:
        """The training starts: rates count from here."""
        self._began = now.active

    def look(self, output: Output, newest_checkpoint: Optional[str], now: Now) -> bool:
        """Look for news; whether there was any. At most once a second."""
        if now.active - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now.active
        before = self._position()
        # What the script says on purpose wins over what it prints.
        if output.fresh and self.source not in ("file",):
            self.read_text(output.take_tail().decode("utf-8", "replace"))
        if newest_checkpoint is not None and self.source in (None, "trainer_state"):
            self._read_trainer_state(os.path.join(newest_checkpoint, "trainer_state.json"))
        self._read_file()
        if self._position() == before:
            return False
        self.at = now.active
        if self._first_fraction is None:
            self._first_fraction = self.fraction
        if self._first_epoch is None:
            self._first_epoch = self.epoch
        if self._first_step is None:
            self._first_step = self.step
        return True

    def look_last(self, output: Output, newest_checkpoint: Optional[str], now: Now) -> None:
        """Take what came since the last look: a training that has ended says nothing more."""
        self._looked_at = now.active - LOOK_SECONDS
        self.look(output, newest_checkpoint, now)

    def read_text(self, text: str) -> None:
        """Take the newest of each kind from printed text."""
        found = False
        text = text.lower()
        bar = _last(_TQDM, ("%|",), text)
        of = _last(_EPOCH_OF, ("epoch",), text)
        if of is not None:
            self.epoch, self.epochs, found = int(of[1]), int(of[2]) or None, True
        else:
            alone = _last(_EPOCH, ("epoch",), text)
            if alone is not None:
                self.epoch, found = int(alone[1]), True
        of = _last(_STEP_OF, _STEP_WORDS, text)
        if of is not None:
            self.step, self.steps, found = int(of[1]), int(of[2]) or None, True
        elif bar is not None and int(bar[2]) > 0:
            self.step, self.steps, found = int(bar[1]), int(bar[2]), True
        else:
            alone = _last(_STEP, _STEP_WORDS, text)
            if alone is not None:
                self.step, found = int(alone[1]), True
        loss = _last(_LOSS, ("loss",), text)
        if loss is not None:
            self.loss = float(loss[1])
        if found:
            self.source = "tqdm" if bar is not None else "log"

    @property
    def fraction(self) -> Optional[float]:
        """From 0 to 1. A step count that starts again in each epoch is a part of that epoch."""
        if self.told_fraction is not None:
            return self.told_fraction
        within = None
        if self.step is not None and self.steps:
            within = min(1.0, self.step / self.steps)
        if self.epoch is not None and self.epochs:
            if within is not None and self.source == "tqdm":
                return min(1.0, max(0.0, (self.epoch - 1 + within) / self.epochs))
            return within if within is not None else min(1.0, self.epoch / self.epochs)
        return within

    def intervals(self, spec: Spec, now: Now) -> float:
        """How many checkpoint intervals are over since the start, as far as can be known."""
        if not self._began:
            return 0.0
        every = spec.checkpoint
        if every.every_unit == "time":
            return (now.active - self._began) * 1000 / every.every_n
        count, first = (
            (self.epoch, self._first_epoch) if every.every_unit == "epochs" else (self.step, self._first_step)
        )
        return 0.0 if count is None or first is None else max(0.0, (count - first) / every.every_n)

    def state(self, now: Now) -> Optional[Json]:
        if self.source is None:
            return None
        return {
            "fraction": self.fraction,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.step,
            "steps": self.steps,
            "loss": self.loss,
            "metrics": self.metrics,
            "eta": self._eta(now),
            "source": self.source,
            "at": now.wall_of(self.at),
        }

    def _eta(self, now: Now) -> Optional[float]:
        """Seconds to the end at the rate since the start; a training that was resumed didn't start at zero."""
        fraction = self.fraction
        if fraction is None:
            return None
        if fraction >= 1:
            return 0.0
        # The first reading may come late; what was done before it counts from zero unless it is far along already.
        first = self._first_fraction or 0.0
        done, spent = fraction - first, self.at - self._began
        if done <= 0 or spent <= 0:
            return None
        return round(max(0.0, spent * (1 - fraction) / done - (now.active - self.at)), 1)

    def _position(self) -> tuple[object, ...]:
        return (self.epoch, self.epochs, self.step, self.steps, self.loss, self.told_fraction, dict(self.metrics))

    def _read_file(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            stat = os.fstat(descriptor)
            seen = (stat.st_mtime_ns, stat.st_size)
            if seen == self._file_seen:
                return
            self._file_seen = seen
            data = os.pread(descriptor, MAX_FILE_TAIL, max(0, stat.st_size - MAX_FILE_TAIL))
        except OSError:
            return
        finally:
            os.close(descriptor)
        for line in reversed(data.splitlines()):
            value = _object(line)
            if value is not None:
                self.read_record(value)
                return

    def read_record(self, value: Json) -> None:
        """Take a JSON record of the progress file; what isn't a sane number is left out."""
        self.source = "file"
        for name in ("epoch", "epochs", "step", "steps", "loss"):
            number = _sane(value.get(name))
            if number is not None:
                setattr(self, name, number)
        fraction = _sane(value.get("fraction"))
        if fraction is not None:
            self.told_fraction = min(1.0, max(0.0, fraction))
        metrics = value.get("metrics")
        if isinstance(metrics, dict):
            known = {name[:64]: _sane(number) for name, number in list(metrics.items())[:MAX_METRICS]}
            self.metrics = {name: number for name, number in known.items() if number is not None}

    def _read_trainer_state(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            stat = os.fstat(descriptor)
            seen = (path, stat.st_mtime_ns, stat.st_size)
            if seen == self._trainer_seen or stat.st_size > MAX_TRAINER_STATE:
                return
            self._trainer_seen = seen
            value = _object(os.read(descriptor, MAX_TRAINER_STATE))
        except OSError:
            return
        finally:
            os.close(descriptor)
        if value is None:
            return
        for name, field in (
            ("epoch", "epoch"),
            ("epochs", "num_train_epochs"),
            ("step", "global_step"),
            ("steps", "max_steps"),
        ):
            number = _sane(value.get(field))
            if number is not None and number > 0:
                setattr(self, name, number)
                self.source = "trainer_state"
        history = value.get("log_history")
        for entry in reversed(history if isinstance(history, list) else []):
            loss = _sane(entry.get("loss")) if isinstance(entry, dict) else None
            if loss is not None:
                self.loss = loss
                return


def _last(pattern: re.Pattern[str], keywords: Tuple[str, ...], text: str) -> Optional[re.Match[str]]:
    """The last match that begins with one of the keywords."""
    best: Optional[re.Match[str]] = None
    for keyword in keywords:
        place = len(text)
        for _ in range(MAX_TRIES):
            place = text.rfind(keyword, 0, place)
            if place < 0 or (best is not None and place < best.start()):
                break
            match = pattern.match(text, place, place + WINDOW)
            if match is not None:
                best = match
                break
    return best


def _object(data: bytes) -> Optional[Json]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _sane(value: object) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -MAX_COUNT < value < MAX_COUNT:
        return None
    return value
