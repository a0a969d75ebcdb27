"""S3 by botocore: the only file that knows it, imported where it is first used. Its exceptions end here.

Credentials, region, profile and `AWS_ENDPOINT_URL` are found as every AWS tool finds them. No message holds a secret.
"""

from __future__ import annotations

import base64
import os
import sys

from runctl.checkpoints.objects import (
    Absent,
    Conflict,
    Entry,
    Exists,
    Forbidden,
    Head,
    Mismatch,
    NoClient,
    NoCredentials,
    Objects,
    ObjectStorageError,
    Part,
    Refused,
    Unavailable,
    Unreachable,
    Vanished,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Sequence, Type

    Json = Dict[str, Any]

# In a delivered client: the least Python that its libraries declare, as `3.10`.
REQUIRES_PYTHON = "requires-python"
TRIES = 5
READ_TRIES = 3
CONNECT_SECONDS = 10
READ_SECONDS = 60
# The service's own limits.
LISTED_AT_ONCE = 1000
DELETED_AT_ONCE = 1000
MAX_SAID = 300

_CREDENTIALS_REFUSED = frozenset(
    "ExpiredToken ExpiredTokenException InvalidAccessKeyId InvalidToken SignatureDoesNotMatch TokenRefreshRequired "
    "UnrecognizedClientException InvalidClientTokenId AuthFailure NotSignedUp".split()
)
_FORBIDDEN = frozenset("AccessDenied AllAccessDisabled AccountProblem 403 Forbidden".split())
_THROTTLED = frozenset("SlowDown Throttling ThrottlingException RequestLimitExceeded TooManyRequests".split())
_MISMATCH = frozenset("BadDigest InvalidDigest XAmzContentChecksumMismatch XAmzContentSHA256Mismatch".split())
_NEEDED = (
    "s3:PutObject, s3:GetObject, s3:DeleteObject and s3:AbortMultipartUpload on its objects, s3:ListBucket and "
    "s3:ListBucketMultipartUploads on the bucket"
)


def connect(bucket: str, client: Optional[str] = None) -> Objects:
    """A bucket, of which nothing is asked yet. `client` is the directory of a delivered client, which goes before one
    that is installed. Raises NoClient, NoCredentials, Refused.
    """
    _find(client)
    import botocore.session
    from botocore.config import Config

    tries = {} if "AWS_MAX_ATTEMPTS" in os.environ else {"total_max_attempts": TRIES}
    settings: Json = {
        "retries": {"mode": "standard", **tries},
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "tcp_keepalive": True,
        # Each object has its SHA-256, which is checked here as well; another checksum would only cost time.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "user_agent_extra": "runctl",
    }
    try:
        session = botocore.session.get_session()
        region = session.get_config_variable("region") or "us-east-1"
        made = session.create_client("s3", region_name=region, config=Config(**settings))
        chosen = (session.get_scoped_config().get("s3") or {}).get("addressing_style")
        if chosen is None and ".amazonaws." not in made.meta.endpoint_url:
            # Few other services have a host name for each bucket.
            config = Config(**settings, s3={"addressing_style": "path"})
            made = session.create_client("s3", region_name=region, config=config)
        return S3Objects(bucket, made)
    except Exception as error:
        raise _Failures(bucket, "").of(error, "connect") from None


def _find(client: Optional[str]) -> None:
    """Make sure that botocore can be imported: the delivered one, else what this Python has installed. An agent runs
    without its Python's own directories.
    """
    least = _least_python(client) if client is not None else None
    fits = least is not None and sys.version_info[:2] >= least
    if client is not None and fits and client not in sys.path:
        sys.path.insert(0, client)
    if _importable():
        return
    import site

    for path in [*site.getsitepackages(), site.getusersitepackages()]:
        if os.path.isdir(path) and path not in sys.path:
            sys.path.append(path)
    if _importable():
        return
    here = ".".join(str(number) for number in sys.version_info[:2])
    why = "botocore isn't installed"
    if client is not None and least is not None:
        why = f"the S3 client that comes with runctl needs Python {least[0]}.{least[1]}, this is {here}"
    raise NoClient(
        f"checkpoints can't go to S3 from here: {why}; install botocore for this Python, or name another one"
    )


def _least_python(client: str) -> "Optional[tuple[int, ...]]":
    try:
        with open(os.path.join(client, REQUIRES_PYTHON)) as file:
            return tuple(int(number) for number in file.read().strip().split("."))
    except (OSError, ValueError):
        return None


def _importable() -> bool:
    from importlib.util import find_spec

    return find_spec("botocore") is not None


class _Failures:
    """What botocore raises, as ours."""

    def __init__(self, bucket: str, endpoint: str) -> None:
        self._bucket = bucket
        self._endpoint = endpoint

    def of(self, error: Exception, operation: str) -> Exception:
        from botocore import exceptions

        what = f"`{operation}` on bucket `{self._bucket}`"
        if isinstance(error, exceptions.ClientError):
            return self._said(error.response, what)
        if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
            return NoCredentials(
                f"{what}: no AWS credentials on this host; give it a role, or AWS_PROFILE or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in its environment"
            )
        names = {cls.__name__ for cls in type(error).__mro__}
        if names & {"CredentialRetrievalError", "SSOError", "TokenRetrievalError", "ProfileNotFound", "LoginError"}:
            return NoCredentials(
                f"{what}: the AWS credentials of this host can't be had ({type(error).__name__}); log in again, or "
                "look at AWS_PROFILE and ~/.aws/config"
            )
        if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
            at = f" at {self._endpoint}" if self._endpoint else ""
            return Unreachable(
                f"{what}: no answer{at} ({type(error).__name__}); look at the host's network, its proxy "
                "and AWS_ENDPOINT_URL"
            )
        if isinstance(error, exceptions.ParamValidationError) and "Unknown parameter" in str(error):
            return NoClient(f"{what}: the botocore that is installed here is too old for conditional writes; update it")
        if isinstance(error, exceptions.ParamValidationError):
            return Refused(f"{what}: the name of the bucket, or of an object, is none that S3 accepts")
        if operation == "connect" and isinstance(error, ValueError):
            return Refused(f"{what}: the address or the region isn't valid; look at AWS_ENDPOINT_URL and AWS_REGION")
        if type(error).__module__.startswith("urllib3."):
            return Unreachable(f"{what}: the connection broke ({type(error).__name__})")
        if isinstance(error, exceptions.BotoCoreError):
            return Refused(f"{what}: {type(error).__name__}")
        if type(error).__name__ == "ResponseParserError":
            return Unavailable(f"{what}: what answers isn't S3; is there a portal or a proxy in between?")
        # From a program or a service that the credentials come from: refreshed ones may be over already, say.
        return NoCredentials(
            f"{what}: the AWS credentials of this host can't be had ({type(error).__name__}); log in again, or look at "
            "AWS_PROFILE and ~/.aws/config"
        )

    def declared(self, error: Exception, operation: str, may: "Sequence[Type[Exception]]") -> Exception:
        """The same, with every signal that this operation doesn't have as an error."""
        found = self.of(error, operation)
        if isinstance(found, (ObjectStorageError, *may)):
            return found
        what = f"`{operation}` on bucket `{self._bucket}`"
        return Unavailable(f"{what}: the service answers `{found}`, which means nothing here")

    def of_entry(self, error: Json) -> Exception:
        """Of one key of a request that was answered for several."""
        status = 403 if error.get("Code") == "AccessDenied" else 500
        response = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
        return self._said(response, f"`delete_objects` on bucket `{self._bucket}`")

    def _said(self, response: Json, what: str) -> Exception:
        code, message = _about(response.get("Error"))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            return Vanished(f"{what}: there is no such bucket (any more); create it, or name another one")
        if code in ("NoSuchKey", "NoSuchUpload", "404", "NotFound"):
            return Absent(code)
        if code in ("PreconditionFailed", "412"):
            return Exists(code)
        if code in ("ConditionalRequestConflict", "OperationAborted", "409"):
            return Conflict(code)
        if code in _MISMATCH or (code == "InvalidRequest" and "checksum" in message.lower()):
            return Mismatch(code)
        if code in _CREDENTIALS_REFUSED:
            return NoCredentials(f"{what}: the AWS credentials of this host aren't accepted ({code}); renew them")
        if code == "RequestTimeTooSkewed":
            return Refused(f"{what}: the clock of this host is wrong by more than 15 minutes ({code}); set it")
        if code in _FORBIDDEN or status == 403:
            return Forbidden(f"{what}: not allowed ({code}{': ' + message if message else ''}); allow {_NEEDED}")
        if code in _THROTTLED or status in (429, 503):
            return Unavailable(f"{what}: throttled ({code}), however often it was tried; it is tried again later")
        if status >= 500:
            return Unavailable(
                f"{what}: the service failed ({code}), however often it was tried; it is tried again later"
            )
        return Refused(f"{what}: {code}{': ' + message if message else ''}")


def _read(body: Any, length: int) -> bytes:
    """So much of it, however much a service sends that doesn't heed ranges."""
    pieces: List[bytes] = []
    left = length + 1  # to the end: only there the library sees that something is missing
    while left > 0:
        piece = body.read(left)
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)[:length]


