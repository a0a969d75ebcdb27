"""The SQLite store: the contract, and what only a real file and real processes show."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from acceptance.permissions import bound
from planner.kit import T0, job, record

from runctl.agent.hostlock import network_file_system
from runctl.planner.requests import StopJob
from runctl.store.interface import (
    Acquire,
    Ask,
    Create,
    GroupHead,
    Put,
    Store,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreTooNew,
    StoreUnavailable,
    done,
)
from runctl.store.sqlite import SqliteStore

from .conformance import ME, OTHER, Alive, StoreContract, acquire, change, create, event
from .vfs import IOERR_WRITE, Nobody, watched

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def alive() -> Alive:
    return Alive()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "state.sqlite"


@pytest.fixture
def store(path: Path, alive: Alive) -> Iterator[SqliteStore]:
    opened = SqliteStore(path, alive)
    yield opened
    opened.close()


class TestSqliteStore(StoreContract):
    """The contract."""


def reopened(path: Path) -> SqliteStore:
    return SqliteStore(path, lambda holder: False)


def test_private_files(store: SqliteStore, path: Path) -> None:
    """The directory is the user's alone, and so are the database and its side files."""
    create(store)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = sorted(path.parent.iterdir())
    assert len(files) >= 2
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}


def test_what_was_written_is_read_by_another(store: SqliteStore, path: Path) -> None:
    """A second process sees each write at once, and its token moves."""
    other = SqliteStore(path, lambda holder: True)
    before = other.change_token()
    create(store)
    assert other.current("a") == store.current("a")
    assert other.change_token() != before
    other.close()


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = [{project!r}, {project!r} + "/tests"]
from runctl.planner.requests import StopJob
from runctl.store.interface import Acquire, Ask, Put, done
from runctl.store.sqlite import SqliteStore
from store.conformance import T0, change, event
from runctl.store.interface import ControllerId

me = ControllerId(pid=int(sys.argv[2]), start="1", boot_id="b", what="writer")
store = SqliteStore(Path(sys.argv[1]), lambda holder: False)
"""


def start(body: str, path: Path, number: int = 7) -> subprocess.Popen[bytes]:
    code = WRITER.format(project=str(PROJECT)) + body
    return subprocess.Popen([sys.executable, "-c", code, str(path), str(number)], stdout=subprocess.PIPE)


RACE = """
won = lost = 0
from runctl.store.interface import Conflict
for _ in range(40):
    found = store.get("u1")
    receipt = store.apply([Put("u1", found.version, found.epoch, change(found.record, durable=found.record.durable + 1),
                               (event("Counted"),))])[0]
    if isinstance(receipt, Conflict):
        lost += 1
    else:
        done(receipt)
        won += 1
print(won, lost)
"""


def test_processes_that_race_lose_no_write(store: SqliteStore, path: Path) -> None:
    """Each increment that was acknowledged is in the sum, once; each that was refused isn't."""
    create(store)
    acquire(store)
    racers = [start(RACE, path, number) for number in range(2)]
    won = 0
    for racer in racers:
        out, _ = racer.communicate(timeout=60)
        assert racer.returncode == 0
        won += int(out.split()[0])
    assert won >= 40
    assert store.get("u1").record.durable == won
    assert len(store.events("u1")) == won + 1


OPEN_RACE = """
from runctl.store.interface import Create
print(store.apply([]) == [])
"""


def test_processes_that_open_a_new_home_at_once(path: Path) -> None:
    """One of them makes the file; none fails."""
    openers = [start(OPEN_RACE, path, number) for number in range(4)]
    for opener in openers:
        out, _ = opener.communicate(timeout=60)
        assert (opener.returncode, out) == (0, b"True\n")


LEASE_RACE = """
from runctl.store.interface import LeaseHeld
alive = SqliteStore(Path(sys.argv[1]), lambda holder: True)
receipt = alive.apply([Acquire("u1", me, T0)])[0]
print("held" if isinstance(receipt, LeaseHeld) else "mine", flush=True)
"""


