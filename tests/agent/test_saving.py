"""Checkpoints of a running training: noticed, judged, copied, kept, restored."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import kill_at_once

from runctl.agent.watch import Watch

from .real_host import Host, Run, until

NPZ = """
import io, os, sys, time, zipfile
def npz(path, value, atomic=True):
    import struct
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (64,), }".ljust(117) + b"\\n"
    data = b"\\x93NUMPY\\x01\\x00" + struct.pack('<H', len(header)) + header + bytes([value]) * 512
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('w.npy', data)
    temporary = path + '.tmp' if atomic else path
    with open(temporary, 'wb') as out:
        out.write(file.getvalue())
    if atomic:
        os.rename(temporary, path)
"""


def manifest(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((path / "manifest.json").read_text())
    return found


def test_checkpoints_become_durable(host: Host) -> None:
    """Each checkpoint is copied whole with a manifest, while the training runs, and the newest are kept."""
    run = host.script(
        NPZ + "for i in range(1, 6):\n npz(f'checkpoints/epoch-{i}.npz', i)\n time.sleep(1.3)\ntime.sleep(600)",
        limits={"keep": 2},
    )
    state = run.wait_state(lambda state: state["checkpoints"]["durable"] == 5)
    newest = state["checkpoints"]["newest_durable"]
    assert (newest["epoch"], newest["format"], newest["status"]) == (5, "npz", "durable")
    until(lambda: len(run.durable()) == 2)
    assert [manifest(path)["epoch"] for path in run.durable()] == [4, 5]
    copied = Path(newest["durable_path"]) / "data" / "epoch-5.npz"
    assert copied.read_bytes() == Path(newest["path"]).read_bytes()
    lines = run.lines("checkpoints.jsonl")
    assert [line["line"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["seq"] for line in lines if line["status"] == "durable"] == [1, 2, 3, 4, 5]
    until(lambda: [x["seq"] for x in run.lines("checkpoints.jsonl") if x["status"] == "pruned"] == [1, 2, 3])
    run.order(end="cancel")
    run.exit()


def test_what_is_saved_at_the_end(host: Host) -> None:
    """A checkpoint that is written just before the exit is durable when the exit is recorded; an opaque one, too."""
    run = host.script("open('checkpoints/model-9.bin', 'wb').write(b'weights')")
    ended = run.exit()
    assert (ended["exit_code"], ended["checkpoints"]["durable"]) == (0, 1)
    assert ended["newest_durable"]["name"] == "model-9.bin"
    assert ended["newest_durable"]["format"] == "opaque"


# Saves `step-1` whole, then begins `step-2`: a directory, which can't tell whether it is whole.
BEGINS_A_SAVE = """
import os, signal, sys, time
def save(name, files):
    os.mkdir('checkpoints/' + name)
    for number in range(files):
        open(f'checkpoints/{name}/{number}.bin', 'wb').write(b'x' * 100)
save('.step-1', 3)
time.sleep(0.05)
os.rename('checkpoints/.step-1', 'checkpoints/step-1')
while not os.path.exists('checkpoints-kept'): time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("ends", "drained"),
    [
        ("save('step-2', 1); raise OSError('disk full')", False),
        ("save('step-2', 1); sys.exit(137)", False),
        (
            "signal.signal(15, lambda *_: sys.exit(0)); save('step-2', 1); print('up', flush=True); time.sleep(600)",
            True,
        ),
        (
            "signal.signal(15, lambda *_: (save('step-2', 1), sys.exit(1))); print('up', flush=True); time.sleep(600)",
            True,
        ),
    ],
)
def test_a_save_that_the_end_cut_off(host: Host, ends: str, drained: bool) -> None:
    """Whatever ended the training in the middle of a save, the half is no checkpoint and pushes out no whole one."""
    run = host.script(BEGINS_A_SAVE + ends, checkpoint={"grace": 5.0}, limits={"keep": 1})
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    (run.path / "work" / "checkpoints-kept").touch()
    if drained:
        until(lambda: b"up" in run.output())
        run.order(end="stop")
    ended = run.exit()
    assert ended["newest_durable"]["name"] == "step-1"
    assert ended["checkpoints"]["invalid"] == 1
    assert len(run.durable()) == 1


