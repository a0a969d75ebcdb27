"""The store in one SQLite file (write-ahead log, `synchronous=FULL`). The only file that knows sqlite3."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, assert_never

import msgspec

from runctl.planner.record import RECORD_VERSION, Event, Record
from runctl.planner.requests import Asked, Request
from runctl.store.interface import (
    Acquire,
    Ask,
    Conflict,
    ControllerId,
    Create,
    GroupHead,
    LeaseHeld,
    NameTaken,
    NotFound,
    Put,
    Receipt,
    Release,
    Remove,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreTooNew,
    StoreUnavailable,
    Versioned,
    Write,
)

SCHEMA_VERSION = 2

# How long a writer waits for another's transaction. Each is a few milliseconds; this is for a machine that swaps.
BUSY_TIMEOUT_SECONDS = 30.0
WAL_RETRY_SECONDS = 0.005

# What SQLite needs for its side files, with something to spare.
LEAST_FREE = 64 * 1024

# One page of the smallest size that SQLite has.
LEAST_FILE = 512

_SCHEMA = """
CREATE TABLE jobs (
    uid TEXT PRIMARY KEY, name TEXT NOT NULL, current INTEGER NOT NULL, created TEXT NOT NULL,
    version INTEGER NOT NULL, epoch INTEGER NOT NULL, asked INTEGER NOT NULL DEFAULT 0, record BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX jobs_current ON jobs (name) WHERE current = 1;
CREATE TABLE leases (uid TEXT PRIMARY KEY, epoch INTEGER NOT NULL, holder BLOB NOT NULL, taken TEXT NOT NULL) STRICT;
CREATE TABLE requests (
    uid TEXT NOT NULL, serial INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (uid, serial)
) STRICT;
CREATE TABLE groups (
    name TEXT PRIMARY KEY, version INTEGER NOT NULL, spent INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE events (uid TEXT NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (uid, seq)) STRICT;
"""

# What brings a file of the version before to each version.
_MIGRATIONS = {2: "ALTER TABLE groups ADD COLUMN spent INTEGER NOT NULL DEFAULT 0"}

_encode = msgspec.json.Encoder().encode
_decode_record = msgspec.json.Decoder(Record).decode
_decode_request = msgspec.json.Decoder(Request).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_holder = msgspec.json.Decoder(ControllerId).decode


class _RecordHead(msgspec.Struct):
    version: int
    group: str | None = None


_decode_head = msgspec.json.Decoder(_RecordHead).decode


class SqliteStore:
    """Opens or creates the file at `path` (mode 0600, directory 0700). `alive` tells whether a controller still runs,
    `remote` names the network file system that a directory is on, if it is on one: a write-ahead log needs shared
    memory, which no two hosts have.

    Raises `StoreUnavailable` or one of its kinds; the file is never repaired or replaced by the program.
    """

    def __init__(
        self,
        path: Path,
        alive: Callable[[ControllerId], bool],
        remote: Callable[[str], str | None] = lambda directory: None,
    ) -> None:
        self._path = path
        self._alive = alive
        self._lock = threading.RLock()
        self._listed: dict[str, Versioned] = {}
        self._damaged = False
        with self._translated():
            _make_directory(path.parent)
            if (kind := remote(str(path.parent))) is not None:
                raise StoreUnavailable(
                    f"`{path.parent}` is on a network file system ({kind}), where a write-ahead log isn't safe",
                    "keep the state on a local disk: set RUNCTL_HOME",
                )
            self._db = self._open(path)
            try:
                self._prepare(self._db)
                self._reader = self._connect(path)
            except BaseException as error:
                _close_after(error, path, self._db)
                raise

    def _open(self, path: Path) -> sqlite3.Connection:
        # SQLite gives its side files the mode of the main one.
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            # Not by opening it: closing it again would end the locks that another connection of this process holds.
            size = path.stat().st_size
            if 0 < size < LEAST_FILE:
                # SQLite would take it for a new file, and begin anew over what was there.
                raise StoreDamaged(f"`{path}` is damaged: it was cut to {size} bytes", _DAMAGED_HINT) from None
        else:
            _sync_directory(path.parent)
        return self._connect(path)

    def _prepare(self, db: sqlite3.Connection) -> None:
        path = self._path
        # Before anything is switched: the file of a newer version stays as it is, to the byte.
        self._refuse_newer(db.execute("PRAGMA user_version").fetchone()[0])
        if _to_wal(db) != "wal":
            raise StoreUnavailable(
                f"`{path}` can't use a write-ahead log", "keep the state on a local disk: set RUNCTL_HOME"
            )
        db.execute("BEGIN IMMEDIATE")
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
            for step in range(version + 1, SCHEMA_VERSION + 1) if version else ():
                db.execute(_MIGRATIONS[step])
            if version < SCHEMA_VERSION:
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._refuse_newer(version)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _refuse_newer(self, version: int) -> None:
        if version > SCHEMA_VERSION:
            raise StoreTooNew(
                f"`{self._path}` is of format {version}, this version of runctl reads up to {SCHEMA_VERSION}",
                "nothing was changed; upgrade runctl, or use another home: set RUNCTL_HOME",
            )

    def _connect(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous = FULL")
        except BaseException as error:
            _close_after(error, path, db)
            raise
        return db

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a defect of the program, and none of the file
        except sqlite3.OperationalError as error:
            raise self._unavailable(error) from error
        except sqlite3.DatabaseError as error:
            raise self._damage(f"is damaged: {error}") from error
        except OSError as error:
            raise _unusable(error, f"`{error.filename or self._path}`: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._damage(f"holds what can't be read: {error}") from error

    def _damage(self, what: str) -> StoreDamaged:
        self._damaged = True
        return StoreDamaged(f"`{self._path}` {what}", _DAMAGED_HINT)

    def _unavailable(self, error: sqlite3.OperationalError) -> StoreUnavailable:
        code, what = error.sqlite_errorcode & 0xFF, f"`{self._path}`: {error}"
        if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such "):
            return self._damage(f"is damaged: {error}")  # what this program has made there isn't there
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(what, _FULL_HINT)
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and not _has_room(self._path.parent):
            # Where its side files find no room SQLite calls that an I/O error, and so it does with a quota.
            return StoreFull(f"`{self._path}`: no space left on the disk", _FULL_HINT)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreLocked(what, "another process holds the store; try again")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return StoreUnavailable(what, _PERMISSION_HINT)
        return StoreUnavailable(what, _DISK_HINT)

    def apply(self, writes: Sequence[Write]) -> list[Receipt]:
        receipts: list[Receipt] = []
        with self._lock, self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for write in writes:
                    self._db.execute("SAVEPOINT one")
                    try:
                        receipts.append(self._write(write))
                    except StoreError as refusal:
                        self._db.execute("ROLLBACK TO one")
                        receipts.append(refusal)
                    self._db.execute("RELEASE one")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        return receipts

    def _write(self, write: Write) -> int:
        match write:
            case Create():
                return self._create(write)
            case Put():
                self._check(write.uid, write.version, write.epoch)
                if write.group is not None:
                    self._advance(*write.group)
                self._db.execute(
                    "UPDATE jobs SET version = version + 1, record = ? WHERE uid = ?",
                    (_encode(write.record), write.uid),
                )
                self._db.execute(
                    "DELETE FROM requests WHERE uid = ? AND serial <= ?", (write.uid, write.record.answered)
                )
                self._append(write.uid, write.events)
                return write.version + 1
            case Remove():
                self._check(write.uid, write.version, write.epoch)
                for table in ("jobs", "leases", "requests", "events"):
                    self._db.execute(f"DELETE FROM {table} WHERE uid = ?", (write.uid,))
                if write.group is not None:
                    self._leave_group(write.group, write.spent)
                return 0
            case Acquire():
                return self._acquire(write)
            case Release():
                self._db.execute("DELETE FROM leases WHERE uid = ? AND epoch = ?", (write.uid, write.epoch))
                return 0
            case Ask():
                return self._ask(write)
            case _:  # pragma: no cover
                assert_never(write)

    def _create(self, write: Create) -> int:
        record = write.record
        if write.supersedes is not None:
            self._db.execute("UPDATE jobs SET current = 0 WHERE uid = ? AND current = 1", (write.supersedes,))
        try:
            self._db.execute(
                "INSERT INTO jobs (uid, name, current, created, version, epoch, record) VALUES (?, ?, 1, ?, 1, 0, ?)",
                (record.uid, record.name, record.created_at.isoformat(), _encode(record)),
            )
        except sqlite3.IntegrityError:
            raise NameTaken(f"a job named `{record.name}` exists") from None
        self._append(record.uid, write.events)
        return 1

    def _acquire(self, write: Acquire) -> int:
        row = self._db.execute("SELECT holder FROM leases WHERE uid = ?", (write.uid,)).fetchone()
        if row is not None:
            holder = _decode_holder(row[0])
            if holder != write.holder and self._alive(holder):
                raise LeaseHeld(holder)
        changed = self._db.execute(
            "UPDATE jobs SET epoch = epoch + 1 WHERE uid = ? RETURNING epoch", (write.uid,)
        ).fetchone()
        if changed is None:
            raise NotFound(f"no job {write.uid}")
        epoch = int(changed[0])
        self._db.execute(
            "INSERT OR REPLACE INTO leases (uid, epoch, holder, taken) VALUES (?, ?, ?, ?)",
            (write.uid, epoch, _encode(write.holder), write.now.isoformat()),
        )
        return epoch

    def _ask(self, write: Ask) -> int:
        if write.sake is not None:
            self._check(*write.sake)
        row = self._db.execute(
            "UPDATE jobs SET asked = asked + 1 WHERE uid = ? RETURNING asked", (write.uid,)
        ).fetchone()
        if row is None:
            raise NotFound(f"no job {write.uid}")
        self._db.execute(
            "INSERT INTO requests (uid, serial, body) VALUES (?, ?, ?)", (write.uid, row[0], _encode(write.request))
        )
        return int(row[0])

    def _append(self, uid: str, events: tuple[Event, ...]) -> None:
        if events:
            last = self._db.execute("SELECT coalesce(max(seq), 0) FROM events WHERE uid = ?", (uid,)).fetchone()[0]
            rows = [(uid, last + n, _encode(event)) for n, event in enumerate(events, 1)]
            self._db.executemany("INSERT INTO events (uid, seq, body) VALUES (?, ?, ?)", rows)

    def _check(self, uid: str, version: int, epoch: int) -> None:
        row = self._db.execute("SELECT version, epoch FROM jobs WHERE uid = ?", (uid,)).fetchone()
        if row is None:
            raise NotFound(f"no job {uid}")
        if tuple(row) != (version, epoch):
            raise Conflict(f"job {uid} is at version {row[0]}, epoch {row[1]}, not {version}, {epoch}")

    def _advance(self, group: str, version: int) -> None:
        self._db.execute("INSERT INTO groups (name, version) VALUES (?, 0) ON CONFLICT DO NOTHING", (group,))
        changed = self._db.execute(
            "UPDATE groups SET version = version + 1 WHERE name = ? AND version = ?", (group, version)
        )
        if changed.rowcount != 1:
            raise Conflict(f"another member of group {group} was written since version {version}")

    def _leave_group(self, group: str, spent: int) -> None:
        """A member is removed: its cost stays with the group, which ends with its last member."""
        members = (_decode_head(record).group for (record,) in self._db.execute("SELECT record FROM jobs"))
        left = group in members
        self._db.execute("INSERT INTO groups (name, version) VALUES (?, 0) ON CONFLICT DO NOTHING", (group,))
        self._db.execute(
            "UPDATE groups SET version = version + 1, spent = iif(?, spent + ?, 0) WHERE name = ?", (left, spent, group)
        )

    def _read(self, sql: str, args: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock, self._translated():
            return self._reader.execute(sql, args).fetchall()

    def _one(self, where: str, value: str) -> Versioned:
        rows = self._read(f"SELECT record, version, epoch FROM jobs WHERE {where} = ? ORDER BY current DESC", (value,))
        if not rows:
            raise NotFound(f"no job `{value}`")
        return self._versioned(rows[0])

    def _versioned(self, row: Any) -> Versioned:
        with self._translated():
            found = _decode_head(row[0]).version
            if found > RECORD_VERSION:
                raise StoreTooNew(
                    f"`{self._path}` holds a record of format {found}, "
                    f"this version of runctl reads up to {RECORD_VERSION}",
                    "nothing was changed; upgrade runctl, or use another home: set RUNCTL_HOME",
                )
            return Versioned(_decode_record(row[0]), row[1], row[2])

    def get(self, uid: str) -> Versioned:
        return self._one("uid", uid)

    def current(self, name: str) -> Versioned:
        return self._one("current = 1 AND name", name)

    def jobs(self) -> list[Versioned]:
        # Listed whenever anything has changed: only the records that did are read and decoded.
        heads = self._read("SELECT uid, version, epoch FROM jobs WHERE current = 1 ORDER BY created, uid")
        with self._lock:
            old, self._listed = self._listed, {}
            for uid, version, epoch in heads:
                known = old.get(uid)
                if known is None or (known.version, known.epoch) != (version, epoch):
                    try:
                        known = self.get(uid)
                    except NotFound:  # removed meanwhile
                        continue
                self._listed[uid] = known
            return list(self._listed.values())

    def runs(self, name: str) -> list[Versioned]:
        sql = "SELECT record, version, epoch FROM jobs WHERE name = ? ORDER BY current, created, uid"
        return [self._versioned(row) for row in self._read(sql, (name,))]

    def group(self, name: str) -> GroupHead:
        rows = self._read("SELECT version, spent FROM groups WHERE name = ?", (name,))
        return GroupHead(*rows[0]) if rows else GroupHead()

    def requests(self, uid: str) -> tuple[Asked, ...]:
        rows = self._read("SELECT serial, body FROM requests WHERE uid = ? ORDER BY serial", (uid,))
        with self._translated():
            return tuple(Asked(serial, _decode_request(body)) for serial, body in rows)

    def pending(self) -> set[str]:
        return {uid for (uid,) in self._read("SELECT DISTINCT uid FROM requests")}

    def events(self, uid: str, after: int = 0) -> list[tuple[int, Event]]:
        rows = self._read("SELECT seq, body FROM events WHERE uid = ? AND seq > ? ORDER BY seq", (uid, after))
        with self._translated():
            return [(seq, _decode_event(body)) for seq, body in rows]

    def lease(self, uid: str) -> ControllerId | None:
        rows = self._read("SELECT holder FROM leases WHERE uid = ?", (uid,))
        with self._translated():
            holder = _decode_holder(rows[0][0]) if rows else None
        return holder if holder is not None and self._alive(holder) else None

    def change_token(self) -> int:
        # data_version moves when another connection commits; the writer of this very store is such a one.
        return int(self._read("PRAGMA data_version")[0][0])

    def close(self) -> None:
        with self._lock:
            if self._damaged:
                _close_as_it_is(self._path, self._reader, self._db)
            else:
                self._reader.close()
                self._db.close()


def _to_wal(db: sqlite3.Connection) -> str:
    """Switch to a write-ahead log. SQLite doesn't wait for the lock that this needs once: the first opener has it."""
    until = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            return str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(WAL_RETRY_SECONDS)


def _close_after(error: BaseException, path: Path, db: sqlite3.Connection) -> None:
    """A refused file is left as it is. After any other failure the log goes with its last connection, as always: if a
    sync has failed the next process would take what it reads there for what is on the disk, and go on behind it."""
    damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
    if damaged or isinstance(error, StoreTooNew):
        _close_as_it_is(path, db)
    else:
        db.close()


def _close_as_it_is(path: Path, *connections: sqlite3.Connection) -> None:
    """Close them without writing the log back. The last connection of all does that, and removes the log; one that may
    only read can't. So such a one is the last."""
    with ExitStack() as last:
        with suppress(sqlite3.Error):
            reader = last.enter_context(closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)))
            reader.execute("PRAGMA schema_version")  # takes the lock that counts
        for each in connections:
            each.close()


