"""The instance metadata service of a host, version 2 alone: a token by PUT, then everything by GET with it.

It listens in the host's network and runs here, as the real one runs outside of the instance.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = ("169.254.169.254", 80)
TOKEN_PATH = "/latest/api/token"
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aws-ec2-metadata-token"
LONGEST_TTL_S = 21600
META_DATA = "/latest/meta-data/"
_CLONE_NEWNET = 0x40000000


class Imds:
    """`data` is what it knows, by the path below `/latest/meta-data/`; to change it is to tell the host."""

    def __init__(self, data: dict[str, str]) -> None:
        self.data = data
        self.tokens: dict[str, float] = {}
        self._server: _Server | None = None

    def listen(self, pid: int) -> None:
        """In the network namespace of that process."""
        self._server = _Server(self, _socket_in(pid))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.tokens.clear()

    def token(self, ttl: str) -> str | None:
        """A new one; None for a time to live that isn't one."""
        if not ttl.isdecimal() or not 1 <= int(ttl) <= LONGEST_TTL_S:
            return None
        made = secrets.token_urlsafe(32)
        self.tokens[made] = time.monotonic() + int(ttl)
        return made

    def accepts(self, token: str) -> bool:
        return self.tokens.get(token, 0.0) > time.monotonic()

    def get(self, path: str) -> str | None:
        """A value, or the names below a directory; None where there is nothing."""
        below = path.removeprefix(META_DATA)
        if below == path:
            return None
        if below in self.data:
            return self.data[below]
        directory = below.rstrip("/") + "/" if below else ""
        rest = [name.removeprefix(directory) for name in self.data if name.startswith(directory)]
        names = {name.split("/")[0] + ("/" if "/" in name else "") for name in rest}
        return "\n".join(sorted(names)) or None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, imds: Imds, listening: socket.socket) -> None:
        super().__init__(ADDRESS, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.imds = imds


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds; nobody keeps a thread by keeping a connection
    server: _Server

    def do_PUT(self) -> None:
        token = self.server.imds.token(self.headers.get(TTL_HEADER, "")) if self.path == TOKEN_PATH else None
        self._answer(HTTPStatus.BAD_REQUEST if token is None else HTTPStatus.OK, token)

    def do_GET(self) -> None:
        if not self.server.imds.accepts(self.headers.get(TOKEN_HEADER, "")):
            self._answer(HTTPStatus.UNAUTHORIZED, None)
            return
        found = self.server.imds.get(self.path)
        self._answer(HTTPStatus.NOT_FOUND if found is None else HTTPStatus.OK, found)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: HTTPStatus, text: str | None) -> None:
        body = (text or "").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _socket_in(pid: int) -> socket.socket:
    """A listening socket stays in the network in which it was made, whoever serves it: a thread goes there and ends."""
    made: list[socket.socket] = []
    trouble: list[OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            try:
                if libc.setns(namespace, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "can't enter the network of a host")
            finally:
                os.close(namespace)
            made.append(socket.create_server(ADDRESS))
        except OSError as error:
            trouble.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return made[0]