def _about(error: object) -> "tuple[str, str]":
    found = error if isinstance(error, dict) else {}
    message = str(found.get("Message") or "")
    # No service should, but what it says may quote the request.
    if "http://" in message or "https://" in message:
        message = ""
    return str(found.get("Code") or "unknown"), message[:MAX_SAID]


class S3Objects(Objects):
    """A bucket behind a botocore client, which may be used by several threads."""

    def __init__(self, bucket: str, client: Any) -> None:
        from urllib.parse import urlsplit

        self.bucket = bucket
        self._client = client
        at = urlsplit(client.meta.endpoint_url)
        self._failures = _Failures(bucket, f"{at.hostname}:{at.port}" if at.port else str(at.hostname))

    def _call(self, operation: str, *may: Type[Exception], **arguments: Any) -> Json:
        """The answer. Raises ObjectStorageError, and of the signals those that it `may`."""
        try:
            done: Json = getattr(self._client, operation)(Bucket=self.bucket, **arguments)
            return done
        except Exception as error:  # the library lets through what those raise from whom it has its credentials
            raise self._failures.declared(error, operation, may) from None

    def put(self, key: str, body: bytes, sha256: str) -> None:
        self._call("put_object", Mismatch, Key=key, Body=body, **_checksum(sha256))

    def create(self, key: str, body: bytes, sha256: str) -> None:
        signals = (Exists, Conflict, Mismatch)
        self._call("put_object", *signals, Key=key, Body=body, IfNoneMatch="*", **_checksum(sha256))

    def begin(self, key: str) -> str:
        return str(self._call("create_multipart_upload", Key=key, ChecksumAlgorithm="SHA256")["UploadId"])

    def put_part(self, key: str, upload: str, number: int, body: bytes, sha256: str) -> Part:
        where = {"Key": key, "UploadId": upload, "PartNumber": number}
        done = self._call("upload_part", Mismatch, Absent, Body=body, **where, **_checksum(sha256))
        return Part(number, str(done["ETag"]), sha256)

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        listed = [
            {"PartNumber": part.number, "ETag": part.etag, "ChecksumSHA256": _base64(part.sha256)} for part in parts
        ]
        made = {"Key": key, "UploadId": upload, "MultipartUpload": {"Parts": listed}}
        self._call("complete_multipart_upload", Mismatch, Absent, **made)

    def abort(self, key: str, upload: str) -> None:
        try:
            self._call("abort_multipart_upload", Absent, Key=key, UploadId=upload)
        except Absent:
            pass

    def head(self, key: str) -> Head:
        found = self._call("head_object", Absent, Key=key, ChecksumMode="ENABLED")
        return Head(int(found["ContentLength"]), (found.get("ChecksumSHA256") or "").partition("-")[0] or None)

    def get(self, key: str, start: int, length: int) -> bytes:
        from botocore.exceptions import ClientError

        for tried in range(1, READ_TRIES + 1):
            try:
                found = self._client.get_object(
                    Bucket=self.bucket, Key=key, Range=f"bytes={start}-{start + length - 1}"
                )
                return _read(found["Body"], length)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "InvalidRange":
                    return b""
                raise self._failures.declared(error, "get_object", (Absent,)) from None
            except Exception as error:  # a body that is cut is not tried again by the library
                if tried == READ_TRIES:
                    raise self._failures.declared(error, "get_object", (Absent,)) from None
        raise AssertionError

    def list(self, prefix: str) -> Iterator[Entry]:
        following: Json = {}
        while True:
            page = self._call("list_objects_v2", Prefix=prefix, MaxKeys=LISTED_AT_ONCE, **following)
            for found in page.get("Contents", []):
                yield Entry(found["Key"], found["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            following = {"ContinuationToken": page["NextContinuationToken"]}

    def uploads(self, prefix: str) -> Iterator[Entry]:
        following: Json = {}
        while True:
            page = self._call("list_multipart_uploads", Prefix=prefix, **following)
            for found in page.get("Uploads", []):
                yield Entry(found["Key"], found["Initiated"].timestamp(), found["UploadId"])
            if not page.get("IsTruncated"):
                return
            following = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def delete(self, keys: List[str]) -> None:
        for first in range(0, len(keys), DELETED_AT_ONCE):
            objects = [{"Key": key} for key in keys[first : first + DELETED_AT_ONCE]]
            done = self._call("delete_objects", Delete={"Objects": objects, "Quiet": True})
            for failed in done.get("Errors", []):
                raise self._failures.of_entry(failed)


def _checksum(sha256: str) -> Dict[str, str]:
    # The algorithm is in the checksum's name; some services keep the checksum only where it is named, too.
    return {"ChecksumSHA256": _base64(sha256), "ChecksumAlgorithm": "SHA256"}


def _base64(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()