@pytest.mark.parametrize("code", [0, 143])
def test_the_save_that_answers(host: Host, code: int) -> None:
    """What a training begins to save when it is told to end, and ends well after, is whole."""
    ends = (
        f"signal.signal(15, lambda *_: (save('step-2', 3), sys.exit({code}))); print('up', flush=True); time.sleep(600)"
    )
    run = host.script(BEGINS_A_SAVE + ends, checkpoint={"grace": 5.0})
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    (run.path / "work" / "checkpoints-kept").touch()
    until(lambda: b"up" in run.output())
    run.order(end="stop")
    ended = run.exit()
    assert (ended["exit_code"], ended["newest_durable"]["name"]) == (code, "step-2")


def test_a_torn_checkpoint_is_invalid(host: Host) -> None:
    """A checkpoint that is cut short is said to be invalid once it has stopped changing, and is not copied."""
    run = host.script(
        NPZ + "npz('checkpoints/a.npz', 1)\ndata = open('checkpoints/a.npz', 'rb').read()\n"
        "open('checkpoints/b.npz', 'wb').write(data[:-30])\ntime.sleep(600)"
    )
    run.wait_state(lambda state: state["checkpoints"]["invalid"] == 1)
    assert [line["name"] for line in run.lines("checkpoints.jsonl") if line["status"] == "invalid"] == ["b.npz"]
    assert "checkpoint_invalid" in run.events()
    assert len(run.durable()) == 1
    run.order(end="cancel")
    ended = run.exit()
    assert ended["newest_durable"]["name"] == "a.npz"
    assert ended["checkpoints"] == {"seen": 2, "durable": 1, "invalid": 1}


def test_a_slow_writer_is_waited_for(host: Host) -> None:
    """A file that is written in place is taken when it is whole, not before and not as invalid."""
    run = host.script(
        NPZ + "npz('checkpoints/.x', 3)\ndata = open('checkpoints/.x', 'rb').read()\n"
        "with open('checkpoints/a.npz', 'wb') as out:\n"
        " for i in range(0, len(data), 60):\n  out.write(data[i:i + 60]); out.flush(); time.sleep(0.2)\ntime.sleep(600)"
    )
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    assert run.state["checkpoints"]["invalid"] == 0
    run.order(end="cancel")
    run.exit()


def test_the_same_name_again(host: Host) -> None:
    """A script that overwrites its last checkpoint gets each version copied, none overwritten."""
    run = host.script(NPZ + "for i in range(3):\n npz('checkpoints/latest.npz', i)\n time.sleep(1.5)")
    ended = run.exit()
    assert ended["checkpoints"]["durable"] == 3
    assert len({(path / "data" / "latest.npz").read_bytes() for path in run.durable()}) == 3


def test_what_is_no_checkpoint(host: Host) -> None:
    """Temporary files, logs, links and files of no known format beside real checkpoints don't count."""
    secret = host.root / "secret.npz"
    secret.write_bytes(b"secret")
    run = host.script(
        NPZ + "npz('checkpoints/a.npz', 1)\n"
        "for name in ('.hidden', 'b.npz.tmp', 'tmp.npz', 'train.log', 'metrics.jsonl', 'README.md', 'meta.json'"
        ", 'notes'):\n"
        " open('checkpoints/' + name, 'wb').write(b'{}')\n"
        f"os.symlink({str(secret)!r}, 'checkpoints/latest.npz')\n"
        "os.mkdir('checkpoints/empty'); os.mkdir('checkpoints/logs'); open('checkpoints/logs/x.pt', 'w')\n"
        "os.mkfifo('checkpoints/fifo.npz')\ntime.sleep(1.5)"
    )
    ended = run.exit()
    assert ended["checkpoints"] == {"seen": 1, "durable": 1, "invalid": 0}
    assert not list(host.destination.rglob("*latest*"))


