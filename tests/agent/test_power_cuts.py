"""A power cut at any moment loses nothing that was promised, and nothing that it left is taken for what it isn't.

The agent's own code works on a recorded directory (`power_cut`); its recovery is run on each disk that a cut may leave.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runctl.agent import hostside, unpack
from runctl.agent.placement import make_run_dir
from runctl.agent.salvage import salvage_unwatched
from runctl.checkpoints import durable
from runctl.planner.observed import Dead, Ended
from runctl.providers.local.run_dir import left_behind

from .attempts import UID, Deaf, Disk, Judge, Life, at_once, first_fault, hears, judge_all, safetensors_file, torch_file
from .power_cut import Cut, Recorder, lay_out


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """In memory where there is such a place: a thousand disks are laid out."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix="runctl-cuts-", dir=place) as directory:
        yield Disk(Path(directory))


def record_saves(disk: Disk, deaf: Deaf = hears) -> tuple[Recorder, Judge]:
    """An attempt that saves files with checksums and without, carefully and not, and keeps one."""
    recorder = Recorder(disk.root, deaf)
    life = Life(disk, recorder)
    with recorder.watching():
        life.begin()
        for name, content in FILES.items():
            life.save(name, content, careful=name == "epoch-2.pt")
            life.watch(3)
        life.end()
    return recorder, Judge(disk, contents_of(FILES))


def record_directories(disk: Disk, deaf: Deaf = hears) -> tuple[Recorder, Judge]:
    """An attempt whose last directory is taken for whole too soon, and withdrawn."""
    life = Life(disk, Recorder(disk.root))
    life.begin()
    files = {"epoch-1/a.bin": b"1" * 90, "epoch-2/a.bin": b"2" * 90, "epoch-2/b.bin": b"two"}
    recorder = life.tell_from_now_on(Recorder(disk.root, deaf))
    with recorder.watching():
        for name, content in files.items():
            life.save(name, content)
            life.watch(1 if name.endswith("b.bin") else 12)
        life.end()
    return recorder, Judge(disk, contents_of(files), withdrawn=(1, 2))


def record_next_attempt(disk: Disk, deaf: Deaf = hears) -> tuple[Recorder, Judge]:
    """An attempt that goes on from the checkpoint of another one, and prunes that."""
    first = Life(disk, Recorder(disk.root))
    first.begin()
    first.save("epoch-1.pt", FILES["epoch-1.pt"])
    first.watch(3)
    first.end()
    recorder = Recorder(disk.root, deaf)
    recorder.promise("durable", 1, 1)
    second = Life(disk, recorder, attempt=2)
    with recorder.watching():
        second.begin({"source": durable.directory(str(disk.home / "checkpoints"), UID, 1, 1), "name": "epoch-1.pt"})
        second.save("epoch-2.pt", FILES["epoch-2.pt"])
        second.watch(3)
        second.end()
    return recorder, Judge(disk, contents_of(FILES), attempt=2)


def record_salvage(disk: Disk, deaf: Deaf = hears) -> tuple[Recorder, Judge]:
    """The salvage of an attempt that was cut off when it had copied one save and not noticed the next."""
    life = Life(disk, Recorder(disk.root), keep=2)
    life.begin()
    life.save("epoch-1.pt", FILES["epoch-1.pt"])
    life.watch(3)
    life.save("epoch-2.pt", FILES["epoch-2.pt"])
    recorder = life.tell_from_now_on(Recorder(disk.root, deaf))
    with recorder.watching():
        assert salvage_unwatched(str(disk.run_dir(1)), at_once) == 0
    return recorder, Judge(disk, contents_of(FILES), keep=2)


FILES = {"epoch-1.pt": torch_file(1), "epoch-2.pt": torch_file(2), "epoch-3.safetensors": safetensors_file(3)}


def contents_of(files: dict[str, bytes]) -> dict[str, set[bytes]]:
    return {name: {content} for name, content in files.items()}


def record_one_save(disk: Disk, deaf: Deaf = hears) -> tuple[Recorder, Judge]:
    """From the start to the end, with one checkpoint."""
    recorder = Recorder(disk.root, deaf)
    life = Life(disk, recorder)
    with recorder.watching():
        life.begin()
        life.save("epoch-1.pt", FILES["epoch-1.pt"])
        life.watch(2)
        life.end()
    return recorder, Judge(disk, contents_of(FILES))


LIVES = (record_saves, record_directories, record_next_attempt, record_salvage)


@pytest.mark.parametrize("record", LIVES, ids=lambda record: record.__name__.removeprefix("record_"))
def test_lives(disk: Disk, record: Callable[[Disk], tuple[Recorder, Judge]]) -> None:
    """Whatever an attempt is doing, what its files say after a cut is true, and no durable checkpoint is lost."""
    recorder, judge = record(disk)
    assert recorder.points > 20
    assert len(recorder.cuts) > 10
    assert judge_all(recorder, judge) == {}


# Each sync without which something that was promised can be lost, by who calls it, and what is missed then.
NEEDED = {
    "files.write_json": "the salvage gave up",
    "create_json < guardian.begin": "counts as never started",
    "placement.make_run_dir": "counts as never started",
    "files.append": "of the events that were told",
    "files.write": "an end that was recorded is lost",
    "durable.copy_file": "a checkpoint called durable is damaged",
    "durable._copy_all": "a checkpoint called durable is damaged",
    "sync < durable.store": "the durable checkpoint (1, 1) is lost",
    "durable._write": "the durable checkpoint (1, 1) is lost",
}


