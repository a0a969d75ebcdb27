"""F3 and E3: what is wrong with the script or the checkpoint directory is found before the script runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .machine import Done, Machine

RAN = "open('{world}/ran', 'w').close()\n"


def _apply(machine: Machine, script: str = "train.py", **fields: Any) -> Done:
    """Apply a job; `script` is on line 4 of its manifest, column 12."""
    manifest = {"apiVersion": "runctl/v1", "name": "job", "script": script, "setup": "none", **fields}
    machine.write("job.yaml", json.dumps(manifest, indent=1))
    return machine.run("apply", "job.yaml", "--wait")


def _script(machine: Machine, name: str = "train.py", text: str = "") -> Path:
    return machine.write(name, RAN.format(world=machine.world) + text)


def _nothing_started(machine: Machine) -> bool:
    return not (machine.world / "ran").exists() and not machine.run_dirs() and machine.run("status", "job").code == 2


def test_F3_a_wrong_path_is_found_at_its_line_with_near_matches(machine: Machine) -> None:
    """The manifest's line, the path as resolved, and what may have been meant: a typo, another case, a directory."""
    _script(machine)
    _script(machine, "scripts/finetune.py")
    for written, meant in (("trian.py", "train.py"), ("Train.py", "train.py"), ("finetune.py", "scripts/finetune.py")):
        done = _apply(machine, written)
        assert done.code == 2, done
        assert "job.yaml:4:12" in done.err, done
        assert str(machine.project / written) in done.err, done
        assert meant in done.err.split("hint", 1)[1], done
    assert _nothing_started(machine)


def test_F3_what_is_no_script_of_the_project_is_refused(machine: Machine) -> None:
    """A directory, a path out of the root, a symlink out of it, a file that an ignore rule leaves behind."""
    (machine.root / "outside.py").write_text(RAN.format(world=machine.world))
    (machine.project / "folder.py").mkdir()
    _script(machine, "ignored.py")
    machine.write(".runctlignore", "ignored.py\n")
    for written in ("folder.py", "../outside.py", str(machine.root / "outside.py"), "ignored.py"):
        done = _apply(machine, written)
        assert done.code == 2, done
        assert "job.yaml:4:12" in done.err, done
        assert "Traceback" not in done.err
    assert ".runctlignore" in done.err
    (machine.project / "link.py").symlink_to(machine.root / "outside.py")
    done = _apply(machine, "link.py")
    assert (done.code, "link.py" in done.err) == (2, True), done
    assert _nothing_started(machine)


def test_F3_the_syntax_is_compiled_before_the_launch(machine: Machine) -> None:
    """An error of syntax is shown at its place in the script, and so is one in a module that it imports."""
    _script(machine, text="def f(:\n    pass\n")
    done = _apply(machine)
    assert done.code == 2, done
    assert "train.py:2:7" in done.err, done
    assert _nothing_started(machine)


def test_F3_imports_that_nothing_brings_are_warned_of_and_end_the_attempt_before_the_script(machine: Machine) -> None:
    """A warning in the plan, at the script's line; in the environment an error before the script's first line."""
    _script(machine, text="import no_such_module_of_mine\nimport json\nimport local_one\n")
    machine.write("local_one.py", "")
    machine.write("requirements.txt", "")
    machine.write("auto.yaml", "name: job\nscript: train.py\n")
    plan = machine.run("plan", "auto.yaml")
    assert "train.py:2:1" in plan.err, plan
    assert plan.err.count("warning: `") == 1, plan
    done = _apply(machine)
    assert done.code == 1, done
    assert "imports `no_such_module_of_mine`" in done.err
    assert not (machine.world / "ran").exists()
    status = machine.status()
    assert (status["outcome"], status["reason"], status["exit_code"]) == ("Failed", "SetupFailed", None)


def test_F3_import_names_that_differ_from_their_packages_are_known(machine: Machine) -> None:
    """`PIL` is brought by pillow, `cv2` by opencv, `sklearn` by scikit-learn: no warning, and the missing one is."""
    _script(machine, text="import PIL\nimport cv2\nimport sklearn\nimport yaml\nimport torch\n")
    machine.write("requirements.txt", "pillow\nopencv-python-headless\nscikit-learn>=1\nPyYAML\n")
    machine.write("job.yaml", "name: job\nscript: train.py\n")
    done = machine.run("plan", "job.yaml")
    assert done.code == 0, done
    warned = [line for line in (done.err + done.out).splitlines() if "import" in line and "warning" in line]
    assert len(warned) == 1, done
    assert "torch" in warned[0]


def test_E3_the_checkpoint_directory_is_made_before_the_script_starts(machine: Machine) -> None:
    """Deep, absent, and with a name of its own: it is there on the script's first line, and can be written."""
    machine.write("train.py", CHECKS_DIRECTORY)
    done = _apply(machine, env={"WORLD": str(machine.world)}, checkpoint={"dir": "a/b c/é"})
    assert done.code == 0, done
    assert (machine.world / "dir").read_text().endswith("/a/b c/é")
    assert machine.status()["checkpoints"]["count"] == 1


CHECKS_DIRECTORY = """\
import os

folder = os.environ["RUNCTL_CHECKPOINT_DIR"]
assert os.path.isdir(folder) and os.listdir(folder) == []
with open(os.environ["WORLD"] + "/dir", "w") as file:
    file.write(folder)
with open(folder + "/step-1.json", "w") as file:
    file.write("{}")
"""


@pytest.mark.parametrize("way", ["a file in its place", "a file above it", "a link to nowhere"])
def test_E3_one_that_cannot_be_made_fails_the_job_before_the_script(machine: Machine, way: str) -> None:
    """The reason and the path are named, the script never ran, and there is no exit code of it."""
    _script(machine)
    directory = "ckpt/deep"
    if way == "a file in its place":
        machine.write("ckpt/deep", "x")
    elif way == "a file above it":
        machine.write("ckpt", "x")
    else:
        (machine.project / "ckpt").mkdir()
        (machine.project / "ckpt" / "deep").symlink_to("nowhere")
    done = _apply(machine, checkpoint={"dir": directory})
    assert done.code in (1, 2), done
    assert "ckpt" in done.err
    assert not (machine.world / "ran").exists()
    if done.code == 1:
        assert machine.status()["exit_code"] is None
