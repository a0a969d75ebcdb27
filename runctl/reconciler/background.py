"""Controllers as processes: this one, and the one in the background that goes on when nobody watches."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import anyio

from runctl.agent.hostlock import network_file_system
from runctl.agent.processes import STOPPED, is_alive, look
from runctl.agent.processes import identity as process_identity
from runctl.home import Home
from runctl.manifest.job import Platform
from runctl.providers.local.provider import local_machine
from runctl.providers.ssh.provider import SshHosts
from runctl.reconciler.controller import GLANCE, GLANCE_IN_BACKGROUND, Controller
from runctl.reconciler.resting import rests
from runctl.store.interface import ControllerId, NotFound, Store, StoreDamaged, StoreError, StoreUnavailable
from runctl.store.sqlite import SqliteStore

# A background controller with nothing left to do stays this long for what may come.
LINGER = timedelta(seconds=2)

ADOPTION_SECONDS = 15.0

POLL_SECONDS = 0.05


def utc_now() -> datetime:
    return datetime.now(UTC)


def identity(what: str) -> ControllerId:
    """This process as a holder of leases."""
    me = process_identity(os.getpid())
    return ControllerId(pid=me["pid"], start=str(me["start"]), boot_id=me["boot_id"], what=what)


def controller_alive(holder: ControllerId) -> bool:
    """Whether the process is there and may act. One that is stopped (Ctrl-Z) may not: when it goes on, it finds its
    leases taken, and nothing that it does with them counts."""
    found = look(holder.pid)
    if found is None or found.state == STOPPED:
        return False
    start: int | str = int(holder.start) if holder.start.isdigit() else holder.start
    return is_alive({"pid": holder.pid, "start": start, "boot_id": holder.boot_id})


def open_store(home: Home) -> SqliteStore:
    """Raises `StoreUnavailable` or one of its kinds."""
    with contextlib.suppress(OSError):
        if home.database.stat().st_size == 0 and any(home.runs.iterdir()):
            # SQLite would take it for a new file.
            raise StoreDamaged(
                f"`{home.database}` is empty, and there are attempts in `{home.runs}`",
                "trainings that run go on within their limits; restore the file from a backup, or move it away to "
                "begin anew without what it knew",
            )
    return SqliteStore(home.database, controller_alive, network_file_system)


def make_controller(
    home: Home,
    store: Store,
    environ: Mapping[str, str],
    what: str,
    *,
    only: Collection[str] | None = None,
    glance: timedelta = GLANCE,
    trouble: Callable[[str], None] = lambda message: None,
) -> Controller:
    """A controller of the jobs in `home` (`only` those uids), as this process."""
    hosts = SshHosts(home)
    return Controller(
        store,
        {Platform.LOCAL: local_machine(home, environ), Platform.SSH: hosts},
        identity(what),
        environ,
        utc_now,
        only=only,
        glance=glance,
        trouble=trouble,
        companions=[hosts.run],
    )


def run_background(home: Home, environ: Mapping[str, str]) -> int:
    """Be the home's background controller until nothing is left to do; 0 at once if there is one already."""
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _single(home) as mine:
        if mine:
            store = open_store(home)
            try:
                anyio.run(_serve, home, store, environ)
            finally:
                store.close()
    return 0


def tell(message: str) -> None:
    """Into the controller's log, which stderr is."""
    print(f"{utc_now():%Y-%m-%dT%H:%M:%SZ} {message}", file=sys.stderr, flush=True)


async def _serve(home: Home, store: Store, environ: Mapping[str, str]) -> None:
    controller = make_controller(
        home, store, environ, "background controller", glance=GLANCE_IN_BACKGROUND, trouble=tell
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signal, tasks.cancel_scope)
        await controller.run(linger=LINGER)
        tasks.cancel_scope.cancel()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


@contextlib.contextmanager
def _single(home: Home) -> Iterator[bool]:
    """True if this process is the home's only background controller; the lock ends with the process."""
    fd = os.open(home.controller_pid, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield True
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def background_pid(home: Home) -> int | None:
    """The pid of the home's background controller, if one runs."""
    try:
        fd = os.open(home.controller_pid, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(fd)
    return None


def start_background(home: Home, environ: Mapping[str, str]) -> None:
    """Start a background controller, detached from this terminal. If one runs already, the new one ends at once."""
    home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in (home.controller_pid, home.controller_log):
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise StoreUnavailable(
                f"`{path}` is not a file: no controller in the background can start",
                "remove it: nothing of a job is in it; trainings that run go on, and hold their limits",
            )
    log = os.open(home.controller_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        subprocess.Popen(
            [sys.executable, "-m", "runctl.reconciler"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**environ, "RUNCTL_HOME": str(home.root)},
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(log)


def ensure_background(home: Home, store: Store, environ: Mapping[str, str], uids: Collection[str]) -> bool:
    """See to it that each of `uids` is held by a live controller, or rests. False if that couldn't be had in time.

    The lease is the proof: a controller that is just ending doesn't take it, and then another one is started.
    """
    until = time.monotonic() + ADOPTION_SECONDS
    started = -ADOPTION_SECONDS
    while True:
        orphans = [uid for uid in uids if not _cared_for(store, uid)]
        if not orphans:
            return True
        now = time.monotonic()
        if now >= until:
            return False
        background = background_pid(home)
        if background is not None and _is_stopped(background):
            os.kill(background, signal.SIGCONT)
        if background is None and now - started > 1.0:
            start_background(home, environ)
            started = now
        time.sleep(POLL_SECONDS)


def _is_stopped(pid: int) -> bool:
    found = look(pid)
    return found is not None and found.state == STOPPED


def _cared_for(store: Store, uid: str) -> bool:
    try:
        if store.lease(uid) is not None:
            return True
        # In this order: a request that is answered in between shows in the record.
        return not store.requests(uid) and rests(store.get(uid).record)
    except NotFound:
        return True
    except StoreError:
        return False