@pytest.mark.parametrize("caller", NEEDED)
def test_no_sync_is_there_for_nothing(disk: Disk, caller: str) -> None:
    """The cuts miss each one that is left out."""
    wanted = re.compile(rf"{re.escape(caller)}\b")
    recorder, judge = record_one_save(disk, lambda where: wanted.search(re.sub(r":\d+", "", where)) is not None)
    found = first_fault(recorder, judge)
    assert found is not None
    assert NEEDED[caller] in found


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("without_links")
def test_a_file_system_without_hard_links(disk: Disk) -> None:
    """There, too, an attempt starts once, and its end is told as it was or not at all."""
    recorder = Recorder(disk.root)
    life = Life(disk, recorder)
    with recorder.watching():
        life.begin()
        life.end()
    assert judge_all(recorder, Judge(disk, {})) == {}


def record_fence(disk: Disk, deaf: Deaf = hears) -> tuple[Recorder, FenceJudge]:
    """Two attempts of a job that pass its fence one after the other."""
    recorder = Recorder(disk.root, deaf)
    with recorder.watching():
        for attempt in (2, 3):
            assert disk.pass_fence(attempt)
            recorder.promise("passed", attempt)
    return recorder, FenceJudge(disk)


class FenceJudge:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def faults(self, cut: Cut) -> list[str]:
        lay_out(cut.disk, self._disk.root)
        passed = max((attempt for _, attempt in cut.promised), default=0)
        faults = []
        if passed and self._disk.pass_fence(passed - 1):
            faults.append(f"attempt {passed - 1} passes after {passed}")
        if not self._disk.pass_fence(4):
            faults.append("the next attempt doesn't pass")
        if self._disk.pass_fence(3):
            faults.append("an attempt passes after the one that was started since the cut")
        return faults


def test_the_fence(disk: Disk) -> None:
    """An attempt older than one that was started doesn't start after a cut either; the next one does."""
    recorder, judge = record_fence(disk)
    assert judge_all(recorder, judge) == {}


def record_delivery(disk: Disk, deaf: Deaf = hears) -> tuple[Recorder, DeliveryJudge]:
    """The agent's code on its way to a host."""
    files = {
        "launch.py": b"import runctl\n",
        "runctl/__init__.py": b"",
        "runctl/agent.py": b"there = 'whole'\n" * 9,
        # What only begins well ends the import.
        "runctl/__pycache__/agent.pyc": b"byte code" * 9,
    }
    recorder = Recorder(disk.root, deaf)
    with recorder.watching():
        unpack.deliver(str(disk.root / "agents"), "hash", files)
    return recorder, DeliveryJudge(disk, files)


class DeliveryJudge:
    def __init__(self, disk: Disk, files: dict[str, bytes]) -> None:
        self._disk = disk
        self._files = files

    def faults(self, cut: Cut) -> list[str]:
        lay_out(cut.disk, self._disk.root)
        directory = Path(unpack.deliver(str(self._disk.root / "agents"), "hash", self._files))
        return [
            f"`{name}` is torn"
            for name, content in self._files.items()
            if not (directory / name).exists() or (directory / name).read_bytes() != content
        ]


def test_the_agent_s_code(disk: Disk) -> None:
    """An agent that was delivered is whole after a cut, or delivered again."""
    recorder, judge = record_delivery(disk)
    assert judge_all(recorder, judge) == {}


def test_names_that_a_killed_process_made(disk: Disk) -> None:
    """A directory that is there already, and whose maker hadn't synced its name, lasts once it is asked for again."""
    disk.home.mkdir()
    recorder, copies = Recorder(disk.root), disk.home / "checkpoints" / UID / "000001"
    with recorder.watching():
        os.makedirs(copies)
        durable.make_directory(str(disk.home / "checkpoints"), UID, 1)
        recorder.promise(copies)
        os.makedirs(disk.run_dir(1))
        make_run_dir(disk.run_dir(1))
        recorder.promise(disk.run_dir(1))
    for cut in recorder.cuts:
        found = {disk.root / path for path, _ in cut.disk}
        assert all(path in found for (path,) in cut.promised)


def test_what_was_saved_shortly_before_a_cut(disk: Disk) -> None:
    """Is believed only if its format has checksums; what is older than a minute has been written back."""
    life = Life(disk, Recorder(disk.root), keep=3)
    life.begin()
    life.save("epoch-1.safetensors", safetensors_file(1))
    life.sleep(90)
    life.save("epoch-2.pt", torch_file(2))
    life.save("epoch-3.safetensors", safetensors_file(3))
    life.sleep(50)
    life.say_alive()
    assert salvage_unwatched(str(disk.run_dir(1)), at_once) == 0
    noted = {line["name"]: line["status"] for line in hostside.journal(str(disk.run_dir(1)))}
    assert noted == {"epoch-1.safetensors": "durable", "epoch-2.pt": "durable", "epoch-3.safetensors": "invalid"}


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100])
def test_an_end_that_cannot_be_read(disk: Disk, content: bytes) -> None:
    """An `exit.json` that isn't one keeps nobody from salvaging, and from recording the end."""
    life = Life(disk, Recorder(disk.root))
    life.begin()
    life.save("epoch-1.pt", torch_file(1))
    run_dir = disk.run_dir(1)
    (run_dir / "exit.json").write_bytes(content)
    assert salvage_unwatched(str(run_dir), at_once) == 0
    assert not hostside.may_have_unsaved(str(run_dir))
    seen = left_behind(run_dir, datetime.now(UTC))
    assert isinstance(seen, Dead)
    assert seen.newest is not None
    life.end()
    assert isinstance(left_behind(run_dir, datetime.now(UTC)), Ended)
