"""N22 and trainings that print badly: every byte arrives, once, in order, whatever the training and the world do."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from runctl.providers.local.logs import output_end, read_output

from .machine import PATIENCE, RUNCTL, Machine
from .scripts import alive, job

# Past a rotation at 64 MiB, in three bursts, each attempt with lines of its own.
PRINTS_MUCH = """
import hashlib
attempt = os.environ["RUNCTL_ATTEMPT"]
digest, printed = hashlib.sha256(), 0
for burst in range(3):
    for number in range(24):
        block = b"%s.%d.%d\\n" % (attempt.encode(), burst, number) + (b"x" * 99 + b"\\n") * 10500
        digest.update(block)
        printed += len(block)
        os.write(1, block) if number % 2 else sys.stdout.buffer.write(block) and sys.stdout.flush()
    tell("burst", burst=burst, attempt=attempt)
    while not os.path.exists(os.environ["WORLD"] + f"/go-{attempt}-{burst}"):
        time.sleep(0.01)
tell("printed", digest=digest.hexdigest(), bytes=printed, attempt=attempt)
"""


class Reader:
    """Digests what a command prints, as it comes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.digest, self.bytes = hashlib.sha256(), 0
        self._stream = stream
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while data := self._stream.read1(1 << 20):  # type: ignore[attr-defined]
            self.digest.update(data)
            self.bytes += len(data)

    def end(self) -> None:
        self._thread.join(PATIENCE)


def _follow(machine: Machine, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*RUNCTL, "logs", *args],
        env=machine.environ,
        cwd=machine.project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_N22_a_follower_gets_every_byte_once(machine: Machine) -> None:
    """`logs -f` while the log rotates and controllers die: what it printed is what the training wrote."""
    assert machine.run("apply", job(machine, PRINTS_MUCH), "--no-wait").code == 0
    with _follow(machine, "-f", "job") as follower:
        assert follower.stdout
        reader = Reader(follower.stdout)
        for burst in range(3):
            machine.until(lambda: len(machine.told("burst")) > burst, "the next burst")  # noqa: B023  (called here)
            os.kill(machine.until(lambda: _background(machine), "a controller in the background"), signal.SIGKILL)
            (machine.world / f"go-1-{burst}").touch()
            waiting = machine.start("wait", "job")  # brings another one up
        assert waiting.wait(PATIENCE) == 0
        reader.end()
        assert follower.wait(PATIENCE) == 0
    (told,) = machine.told("printed")
    assert len(list(machine.run_dirs()[0].glob("output*.log"))) == 2, "it was meant to rotate"
    assert (reader.bytes, reader.digest.hexdigest()) == (told["bytes"], told["digest"])
    with _follow(machine, "job") as later:
        assert later.stdout
        reader = Reader(later.stdout)
        reader.end()
    assert (reader.bytes, reader.digest.hexdigest()) == (told["bytes"], told["digest"])


def _background(machine: Machine) -> int | None:
    """The pid of the controller in the background, if the process with it lives."""
    try:
        pid = int((machine.home / "controller.pid").read_text())
    except (OSError, ValueError):
        return None
    return pid if alive(pid) else None


def test_N22_a_follower_goes_on_with_the_next_attempt(machine: Machine) -> None:
    """The agent dies, another attempt begins: a follower that was there from the start has both outputs, whole."""
    code = """
attempt = os.environ["RUNCTL_ATTEMPT"]
for line in range(50):
    print(attempt, line, flush=True)
tell("printed", attempt=attempt)
while attempt == "1":
    time.sleep(0.05)
"""
    machine.run("apply", job(machine, code), "--no-wait")
    with _follow(machine, "-f", "job") as follower:
        machine.until(lambda: machine.told("printed"), "the output")
        # What was read from the pipe is in the log within a tenth of a second; a crash may take no more than that.
        log = machine.run_dirs()[0] / "output.log"
        machine.until(lambda: log.read_bytes().endswith(b"1 49\n"), "the output in the log")
        psutil.Process(machine.agent_pids()["agent"]).kill()
        out, _ = follower.communicate(timeout=PATIENCE)
    assert out.decode() == "".join(f"{attempt} {line}\n" for attempt in (1, 2) for line in range(50))


