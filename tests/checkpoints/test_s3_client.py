"""The client of object storage: what it says when it can't, and the copy of it that is delivered to hosts."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runctl.agent import bundle
from runctl.checkpoints import objects, s3_client
from runctl.checkpoints.objects import ObjectStorageError
from runctl.checkpoints.storage import open_storage
from runctl.providers.hosts import client_bundle

from .far_side import PREFIX, Bucket, Cutting, environment
from .test_storage import content_of, facts, listed, store

SECRET = "wJalrSECRET"


@contextmanager
def answering(status: int, code: str, message: str = "") -> Iterator[str]:
    """A service that answers everything so; its URL."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ANSWERS = [
    (403, "AccessDenied", objects.Forbidden, "allow s3:PutObject"),
    (403, "ExpiredToken", objects.NoCredentials, "renew them"),
    (403, "InvalidAccessKeyId", objects.NoCredentials, "renew them"),
    (403, "SignatureDoesNotMatch", objects.NoCredentials, "renew them"),
    (403, "RequestTimeTooSkewed", objects.Refused, "the clock of this host"),
    (404, "NoSuchBucket", objects.Vanished, "there is no such bucket"),
    (503, "SlowDown", objects.Unavailable, "throttled"),
    (500, "InternalError", objects.Unavailable, "the service failed"),
    (400, "InvalidStorageClass", objects.Refused, "InvalidStorageClass: as it is"),
]


@pytest.mark.parametrize("status, code, kind, cure", ANSWERS, ids=[answer[1] for answer in ANSWERS])
def test_what_the_service_refuses(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[Exception], cure: str
) -> None:
    """Each refusal has a kind, and says what was tried in which bucket and what to do; none says a secret."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with answering(status, code, "as it is") as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(kind) as raised:
            open_storage("s3://my-bucket/some/prefix").list("u")
    said = str(raised.value)
    assert "`list_objects_v2` on bucket `my-bucket`" in said and cure in said
    assert SECRET not in said and "http" not in said
    assert isinstance(raised.value, ObjectStorageError)
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


SIGNALS = [
    (412, "PreconditionFailed", objects.Exists),
    (409, "ConditionalRequestConflict", objects.Conflict),
    (400, "BadDigest", objects.Mismatch),
    (400, "XAmzContentChecksumMismatch", objects.Mismatch),
    (404, "NoSuchKey", objects.Absent),
]


@pytest.mark.parametrize("status, code, kind", SIGNALS, ids=[signal[1] for signal in SIGNALS])
def test_what_a_caller_goes_on_from(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[Exception]
) -> None:
    """A condition that doesn't hold, and what isn't there, are no errors of the service."""
    with answering(status, code) as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        bucket = s3_client.connect("my-bucket")
        with pytest.raises(kind):
            if kind is objects.Absent:
                bucket.get("k", 0, 1)
            else:
                bucket.create("k", b"body", sha256(b"body").hexdigest())
        # Of an operation that has no such answer it is an error, as every other one.
        with pytest.raises(objects.Unavailable, match=code):
            bucket.begin("k")


@pytest.mark.parametrize("raised", [RuntimeError("refreshed credentials are expired"), EOFError(), KeyError("x")])
def test_whatever_the_library_lets_through_is_an_error_of_its_own(
    s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """As those do from whom it has its credentials. What they say may hold some, and isn't repeated."""
    from botocore.credentials import Credentials

    def fail(self: Credentials) -> None:
        raise raised

    bucket = s3_client.connect("my-bucket")
    monkeypatch.setattr(Credentials, "get_frozen_credentials", fail)
    for call in (lambda: bucket.get("k", 0, 1), lambda: bucket.begin("k")):
        with pytest.raises(objects.NoCredentials, match=type(raised).__name__) as found:
            call()
        assert "expired" not in str(found.value)


