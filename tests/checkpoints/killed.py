"""`python -m tests.checkpoints.killed DESTINATION SOURCE N`: store a checkpoint, and be killed before the nth write."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from .far_side import Bucket, Directory


def main(destination: str, source: str, write: str) -> None:
    def at_write(number: int) -> None:
        if number == int(write):
            os.kill(os.getpid(), signal.SIGKILL)

    s3 = destination.startswith("s3://")
    far = Bucket(destination[5:].split("/")[0]) if s3 else Directory(Path(destination))
    facts = {"job": "j", "uid": "u", "attempt": 1, "seq": 1, "name": os.path.basename(source), "step": 1}
    far.open_watched(at_write, pytest.MonkeyPatch()).store(source, {**facts, "epoch": None, "at": 1.0, "format": "x"})


if __name__ == "__main__":
    main(*sys.argv[1:])