@pytest.mark.slow
def test_directories(host: Host) -> None:
    """A directory is one checkpoint, whole when all files in it are; a link out of it makes it invalid."""
    run = host.script(
        NPZ + "os.mkdir('checkpoints/.new')\nnpz('checkpoints/.new/model.npz', 1)\n"
        "open('checkpoints/.new/trainer_state.json', 'w').write("
        '\'{"epoch": 1.5, "num_train_epochs": 3, "global_step": 50, "max_steps": 100}\')\n'
        "os.rename('checkpoints/.new', 'checkpoints/checkpoint-50')\n"
        "os.mkdir('checkpoints/checkpoint-60')\nos.symlink('/etc/hostname', 'checkpoints/checkpoint-60/model.npz')\n"
        "time.sleep(600)"
    )
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1 and state["checkpoints"]["invalid"] == 1)
    (kept,) = run.durable()
    assert sorted(path.name for path in (kept / "data" / "checkpoint-50").iterdir()) == [
        "model.npz",
        "trainer_state.json",
    ]
    assert manifest(kept)["step"] == 50
    state = run.wait_state(lambda state: state["progress"])
    assert state["progress"]["source"] == "trainer_state"
    assert (state["progress"]["step"], state["progress"]["fraction"]) == (50, 0.5)
    run.order(end="cancel")
    run.exit()


@pytest.mark.parametrize(("check", "valid"), [("grep -q good", True), ("grep -q bad", False)])
def test_the_users_own_check(host: Host, check: str, valid: bool) -> None:
    """With `format: command` the user's command decides."""
    format_ = {"kind": "command", "command": ["sh", "-c", f'{check} "$0"', "{}"]}
    run = host.script("open('checkpoints/x y.dat', 'w').write('good')", checkpoint={"format": format_})
    ended = run.exit()
    assert ended["checkpoints"]["durable"] == int(valid)
    assert ended["checkpoints"]["invalid"] == int(not valid)


@pytest.mark.slow
def test_ten_thousand(host: Host) -> None:
    """Ten thousand checkpoints cost the agent next to nothing: the newest are copied, all are counted."""
    run = host.script(
        NPZ + "npz('checkpoints/.x', 1)\ndata = open('checkpoints/.x', 'rb').read()\n"
        "for i in range(10000):\n"
        " path = f'checkpoints/step-{i:05d}.npz'\n"
        " with open(path + '.tmp', 'wb') as out: out.write(data)\n os.rename(path + '.tmp', path)\n"
        "print('written', flush=True)\ntime.sleep(600)"
    )
    run.wait_state(lambda state: (state["checkpoints"]["newest_durable"] or {}).get("step") == 9999, "step 9999", 60)
    run.wait_state(lambda state: state["checkpoints"]["seen"] == 10000)
    import psutil

    agent = psutil.Process(run.state["agent"]["pid"])
    assert agent.memory_info().rss < 16 << 20
    before = sum(agent.cpu_times()[:2])
    until(lambda: run.state["active"] > before + 6)
    assert sum(agent.cpu_times()[:2]) - before < 0.1
    assert len(run.durable()) <= 4
    run.order(end="cancel")
    run.exit()


def start_and_save(host: Host, value: int = 5) -> Run:
    run = host.script(NPZ + f"npz('checkpoints/epoch-{value}.npz', {value})")
    assert run.exit()["checkpoints"]["durable"] == 1
    return run


PRINT_RESUME = "import os, sys; p = os.environ['RUNCTL_RESUME_FROM']; print(sys.argv[1:], os.path.getsize(p), p)"


def test_restore(host: Host) -> None:
    """An attempt goes on from a durable checkpoint: verified, in place before the script starts, not counted as
    its own.
    """
    first = start_and_save(host)
    source = first.durable()[0]
    run = host.script(
        PRINT_RESUME,
        uid=first.spec["uid"],
        attempt=2,
        checkpoint={"restore": {"source": str(source), "name": "epoch-5.npz"}, "resume_arg": "--resume"},
    )
    ended = run.exit()
    path = Path(run.spec["checkpoint"]["dir"]) / "epoch-5.npz"
    assert ended["exit_code"] == 0
    assert run.output().decode() == f"{['--resume', str(path)]} {path.stat().st_size} {path}\n"
    assert path.read_bytes() == (source / "data" / "epoch-5.npz").read_bytes()
    assert ended["checkpoints"]["seen"] == 0


