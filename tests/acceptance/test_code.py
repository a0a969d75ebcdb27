"""F6: every attempt runs the code of its generation, whole and alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .machine import PATIENCE, Machine
from .scripts import repository

# Tells the world which version of the code runs, and every file that lies in its tree.
VERSIONED = """\
import os
import time
from pathlib import Path

import json, signal, sys
from version import VERSION

here = Path(__file__).parent
tree = sorted(str(p.relative_to(here)) for p in here.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def tell(what):
    line = {"what": what, "attempt": int(os.environ["RUNCTL_ATTEMPT"]), "version": VERSION, "tree": tree}
    with open(os.environ["WORLD"] + "/world.jsonl", "a") as file:
        file.write(json.dumps(line) + "\\n")


def drain(number, frame):
    tell("drained")
    sys.exit(0)


signal.signal(signal.SIGTERM, drain)
tell("start")
if sys.argv[1] == "long":
    time.sleep(600)
if sys.argv[1] == "twice" and os.environ["RUNCTL_ATTEMPT"] == "1":
    while not Path(os.environ["WORLD"] + "/go").exists():
        time.sleep(0.02)
    sys.exit(1)
tell("end")
"""


def _project(machine: Machine, how: str, **fields: Any) -> str:
    machine.write("run.py", VERSIONED)
    machine.write("version.py", "VERSION = 1\n")
    return str(machine.training(script="run.py", args=[how], **fields))


def _starts(machine: Machine) -> list[tuple[int, int]]:
    return [(line["attempt"], line["version"]) for line in machine.told("start")]


def _tree(machine: Machine) -> list[str]:
    tree: list[str] = machine.told("start")[-1]["tree"]
    return tree


def test_F6_edited_code_is_refused_without_replace_and_runs_with_it(machine: Machine) -> None:
    """The live attempt keeps its code; `apply` says what differs and changes nothing; `--replace` saves the old
    attempt, runs the new snapshot alone, and each attempt's record names its own hash."""
    manifest = _project(machine, "long")
    machine.write("old.txt", "to be removed")
    assert machine.run("apply", manifest).code == 0
    machine.until(lambda: _starts(machine) == [(1, 1)], "the first start")
    machine.write("version.py", "VERSION = 2\n")
    (machine.project / "old.txt").unlink()
    machine.write("new.txt", "added")
    machine.write("more/new.txt", "added")
    refused = machine.run("apply", manifest)
    assert refused.code == 2, refused
    assert "code" in refused.err
    assert "--replace" in refused.err
    named = [line.strip() for line in refused.err.splitlines() if line.startswith("      ")]
    assert named == ["modified: version.py", "new: more/new.txt", "new: new.txt", "removed: old.txt"]
    assert machine.status()["generation"] == 1
    assert _starts(machine) == [(1, 1)]
    assert machine.run("apply", manifest, "--replace").code == 0
    machine.until(lambda: len(_starts(machine)) == 2, "the second start")
    assert _starts(machine) == [(1, 1), (2, 2)]
    assert [line["version"] for line in machine.told("drained")] == [1]
    assert "new.txt" in _tree(machine)
    assert "old.txt" not in _tree(machine)
    first, second = machine.status()["attempts"]
    assert first["code_hash"] != second["code_hash"]
    for attempt in (first, second):
        _verify(machine.home / "code" / attempt["code_hash"], attempt["code_hash"])


def _verify(snapshot: Path, code_hash: str) -> None:
    """The snapshot is what its name says, recomputed from its files alone."""
    digest = hashlib.sha256(b"runctl snapshot 1\n")
    tree = snapshot / "tree"
    for path in sorted(p for p in tree.rglob("*") if p.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(tree)}\0file\0{content}\n".encode())
    assert digest.hexdigest() == code_hash


def test_F6_a_retry_runs_the_code_of_its_generation(machine: Machine) -> None:
    """The tree is edited while the first attempt runs; the second one, of the same generation, never sees that."""
    manifest = _project(machine, "twice", retry={"failures": 1})
    attached = machine.start("apply", manifest, "--wait")
    machine.until(lambda: _starts(machine) == [(1, 1)], "the first start")
    machine.write("version.py", "VERSION = 2\n")
    machine.write("late.txt", "added while it ran")
    (machine.world / "go").touch()
    assert attached.wait(PATIENCE) == 0
    assert _starts(machine) == [(1, 1), (2, 1)]
    assert "late.txt" not in _tree(machine)
    assert len({each["code_hash"] for each in machine.status()["attempts"]}) == 1


def test_F6_a_damaged_snapshot_never_runs(machine: Machine) -> None:
    """A file of the stored code is changed behind the program's back: the next attempt is refused before it starts.
    Applied again from the same tree, the snapshot is made whole, and the job goes on."""
    manifest = _project(machine, "twice", retry={"failures": 1})
    attached = machine.start("apply", manifest, "--wait")
    machine.until(lambda: _starts(machine) == [(1, 1)], "the first start")
    stored = machine.home / "code" / machine.status()["attempts"][0]["code_hash"] / "tree" / "version.py"
    stored.chmod(0o600)
    stored.write_text("VERSION = 6\n")
    (machine.world / "go").touch()
    assert attached.wait(PATIENCE) == 7
    assert "version.py" in machine.printed()
    assert _starts(machine) == [(1, 1)]
    assert machine.run("apply", manifest, "--wait").code == 0
    assert [version for _, version in _starts(machine)] == [1, 1]


def test_F6_ignore_files_say_what_travels(machine: Machine) -> None:
    """`.gitignore` and `.runctlignore`, also of a parent of the workdir and of subdirectories, with negation; the last
    one decides over the first."""
    repository(machine.project)
    machine.write(".gitignore", "*.log\n!last.log\n/app/data/\nkept.bin\n")
    machine.write("app/.gitignore", "!important.log\nsecret.*\n")
    machine.write("app/.runctlignore", "!kept.bin\nnotes/\n")
    machine.write("app/run.py", VERSIONED)
    machine.write("app/version.py", "VERSION = 1\n")
    for name in (
        "a.log",
        "last.log",
        "important.log",
        "data/big",
        "kept.bin",
        "secret.key",
        "notes/n",
        "sub/b.log",
        "sub/keep",
    ):
        machine.write(f"app/{name}", "x")
    manifest = machine.training(script="run.py", args=["short"], workdir="app", sync={"exclude": ["/app/sub/keep"]})
    done = machine.run("apply", str(manifest), "--wait")
    assert done.code == 0, done
    names = {name for name in _tree(machine) if not name.startswith(".")}
    assert names == {"run.py", "version.py", "last.log", "important.log", "kept.bin"}


def test_F6_the_manifest_is_not_code(machine: Machine) -> None:
    """Its cap, or another manifest beside it, changes without the code being other code: in place, same attempt."""
    rate = {"hourly_rate": "1 USD"}
    machine.run("apply", _project(machine, "long", instance=rate, cost={"cap": "5 USD"}))
    machine.until(lambda: machine.told("start"), "the start")
    machine.training(name="other")
    done = machine.run("apply", _project(machine, "long", instance=rate, cost={"cap": "6 USD"}))
    assert done.code == 0, done
    status = machine.until(lambda: (s := machine.status())["cost"]["cap"] == "6.00" and s, "the new cap")
    assert [each["number"] for each in status["attempts"]] == [1]
    assert json.dumps(status["attempts"]).count("code_hash") == 1
