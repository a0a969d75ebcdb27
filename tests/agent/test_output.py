"""The training's output, whatever it prints."""

from __future__ import annotations

import hashlib

import pytest

from .real_host import Host, Run, until


def follow(run: Run, offset: int) -> tuple[bytes, int]:
    """Read on from an absolute offset, as a follower does that knows only it."""
    data = b""
    parts = sorted(run.path.glob("output.*.log"))
    starts = [int(part.name.split(".")[1]) for part in parts]
    for part, start in zip(parts, starts, strict=True):
        content = part.read_bytes()
        if start + len(content) > offset:
            data += content[offset - start :]
            offset = start + len(content)
    return data, offset


def test_segments(host: Host) -> None:
    """Segments are named after the offset of their first byte and make up the whole output, byte for byte."""
    run = host.script(
        "import sys\nfor i in range(5000): sys.stdout.write(f'{i:09d}\\n')", log={"segment_bytes": 10_000}
    )
    run.exit()
    expected = b"".join(b"%09d\n" % i for i in range(5000))
    assert run.output() == expected
    starts = [int(path.name.split(".")[1]) for path in sorted(run.path.glob("output.*.log"))]
    assert starts == list(range(0, 50_000, 10_000))[: len(starts)]
    assert len(starts) >= 4
    data, offset = follow(run, 12_345)
    assert data == expected[12_345:offset]
    assert run.state["output"] == {"start": 0, "end": len(expected)}


def test_what_is_no_text(host: Host) -> None:
    """Bytes that are no UTF-8 are kept as they are, from both streams."""
    run = host.script("import os\nos.write(1, bytes(range(256)) * 3); os.write(2, b'\\xff\\xfe epoch 1/2 \\x00')")
    assert run.exit()["exit_code"] == 0
    assert run.output() == bytes(range(256)) * 3 + b"\xff\xfe epoch 1/2 \x00"


@pytest.mark.parametrize("megabytes", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_flood_without_a_newline(host: Host, megabytes: int) -> None:
    """An endless line is written through in constant memory, and the limits hold meanwhile."""
    run = host.script(
        f"import os\nfor i in range({megabytes}):\n block = bytes([i % 251]) * (1 << 20)\n"
        " view = memoryview(block)\n while view: view = view[os.write(1, view):]"
    )
    ended = run.exit(patience=100)
    assert ended["exit_code"] == 0
    digest, size = hashlib.sha256(), 0
    for path in [*sorted(run.path.glob("output.*.log")), run.path / "output.log"]:
        if path.exists():
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
            path.unlink()
    expected = hashlib.sha256()
    for i in range(megabytes):
        expected.update(bytes([i % 251]) * (1 << 20))
    assert size == megabytes << 20
    assert digest.digest() == expected.digest()


def test_a_flood_does_not_delay_a_stop(host: Host) -> None:
    """A training that prints as fast as it can is ended as any other."""
    run = host.script("import os\nwhile True: os.write(1, b'x' * 65536)", log={"segment_bytes": 8 << 20})
    until(lambda: run.state.get("output", {}).get("end", 0) > 10 << 20)
    run.order(end="stop")
    ended = run.exit()
    assert (ended["reason"], ended["signal"]) == ("stop", 15)
    for path in run.path.glob("output*.log"):
        path.unlink()


def test_closed_output(host: Host) -> None:
    """A training that closes its output goes on, and its exit code is known."""
    run = host.script(
        "import os, time\nprint('bye', flush=True)\nos.close(0); os.close(1); os.close(2)\ntime.sleep(0.5)\nos._exit(9)"
    )
    assert run.exit()["exit_code"] == 9
    assert run.output() == b"bye\n"


def test_output_of_children_at_the_end(host: Host) -> None:
    """What a child prints just before the end is in the log."""
    run = host.script(
        "import os, sys\nif os.fork() == 0: print('child', flush=True); os._exit(0)\nos.wait()\nprint('leader')"
    )
    run.exit()
    assert run.output() == b"child\nleader\n"


def test_a_training_without_output(host: Host) -> None:
    """No output is an empty log."""
    run = host.script("pass")
    run.exit()
    assert run.output() == b""
