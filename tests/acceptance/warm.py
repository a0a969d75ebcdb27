"""The real program without the time that Python takes to import it: forked from a process that has done so.

`python warm.py SOCKET` imports the program and serves: a connection brings a command's arguments, environment and
three files; it gets the process's id, then how it ended. Each command is a process of its own that runs the program's
`main`, and may be killed like any other. What Python and libraries read at their start, they read in the server.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

EXAMPLE = Path(__file__).parents[2] / "examples/jobs/quickstart.yaml"


class WarmCommand:
    """A command of the program that runs in a forked process; the part of `subprocess.Popen` that tests use."""

    def __init__(self, args: tuple[str, ...], environ: dict[str, str], cwd: Path, files: list[IO[bytes]]) -> None:
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(_server())
        request = json.dumps({"args": args, "environ": environ, "cwd": str(cwd)}).encode()
        head = len(request).to_bytes(4, "big")
        socket.send_fds(self._connection, [head], [file.fileno() for file in files])
        self._connection.sendall(request)
        self.pid = int.from_bytes(_exactly(self._connection, 4), "big")

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or minus the signal that ended it; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int.from_bytes(_exactly(self._connection, 4), "big", signed=True)
            except TimeoutError:
                raise subprocess.TimeoutExpired("runctl", timeout or 0) from None
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0.001)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_starting = threading.Lock()


def _server() -> str:
    """The path of the socket of this test process's server."""
    with _starting:
        return _start_server()


@functools.cache
def _start_server() -> str:
    path = f"{tempfile.mkdtemp(prefix='warm-')}/socket"
    server = subprocess.Popen(
        [sys.executable, __file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    atexit.register(server.communicate)  # closes its input, which ends it
    return path


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = connection.recv(size - len(found))
        if not more:
            raise EOFError("the process that was to tell how a command ended is gone")
        found += more
    return found


def serve(path: str) -> None:
    import selectors
    import shutil

    _import_program()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for commands
    print("ready", flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)  # ends with whoever holds the other side
    while all(key.fileobj is listener for key, _ in selector.select()):
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _attend(connection)
        connection.close()
    shutil.rmtree(os.path.dirname(path), ignore_errors=True)


def _import_program() -> None:
    from importlib import import_module

    import anyio.lowlevel
    import anyio.streams.memory  # noqa: F401

    from runctl.cli.commands import COMMANDS

    import_module("anyio._backends._asyncio")
    for entry in COMMANDS.values():
        import_module(f"runctl.cli.{entry.module}")
    for module in ("attaching", "waiting", "watching", "owner", "errors", "views", "render.outcome", "proposing"):
        import_module(f"runctl.cli.{module}")
    # What is imported and built when it is used first: validators and the reading of a command line.
    from contextlib import redirect_stderr

    from runctl.cli.main import run

    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        run(["validate", str(EXAMPLE)])
    # Collected here and then left alone: each command would look through all of it, and copy it by doing so.
    gc.collect()
    gc.freeze()


def _attend(connection: socket.socket) -> None:
    """Start the command that the connection asks for, tell its process id, and how it ended."""
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    request = json.loads(_exactly(connection, int.from_bytes(head, "big")))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        connection.close()
        _be_the_command(request, files)
    try:
        connection.sendall(child.to_bytes(4, "big"))
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
    except BrokenPipeError:
        pass  # the test is over
    finally:
        os._exit(0)


def _be_the_command(request: dict[str, Any], files: list[int]) -> None:
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.argv = ["runctl", *request["args"]]
    code: object = 70
    try:
        from runctl.cli.main import main

        main()  # comes back only by an exit that the program hasn't meant
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code if isinstance(code, int) else 70)


if __name__ == "__main__":
    serve(sys.argv[1])
