"""Object storage on its bad days: cut, throttled, raced, half done. A checkpoint is whole and listed, or not there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from runctl.checkpoints import s3_client
from runctl.checkpoints.objects import (
    Absent,
    Conflict,
    Entry,
    Exists,
    Forbidden,
    Mismatch,
    Objects,
    Unavailable,
    Unreachable,
)
from runctl.checkpoints.s3_storage import MIB, Probe, S3Storage, part_length

from .far_side import PART_BYTES, PREFIX, Bucket, Watched
from .test_storage import content_of, facts, listed, store

DAY = 24 * 3600.0
TRUSTED = Probe(conditional=True, checksums=True)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint-7"
    path.mkdir()
    (path / "small").write_bytes(b"small")
    (path / "large").write_bytes(os.urandom(PART_BYTES + 1))
    return path


class Cut:
    """From the nth call on nothing works, before it has its effect or after, for that call alone or for good."""

    def __init__(self, at: int, error: type[Exception], effect: bool, for_good: bool) -> None:
        self._at, self._error, self._effect, self._for_good = at, error, effect, for_good

    def _fails(self, number: int) -> bool:
        return number == self._at or (self._for_good and number > self._at)

    def before(self, number: int, operation: str) -> None:
        if self._fails(number) and not (self._effect and number == self._at):
            raise self._error(f"{operation} {number}")

    def after(self, number: int, operation: str) -> None:
        if self._fails(number):
            raise self._error(f"{operation} {number}")


def _calls(bucket: Bucket, work: Callable[[S3Storage], object]) -> int:
    watched = Watched(bucket.objects)
    work(bucket.storage(watched))
    return len(watched.calls)


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("effect", [False, True], ids=["unsent", "answer-lost"])
def test_a_store_that_is_cut_anywhere(bucket: Bucket, saved: Path, effect: bool, for_good: bool) -> None:
    """Whichever call fails: what is listed afterwards is whole, what was said to be durable is listed, and the number,
    or the next, can be stored."""
    store(bucket.open(), saved, seq=1)
    error = Unreachable if effect else Forbidden
    calls = _calls(bucket, lambda storage: store(storage, saved, seq=2))
    for at in range(1, calls + 1):
        seq = at + 2
        cut = Cut(at, error, effect, for_good)
        watched = Watched(bucket.objects, cut.before, cut.after)
        try:
            store(bucket.storage(watched), saved, seq=seq)
            stored = True
        except OSError:
            stored = False
        found = listed(bucket.open())
        assert stored <= ((1, seq) in found)
        if (1, seq) in found:
            bucket.open().verify(bucket.open().location("u", 1, seq))
        else:
            store(bucket.open(), saved, seq=seq)
        bucket.open().sweep("u", 1, time.time() + 2 * DAY)
        bucket.open().verify(bucket.open().location("u", 1, seq))
        assert bucket.open().prune("u", 1, 1) != []
        assert len(bucket.names()) == 3
        assert list(bucket.objects.uploads(PREFIX)) == []


@pytest.mark.parametrize("effect", [False, True], ids=["unsent", "answer-lost"])
def test_a_removal_that_is_cut_anywhere(bucket: Bucket, saved: Path, effect: bool) -> None:
    """At every moment what is listed is whole, and the rest goes with a sweep."""
    for seq in (1, 2):
        store(bucket.open(), saved, seq=seq)
    at = 0
    while len(listed(bucket.open())) > 1 or at == 0:
        at += 1
        cut = Cut(at, Unreachable, effect, for_good=True)
        try:
            bucket.storage(Watched(bucket.objects, cut.before, cut.after)).prune("u", 1, 1)
        except Unreachable:
            pass
        for each in bucket.open().list("u"):
            bucket.open().verify(each.path)
    bucket.open().sweep("u", 1, time.time() + 2 * DAY)
    assert listed(bucket.open()) == [(1, 2)]
    assert len(bucket.names()) == 3


@pytest.mark.parametrize("effect", [False, True], ids=["unsent", "answer-lost"])
def test_a_restore_that_is_cut_anywhere(bucket: Bucket, saved: Path, tmp_path: Path, effect: bool) -> None:
    """Nothing appears under the name until all of it is there."""
    location = store(bucket.open(), saved)
    for at in range(1, 100):
        target = tmp_path / f"t{at}"
        target.mkdir()
        cut = Cut(at, Unreachable, effect, for_good=False)
        try:
            bucket.storage(Watched(bucket.objects, cut.before, cut.after)).restore(location, saved.name, str(target))
        except Unreachable:
            assert os.listdir(target) == []
        else:
            assert content_of(target / saved.name) == content_of(saved)
            break
    assert at > 5


@pytest.mark.parametrize("error", [Conflict, Unreachable, Unavailable])
@pytest.mark.parametrize("effect", [False, True], ids=["unsent", "answer-lost"])
def test_the_manifest_is_put_until_it_is_known_to_be_there(
    bucket: Bucket, saved: Path, error: type[Exception], effect: bool
) -> None:
    """Another write under way, a throttled or lost one: it is tried again, and what is ours is known as that."""
    left = [2]

    def fail(number: int, operation: str) -> None:
        if operation == "create" and left[0]:
            left[0] -= 1
            raise error("not now")

    hook = {"after": fail} if effect else {"before": fail}
    location = store(bucket.storage(Watched(bucket.objects, **hook), probed=TRUSTED), saved)
    assert left == [1 if effect else 0]
    bucket.open().verify(location)


@pytest.mark.parametrize("error", [Absent, Unreachable])
def test_a_large_file_is_not_sent_again_for_a_lost_answer(bucket: Bucket, saved: Path, error: type[Exception]) -> None:
    """Where nobody said whether the parts were put together, what is there tells."""

    def fail(number: int, operation: str) -> None:
        if operation == "complete":
            raise error("no answer")

    watched = Watched(bucket.objects, after=fail)
    bucket.open().verify(store(bucket.storage(watched, probed=TRUSTED), saved))
    with pytest.raises(OSError, match=r"no answer|ended by somebody else"):
        store(bucket.storage(Watched(bucket.objects, before=fail), probed=TRUSTED), saved, seq=2)
    assert listed(bucket.open()) == [(1, 1)]
    assert list(bucket.objects.uploads(PREFIX)) == []


def test_a_manifest_that_may_still_arrive(bucket: Bucket, saved: Path) -> None:
    """While it isn't known whether the manifest was written nothing of its checkpoint is removed: it may come yet."""
    late: list[Callable[[], None]] = []

    class Slow(Watched):
        def create(self, key: str, body: bytes, sha256: str) -> None:
            late.append(lambda: bucket.objects.create(key, body, sha256))
            raise Unreachable("no answer")

    with pytest.raises(OSError, match="isn't known: no answer"):
        store(bucket.storage(Slow(bucket.objects), probed=TRUSTED), saved)
    assert listed(bucket.open()) == []
    late[0]()
    assert listed(bucket.open()) == [(1, 1)]
    bucket.open().verify(bucket.open().location("u", 1, 1))


