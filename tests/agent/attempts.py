"""Attempts that live on a recorded disk by the agent's own code, and the judge of each disk that a power cut leaves.

What is asked of such a disk: everything that had been promised is there after its recovery, and nothing is taken for
what it isn't.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runctl.agent import guardian, hostside, saver
from runctl.agent.child import Helper
from runctl.agent.clocks import Now
from runctl.agent.files import ExitRecord, Journal, write_json
from runctl.agent.keeper import Keeper
from runctl.agent.placement import make_run_dir
from runctl.agent.record import TRAINING_STARTED, StateFile
from runctl.agent.salvage import salvage_unwatched
from runctl.agent.spec import Spec, read_spec
from runctl.agent.watch import CutOff
from runctl.checkpoints import durable, verifying
from runctl.planner.observed import Absent, Dead, Ended
from runctl.planner.record import CheckpointRef, EndReason
from runctl.providers.hosts import reading
from runctl.providers.local.run_dir import left_behind

from .power_cut import Cut, Recorder, lay_out, unsynced

Json = dict[str, Any]
UID = "0123456789ab"
EXIT_CODE = 3
# Who is of another boot is dead.
ANOTHER_BOOT = {"pid": 1, "start": 1, "boot_id": "before the cut"}


class Finished(Helper):
    """What a fork would report, of work that was done in this process so that it is recorded."""

    def kill(self) -> None:
        pass


def at_once(work: Callable[[Callable[[Json], None]], None], purpose: str, deadline: float | None = None) -> Helper:
    reports: list[Json] = []
    try:
        work(reports.append)
    except OSError as error:
        reports.append({"error": str(error), "errno": error.errno})
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        file.writelines(json.dumps(report) + "\n" for report in reports)
    os.set_blocking(reader, False)
    return Finished(0, reader, purpose, None)


def torch_file(number: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", b"%d" % number * 100)
    return data.getvalue()


def safetensors_file(number: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([number]) * 64


class Disk:
    """The paths of one home, and the specs of its attempts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"

    def run_dir(self, attempt: int) -> Path:
        return self.home / "runs" / UID / f"{attempt:06d}"

    def spec(self, attempt: int, restore: Json | None = None) -> Json:
        run_dir = self.run_dir(attempt)
        return {
            "version": 1,
            "run_id": f"{UID}-{attempt}",
            "job": "job",
            "uid": UID,
            "attempt": attempt,
            "epoch": 1,
            "home_fence": str(self.home / "runs" / UID / "fence"),
            "cwd": str(run_dir / "work"),
            "argv": ["train"],
            "checkpoint": {
                "dir": str(run_dir / "work" / "checkpoints"),
                "destination": str(self.home / "checkpoints"),
                "grace": 5.0,
                "restore": restore,
            },
        }

    def pass_fence(self, attempt: int) -> bool:
        """Whether that attempt may start. Its run directory is made anew."""
        run_dir = self.run_dir(attempt)
        shutil.rmtree(run_dir, ignore_errors=True)
        make_run_dir(run_dir)
        write_json(str(run_dir / "spec.json"), self.spec(attempt))
        started = Now(time.time(), 0.0, 0.0)
        return guardian.begin(str(run_dir), ExitRecord(str(run_dir)), ANOTHER_BOOT, started) is not None


