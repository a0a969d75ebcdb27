# /// script
# requires-python = ">=3.9"
# dependencies = ["torch>=2.2", "numpy>=1.26"]
# ///
"""Learns to read handwritten digits with PyTorch: a small convolutional network on the CPU or a GPU."""

from __future__ import annotations

import argparse
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import checkpointing
import dataset

SIDE, CLASSES, BATCH = 8, 10, 16


class Training:
    """The whole state: model, optimizer, and the place in the data. The order follows from the seed."""

    def __init__(self, seed: int, device: str, rate: float) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.model = nn.Sequential(
            nn.Unflatten(1, (1, SIDE, SIDE)),
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 16, CLASSES),
        ).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=rate)
        self.seed, self.epoch, self.batch = seed, 0, 0
        self.loss_sum = 0.0  # over the finished batches of the present epoch

    def content(self) -> dict[str, Any]:
        place = {"seed": self.seed, "epoch": self.epoch, "batch": self.batch, "loss_sum": self.loss_sum}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "place": place}

    def write(self, path: Path) -> None:
        torch.save(self.content(), path)

    def read(self, path: Path) -> Training:
        """Takes the state from a file that `write` wrote; any other makes it raise. Unpickles no code."""
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch.load doesn't compare checksums
        if broken:
            raise checkpointing.Damaged(f"the checksum of its `{broken}` does not match")
        # On the CPU: from there each tensor gets to where the optimizer wants it. Adam counts its steps there.
        found = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        place = found["place"]
        self.seed, self.epoch, self.batch = int(place["seed"]), int(place["epoch"]), int(place["batch"])
        self.loss_sum = float(place["loss_sum"])
        return self

    def check(self, path: Path) -> None:
        """Raises unless the file holds exactly the present state."""
        if not same(torch.load(path, map_location="cpu", weights_only=True), self.content()):
            raise checkpointing.Damaged(f"{path} does not hold what was saved")


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one.cpu(), other.cpu()))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    checkpointing.add_arguments(parser)
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)

    train, held_out = dataset.load()
    images, labels = (
        torch.tensor(train.images, device=args.device),
        torch.tensor(train.labels, device=args.device),
    )
    test_images = torch.tensor(held_out.images, device=args.device)
    test_labels = torch.tensor(held_out.labels, device=args.device)
    per_epoch = math.ceil(len(labels) / BATCH)
    state = Training(args.seed, args.device, args.learning_rate)
    if args.resume:
        checkpointing.resume(args.resume, state.read)
        print(
            f"resumed from {args.resume}: epoch {state.epoch}, step {state.epoch * per_epoch + state.batch}",
            flush=True,
        )

    saver = checkpointing.Checkpoints(args, ".pt", state.write, state.check)
    progress = checkpointing.Progress(args.epochs, args.epochs * per_epoch)
    measure = nn.CrossEntropyLoss()

    while state.epoch < args.epochs:
        shuffler = torch.Generator().manual_seed(state.seed * 1_000_003 + state.epoch)
        order = torch.randperm(len(labels), generator=shuffler).to(args.device)
        while state.batch < per_epoch:
            chosen = order[state.batch * BATCH : (state.batch + 1) * BATCH]
            state.optimizer.zero_grad()
            loss = measure(state.model(images[chosen]), labels[chosen])
            loss.backward()
            state.optimizer.step()
            state.loss_sum += loss.item()
            state.batch += 1
            saver.after_step(state.epoch, state.epoch * per_epoch + state.batch)
        mean_loss = state.loss_sum / per_epoch
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        with torch.no_grad():
            right = (state.model(test_images).argmax(dim=1) == test_labels).float().mean()
        progress.report(state.epoch, state.epoch * per_epoch, mean_loss, float(right))
        saver.after_epoch(state.epoch, state.epoch * per_epoch, args.epochs)


if __name__ == "__main__":
    main()