def test_a_manifest_that_is_not_seen_at_once(bucket: Bucket, saved: Path) -> None:
    """As behind a cache: it is there, and so has to be what it names."""

    class Forgetful(Watched):
        def get(self, key: str, start: int, length: int) -> bytes:
            if key.endswith("manifest.json"):
                raise Absent
            found: bytes = bucket.objects.get(key, start, length)
            return found

    with pytest.raises(OSError, match="isn't known: it isn't found"):
        store(bucket.storage(Forgetful(bucket.objects), probed=TRUSTED), saved)
    assert listed(bucket.open()) == [(1, 1)]
    bucket.open().verify(bucket.open().location("u", 1, 1))


def test_a_race_has_one_winner(bucket: Bucket, tmp_path: Path) -> None:
    """Of several that write one number at the same time exactly one has stored it; the others' objects are gone."""
    sources = []
    for number in range(4):
        path = tmp_path / str(number) / "m.bin"
        path.parent.mkdir()
        path.write_bytes(os.urandom(1000 + number))
        sources.append(path)
    start = threading.Barrier(len(sources))

    def race(source: Path, seq: int) -> bool:
        storage = bucket.storage(bucket.objects, probed=TRUSTED)
        start.wait()
        try:
            store(storage, source, seq=seq)
        except FileExistsError:
            return False
        return True

    for seq in range(1, 6):
        with ThreadPoolExecutor(len(sources)) as pool:
            raced = zip(pool.map(race, sources, [seq] * len(sources)), sources, strict=True)
            won = [source for has_won, source in raced if has_won]
        assert len(won) == 1
        manifest = bucket.open().verify(bucket.open().location("u", 1, seq))
        assert manifest["files"][0]["sha256"] == sha256(won[0].read_bytes()).hexdigest()
    assert len(bucket.names()) == 5 * 2


class Careless(Watched):
    """A service that ignores conditions."""

    def create(self, key: str, body: bytes, sha256: str) -> None:
        self.put(key, body, sha256)