def test_throttled_for_a_while(
    s3_environment: dict[str, str], bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that throttles, and then doesn't, is waited for; nobody hears of it."""
    saved = tmp_path / "m.bin"
    saved.write_bytes(b"saved")
    with answering(503, "SlowDown") as url, closing(Cutting(url, 0)) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        between.then(s3_environment["AWS_ENDPOINT_URL"], after=2)
        storage = open_storage(bucket.destination)
        bucket.open().verify(store(storage, saved))


def test_a_message_that_quotes_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service says isn't repeated where it may hold a signed URL."""
    with answering(403, "AccessDenied", "GET https://b/k?X-Amz-Signature=abc was denied") as url:
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(objects.Forbidden) as raised:
            open_storage("s3://my-bucket").list("u")
    assert "X-Amz-Signature" not in str(raised.value)


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint where nothing listens is said to be that, with its name; so is a bucket that nobody could have."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    for name, value in environment("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(objects.Refused, match="the name of the bucket"):
        open_storage("s3://no_Bucket!/x").list("u")
    with pytest.raises(objects.Unreachable, match=r"no answer at 127\.0\.0\.1:1 .*AWS_ENDPOINT_URL"):
        open_storage("s3://my-bucket").list("u")


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are none it says how to give some, before anything is sent."""
    for name, value in environment("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(objects.NoCredentials, match="no AWS credentials on this host"):
        open_storage("s3://my-bucket").list("u")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(objects.NoCredentials, match="AWS_PROFILE"):
        open_storage("s3://my-bucket")


def test_a_bucket_that_vanishes(s3_environment: dict[str, str], bucket: Bucket, tmp_path: Path) -> None:
    """A bucket that isn't there any more is an error of every look at it, never an empty list."""
    saved = tmp_path / "m.bin"
    saved.write_bytes(b"saved")
    location = store(bucket.open(), saved)
    gone = open_storage(f"s3://{bucket.objects.bucket}-gone/{PREFIX}")
    for work in (
        lambda: listed(gone),
        lambda: gone.prepare("u", 1),
        lambda: store(gone, saved),
        lambda: gone.sweep("u", 1, 0.0),
        lambda: gone.verify(location.replace(bucket.objects.bucket, f"{bucket.objects.bucket}-gone")),
    ):
        with pytest.raises(objects.Vanished):
            work()


# Four small requests come before the file.
@pytest.mark.parametrize("limits, first", [({"request": 200_000}, 6), ({"answer": 50}, 2)], ids=["request", "answer"])
def test_connections_that_are_cut(
    s3_environment: dict[str, str],
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, int],
    first: int,
) -> None:
    """What is cut in the middle, up or down, is tried again; while all of it is, there is nothing but an error."""
    source = tmp_path / "m.bin"
    source.write_bytes(os.urandom(1_000_000))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    for connections in (first, 1000):
        with closing(Cutting(s3_environment["AWS_ENDPOINT_URL"], connections, **limits)) as between:
            monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
            storage = open_storage(bucket.destination)
            if connections == 1000:
                with pytest.raises(objects.Unreachable):
                    store(storage, source, seq=2)
                assert between.cut > 2
                assert listed(bucket.open()) == [(1, 1)]
            else:
                location = store(storage, source)
                assert between.cut == 2
                bucket.open().verify(location)
    with closing(Cutting(s3_environment["AWS_ENDPOINT_URL"], 0)) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        storage = open_storage(bucket.destination)
        assert listed(storage) == [(1, 1)]
    (tmp_path / "t").mkdir()
    # What is small comes whole, and the file is cut in the middle.
    with closing(Cutting(s3_environment["AWS_ENDPOINT_URL"], 3, answer=300_000)) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        back = open_storage(bucket.destination).restore(location, "m.bin", str(tmp_path / "t"))
        assert between.cut == 1
    assert content_of(Path(back)) == content_of(source)


def test_destinations(tmp_path: Path, s3_environment: dict[str, str]) -> None:
    """A destination is a path, a `file:` URL or an `s3://` URL; the location says which."""
    root = str(tmp_path)
    for destination in (root, f"file:{root}", f"file://{root}"):
        assert open_storage(destination).location("u", 1, 2) == f"{root}/u/000001/000002"
    for destination in ("s3://bucket/a/b", "s3://bucket/a/b/"):
        assert open_storage(destination).location("u", 1, 2) == "s3://bucket/a/b/u/000001/000002"
    assert open_storage("s3://bucket").location("u", 1, 2) == "s3://bucket/u/000001/000002"


# The delivered client