@pytest.mark.parametrize("damage", ["flipped", "short", "missing", "no manifest", "escaping"])
def test_a_damaged_restore(host: Host, damage: str) -> None:
    """A checkpoint that isn't what was saved fails the start; the script never runs from zero instead."""
    first = start_and_save(host)
    source = first.durable()[0]
    file = source / "data" / "epoch-5.npz"
    content = file.read_bytes()
    if damage == "flipped":
        file.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif damage == "short":
        file.write_bytes(content[:-1])
    elif damage == "missing":
        file.unlink()
    elif damage == "no manifest":
        (source / "manifest.json").unlink()
    else:
        value = manifest(source)
        value["files"] = [{**value["files"][0], "path": "../../../escaped"}]  # type: ignore[index]
        (source / "manifest.json").write_text(json.dumps(value))
    run = host.script(
        "print('from zero')",
        uid=first.spec["uid"],
        attempt=2,
        checkpoint={"restore": {"source": str(source), "name": "epoch-5.npz"}},
    )
    ended = run.exit()
    assert (ended["reason"], ended["training_started"]) == ("start_failed", False)
    assert str(source) in ended["detail"]
    assert run.output() == b""
    assert os.listdir(run.spec["checkpoint"]["dir"]) == []


def test_an_attempt_that_leaves_no_trace_is_numbered_on(host: Host) -> None:
    """Started again after its directory was removed, it overwrites nothing, and what it saves is durable at once."""
    run = start_and_save(host)
    (before,) = run.durable()
    first = manifest(before)
    run.gone()
    shutil.rmtree(run.path)
    again = host.script(NPZ + "npz('checkpoints/epoch-6.npz', 6)", uid=run.spec["uid"], limits={"keep": 3})
    assert again.exit()["checkpoints"]["durable"] == 1
    assert [path.name for path in again.durable()] == ["000001", "000002"]
    assert manifest(before) == first
    assert manifest(again.durable()[1])["epoch"] == 6


@pytest.mark.parametrize("go_on", [True, False])
def test_an_attempt_that_leaves_no_trace_goes_on_from_what_it_stored(host: Host, go_on: bool) -> None:
    """Its machine was wiped: what it had made durable is not lost for that, unless it was to begin anew."""
    run = start_and_save(host)
    (before,) = run.durable()
    run.gone()
    shutil.rmtree(run.path)
    script = "import os; print(os.environ.get('RUNCTL_RESUME_FROM'))"
    again = host.script(script, uid=run.spec["uid"], checkpoint={"go_on": go_on})
    again.exit()
    name = manifest(before)["name"]
    assert again.output().decode().strip() == (f"{again.spec['checkpoint']['dir']}/{name}" if go_on else "None")
    assert ("started_before" in again.events()) is go_on
    instead = again.state.get("resumed_instead")
    assert (instead or {}).get("seq") == (1 if go_on else None)


def test_torn_copies_are_swept(host: Host) -> None:
    """What a copy that was torn by a crash left behind is removed at the next start, and what is durable stays."""
    run = start_and_save(host)
    parent = run.durable()[0].parent
    (parent / ".partial-000007" / "data").mkdir(parents=True)
    (parent / "000008" / "data").mkdir(parents=True)
    (parent / "000008" / "data" / "x").write_text("torn")
    host.script("pass", uid=run.spec["uid"], attempt=2).exit()
    assert [path.name for path in parent.iterdir()] == ["000001"]
    assert len(run.durable()) == 1


def test_a_directory_that_cannot_be_made(host: Host) -> None:
    """A checkpoint directory whose place a file has fails the attempt before the script runs."""
    run = host.prepare([sys.executable, "-c", "print('no')"])
    Path(run.spec["checkpoint"]["dir"]).write_text("a file")
    host.launch(run)
    ended = run.exit()
    assert (ended["reason"], ended["training_started"]) == ("start_failed", False)
    assert "a file is in its place" in ended["detail"]