def test_one_of_several_takes_the_lease(store: SqliteStore, path: Path) -> None:
    """Of controllers that take a job at the same time one gets it."""
    create(store)
    racers = [start(LEASE_RACE, path, number) for number in range(4)]
    said = [racer.communicate(timeout=60)[0] for racer in racers]
    assert sorted(said) == [b"held\n"] * 3 + [b"mine\n"]


ENDLESS = """
epoch = done(store.apply([Acquire("u1", me, T0)])[0])
found = store.get("u1")
version, n = found.version, found.record.durable
while True:
    n += 1
    version = done(store.apply([Put("u1", version, epoch, change(found.record, durable=n), (event("N"),))])[0])
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(path: Path) -> None:
    """Killed at any moment, the store holds the last number that was said, or the one under way: record and events
    together, and the file is sound."""
    store = reopened(path)
    create(store)
    store.close()
    for round_ in range(8):
        writer = start(ENDLESS, path)
        assert writer.stdout is not None
        said = writer.stdout.readline()
        time.sleep(0.003 * round_)  # not a wait for anything: where in its work the kill finds it
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        said = [said, *writer.stdout.readlines()][-1]
        writer.stdout.close()
        store = reopened(path)
        found = store.get("u1").record.durable
        assert found in (int(said), int(said) + 1)
        assert len(store.events("u1")) == found + 1
        store.close()
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_what_is_acknowledged_survives_a_power_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill shows nothing of it: every connection has SQLite sync each commit before it returns."""
    opened: list[sqlite3.Connection] = []
    real = sqlite3.connect

    def connect(*args: Any, **more: Any) -> sqlite3.Connection:
        opened.append(real(*args, **more))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)
    with contextlib.closing(reopened(path)):
        full = [db.execute("PRAGMA synchronous").fetchone()[0] >= 2 for db in opened]
    assert full
    assert all(full)


def test_a_newer_format(path: Path) -> None:
    """A file of a newer version is refused and left as it is."""
    reopened(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match="format 99") as refusal:
        reopened(path)
    assert refusal.value.hint is not None
    assert "upgrade" in refusal.value.hint
    assert path.read_bytes() == before


# A file as the first version made it.
_FIRST_GROUPS = """
ALTER TABLE groups DROP COLUMN spent;
INSERT INTO groups VALUES ('g', 7);
PRAGMA user_version = 1;
"""


def test_an_older_format(path: Path) -> None:
    """A file of the first version is brought to this one, once, with all that is in it."""
    with contextlib.closing(reopened(path)) as store:
        done(store.apply([Create(record(job()))])[0])
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(_FIRST_GROUPS)
    for _ in range(2):
        with contextlib.closing(reopened(path)) as store:
            assert store.group("g") == GroupHead(version=7)
            assert [each.record for each in store.jobs()] == [record(job())]


def test_a_newer_record(store: SqliteStore) -> None:
    """A record of a newer version is named as such, not misread."""
    fresh = msgspec.structs.replace(record(job()), version=99)
    done(store.apply([Create(fresh)])[0])
    with pytest.raises(StoreTooNew, match="record of format 99"):
        store.get("u1")


