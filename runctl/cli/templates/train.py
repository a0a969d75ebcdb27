"""A small training that does what a job needs: it saves when asked, resumes where it was, and stops on SIGTERM.

It fits a line to noisy points by gradient descent and takes a second for each epoch, a minute in all: time enough to
try `runctl stop`. Replace that by your own model.
"""

import argparse
import json
import os
import random
import re
import signal
import time
from pathlib import Path

STEPS = 20  # in an epoch
DIRECTORY = Path(os.environ.get("RUNCTL_CHECKPOINT_DIR", "checkpoints"))
REQUEST = Path(os.environ.get("RUNCTL_CHECKPOINT_REQUEST", "checkpoint-request"))
# `2 epochs`, `500 steps`, or seconds: `10m` in the manifest arrives as `600s`.
EVERY = os.environ.get("RUNCTL_CHECKPOINT_EVERY", "2 epochs")
NUMBER, UNIT = re.fullmatch(r"([\d.e+]+) ?(epoch|step|s)s?", EVERY).groups()

stopping = False


def on_sigterm(signum, frame):
    global stopping
    stopping = True


def requested():
    """Something else each time that somebody asks for a checkpoint: the file appears, or is replaced."""
    try:
        found = REQUEST.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def save(epoch, step, weights):
    """Under a temporary name first: a checkpoint is whole, or it isn't there."""
    target = DIRECTORY / f"epoch-{epoch}-step-{step}"
    if target.exists():
        return
    temporary = DIRECTORY / f".{target.name}.tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    with open(temporary / "state.json", "w") as file:
        json.dump({"step": step, "weights": weights}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(target)
    print(f"saved {target.name}", flush=True)


def resume():
    """What RUNCTL_RESUME_FROM names; a damaged one is an error, never a silent restart."""
    source = os.environ.get("RUNCTL_RESUME_FROM")
    if not source:
        return 0, [0.0, 0.0]
    state = json.loads((Path(source) / "state.json").read_text())
    return state["step"], state["weights"]


def due(step, seconds):
    """Whether the interval is over, after that many steps in all and seconds since the last checkpoint."""
    number = float(NUMBER)
    if UNIT == "s":
        return seconds >= number
    return step % (number * STEPS if UNIT == "epoch" else number) == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=60)
    epochs = parser.parse_args().epochs
    signal.signal(signal.SIGTERM, on_sigterm)
    points = [(x, 3 * x + 1 + random.Random(x).uniform(-0.1, 0.1)) for x in (n / 50 for n in range(50))]
    step, (slope, offset) = resume()
    saved_at, asked = time.monotonic(), None
    while step < epochs * STEPS and not stopping:
        for x, y in points:
            error = slope * x + offset - y
            slope -= 0.01 * error * x
            offset -= 0.01 * error
        time.sleep(1 / STEPS)
        step += 1
        epoch = step // STEPS
        if step % STEPS == 0:
            loss = sum((slope * x + offset - y) ** 2 for x, y in points) / len(points)
            print(f"epoch {epoch}/{epochs} step {step} loss {loss:.4f}", flush=True)
        before, asked = asked, requested()
        last = stopping or step == epochs * STEPS
        if last or asked != before or due(step, time.monotonic() - saved_at):
            save(epoch, step, [slope, offset])
            saved_at = time.monotonic()


main()