def test_a_directory_below_a_file(host: Host) -> None:
    """Nor can one be made below a file."""
    blocker = host.root / "blocker"
    blocker.write_text("a file")
    ended = host.script("print('no')", checkpoint={"dir": str(blocker / "checkpoints")}).exit()
    assert ended["reason"] == "start_failed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system can't be mounted: {done.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk(host: Host, small_disk: Path) -> None:
    """A copy that doesn't fit leaves the training alone, and is done when there is place again."""
    blocker = small_disk / "blocker"
    blocker.write_bytes(b"x" * 900_000)
    host.destination = small_disk / "durable"
    run = host.script(
        "import os, time\nopen('checkpoints/.x', 'wb').write(os.urandom(300000))\n"
        "os.rename('checkpoints/.x', 'checkpoints/a.bin')\nprint('saved', flush=True)\ntime.sleep(600)"
    )
    until(lambda: "checkpoint_copy_failed" in run.events())
    assert run.state["phase"] == "training"
    assert "No space left" in run.lines("checkpoints.jsonl")[0]["detail"]
    blocker.unlink()
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    run.order(end="cancel")
    run.exit()


def test_at_the_end_nothing_is_tried_again(host: Host, small_disk: Path) -> None:
    """Of each that had no place it is said that it isn't durable, also where newer ones had its turn."""
    (small_disk / "blocker").write_bytes(b"x" * 900_000)
    host.destination = small_disk / "durable"
    run = host.script(
        "import os, time\n"
        "def save(name):\n"
        "    open('checkpoints/.x', 'wb').write(os.urandom(300000))\n"
        "    os.rename('checkpoints/.x', f'checkpoints/{name}.bin')\n"
        "save('epoch-1')\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "for number in range(2, 6): save(f'epoch-{number}'); time.sleep(0.3)\n"
    )
    until(lambda: "checkpoint_copy_failed" in run.events())
    (run.path / "work" / "go").touch()
    assert run.exit()["exit_code"] == 0
    last = {line["name"]: line["detail"] for line in run.lines("checkpoints.jsonl")}
    assert "epoch-1.bin" in last
    assert not [detail for detail in last.values() if "tried again" in str(detail)]


def test_a_disk_that_fills_up(host: Host, small_disk: Path) -> None:
    """Little room is told before a checkpoint is lost to it, and once; on a disk with room nothing is."""
    host.destination = small_disk / "durable"
    host.destination.mkdir()
    run = host.script(
        "import os, time\nopen('checkpoints/.x', 'wb').write(os.urandom(300000))\n"
        "os.rename('checkpoints/.x', 'checkpoints/a.bin')\nprint('saved', flush=True)\ntime.sleep(600)"
    )
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    told = [line["detail"] for line in run.lines("events.jsonl") if line["event"] == "disk_low"]
    assert told == [f"1 MiB are left on the disk of {host.destination}"]
    run.order(end="cancel")
    run.exit()


