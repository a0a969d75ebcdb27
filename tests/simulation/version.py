"""What was run: a seed is the same life only in the same code."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def code() -> str:
    """A checksum of the product and of the simulation, as they are on the disk."""
    digest = blake2b(digest_size=8)
    simulation = (each for each in (ROOT / "tests" / "simulation").glob("*.py") if not each.name.startswith("test_"))
    for path in sorted([*(ROOT / "runctl").rglob("*.py"), *simulation]):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def commit(git: Path = ROOT / ".git") -> str:
    """The commit that the working tree is of, whatever has been changed in it since; `unknown` where git has none."""
    try:
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (line.split() for line in (git / "packed-refs").read_text().splitlines())
        return next((found for found, *ref in packed if ref == [name]), "unknown")
    except OSError:
        return "unknown"


def version() -> str:
    return f"commit {commit()[:12]}, code {code()}"
