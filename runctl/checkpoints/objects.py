"""Object storage as a port: the few operations on one bucket that durable checkpoints need, and how they fail.

`s3_client` is it over a network. Bodies are bytes, checksums hex SHA-256, instants seconds since the epoch by the
service's clock. Every operation raises ObjectStorageError where it can't be done; those that a caller can go on from
are `Exists`, `Conflict`, `Absent` and `Mismatch`, raised where an operation says so.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Optional, Sequence


class ObjectStorageError(OSError):
    """The service didn't do it; the message says what was tried in which bucket, why not, and what to do."""


class NoClient(ObjectStorageError):
    """Nothing here speaks to it."""


class NoCredentials(ObjectStorageError):
    """None were found, or they aren't accepted."""


class Forbidden(ObjectStorageError):
    """They don't allow it."""


class Vanished(ObjectStorageError):
    """There is no such bucket."""


class Unavailable(ObjectStorageError):
    """Throttled, or the service failed, more often than was tried."""


class Unreachable(ObjectStorageError):
    """No answer: whether the operation had its effect isn't known."""


class Refused(ObjectStorageError):
    """Anything else that the service says."""


class Exists(Exception):
    """The key was to be absent and isn't (412)."""


class Conflict(Exception):
    """Another conditional put of the key was under way (409); whether it succeeds isn't known."""


class Absent(Exception):
    """No such object, or upload."""


class Mismatch(Exception):
    """The service received something else than the checksum says."""


class Head:
    """An object as the service describes it. `sha256` is base64, for one in parts that over the checksums of these;
    None where the service keeps none.
    """

    __slots__ = ("sha256", "size")

    def __init__(self, size: int, sha256: Optional[str]) -> None:
        self.size = size
        self.sha256 = sha256


class Entry:
    """A key in a listing, or an open upload to it."""

    __slots__ = ("key", "modified", "upload")

    def __init__(self, key: str, modified: float, upload: str = "") -> None:
        self.key = key
        self.modified = modified
        self.upload = upload


class Part:
    """A part that has arrived."""

    __slots__ = ("etag", "number", "sha256")

    def __init__(self, number: int, etag: str, sha256: str) -> None:
        self.number = number
        self.etag = etag
        self.sha256 = sha256


class Objects:
    """One bucket. Thread-safe."""

    bucket: str

    def put(self, key: str, body: bytes, sha256: str) -> None:
        """Raises Mismatch."""
        raise NotImplementedError

    def create(self, key: str, body: bytes, sha256: str) -> None:
        """Put it if the key is absent. Raises Exists, Conflict, Mismatch."""
        raise NotImplementedError

    def begin(self, key: str) -> str:
        """Begin an upload in parts; returns its id."""
        raise NotImplementedError

    def put_part(self, key: str, upload: str, number: int, body: bytes, sha256: str) -> Part:
        """Numbers begin at 1; all parts but the last have at least 5 MiB. Raises Absent, Mismatch."""
        raise NotImplementedError

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Raises Absent, also where an earlier call whose answer was lost has done it."""
        raise NotImplementedError

    def abort(self, key: str, upload: str) -> None:
        """Drop its parts. One that isn't there is no error."""
        raise NotImplementedError

    def head(self, key: str) -> Head:
        """Raises Absent."""
        raise NotImplementedError

    def get(self, key: str, start: int, length: int) -> bytes:
        """So many bytes from there on, fewer at the end. Raises Absent."""
        raise NotImplementedError

    def list(self, prefix: str) -> Iterator[Entry]:
        """All keys that begin so, in order, page after page."""
        raise NotImplementedError

    def uploads(self, prefix: str) -> Iterator[Entry]:
        """The open uploads to such keys."""
        raise NotImplementedError

    def delete(self, keys: List[str]) -> None:
        """Any number of them; those that aren't there are no error."""
        raise NotImplementedError
