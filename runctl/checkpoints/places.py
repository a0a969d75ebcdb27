"""Where durable checkpoints are, as text: what an agent may ask of it without loading what stores them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

S3 = "s3://"


def split(location: str) -> Tuple[str, str, int, int]:
    """The destination, uid, attempt and number of a location. Raises ValueError."""
    destination, uid, attempt, seq = location.rsplit("/", 3)
    return destination, uid, int(attempt), int(seq)
