# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy>=1.26"]
# ///
"""Learns to read handwritten digits with NumPy: a neural network, Adam, and images shifted at random.

The comment above (PEP 723) declares what the script needs; `setup: auto` builds that environment.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

import checkpointing
import dataset

SIDE, HIDDEN, CLASSES, BATCH = 8, 512, 10, 8
Array = np.ndarray[Any, np.dtype[Any]]


class Training:
    """The whole state, each part an array: weights, Adam's two moments of each, place in the data."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.weights: dict[str, Array] = {
            "hidden": rng.normal(0, 1 / SIDE, (SIDE * SIDE, HIDDEN)),
            "hidden_bias": np.zeros(HIDDEN),
            "output": rng.normal(0, HIDDEN**-0.5, (HIDDEN, CLASSES)),
            "output_bias": np.zeros(CLASSES),
        }
        self.mean = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.square = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.seed, self.epoch, self.batch, self.step = seed, 0, 0, 0
        self.loss_sum = 0.0  # over the finished batches of the present epoch

    def parts(self) -> dict[str, dict[str, Array]]:
        return {"weights": self.weights, "mean": self.mean, "square": self.square}

    def arrays(self) -> dict[str, Array]:
        named = {f"{part}.{name}": array for part, arrays in self.parts().items() for name, array in arrays.items()}
        named["place"] = np.array([self.seed, self.epoch, self.batch, self.step], dtype=np.int64)
        named["loss_sum"] = np.array(self.loss_sum)
        return named


def forward(weights: dict[str, Array], images: Array) -> tuple[Array, Array]:
    active = np.maximum(images @ weights["hidden"] + weights["hidden_bias"], 0)
    scores = active @ weights["output"] + weights["output_bias"]
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    return active, exps / exps.sum(axis=1, keepdims=True)


def train_batch(state: Training, images: Array, labels: Array, rate: float) -> float:
    """One step of Adam; the batch's mean loss."""
    active, error = forward(state.weights, images)
    rows = np.arange(len(labels))
    loss = float(-np.log(np.maximum(error[rows, labels], 1e-12)).mean())
    error[rows, labels] -= 1
    error /= len(labels)
    back = (error @ state.weights["output"].T) * (active > 0)
    gradients = {
        "hidden": images.T @ back,
        "hidden_bias": back.sum(axis=0),
        "output": active.T @ error,
        "output_bias": error.sum(axis=0),
    }
    state.step += 1
    rate *= math.sqrt(1 - 0.999**state.step) / (1 - 0.9**state.step)
    for name, gradient in gradients.items():
        state.mean[name] = 0.9 * state.mean[name] + 0.1 * gradient
        state.square[name] = 0.999 * state.square[name] + 0.001 * gradient**2
        state.weights[name] = state.weights[name] - rate * state.mean[name] / (np.sqrt(state.square[name]) + 1e-8)
    return loss


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Each image moved by at most one pixel: people don't write in the middle."""
    framed = np.pad(images.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    corners = rng.integers(0, 3, (len(images), 2))
    moved = [image[y : y + SIDE, x : x + SIDE] for image, (y, x) in zip(framed, corners)]
    return np.stack(moved).reshape(len(images), -1)


def write(path: Path, state: Training) -> None:
    with path.open("wb") as file:
        np.savez(file, **state.arrays())  # type: ignore[arg-type]


def read(path: Path) -> Training:
    """The state in a file that `write` wrote; any other makes it raise. Never unpickles."""
    state = Training(0)
    with np.load(path, allow_pickle=False) as found:
        state.seed, state.epoch, state.batch, state.step = (int(number) for number in found["place"])
        state.loss_sum = float(found["loss_sum"])
        for part, values in state.parts().items():
            for name, value in values.items():
                values[name] = found[f"{part}.{name}"]
                if values[name].shape != value.shape:
                    raise checkpointing.Damaged(f"its `{name}` is of another model")
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    checkpointing.add_arguments(parser)
    args = parser.parse_args()

    train, held_out = dataset.load()
    images, labels = np.array(train.images), np.array(train.labels)
    test_images, test_labels = np.array(held_out.images), np.array(held_out.labels)
    per_epoch = math.ceil(len(labels) / BATCH)
    state = Training(args.seed)
    if args.resume:
        state = checkpointing.resume(args.resume, read)
        print(f"resumed from {args.resume}: epoch {state.epoch}, step {state.step}", flush=True)

    def check(path: Path) -> None:
        again, wanted = read(path).arrays(), state.arrays()
        if not all(np.array_equal(again[name], value) for name, value in wanted.items()):
            raise checkpointing.Damaged(f"{path} does not hold what was saved")

    saver = checkpointing.Checkpoints(args, ".npz", lambda path: write(path, state), check)
    progress = checkpointing.Progress(args.epochs, args.epochs * per_epoch)

    while state.epoch < args.epochs:
        rng = np.random.default_rng([state.seed, 1, state.epoch])
        order, seen = rng.permutation(len(labels)), shifted(images, rng)
        while state.batch < per_epoch:
            chosen = order[state.batch * BATCH : (state.batch + 1) * BATCH]
            state.loss_sum += train_batch(state, seen[chosen], labels[chosen], args.learning_rate)
            state.batch += 1
            saver.after_step(state.epoch, state.step)
        loss = state.loss_sum / per_epoch
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        right = forward(state.weights, test_images)[1].argmax(axis=1) == test_labels
        progress.report(state.epoch, state.step, loss, float(right.mean()))
        saver.after_epoch(state.epoch, state.step, args.epochs)


if __name__ == "__main__":
    main()
