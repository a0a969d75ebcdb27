"""What the name of a file in a checkpoint directory says: kind, step, epoch, or that it is none of a checkpoint."""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# Kinds of candidates. `unknown` is decided by the file's first bytes.
BY_EXTENSION = {
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "unknown",
    ".bin": "unknown",
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".npy": "npy",
    ".keras": "zip",
    ".json": "json",
}
# Beside checkpoints, never one.
SIDECARS = frozenset(
    [
        ".txt",
        ".log",
        ".yaml",
        ".yml",
        ".md",
        ".csv",
        ".tsv",
        ".toml",
        ".ini",
        ".cfg",
        ".jsonl",
        ".py",
        ".ipynb",
        ".png",
        ".jpg",
        ".jpeg",
        ".svg",
        ".pdf",
        ".html",
        ".lock",
        ".sha256",
        ".md5",
        ".out",
        ".err",
        ".pid",
        ".gz",
        ".tfevents",
    ]
)
SIDECAR_DIRECTORIES = frozenset(
    [
        "logs",
        "log",
        "runs",
        "tensorboard",
        "tb",
        "wandb",
        "mlruns",
        "lightning_logs",
        "events",
        "samples",
        "images",
        "plots",
        "__pycache__",
    ]
)
_NUMBER_AFTER = r"[-_=. ]{0,2}0*(\d{1,15})(?!\d)"
_STEP = re.compile(
    rf"(?<![a-z])(?:global_?step|step|iteration|iter|batch|checkpoint|ckpt)s?{_NUMBER_AFTER}", re.IGNORECASE
)
_EPOCH = re.compile(rf"(?<![a-z])(?:epoch|ep)s?{_NUMBER_AFTER}", re.IGNORECASE)
_ANY = re.compile(r"(?<![A-Za-z\d.])0*(\d{1,15})(?![\d.])")


def is_temporary(name: str) -> bool:
    """Whether a name looks like something that is still being written, or hidden."""
    lower = name.lower()
    return (
        lower.startswith((".", "tmp", "_tmp", "#"))
        or lower.endswith((".tmp", ".temp", ".part", ".partial", ".incomplete", ".swp", ".writing", "~"))
        or ".tmp." in lower
        or ".tmp-" in lower
        or ".orbax-checkpoint-tmp" in lower
    )


def is_sidecar(name: str) -> bool:
    """Whether a file of that name is never a checkpoint itself."""
    return os.path.splitext(name.lower())[1] in SIDECARS or "tfevents" in name


def is_sidecar_directory(name: str) -> bool:
    return name.lower() in SIDECAR_DIRECTORIES


def kind_of(name: str) -> str:
    """The kind by extension; `unknown` where the first bytes must tell."""
    return BY_EXTENSION.get(os.path.splitext(name.lower())[1], "unknown")


def kind_by_content(path: str) -> str:
    """The kind of a file by its first bytes: `torch` (a zip), `pickle` or `opaque`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        head = os.read(descriptor, 8)
    finally:
        os.close(descriptor)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:
        return "pickle"
    return "opaque"


def is_numbered(name: str) -> bool:
    """Whether a directory of that name is likely one of a series of checkpoints."""
    return _STEP.search(name) is not None or _EPOCH.search(name) is not None or name.isdigit()


def step_of(name: str) -> Optional[int]:
    """The step that a name tells, such as 500 of `checkpoint-500`."""
    found = _STEP.search(name)
    if found is not None:
        return int(found[1])
    if epoch_of(name) is not None:
        return None
    alone = _ANY.findall(os.path.splitext(name)[0])
    return int(alone[0]) if len(alone) == 1 else None


def epoch_of(name: str) -> Optional[int]:
    """The epoch that a name tells, such as 4 of `epoch=4.ckpt`."""
    found = _EPOCH.search(name)
    return None if found is None else int(found[1])
