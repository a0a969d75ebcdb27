"""The far side of durable checkpoints for their tests: a directory, or a bucket of moto's server, over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runctl.checkpoints import s3_client
from runctl.checkpoints.file_storage import FileStorage
from runctl.checkpoints.objects import Objects
from runctl.checkpoints.s3_storage import S3Storage
from runctl.checkpoints.storage import Storage

REPOSITORY = Path(__file__).resolve().parents[2]
PREFIX = "team/checkpoints"
# Small, so that an upload in parts takes no time; moto is told to accept it.
PART_BYTES = 100_000
OPERATIONS = ("put", "create", "begin", "put_part", "complete", "abort", "head", "get", "list", "uploads", "delete")


def environment(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrSECRET",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def served(address: str = "127.0.0.1") -> Iterator[str]:
    """moto's server on a free port of this address of this machine; its URL."""
    os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1"
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def _address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


class Cutting:
    """Between a client and a service: passes on so many bytes of a connection's request, or of its answer, and then
    cuts it, for so many connections; later ones pass whole."""

    def __init__(self, url: str, connections: int, request: int = 1 << 40, answer: int = 1 << 40) -> None:
        self._far = self._next = _address(url)
        self._after = 0
        self._left = connections
        self._limits = (request, answer)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.cut = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(self._far if self._after > 0 else self._next)
            self._after -= 1
            cuts, self._left = self._left > 0, self._left - 1
            limits = self._limits if cuts else (1 << 40, 1 << 40)
            for pair in ((near, far, limits[0]), (far, near, limits[1])):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, left: int) -> None:
        try:
            while left > 0:
                data = source.recv(min(left, 1 << 16))
                if not data:
                    break
                target.sendall(data)
                left -= len(data)
            self.cut += left <= 0
        except OSError:
            pass
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def then(self, url: str, after: int) -> None:
        """Another service gets the connections after so many."""
        self._next, self._after = _address(url), after

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


class Watched(Objects):
    """A bucket of which every call is numbered and told, before it and after it had its effect. Either may raise."""

    def __init__(
        self,
        objects: Objects,
        before: Callable[[int, str], None] = lambda number, operation: None,
        after: Callable[[int, str], None] = lambda number, operation: None,
    ) -> None:
        self.bucket = objects.bucket
        self.calls: list[str] = []
        self._objects = objects
        self._before = before
        self._after = after
        self._lock = threading.Lock()

    def _call(self, operation: str, *arguments: Any) -> Any:
        with self._lock:
            self.calls.append(operation)
            number = len(self.calls)
        self._before(number, operation)
        done = getattr(self._objects, operation)(*arguments)
        if operation in ("list", "uploads"):
            done = list(done)
        self._after(number, operation)
        return done


def _watch(operation: str) -> Callable[..., Any]:
    return lambda self, *arguments: self._call(operation, *arguments)


for _operation in OPERATIONS:
    setattr(Watched, _operation, _watch(_operation))


class Far:
    """One destination, with what its storage doesn't offer."""

    destination: str

    def open(self) -> Storage:
        """As another machine would."""
        raise NotImplementedError

    def open_watched(self, at_write: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Storage:
        """One that tells before each write to the far side."""
        raise NotImplementedError

    def names(self) -> list[str]:
        """All that is there, relative to the destination."""
        raise NotImplementedError

    def change(self, name: str, content: bytes | None) -> None:
        """Behind the storage's back; None: it is gone."""
        raise NotImplementedError

    def data(self, name: str) -> list[str]:
        return [each for each in self.names() if "/data" in each and each.endswith(name)]

    def killed_storing(self, source: Path, write: int) -> int:
        """Store it in a process that is killed before its nth write; its exit status."""
        argv = [sys.executable, "-m", "tests.checkpoints.killed", self.destination, str(source), str(write)]
        return subprocess.run(argv, cwd=REPOSITORY, check=False).returncode


class Directory(Far):
    def __init__(self, root: Path) -> None:
        self.destination = str(root)
        self._root = root

    def open(self) -> Storage:
        return FileStorage(self.destination)

    def open_watched(self, at_write: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Storage:
        real, count = os.fsync, iter(range(1, 1_000_000))

        def sync(descriptor: int) -> None:
            at_write(next(count))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", sync)
        return self.open()

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self._root)) for path in self._root.rglob("*") if path.is_file())

    def change(self, name: str, content: bytes | None) -> None:
        path = self._root / name
        path.unlink() if content is None else path.write_bytes(content)


class Bucket(Far):
    def __init__(self, bucket: str) -> None:
        self.destination = f"s3://{bucket}/{PREFIX}"
        self.objects = s3_client.connect(bucket)

    def storage(self, objects: Objects, **settings: Any) -> S3Storage:
        return S3Storage(objects, PREFIX, part_bytes=PART_BYTES, pause=lambda seconds: None, **settings)

    def open(self) -> Storage:
        return self.open_s3()

    def open_s3(self) -> S3Storage:
        return self.storage(self.objects)

    def open_watched(self, at_write: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Storage:
        count = iter(range(1, 1_000_000))

        def before(number: int, operation: str) -> None:
            if operation in ("put", "put_part", "complete", "create"):
                at_write(next(count))

        storage = self.storage(self.objects)
        probed = storage.probe()
        return self.storage(Watched(self.objects, before), probed=probed)

    def names(self) -> list[str]:
        keys = [entry.key[len(PREFIX) + 1 :] for entry in self.objects.list(PREFIX)]
        return [key for key in keys if not key.startswith(".runctl-probe")]

    def change(self, name: str, content: bytes | None) -> None:
        from hashlib import sha256

        key = f"{PREFIX}/{name}"
        if content is None:
            self.objects.delete([key])
        else:
            self.objects.put(key, content, sha256(content).hexdigest())
