"""A GPT that learns, with a checkpoint of all of it every so many steps: the training that `large` measures.

Writes what each step and save took to the file named as its only argument. Needs PyTorch.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import torch
from torch import nn
from torch.nn import functional

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
# On a GPU 312 million parameters, 3.5 GiB with the optimizer's state; on a CPU one that is only to be tried.
LAYERS, WIDTH, HEADS, CONTEXT, BATCH = (24, 1024, 16, 1024, 16) if GPU else (2, 64, 2, 64, 4)
VOCABULARY, DRAWN_FROM, FOLLOWING = 8192, 512, 0.9
RATE, WARM_UP_STEPS = 3e-4, 20


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        parts = self.mixed(self.before(x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.narrow(functional.gelu(self.wide(self.between(x))))


class Model(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.last = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)
        for weights in (self.tokens.weight, self.places.weight):
            nn.init.normal_(weights, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tokens(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return functional.linear(self.last(h), self.tokens.weight)


@functools.cache
def rule() -> torch.Tensor:
    """What a token has become after so many others: `[distance, token]`."""
    rows = [torch.arange(DRAWN_FROM, device=DEVICE)]
    for _ in range(CONTEXT):
        rows.append((rows[-1] * 5 + 11) % DRAWN_FROM)
    return torch.stack(rows)


def batch_of(step: int) -> torch.Tensor:
    """Nine tokens of ten follow from the one before by the rule, which is to be learned; the tenth is drawn. A step has
    always the same ones. Shape `[batch, context + 1]`."""
    random = torch.Generator(device=DEVICE).manual_seed(1_000_003 + step)
    shape = (BATCH, CONTEXT + 1)
    drawn = torch.randint(DRAWN_FROM, shape, generator=random, device=DEVICE)
    follows = torch.rand(shape, generator=random, device=DEVICE) < FOLLOWING
    follows[:, 0] = False
    places = torch.arange(CONTEXT + 1, device=DEVICE)
    origins = torch.where(follows, 0, places).cummax(dim=1).values
    return rule()[places - origins, drawn.gather(1, origins)]


class Training:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.step = 0
        self.model = Model().to(DEVICE)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, fused=GPU)

    def learn(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (self.step + 1) / WARM_UP_STEPS)
        tokens = batch_of(self.step)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            guessed = self.model(tokens[:, :-1])
        loss = functional.cross_entropy(guessed.float().flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def save(self, directory: Path) -> Path:
        """Under a temporary name, to the disk, then renamed."""
        path = directory / f"step-{self.step}.pt"
        content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        with path.with_suffix(".tmp").open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        return path.with_suffix(".tmp").rename(path)

    def load(self, path: Path) -> None:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.step = int(found["step"])


def main() -> None:
    leaving: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        leaving.append(number)

    signal.signal(signal.SIGTERM, leave)
    directory, every = Path(os.environ["RUNCTL_CHECKPOINT_DIR"]), int(os.environ["RUNCTL_CHECKPOINT_EVERY"].split()[0])
    training, saved = Training(), Path()
    if source := os.environ.get("RUNCTL_RESUME_FROM"):
        training.load(Path(source))
    with open(sys.argv[1], "a", buffering=1) as told:
        while not leaving:
            began = time.time()
            loss = training.learn()
            print(json.dumps({"step": training.step, "at": began, "seconds": time.time() - began}), file=told)
            if training.step % 10 == 0:
                print(f"step {training.step} loss={loss:.4f}", flush=True)
            if training.step % every == 0 or leaving:
                began, before = time.time(), saved
                saved = training.save(directory)
                size = saved.stat().st_size
                print(json.dumps({"saved": size, "at": began, "seconds": time.time() - began}), file=told)
                if before.is_file():
                    before.unlink()


if __name__ == "__main__":
    main()