def test_a_full_disk_hides_no_exit_code(host: Host, small_disk: Path) -> None:
    """When the run directory's disk is full, the exit code is recorded all the same."""
    host.root = small_disk
    run = host.script(
        "import time, sys\nprint('up', flush=True)\nsys.stdin.read()\ntime.sleep(2.5)\nraise SystemExit(6)"
    )
    run.training()
    with pytest.raises(OSError, match="No space"), open(small_disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"]) == ("exited", 6)


def test_a_read_only_destination(host: Host, small_disk: Path) -> None:
    """A destination that can't be written fails the start, before the training could lose its work."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    host.destination = small_disk / "durable"
    ended = host.script("print('no')").exit()
    assert ended["reason"] == "start_failed"
    assert "destination" in ended["detail"]


def test_a_read_only_checkpoint_directory(host: Host, small_disk: Path) -> None:
    """Nor does a training start that couldn't save."""
    (small_disk / "checkpoints").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ended = host.script("print('no')", checkpoint={"dir": str(small_disk / "checkpoints")}).exit()
    assert ended["reason"] == "start_failed"
    assert "can't be written to" in ended["detail"]


def test_a_killed_copy_leaves_no_checkpoint(host: Host) -> None:
    """An agent that is killed in the middle of a copy leaves nothing that looks durable and isn't."""
    run = host.script(
        "import os, time\nwith open('checkpoints/.x', 'wb') as f:\n for _ in range(40): f.write(os.urandom(1 << 20))\n"
        "os.rename('checkpoints/.x', 'checkpoints/big.bin')\nprint('saved', flush=True)\ntime.sleep(600)"
    )
    run.training()
    until(lambda: list(host.destination.glob("*/*/.partial-*")))
    os.kill(run.state["agent"]["pid"], 9)
    assert run.exit()["reason"] == "lost"
    for path in run.durable():
        data = path / "data" / "big.bin"
        assert data.stat().st_size == 40 << 20
    run.gone()


SAVES_WHEN_TOLD = (
    NPZ
    + """
npz('checkpoints/epoch-1.npz', 1)
print('up', flush=True)
while not os.path.exists('go'):
    time.sleep(0.01)
npz('checkpoints/epoch-2.npz', 2)
open('checkpoints/epoch-3.npz', 'wb').write(open('checkpoints/epoch-2.npz', 'rb').read()[:-30])
print('saved', flush=True)
open('saved', 'w').close()
time.sleep(600)
"""
)


@pytest.mark.parametrize("dies", ["agent", "guardian", "both"])
def test_what_was_saved_last_is_salvaged(host: Host, dies: str) -> None:
    """What the training had saved whole when guardian or agent died is durable when the end is recorded, though the
    agent had not seen it; what may be torn is not. When both have died, a program of its own does that."""
    run = host.script(SAVES_WHEN_TOLD, checkpoint={"grace": 10.0})
    state = run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    os.kill(state["agent"]["pid"], signal.SIGSTOP)
    (run.path / "work" / "go").touch()
    until((run.path / "work" / "saved").exists)
    kill_at_once(*(state[victim]["pid"] for victim in (("guardian", "agent") if dies == "both" else (dies,))))
    with contextlib.suppress(ProcessLookupError):  # the one that was killed may be gone by now
        os.kill(state["agent"]["pid"], signal.SIGCONT)
    if dies == "both":
        until(lambda: len(run.processes()) == 0)
        assert host.launch(run, arguments=("--salvage",)) == 0
        until((run.path / "salvaged.json").exists)
        assert not (run.path / "exit.json").exists()
    else:
        assert run.exit()["reason"] == "lost"
    assert [manifest(path)["name"] for path in run.durable()] == ["epoch-1.npz", "epoch-2.npz"]
    lines = run.lines("checkpoints.jsonl")
    assert [line["line"] for line in lines] == list(range(1, len(lines) + 1))
    settled = [(line["name"], line["status"]) for line in lines]
    assert ("epoch-2.npz", "durable") in settled
    assert ("epoch-3.npz", "invalid") in settled
    seqs = [line["seq"] for line in run.lines("events.jsonl")]
    assert seqs == list(range(1, len(seqs) + 1))
    # Once more finds nothing to do.
    before = len(lines)
    (run.path / "salvaged.json").unlink(missing_ok=True)
    (run.path / "exit.json").unlink(missing_ok=True)
    until(lambda: not run.processes())
    assert host.launch(run, arguments=("--salvage",)) == 0
    until((run.path / "salvaged.json").exists)
    assert len(run.durable()) == 2
    assert len([x for x in run.lines("checkpoints.jsonl")[before:] if x["status"] == "durable"]) == 0


def test_what_cannot_prove_that_it_is_whole(host: Host) -> None:
    """A file of no known format that was written in place when the training was killed isn't gone on from; one that was
    renamed into its place is."""
    run = host.script(
        "import os, time\nopen('checkpoints/a.bin.tmp', 'wb').write(b'whole')\ntime.sleep(0.05)\n"
        "os.rename('checkpoints/a.bin.tmp', 'checkpoints/a.bin')\ntime.sleep(0.05)\n"
        "open('checkpoints/b.bin', 'wb').write(b'torn')\nopen('saved', 'w').close()\ntime.sleep(600)"
    )
    until((run.path / "work" / "saved").exists)
    state = run.training()
    os.kill(state["agent"]["pid"], signal.SIGKILL)
    assert run.exit()["reason"] == "lost"
    assert [manifest(path)["name"] for path in run.durable()] == ["a.bin"]
    (line,) = [line for line in run.lines("checkpoints.jsonl") if line["status"] == "invalid"]
    assert line["name"] == "b.bin"
    assert "may be torn" in line["detail"]


def test_a_training_that_is_killed_while_it_saves(host: Host) -> None:
    """A file of no known format in which a training was killed isn't taken for a checkpoint; one that it had finished a
    while before is."""
    run = host.script(
        "import os, signal, time\nopen('checkpoints/a.bin', 'wb').write(b'whole')\ntime.sleep(1.3)\n"
        "open('checkpoints/b.bin', 'wb').write(b'torn')\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = run.exit()
    assert (ended["signal"], ended["checkpoints"]["invalid"]) == (9, 1)
    assert [manifest(path)["name"] for path in run.durable()] == ["a.bin"]


@pytest.mark.slow
def test_a_directory_that_is_written_slowly(host: Host) -> None:
    """Files come into a directory with pauses longer than a second: what was taken for whole too soon doesn't stay
    beside the whole one, and of the next one the agent waits for all of it."""
    run = host.script(
        "import os, time\nfor i in range(1, 4):\n os.mkdir(f'checkpoints/epoch-{i}')\n"
        " for part in 'abc':\n  open(f'checkpoints/epoch-{i}/{part}.bin', 'w').write(part * i)\n  time.sleep(1.6)\n"
        "time.sleep(600)",
        limits={"keep": 3},
    )
    run.wait_state(lambda state: (state["checkpoints"]["newest_durable"] or {}).get("epoch") == 3, patience=60)
    until(lambda: len(run.durable()) == 3, lambda: f"three: {run.durable()}")
    assert [(manifest(path)["epoch"], len(manifest(path)["files"])) for path in run.durable()] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    later = [line for line in run.lines("checkpoints.jsonl") if line["status"] == "durable" and line["epoch"] > 1]
    assert len(later) == 2
    run.order(end="cancel")
    run.exit()


def test_a_small_checkpoint_does_not_tell_how_long_a_large_one_takes(host: Host) -> None:
    """The first checkpoint is tiny, the last one is not: it is copied, and not given up for what the tiny one took."""
    run = host.script(
        NPZ + "import signal\n"
        "def end(number, frame):\n"
        " open('checkpoints/.b', 'wb').write(bytes(8 << 20)); os.rename('checkpoints/.b', 'checkpoints/b.bin')\n"
        " sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nopen('checkpoints/a.bin', 'wb').write(b'small')\ntime.sleep(600)"
    )
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    run.order(end="stop")
    assert run.exit()["newest_durable"]["name"] == "b.bin"


@pytest.mark.parametrize("lost", ["state.json", "run.lock"])
def test_salvage_without_the_agent_s_own_files(host: Host, lost: str) -> None:
    """What the training had saved is salvaged though the agent's state, or the lock of the run, is gone."""
    run = host.script(SAVES_WHEN_TOLD, checkpoint={"grace": 10.0})
    state = run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    os.kill(state["agent"]["pid"], signal.SIGSTOP)
    (run.path / "work" / "go").touch()
    until((run.path / "work" / "saved").exists)
    kill_at_once(state["guardian"]["pid"], state["agent"]["pid"])
    until(lambda: len(run.processes()) == 0)
    (run.path / lost).unlink()
    assert host.launch(run, arguments=("--salvage",)) == 0
    until((run.path / "salvaged.json").exists)
    assert [manifest(path)["name"] for path in run.durable()] == ["epoch-1.npz", "epoch-2.npz"]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_journal_that_is_no_file(host: Host, kind: str) -> None:
    """What lies in the journal's place is moved away when the attempt is salvaged, which neither hangs nor forgets."""
    run = host.script(SAVES_WHEN_TOLD)
    state = run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    os.kill(state["agent"]["pid"], signal.SIGSTOP)
    (run.path / "work" / "go").touch()
    until((run.path / "work" / "saved").exists)
    journal = run.path / "checkpoints.jsonl"
    journal.unlink()
    {"link": lambda: journal.symlink_to("nowhere"), "fifo": lambda: os.mkfifo(journal), "directory": journal.mkdir}[
        kind
    ]()
    os.kill(state["agent"]["pid"], signal.SIGKILL)
    assert run.exit()["reason"] == "lost"
    noted = [line["name"] for line in run.lines("checkpoints.jsonl") if line["status"] == "durable"]
    assert "epoch-2.npz" in noted


@pytest.mark.parametrize("keep", [1, 3])
def test_directories_that_follow_each_other_fast(host: Host, keep: int) -> None:
    """A directory is whole once the next one is begun, however short ago that is: when the agent is killed, only the
    last one isn't trusted, and it pushes out none of those before it."""
    run = host.script(
        "import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
        "for i in range(1, 7):\n os.mkdir(f'checkpoints/epoch-{i}')\n"
        " for part in 'ab':\n  open(f'checkpoints/epoch-{i}/{part}.bin', 'w').write(part * i)\n time.sleep(0.4)\n"
        "open('saved', 'w').close()\ntime.sleep(600)",
        limits={"keep": keep},
        checkpoint={"grace": 30.0},
    )
    state = run.training()
    os.kill(state["agent"]["pid"], signal.SIGSTOP)
    (run.path / "work" / "go").touch()
    until((run.path / "work" / "saved").exists)
    os.kill(state["agent"]["pid"], signal.SIGKILL)
    assert run.exit()["reason"] == "lost"
    assert [manifest(path)["epoch"] for path in run.durable()] == list(range(6 - keep, 6))
    assert all(len(manifest(path)["files"]) == 2 for path in run.durable())


def test_a_directory_stays_whole_when_the_one_after_it_is_done_with(tmp_path: Path) -> None:
    """Of directories that follow each other the last one alone isn't known to be whole, also when the others are copied
    one at a time and the directory is looked at in between."""
    watch = Watch(str(tmp_path), "auto")
    for number in (1, 2, 3):
        part = tmp_path / f"epoch-{number}" / "a.bin"
        part.parent.mkdir()
        part.write_bytes(b"a")
        os.utime(part, (number, number))
        os.utime(part.parent, (number, number))
    watch.look(10.0, 10.0, force=True)
    for number in (3, 2):
        watch.done(watch.pending[f"epoch-{number}"])
        watch.look(11.0, 11.0, force=True)
        assert watch.pending[f"epoch-{number - 1}"].followed


# A whole directory, and one whose last files come so late that it counts as whole before.
PAUSES = """
import os, sys, time
def put(name, number):
    os.makedirs('checkpoints/' + name, exist_ok=True)
    open(f'checkpoints/{name}/{number}.bin', 'wb').write(b'%d' % number * 100)
for number in range(3):
    put('.step-1', number)
time.sleep(0.05)
os.rename('checkpoints/.step-1', 'checkpoints/step-1')
while not os.path.exists('one-is-kept'): time.sleep(0.05)
put('step-2', 0)
while not os.path.exists('half-is-kept'): time.sleep(0.05)
put('step-2', 1)
sys.exit(1)
"""


@pytest.mark.slow
def test_a_directory_that_counted_as_whole_too_soon(host: Host) -> None:
    """When its later files prove that, the copy is withdrawn, and the one before it, which was kept until then in spite
    of `keep: 1`, is the newest again."""
    run = host.script(PAUSES, limits={"keep": 1})
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1, patience=20.0)
    (run.path / "work" / "one-is-kept").touch()
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 2, patience=20.0)
    assert [manifest(path)["name"] for path in run.durable()] == ["step-1", "step-2"]
    (run.path / "work" / "half-is-kept").touch()
    ended = run.exit()
    assert ended["newest_durable"]["name"] == "step-1"
    assert [manifest(path)["name"] for path in run.durable()] == ["step-1"]
    assert "checkpoint_withdrawn" in run.events()