def test_a_half_made_store_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tables couldn't be made whole, the next opening makes them."""
    from runctl.store import sqlite

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_SCHEMA", sqlite._SCHEMA + "CREATE TABLE broken (;")
        with pytest.raises(StoreError):
            reopened(path)
    store = reopened(path)
    create(store)
    store.close()


@pytest.fixture
def filled(path: Path) -> Path:
    """A store with a hundred events, closed and its log written back."""
    store = reopened(path)
    create(store)
    epoch = acquire(store)
    done(store.apply([Ask("u1", StopJob(at=T0, why="x" * 5000))])[0])
    for version in range(1, 40):
        done(store.apply([Put("u1", version, epoch, store.get("u1").record, (event("y" * 900),))])[0])
    store.close()
    return path


def read_all(path: Path) -> None:
    store = reopened(path)
    try:
        for each in store.jobs():
            store.requests(each.record.uid)
            store.events(each.record.uid)
            store.lease(each.record.uid)
    finally:
        store.close()


@pytest.mark.parametrize("keep", [1, 100, 600, 4096, 9000, 30_000])
def test_a_truncated_file(filled: Path, keep: int) -> None:
    """A file that was cut is damaged or, as far as it goes, readable; it is never repaired or begun anew."""
    filled.write_bytes(filled.read_bytes()[:keep])
    with pytest.raises(StoreDamaged) as refusal:
        read_all(filled)
    assert refusal.value.hint is not None
    assert "copy it away" in refusal.value.hint
    assert filled.stat().st_size == keep


def test_flipped_bytes(filled: Path) -> None:
    """Wherever a byte is flipped: an error of the store's own, or nothing that matters. Never another exception."""
    whole = filled.read_bytes()
    damaged = 0
    for position in range(0, len(whole), 397):
        torn = bytearray(whole)
        torn[position] ^= 0xFF
        filled.write_bytes(torn)
        for side in ("-wal", "-shm"):
            Path(str(filled) + side).unlink(missing_ok=True)
        try:
            read_all(filled)
        except StoreUnavailable:
            damaged += 1
    assert damaged > 10


@pytest.fixture
def died(filled: Path, tmp_path: Path) -> Path:
    """A store whose last process died: its newest job is in the log only."""
    store = reopened(filled)
    create(store, "b", "u2")
    path = copied(filled, tmp_path / "died")
    store.close()
    return path


def copied(path: Path, to: Path) -> Path:
    to.mkdir()
    for each in files(path):
        shutil.copy(path.with_name(each), to)
    return to / path.name


def files(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.parent.iterdir() if not each.name.endswith("-shm")}


def test_a_newer_format_in_the_log(filled: Path, tmp_path: Path) -> None:
    """What a newer version left in its log stays there: a refusal writes nothing back."""
    with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as newer:
        newer.execute("PRAGMA user_version = 99")
        path = copied(filled, tmp_path / "died")
    before = files(path)
    assert before[f"{path.name}-wal"]
    with pytest.raises(StoreTooNew, match="format 99"):
        reopened(path)
    assert files(path) == before


def test_a_damaged_file_beside_its_log(died: Path) -> None:
    """Whether damage shows on opening or on reading: neither file nor log is written to, which may be all that is left
    of what was acknowledged last."""
    whole, shown = died.read_bytes(), 0
    for page in range(0, len(whole), 4096):
        died.write_bytes(whole[:page] + b"\xa5" * 4096 + whole[page + 4096 :])
        path = copied(died, died.parent.with_name(f"page {page}"))
        before = files(path)
        try:
            read_all(path)
        except StoreDamaged:
            shown += 1
            assert files(path) == before
    assert shown > 3


def test_not_a_database(path: Path) -> None:
    """A file of something else is left alone."""
    path.parent.mkdir()
    path.write_bytes(b"hello, I am a text file\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreDamaged):
        reopened(path)
    assert path.read_bytes() == before


def test_a_directory_in_its_place(path: Path) -> None:
    """So is a directory."""
    path.mkdir(parents=True)
    with pytest.raises(StoreUnavailable):
        reopened(path)


OPENER = """
import sys
from pathlib import Path
from runctl.store.interface import StoreUnavailable
from runctl.store.sqlite import SqliteStore
try:
    SqliteStore(Path(sys.argv[1]), lambda holder: False)
except StoreUnavailable as error:
    print(error.hint)
"""


@pytest.mark.parametrize("exists", [False, True])
def test_a_read_only_directory(path: Path, exists: bool) -> None:
    """Where nothing can be written, the error says which directory must be writable."""
    path.parent.mkdir()
    if exists:
        store = reopened(path)
        create(store)
        store.close()
    for each in (*path.parent.iterdir(), path.parent):
        each.chmod(0o555 if each.is_dir() else 0o444)
    argv = [sys.executable, "-c", OPENER, str(path)]
    try:
        done = subprocess.run(argv, preexec_fn=bound(), cwd=PROJECT, capture_output=True, text=True, check=True)
    finally:
        path.parent.chmod(0o700)
    assert "must be writable" in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    done_ = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", mount], capture_output=True, check=False)
    if done_.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """What was acknowledged stays, what wasn't is refused whole, and with space the store goes on."""
    store = reopened(small_disk / "state.sqlite")
    create(store)
    epoch = acquire(store)
    ballast = small_disk / "ballast"
    version, refusals = 1, []
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    for _ in range(200):
        now = store.get("u1").record
        try:
            version = done(
                store.apply([Put("u1", version, epoch, change(now, durable=version), (event("z" * 3000),))])[0]
            )
        except StoreUnavailable as error:
            refusals.append(error)
            break
    assert [type(each) for each in refusals] == [StoreFull]
    assert refusals[0].hint is not None
    assert "free some disk space" in refusals[0].hint
    assert store.get("u1").version == version
    assert store.get("u1").record.durable == version - 1
    store.close()
    # Opened anew it may lack the room for its side files; with room it goes on.
    with contextlib.suppress(StoreFull):
        reopened(small_disk / "state.sqlite").close()
    ballast.unlink()
    store = reopened(small_disk / "state.sqlite")
    assert done(store.apply([Put("u1", version, epoch, store.get("u1").record)])[0]) == version + 1
    store.close()


SECOND = """
print([each.record.uid for each in store.jobs()])
store.close()
"""


def said(body: str, path: Path) -> bytes:
    return start(body, path).communicate(timeout=60)[0]


def test_two_stores_of_one_process(store: SqliteStore, path: Path) -> None:
    """Opening the file once more leaves an open store its locks. Without them another process that closes the file
    takes itself for the last one, and removes the log that this one goes on writing to."""
    create(store)
    with contextlib.closing(reopened(path)):
        assert said(SECOND, path) == b"['u1']\n"
        create(store, "b", "u2")
        assert said(SECOND, path) == b"['u1', 'u2']\n"


def test_a_home_that_is_made_is_there_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directories that the store makes for itself are synced into those above them, and no other is."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    path = tmp_path / "state" / "runctl" / "state.sqlite"
    reopened(path).close()
    assert sorted(synced) == sorted(each.stat().st_ino for each in path.parents[:3])
    reopened(path).close()
    assert len(synced) == 3


def test_a_quota_is_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite calls a quota that is used up an I/O error; the file system knows better, and is asked."""

    class Quota(Nobody):
        def writes(self, name: str, offset: int, data: bytes) -> int:
            return IOERR_WRITE

    with watched(Nobody()):
        store = reopened(path)
    with contextlib.closing(store), watched(Quota()):
        for code, kind in ((errno.EDQUOT, StoreFull), (errno.EIO, StoreUnavailable)):
            monkeypatch.setattr(tempfile, "TemporaryFile", refusing(code))
            with pytest.raises(StoreUnavailable) as refusal:
                create(store)
            assert type(refusal.value) is kind


def refusing(code: int) -> Callable[..., Any]:
    def refuse(*_args: Any, **_more: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_network_file_system(path: Path) -> None:
    """A write-ahead log isn't opened where two hosts may share it; nothing is made there."""
    with pytest.raises(StoreUnavailable, match=r"network file system \(nfs4\)"):
        SqliteStore(path, lambda holder: True, lambda directory: "nfs4")
    assert not path.exists()


def test_this_disk_is_local(path: Path) -> None:
    """What the store is asked about in earnest."""
    path.parent.mkdir()
    SqliteStore(path, lambda holder: True, network_file_system).close()


def test_a_closed_store_is_no_damage(path: Path, alive: Alive) -> None:
    """A store is a context of its process alone: two of them on one file don't disturb each other's leases."""
    first, second = SqliteStore(path, alive), SqliteStore(path, alive)
    create(first)
    assert acquire(first) == 1
    assert second.lease("u1") == ME
    alive.dead.add(ME.pid)
    assert done(second.apply([Acquire("u1", OTHER, T0)])[0]) == 2
    assert first.get("u1").epoch == 2
    first.close()
    second.close()


def protocol(store: SqliteStore) -> Store:
    """It is a store."""
    return store
