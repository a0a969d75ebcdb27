"""A small training that does what a job needs: it saves when asked, resumes where it was, and stops on SIGTERM.

It fits a line to noisy points by gradient descent; replace that by your own model.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

EPOCHS = 20
EVERY = int(os.environ.get("RUNCTL_CHECKPOINT_EVERY", "2 epochs").split()[0])
DIRECTORY = Path(os.environ.get("RUNCTL_CHECKPOINT_DIR", "checkpoints"))

stopping = False


def on_sigterm(signum, frame):
    global stopping
    stopping = True


def save(epoch, weights):
    """Under a temporary name first: a checkpoint is whole, or it isn't there."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    target = DIRECTORY / f"epoch-{epoch}"
    temporary = DIRECTORY / f".epoch-{epoch}.tmp"
    temporary.mkdir(exist_ok=True)
    with open(temporary / "state.json", "w") as file:
        json.dump({"epoch": epoch, "weights": weights}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(target)


def resume():
    """What RUNCTL_RESUME_FROM names; a damaged one is an error, never a silent restart."""
    source = os.environ.get("RUNCTL_RESUME_FROM")
    if not source:
        return 0, [0.0, 0.0]
    state = json.loads((Path(source) / "state.json").read_text())
    return state["epoch"], state["weights"]


def main():
    signal.signal(signal.SIGTERM, on_sigterm)
    points = [(x, 3 * x + 1 + random.Random(x).uniform(-0.1, 0.1)) for x in (n / 50 for n in range(50))]
    epoch, (slope, offset) = resume()
    while epoch < EPOCHS and not stopping:
        for x, y in points:
            error = slope * x + offset - y
            slope -= 0.1 * error * x
            offset -= 0.1 * error
        epoch += 1
        loss = sum((slope * x + offset - y) ** 2 for x, y in points) / len(points)
        print(f"epoch {epoch}/{EPOCHS} loss {loss:.4f}", flush=True)
        if stopping or epoch % EVERY == 0 or epoch == EPOCHS:
            save(epoch, [slope, offset])
        time.sleep(0.2)
    sys.exit(0)


main()