class Life:
    """One attempt's agent at work, without its processes: what guardian, supervisor and keeper write, and a training
    that saves.
    """

    def __init__(self, disk: Disk, recorder: Recorder, attempt: int = 1, keep: int = 1) -> None:
        self._disk = disk
        self._recorder = recorder
        self._attempt = attempt
        self._keep = keep
        self._run_dir = disk.run_dir(attempt)
        self._wall = time.time() - 1000
        self._active = 0.0
        self._told: set[int] = set()
        self._events = 0

    def begin(self, restore: Json | None = None) -> None:
        make_run_dir(self._run_dir)
        write_json(str(self._run_dir / "spec.json"), self._disk.spec(self._attempt, restore))
        limits = {"serial": 1, "epoch": 1, "limits": {"keep": self._keep}}
        write_json(str(self._run_dir / "orders.json"), limits)
        self._record = ExitRecord(str(self._run_dir))
        spec = guardian.begin(str(self._run_dir), self._record, ANOTHER_BOOT, self._now())
        assert spec is not None
        self._recorder.promise("claimed", self._attempt)
        self._journal = Journal(str(self._run_dir / "events.jsonl"), "seq")
        self._state = StateFile(str(self._run_dir))
        self._keeper = Keeper(spec, self._event, at_once)
        self._tell("preparing")
        while self._keeper.prepare(self._now()) is None:
            pass
        self._active += 1.0
        self._event(TRAINING_STARTED, "pid 1")
        self._tell("training")

    def tell_from_now_on(self, recorder: Recorder) -> Recorder:
        """Go on before another recorder, which takes over what was promised and returns."""
        recorder.promised += self._recorder.promised
        self._recorder = recorder
        return recorder

    def _now(self) -> Now:
        return Now(self._wall + self._active, self._active, self._active)

    def _event(self, word: str, detail: str) -> None:
        self._journal.append({"at": self._now().wall, "event": word, "detail": detail})
        self._events += 1
        self._recorder.promise("event", self._attempt, self._events)

    def _tell(self, phase: str) -> None:
        training = None if phase == "preparing" else {**ANOTHER_BOOT, "started_at": self._wall}
        state = {
            "version": 1,
            "agent": ANOTHER_BOOT,
            "guardian": ANOTHER_BOOT,
            "phase": phase,
            "started_at": self._wall,
            "heartbeat": self._now().wall,
            "active": self._active,
            "training": training,
            "checkpoints": self._keeper.state(),
        }
        self._state.write(state)

    def save(self, name: str, content: bytes, careful: bool = False) -> None:
        """As a script saves: in place, or synced under another name and then renamed."""
        path = self._run_dir / "work" / "checkpoints" / name
        os.makedirs(path.parent, exist_ok=True)
        written = f"{path}.tmp" if careful else str(path)
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, content)
        if careful:
            os.fsync(descriptor)
        os.close(descriptor)
        os.utime(written, (self._now().wall, self._now().wall))
        if careful:
            os.rename(written, path)

    def watch(self, seconds: float) -> None:
        """The agent's loop for so long."""
        until = self._active + seconds
        while self._active < until:
            self._active += 1.0
            if self._poll(still_writing=True):
                self._tell("training")

    def sleep(self, seconds: float) -> None:
        """The agent is held for so long."""
        self._active += seconds

    def say_alive(self) -> None:
        self._tell("training")

    def _poll(self, still_writing: bool) -> bool:
        changed = self._keeper.poll(self._now(), self._keep, still_writing, None)
        newest = self._keeper.state()["newest_durable"]
        if newest is not None and newest["seq"] not in self._told:
            self._told.add(newest["seq"])
            self._recorder.promise("durable", self._attempt, newest["seq"])
        return changed

    def end(self) -> None:
        self._keeper.cut_off = CutOff(self._now().wall)
        while not self._keeper.settled:
            self._active += 1.0
            self._poll(still_writing=False)
        self._keeper.stop(self._now())
        self._tell("ended")
        state = self._keeper.state()
        value = {
            "version": 1,
            "run_id": f"{UID}-{self._attempt}",
            "attempt": self._attempt,
            "reason": "exited",
            "exit_code": EXIT_CODE,
            "signal": None,
            "training_started": True,
            "newest_durable": state["newest_durable"],
            "checkpoints": {name: state[name] for name in ("seen", "durable", "invalid")},
        }
        assert self._record.write(value)
        self._recorder.promise("exit", self._attempt)
        self._record.release()


