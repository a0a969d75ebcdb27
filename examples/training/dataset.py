"""The handwritten digits that the example trainings learn from: real data, shipped in `data/digits.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).resolve().parent / "data" / "digits.csv"
HELD_OUT = 297  # the last images: by other writers than the first, so accuracy is measured on unseen hands


class Digits(NamedTuple):
    """Images of 64 pixels from 0.0 to 1.0, with the digit that each shows."""

    images: list[list[float]]
    labels: list[int]


def load() -> tuple[Digits, Digits]:
    """The images to train on and those held out."""
    rows = [line.split(",") for line in FILE.read_text("ascii").splitlines()[1:]]
    images = [[int(pixel, 17) / 16 for pixel in pixels] for _, pixels in rows]
    labels = [int(label) for label, _ in rows]
    return Digits(images[:-HELD_OUT], labels[:-HELD_OUT]), Digits(images[-HELD_OUT:], labels[-HELD_OUT:])
