# /// script
# requires-python = ">=3.9"
# dependencies = []
# ///
"""Learns to read handwritten digits: a small neural network in plain Python, nothing to install.

Stop it whenever you like and go on with `--resume`: the result is the same to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import struct
from array import array
from operator import mul
from pathlib import Path

import checkpointing
import dataset

PIXELS, HIDDEN, CLASSES, BATCH = 64, 24, 10, 16
Matrix = list[list[float]]  # a row for each unit; the last number of a row is the unit's bias


class Training:
    """The whole state: two layers of weights, and the place in the data. The order follows from the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0  # finished epochs
        self.batch = 0  # finished batches of the present epoch
        self.loss_sum = 0.0  # over those batches
        rng = random.Random(f"weights {seed}")
        self.hidden = [[rng.gauss(0, PIXELS**-0.5) for _ in range(PIXELS)] + [0.0] for _ in range(HIDDEN)]
        self.output = [[rng.gauss(0, HIDDEN**-0.5) for _ in range(HIDDEN)] + [0.0] for _ in range(CLASSES)]

    def layers(self) -> dict[str, Matrix]:
        return {"hidden": self.hidden, "output": self.output}

    def place(self) -> dict[str, str]:
        return {
            "seed": str(self.seed),
            "epoch": str(self.epoch),
            "batch": str(self.batch),
            "loss_sum": self.loss_sum.hex(),
        }


def forward(state: Training, image: list[float]) -> tuple[list[float], list[float]]:
    """What the hidden units say, and the probability of each digit."""
    active = [max(0.0, sum(map(mul, row, image)) + row[-1]) for row in state.hidden]
    scores = [sum(map(mul, row, active)) + row[-1] for row in state.output]
    top = max(scores)
    exps = [math.exp(score - top) for score in scores]
    total = sum(exps)
    return active, [value / total for value in exps]


def train_batch(state: Training, images: Matrix, labels: list[int], rate: float) -> float:
    """One step of gradient descent; the batch's mean loss."""
    hidden = [[0.0] * (PIXELS + 1) for _ in range(HIDDEN)]
    output = [[0.0] * (HIDDEN + 1) for _ in range(CLASSES)]
    columns = list(zip(*state.output))
    loss = 0.0
    for image, label in zip(images, labels):
        active, error = forward(state, image)
        loss -= math.log(max(error[label], 1e-12))
        error[label] -= 1.0
        add_outer(output, error, active)
        back = [sum(map(mul, error, column)) if unit > 0 else 0.0 for unit, column in zip(active, columns)]
        add_outer(hidden, back, image)
    step = rate / len(labels)
    state.hidden = [[w - step * g for w, g in zip(*pair)] for pair in zip(state.hidden, hidden)]
    state.output = [[w - step * g for w, g in zip(*pair)] for pair in zip(state.output, output)]
    return loss / len(labels)


def add_outer(gradient: Matrix, errors: list[float], inputs: list[float]) -> None:
    for row, error in zip(gradient, errors):
        if error:
            row[:] = [g + error * x for g, x in zip(row, inputs)] + [row[-1] + error]


def accuracy(state: Training, digits: dataset.Digits) -> float:
    guesses = [forward(state, image)[1] for image in digits.images]
    return sum(guess.index(max(guess)) == label for guess, label in zip(guesses, digits.labels)) / len(guesses)


def write(path: Path, state: Training) -> None:
    """A .safetensors file, which needs no library: the length of a JSON header, the header, the numbers."""
    tensors: dict[str, object] = {}
    data = b""
    for name, matrix in state.layers().items():
        content = array("d", (value for row in matrix for value in row)).tobytes()
        offsets = [len(data), len(data) + len(content)]
        tensors[name] = {"dtype": "F64", "shape": [len(matrix), len(matrix[0])], "data_offsets": offsets}
        data += content
    tensors["__metadata__"] = {**state.place(), "sha256": checksum(state.place(), data)}
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def read(path: Path) -> Training:
    """The state in a file that `write` wrote; any other makes it raise."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    tensors, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    place = tensors.pop("__metadata__")
    if place.pop("sha256") != checksum(place, data):
        raise checkpointing.Damaged("its checksum does not match")
    state = Training(int(place["seed"]))
    for name, matrix in state.layers().items():
        height, width = len(matrix), len(matrix[0])
        if tensors[name]["shape"] != [height, width]:
            raise checkpointing.Damaged(f"its `{name}` layer is of another model")
        values = array("d", data[slice(*tensors[name]["data_offsets"])])
        matrix[:] = [list(values[row * width : (row + 1) * width]) for row in range(height)]
    state.epoch, state.batch = int(place["epoch"]), int(place["batch"])
    state.loss_sum = float.fromhex(place["loss_sum"])
    return state


def checksum(place: dict[str, str], data: bytes) -> str:
    return hashlib.sha256(json.dumps(place, sort_keys=True).encode() + data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)
    checkpointing.add_arguments(parser)
    args = parser.parse_args()

    train, held_out = dataset.load()
    per_epoch = math.ceil(len(train.labels) / BATCH)
    state = Training(args.seed)
    if args.resume:
        state = checkpointing.resume(args.resume, read)
        print(
            f"resumed from {args.resume}: epoch {state.epoch}, step {state.epoch * per_epoch + state.batch}",
            flush=True,
        )

    def check(path: Path) -> None:
        again = read(path)
        if (again.layers(), again.place()) != (state.layers(), state.place()):
            raise checkpointing.Damaged(f"{path} does not hold what was saved")

    saver = checkpointing.Checkpoints(args, ".safetensors", lambda path: write(path, state), check)
    progress = checkpointing.Progress(args.epochs, args.epochs * per_epoch)

    while state.epoch < args.epochs:
        order = list(range(len(train.labels)))
        random.Random(f"order {state.seed} {state.epoch}").shuffle(order)
        while state.batch < per_epoch:
            chosen = order[state.batch * BATCH : (state.batch + 1) * BATCH]
            images, labels = [train.images[i] for i in chosen], [train.labels[i] for i in chosen]
            state.loss_sum += train_batch(state, images, labels, args.learning_rate)
            state.batch += 1
            saver.after_step(state.epoch, state.epoch * per_epoch + state.batch)
        loss = state.loss_sum / per_epoch
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        progress.report(state.epoch, state.epoch * per_epoch, loss, accuracy(state, held_out))
        saver.after_epoch(state.epoch, state.epoch * per_epoch, args.epochs)


if __name__ == "__main__":
    main()