class Judge:
    """Runs the recovery on a disk, and says what is wrong with the outcome."""

    def __init__(
        self,
        disk: Disk,
        contents: dict[str, set[bytes]],
        attempt: int = 1,
        keep: int = 1,
        withdrawn: tuple[int, int] | None = None,
    ) -> None:
        """`contents`: what the training has saved, by the path in a durable copy. `withdrawn`: attempt and number of
        the one that the agent takes back.
        """
        self._disk = disk
        self._contents = contents
        self._attempt = attempt
        self._keep = keep
        self._withdrawn = withdrawn

    def faults(self, cut: Cut) -> list[str]:
        lay_out(cut.disk, self._disk.root)
        promised = {kind: [what[1:] for what in cut.promised if what[0] == kind] for kind in PROMISES}
        return list(self._faults(promised))

    def _faults(self, promised: dict[str, list[Any]]) -> Iterable[str]:
        run_dir = self._disk.run_dir(self._attempt)
        now = datetime.now(UTC)
        for name in ("events.jsonl", "checkpoints.jsonl"):
            yield from self._torn_before_the_end(run_dir / name)
        seen = left_behind(run_dir, now)
        if promised["claimed"] and isinstance(seen, Absent):
            yield "an attempt that was claimed counts as never started"
        if isinstance(seen, Absent):
            return
        yield from self._not_noted(run_dir, promised)
        if isinstance(seen, Dead) and hostside.may_have_unsaved(str(run_dir)):
            if salvage_unwatched(str(run_dir), at_once) != 0:
                yield "the salvage gave up"
            elif hostside.may_have_unsaved(str(run_dir)):
                yield "the salvage found no end"
            seen = left_behind(run_dir, now)
        assert isinstance(seen, Dead | Ended)
        yield from self._wrong_end(seen, promised)
        yield from self._wrong_events(run_dir, promised)
        yield from self._wrong_copies(promised)
        yield from self._wrong_newest(seen.newest, promised)
        yield from self._second_start(promised)

    @staticmethod
    def _torn_before_the_end(path: Path) -> Iterable[str]:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        for line in lines[:-1]:
            try:
                json.loads(line)
            except ValueError:
                yield f"a line of {path.name} that isn't the last is damaged: {line[:50]!r}"

    def _not_noted(self, run_dir: Path, promised: dict[str, list[Any]]) -> Iterable[str]:
        """What is told of the attempt if nobody salvages it."""
        noted = {(line["attempt"], line["seq"]) for line in hostside.journal(str(run_dir))}
        if not noted.issuperset(each for each in promised["durable"] if each[0] == self._attempt):
            yield f"of the durable checkpoints only {sorted(noted)} are noted"

    def _wrong_end(self, seen: Dead | Ended, promised: dict[str, list[Any]]) -> Iterable[str]:
        if promised["exit"] and not isinstance(seen, Ended):
            yield "an end that was recorded is lost"
        if promised["claimed"] and isinstance(seen, Dead) and seen.started_at is None:
            yield "nobody can say when the attempt began"
        if isinstance(seen, Ended) and seen.end.reason is not EndReason.LOST and seen.end.exit_code != EXIT_CODE:
            yield f"the exit code is told as {seen.end.exit_code}"

    def _wrong_events(self, run_dir: Path, promised: dict[str, list[Any]]) -> Iterable[str]:
        numbers = [number for number, _ in reading.agent_events(hostside.events(str(run_dir), 0), self._attempt)]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"the events are numbered {numbers}"
        if len(numbers) < max((number for _, number in promised["event"]), default=0):
            yield f"of the events that were told only {numbers} are left"

    def _wrong_copies(self, promised: dict[str, list[Any]]) -> Iterable[str]:
        copies = durable.list_durable(str(self._disk.home / "checkpoints"), UID)
        for copy in copies:
            try:
                manifest = verifying.verify(copy.path)
            except durable.Damaged as error:
                yield f"a checkpoint called durable is damaged: {error}"
                continue
            for file in manifest["files"]:
                content = Path(copy.path, "data", file["path"]).read_bytes()
                if content not in self._contents[file["path"]]:
                    yield f"a checkpoint called durable isn't whole: {file['path']} is {content[:40]!r}"
        whole = [(copy.attempt, copy.seq) for copy in copies]
        for known in promised["durable"]:
            newer = [each for each in whole if each > known]
            if known not in whole and len(newer) < self._keep and known != self._withdrawn:
                yield f"the durable checkpoint {known} is lost, there are {whole}"

    def _wrong_newest(self, newest: CheckpointRef | None, promised: dict[str, list[Any]]) -> Iterable[str]:
        known = durable.list_durable(str(self._disk.home / "checkpoints"), UID)
        copies = [copy for copy in known if copy.attempt == self._attempt]
        if newest is None:
            if copies:
                yield f"no checkpoint is known of, there is {copies[-1].path}"
            return
        if copies and (newest.attempt, newest.seq) != (copies[-1].attempt, copies[-1].seq):
            yield f"the newest is told to be {newest.path}, it is {copies[-1].path}"
        attempt = self._attempt + 1
        restore = {"source": newest.path, "name": newest.name}
        spec = Spec(self._disk.spec(attempt, restore), str(self._disk.run_dir(attempt)))
        os.makedirs(spec.checkpoint.dir)
        reports: list[Json] = []
        saver.prepare(spec)(reports.append)
        if [list(report) for report in reports] != [["restored"]]:
            yield f"the next attempt doesn't go on from the newest: {reports}"

    def _second_start(self, promised: dict[str, list[Any]]) -> Iterable[str]:
        run_dir = str(self._disk.run_dir(self._attempt))
        try:
            read_spec(run_dir)
        except ValueError as error:
            yield f"the attempt was begun without a spec: {error}"
        started = guardian.begin(run_dir, ExitRecord(run_dir), ANOTHER_BOOT, Now(time.time(), 0.0, 0.0))
        if promised["claimed"] and started is not None:
            yield "the attempt is started a second time"


PROMISES = ("claimed", "event", "durable", "exit")
Deaf = Callable[[str], bool]


def hears(_where: str) -> bool:
    return False


def judge_all(recorder: Recorder, judge: Judge) -> dict[str, str]:
    """What goes wrong, each with the crash point at which it does first."""
    found: dict[str, str] = {}
    with unsynced():
        for cut in recorder.cuts:
            for fault in judge.faults(cut):
                found.setdefault(fault, cut.before)
    return found


def first_fault(recorder: Recorder, judge: Judge) -> str | None:
    with unsynced():
        return next((fault for cut in recorder.cuts for fault in judge.faults(cut)), None)