SCRIPT = """
import sys
agent, client, destination, source, target, facts = sys.argv[1:]
sys.path[:] = [path for path in sys.path if "site-packages" not in path]
sys.path.insert(0, agent)
import json, os
from runctl.checkpoints.storage import open_storage
storage = open_storage(destination, client)
storage.prepare("u", 1)
facts = json.loads(facts)
storage.store(source, facts)
location = storage.location("u", 1, facts["seq"])
storage.verify(location)
storage.restore(location, facts["name"], target)
import botocore
print(json.dumps([each.path for each in storage.list("u")] + [botocore.__file__]))
"""

# Whichever other interpreters are at hand: pyenv's, and those on the PATH.
PYTHONS = [
    sys.executable,
    *sorted(str(path) for path in Path.home().glob(".pyenv/versions/3.*/bin/python")),
    *filter(None, map(shutil.which, ("python3.14", "python3.15"))),
]


def version_of(python: str) -> tuple[int, int]:
    done = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=True)
    major, minor = done.stdout.split()
    return int(major), int(minor)


@pytest.fixture(scope="session")
def client_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return client_bundle.install_client(tmp_path_factory.mktemp("clients"))


@pytest.mark.parametrize("python", PYTHONS, ids=["this", *(Path(python).parts[-3] for python in PYTHONS[1:])])
def test_on_a_bare_host(
    bucket: Bucket,
    s3_environment: dict[str, str],
    client_directory: Path,
    agent_directory: Path,
    tmp_path: Path,
    python: str,
) -> None:
    """The agent's code stores, verifies and restores with nothing but its own Python and the delivered client; a Python
    that is too old for it says so."""
    least = tuple(map(int, (client_directory / "requires-python").read_text().split(".")))
    if version_of(python) < (3, 9):
        pytest.skip("older than any agent's")
    source = tmp_path / "checkpoint-1"
    source.mkdir()
    (source / "weights").write_bytes(os.urandom(17 * 1024 * 1024))
    (source / "config.json").write_text("{}")
    (tmp_path / "t").mkdir()
    arguments = [str(agent_directory), str(client_directory), bucket.destination, str(source), str(tmp_path / "t")]
    argv = [python, "-I", "-S", "-c", SCRIPT, *arguments, json.dumps(facts(name="checkpoint-1"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**s3_environment, "HOME": "/nowhere"})
    if version_of(python) < least:
        assert f"can't go to S3 from here: the S3 client that comes with runctl needs Python {least[0]}." in done.stderr
        return
    assert done.stderr == ""
    (location, origin) = json.loads(done.stdout)
    assert location == f"{bucket.destination}/u/000001/000001"
    assert origin == str(client_directory / "botocore" / "__init__.py")
    assert content_of(tmp_path / "t" / "checkpoint-1") == content_of(source)


def test_what_is_delivered() -> None:
    """A few megabytes, the same each time, with the storage and what finds credentials, and nothing compiled."""
    files = client_bundle.client_files()
    archive = client_bundle.client_archive()
    assert archive == bundle.zipped(dict(reversed(files.items())))
    assert len(archive) < 2_500_000
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == files
    services = {name.split("/")[2] for name in files if name.startswith("botocore/data/") and name.count("/") > 3}
    assert services == {"s3", "signin", "sso", "sso-oidc", "sts"}
    assert "botocore/cacert.pem" in files and not [name for name in files if name.endswith((".pyc", ".so"))]
    assert not [name for name in bundle.agent_files() if "botocore" in name]


def test_without_any_client(agent_directory: Path, tmp_path: Path) -> None:
    """Where neither a client was delivered nor botocore is installed it says what to do."""
    code = (
        f"import sys; sys.path.insert(0, {str(agent_directory)!r})\n"
        "import site; site.getsitepackages = lambda: []; site.getusersitepackages = lambda: ''\n"
        "from runctl.checkpoints.storage import open_storage\nopen_storage('s3://bucket')"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert "NoClient: checkpoints can't go to S3 from here: botocore isn't installed; install" in done.stderr


def test_what_is_kept_here_needs_no_client(agent_directory: Path, tmp_path: Path) -> None:
    """Directories are opened without loading anything of object storage."""
    code = (
        f"import sys; sys.path.insert(0, {str(agent_directory)!r})\n"
        "from runctl.checkpoints.storage import open_storage\nopen_storage('/tmp')\n"
        "print(sorted(name for name in sys.modules if 's3' in name or 'objects' in name or 'botocore' in name))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