def test_N22_a_rotation_in_the_middle_of_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is renamed, and a new one begun, after a reader has opened it: what it reads is that place of the output
    all the same, and its end is not taken for another."""
    log = tmp_path / "output.log"
    real = os.open

    def rotated(path: Any, flags: int, *args: Any, **more: Any) -> int:
        descriptor = real(path, flags, *args, **more)
        if path == log and not (tmp_path / f"output.{0:020d}.log").exists():
            log.rename(tmp_path / f"output.{0:020d}.log")
            log.write_bytes(b"later\n")
        return descriptor

    monkeypatch.setattr(os, "open", rotated)
    for look, found in ((lambda: read_output(tmp_path, 2), b"rst\n"), (lambda: output_end(tmp_path), 6)):
        (tmp_path / f"output.{0:020d}.log").unlink(missing_ok=True)
        log.write_bytes(b"first\n")
        assert look() == found
        assert read_output(tmp_path, 6) == b"later\n"


def test_N22_bytes_that_are_no_text_arrive_unaltered(machine: Machine) -> None:
    """Invalid UTF-8, NUL, escapes and a last line without its end: `logs` has the bytes, an attached terminal none
    that would move its cursor."""
    raw = b"\xff\xfe\x00 caf\xe9 \xed\xa0\x80 \x1b[2J\x1b]0;title\x07 \r over \xf0\x9f\n tail without end"
    done = machine.run("apply", job(machine, f"os.write(1, {raw!r})\nos.write(2, {raw!r})"), "--wait")
    assert done.code == 0, done
    assert "\x1b[2J" not in done.err
    assert "\x1b]0" not in done.err
    assert "tail without end" in done.err
    logs = subprocess.run(
        [*RUNCTL, "logs", "job"], env=machine.environ, capture_output=True, check=True, timeout=PATIENCE
    )
    assert logs.stdout == raw + raw


def test_N22_a_training_that_closes_its_output_goes_on(machine: Machine) -> None:
    """Without stdout and stderr it trains, saves, is followed and ended as any other; its exit code is known."""
    code = """
print("last words", flush=True)
os.closerange(0, 3)
for number in range(4):
    time.sleep(0.3)
    save(f"step-{number}.safetensors")
os._exit(9)
"""
    done = machine.run("apply", job(machine, code), "--wait")
    assert done.code == 1, done
    assert machine.status()["exit_code"] == 9
    assert machine.status()["checkpoints"]["newest"]["step"] == 3
    assert machine.run("logs", "-f", "job").out == "last words\n"


def test_a_gigabyte_without_a_newline_is_kept_and_followed_in_little_memory(machine: Machine) -> None:
    """Agent, controller and attached command stay small, the log is whole, and looking at its end stays quick."""
    size = 1 << 30
    code = f"""
block = b"x" * (1 << 20)
for _ in range({size >> 20}):
    os.write(1, block)
tell("printed")
for word in ("speak", "go"):
    while not os.path.exists(os.environ["WORLD"] + "/" + word):
        time.sleep(0.01)
    os.write(1, b"\\nheard " + word.encode() + b"\\n")
"""
    attached = machine.start("apply", job(machine, code), "--no-wait")
    assert attached.wait(PATIENCE) == 0
    machine.until(lambda: machine.told("printed"), "the gigabyte")
    agent = psutil.Process(machine.agent_pids()["agent"])
    assert agent.memory_info().rss < 24 << 20
    machine.until(lambda: sum(path.stat().st_size for path in _segments(machine)) == size, "all of it in the log")
    second = machine.start("apply", "job.yaml", "--wait")
    shown = machine.root / "started-1.out"
    machine.until(lambda: "attaches to it" in shown.read_text(), "the second command")
    (machine.world / "speak").touch()
    machine.until(lambda: b"heard speak" in shown.read_bytes()[-1000:], "what is printed after a second attaches")
    assert psutil.Process(second.pid).memory_info().rss < 150 << 20
    (machine.world / "go").touch()
    assert second.wait(PATIENCE) == 0
    assert shown.stat().st_size < 1 << 20, "a terminal that attaches is not flooded with the past"
    assert machine.run("logs", "job", "--tail", "1").out == "heard go\n"


def _segments(machine: Machine) -> list[Path]:
    return list(machine.run_dirs()[0].glob("output*.log"))