def _make_directory(path: Path) -> None:
    """With what is above it, and each name as durable as what will be written there."""
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for each in made:
        with suppress(PermissionError):  # one may write there, and not list
            _sync_directory(each.parent)


def _sync_directory(path: Path) -> None:
    """The new file's name is as durable as what is written into it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_DAMAGED_HINT = (
    "the file is left as it is: copy it away before anything else; trainings that run go on within their limits, "
    "and their run directories beside it hold logs and checkpoints"
)


_FULL_HINT = "free some disk space and try again; what was acknowledged is safe, trainings that run go on"
_PERMISSION_HINT = "the state directory must be writable: check its owner and mode, or set RUNCTL_HOME"
_DISK_HINT = "the system's log may say what is wrong with the disk; then try again"


def _unusable(error: OSError, what: str) -> StoreUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(what, _FULL_HINT)
    denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return StoreUnavailable(what, _PERMISSION_HINT if denied else _DISK_HINT)


def _has_room(directory: Path) -> bool:
    """Whether SQLite's side files would fit: asked by writing as much, for only that knows of quotas."""
    from tempfile import TemporaryFile

    try:
        with TemporaryFile(dir=directory, buffering=0) as probe:
            return probe.write(bytes(LEAST_FREE)) == LEAST_FREE
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