def test_a_bucket_that_ignores_conditions(bucket: Bucket, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found out and said. Checkpoints work; of two writers at the same time the later one's is the checkpoint,
    and it is whole."""
    careless = bucket.storage(Careless(bucket.objects))
    assert (careless.probe().conditional, bucket.open_s3().probe().conditional) == (False, True)
    store(careless, saved)

    raced: list[str] = []

    class Late(Careless):
        """Somebody else declares the same number just before."""

        def create(self, key: str, body: bytes, sha256: str) -> None:
            if key.endswith("manifest.json") and not raced:
                raced.append(store(bucket.open(), saved, seq=2))
            self.put(key, body, sha256)

    store(bucket.storage(Late(bucket.objects)), saved, seq=2)
    assert raced
    assert listed(bucket.open()) == [(1, 1), (1, 2)]
    for each in bucket.open().list("u"):
        bucket.open().verify(each.path)


def test_what_a_probe_asks(bucket: Bucket) -> None:
    """It leaves one object, asks nothing twice, and a bucket with that object answers at the first put."""
    watched = Watched(bucket.objects)
    storage = bucket.storage(watched)
    storage.probe()
    storage.prepare("u", 1)
    assert watched.calls == ["create", "create", "put"]
    again = Watched(bucket.objects)
    bucket.storage(again).probe()
    assert again.calls == ["create", "put"]
    assert (listed(storage), bucket.names()) == ([], [])


def test_the_services_checksum_is_believed_where_it_is_one(bucket: Bucket, saved: Path) -> None:
    """A service that refuses a wrong checksum is asked for the object's; one that doesn't is read back from. moto is of
    the second kind."""
    for probed, reads in [(TRUSTED, 1), (None, 4)]:
        watched = Watched(bucket.objects)
        store(bucket.storage(watched, probed=probed), saved, seq=reads)
        assert watched.calls.count("get") == reads


def test_a_service_that_compares(bucket: Bucket, saved: Path) -> None:
    """One that refuses what doesn't have its checksum is found to be that, and believed; what is changed on the way to
    it isn't durable."""

    class Strict(Watched):
        def put(self, key: str, body: bytes, digest: str) -> None:
            if sha256(body).hexdigest() != digest:
                raise Mismatch
            super().put(key, body, digest)

    class Noisy(Strict):
        def put(self, key: str, body: bytes, digest: str) -> None:
            super().put(key, body + b"?" if "small" in key else body, digest)

    strict = bucket.storage(Strict(bucket.objects))
    assert strict.probe().checksums and not bucket.open_s3().probe().checksums
    store(strict, saved)
    with pytest.raises(OSError, match="arrived different"):
        store(bucket.storage(Noisy(bucket.objects)), saved, seq=2)
    assert listed(bucket.open()) == [(1, 1)]


def test_a_service_that_keeps_something_else(bucket: Bucket, saved: Path) -> None:
    """What reads back different isn't durable, and nothing is left of it."""

    class Forgetful(Watched):
        def put(self, key: str, body: bytes, sha256: str) -> None:
            super().put(key, body[:-1] + b"?" if "small" in key else body, sha256)

    with pytest.raises(OSError, match="reads back different"):
        store(bucket.storage(Forgetful(bucket.objects)), saved)
    assert bucket.names() == []


@pytest.mark.slow
def test_more_than_a_page(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of more files than a listing or a deletion takes at once is stored, listed, and removed. A thousand
    is what the service takes; here it is asked for fewer."""
    monkeypatch.setattr(s3_client, "LISTED_AT_ONCE", 30)
    monkeypatch.setattr(s3_client, "DELETED_AT_ONCE", 20)
    source = tmp_path / "checkpoint-1"
    source.mkdir()
    for number in range(103):
        (source / f"{number:04d}").write_bytes(b"%d" % number)
    storage = bucket.storage(bucket.objects, probed=TRUSTED)
    store(storage, source)
    store(storage, source / "0001", seq=2)
    assert listed(bucket.open()) == [(1, 1), (1, 2)]
    assert len(storage.prune("u", 1, 1)) == 1
    assert len(bucket.names()) == 2


def test_the_sweep_waits_a_day(bucket: Bucket, saved: Path) -> None:
    """What an upload has put is swept, and what it began is ended, a day later and on behalf of the highest attempt."""

    class Dated(Watched):
        """With the instants of uploads, of which moto says that they were begun in 2010."""

        def uploads(self, prefix: str) -> Iterator[Entry]:
            return (Entry(each.key, time.time(), each.upload) for each in bucket.objects.uploads(prefix))

    def sweep(attempt: int, now: float) -> list[str]:
        return bucket.storage(Dated(bucket.objects)).sweep("u", attempt, now)

    cut = Cut(6, KeyboardInterrupt, effect=True, for_good=True)  # type: ignore[arg-type]
    watched = Watched(bucket.objects, cut.before, cut.after)
    with pytest.raises(KeyboardInterrupt):
        store(bucket.storage(watched, probed=TRUSTED, threads=1), saved)
    names, uploads = bucket.names(), len(list(bucket.objects.uploads(PREFIX)))
    assert (len(names), uploads) == (1, 1)
    now = time.time()
    assert sweep(1, now) == []
    assert sweep(1, now + DAY - 60) == []
    assert sweep(0, now + 2 * DAY) == []
    assert bucket.names() == names
    assert len(sweep(1, now + DAY + 60)) == 2
    assert (bucket.names(), list(bucket.objects.uploads(PREFIX))) == ([], [])


def test_a_few_parts_at_a_time(bucket: Bucket, tmp_path: Path) -> None:
    """A large file goes up and comes down in parts of which only a few are under way at any time."""
    source = tmp_path / "m.bin"
    source.write_bytes(os.urandom(PART_BYTES * 20 + 7))
    under_way: set[int] = set()
    most = [0]

    def before(number: int, operation: str) -> None:
        if operation in ("put_part", "get"):
            under_way.add(number)
        most[0] = max(most[0], len(under_way))

    watched = Watched(bucket.objects, before, lambda number, operation: under_way.discard(number))
    location = store(bucket.storage(watched, probed=TRUSTED), source)
    assert watched.calls.count("put_part") == 21
    bucket.storage(watched).verify(location)
    assert 2 <= most[0] <= 4


def test_the_size_of_parts() -> None:
    """Ten thousand parts hold any object."""
    assert part_length(1, 16 * MIB) == 16 * MIB
    assert part_length(160_000 * MIB, 16 * MIB) == 16 * MIB
    assert part_length(160_000 * MIB + 1, 16 * MIB) == 17 * MIB
    assert part_length(5 * MIB * MIB, 16 * MIB) * 10_000 >= 5 * MIB * MIB


def test_a_bucket_without_a_prefix(bucket: Bucket, saved: Path) -> None:
    """Checkpoints may lie at the top of a bucket."""
    storage = S3Storage(bucket.objects, "", probed=TRUSTED)
    location = store(storage, saved)
    assert location == f"s3://{bucket.objects.bucket}/u/000001/000001"
    assert listed(storage) == [(1, 1)]
    storage.verify(location)
    assert storage.sweep("u", 1, time.time() + 2 * DAY) == []


def test_other_keys_are_let_alone(bucket: Bucket, saved: Path) -> None:
    """What somebody else keeps below the prefix is neither a checkpoint nor swept."""
    others = [f"{PREFIX}/u/notes.txt", f"{PREFIX}/u/000001/readme", f"{PREFIX}/u/000001/x/manifest.json"]
    for key in others:
        bucket.objects.put(key, b"{}", sha256(b"{}").hexdigest())
    store(bucket.open(), saved)
    assert listed(bucket.open()) == [(1, 1)]
    assert bucket.open().sweep("u", 1, time.time() + 2 * DAY) == []
    assert bucket.open().numbers("u", 1) == [1]
    assert len(bucket.names()) == 3 + len(others)


def test_the_port(bucket: Bucket) -> None:
    """What the port says of conditions, ranges, and keys that aren't there; an upload may be ended twice."""
    objects: Objects = bucket.objects
    digest = sha256(b"body").hexdigest()
    objects.create("k", b"body", digest)
    with pytest.raises(Exists):
        objects.create("k", b"body", digest)
    assert (objects.get("k", 1, 2), objects.get("k", 1, 100), objects.get("k", 4, 1)) == (b"od", b"ody", b"")
    assert objects.head("k").size == 4
    calls: list[Callable[[], Any]] = [lambda: objects.head("none"), lambda: objects.get("none", 0, 1)]
    upload = objects.begin("parts")
    objects.abort("parts", upload)
    objects.abort("parts", upload)
    for call in calls:
        with pytest.raises(Absent):
            call()
    objects.delete(["none", "k"])
    assert [entry.key for entry in objects.list("k")] == []


def test_facts_are_kept(bucket: Bucket, saved: Path) -> None:
    """The manifest that store returns is the one that is there."""
    manifest = bucket.open().store(str(saved), facts(name=saved.name))
    assert bucket.open().read_manifest(bucket.open().location("u", 1, 1)) == manifest
