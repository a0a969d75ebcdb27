"""N1, N2, R3, R5: from a manifest to the script's first line, or to words that help."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .machine import PATIENCE, RUNCTL, Done, Machine
from .scripts import alive, job, repository


def test_N1_the_root_is_found_from_anywhere_and_shown(machine: Machine) -> None:
    """The plan names the same root from every directory and through a symlink: the repository's; without one, the
    manifest's directory; a submodule is a root of its own."""
    machine.write("deep/down/train.py", "")
    manifest = machine.write("deep/down/job.yaml", "name: job\nscript: train.py\n")
    link = machine.root / "link"
    link.symlink_to(machine.project)
    through = str(link / "deep" / "down" / "job.yaml")
    for directory, argument in ((machine.root, through), (manifest.parent, "job.yaml")):
        assert _root_in_plan(machine, directory, argument) == machine.project / "deep" / "down"
    repository(machine.project)
    assert _root_in_plan(machine, manifest.parent, "job.yaml") == machine.project
    assert _root_in_plan(machine, machine.root, through) == machine.project
    (machine.project / "deep" / ".git").write_text("gitdir: ../.git/modules/deep\n")
    assert _root_in_plan(machine, machine.project, "deep/down/job.yaml") == machine.project / "deep"


def _root_in_plan(machine: Machine, directory: Path, manifest: str) -> Path:
    done = subprocess.run(
        [*RUNCTL, "plan", manifest],
        cwd=directory,
        env=machine.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done
    line = next(line for line in done.stdout.splitlines() if line.startswith("  code"))
    return Path(line.rpartition(" from ")[2])


def _refused(machine: Machine, manifest: str, *words: str) -> None:
    """The program refuses that manifest in those words, at a place of it, and has made nothing of it."""
    machine.write("bad.yaml", manifest)
    _is_refused(machine, machine.run("apply", "bad.yaml", "--wait"), *words)


def _is_refused(machine: Machine, done: Done, *words: str) -> None:
    assert done.code == 2, done
    assert done.out == ""
    assert "bad.yaml:" in done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err, done
    assert not machine.run_dirs()
    assert machine.run("status", "bad").code == 2


def test_N1_scripts_and_paths_outside_the_root_are_refused(machine: Machine) -> None:
    """By `..`, by an absolute path, by a symlink to a file or a directory, by a loop: each at its line."""
    (machine.root / "outside.py").write_text("print('outside')\n")
    machine.write("train.py", "")
    (machine.project / "linked.py").symlink_to(machine.root / "outside.py")
    (machine.project / "linked").symlink_to(machine.root)
    (machine.project / "loop.py").symlink_to("loop.py")
    for scripts in (
        ("../outside.py", str(machine.root / "outside.py")),
        ("linked.py", "linked/outside.py", "loop.py"),
    ):
        documents = [f"name: bad-{number}\nscript: {script}\n" for number, script in enumerate(scripts)]
        _refused(machine, "---\n".join(documents), *(f"bad.yaml:{2 + 3 * n}:9" for n in range(len(scripts))))
    for path in ("linked.py", "linked", "loop.py"):
        (machine.project / path).unlink()
    documents = [
        "name: bad\nscript: train.py\ncheckpoint: {dir: ../../elsewhere}\n",
        "name: worse\nscript: train.py\nworkdir: no/such/place\n",
    ]
    _refused(machine, documents[0], "`../../elsewhere`", "bad.yaml:3:19")
    _refused(machine, documents[1], "no/such/place", "bad.yaml:3:10")


def test_N1_links_that_lead_out_or_in_circles_are_named(machine: Machine) -> None:
    """Code that can't be copied whole isn't copied in part: every such link and pipe in one message."""
    machine.write("train.py", "")
    (machine.project / "data").mkdir()
    (machine.project / "data" / "out").symlink_to("/etc/passwd")
    (machine.project / "data" / "up").symlink_to(machine.root)
    _refused(machine, "name: bad\nscript: train.py\n", "data/out", "data/up")
    for path in (machine.project / "data").iterdir():
        path.unlink()
    (machine.project / "data" / "circle").symlink_to(".")
    (machine.project / "data" / "itself").symlink_to("itself")
    code = "tell('on', circle=os.readlink('data/circle'))"
    done = machine.run("apply", job(machine, code), "--wait")
    assert done.code == 0, done
    assert machine.told("on")[0]["circle"] == "."


def test_N1_files_that_cannot_be_read_are_named(machine: Machine) -> None:
    """An unreadable file of the project is no reason to leave it out in silence."""
    machine.write("train.py", "")
    machine.write("data/secret.bin", "x").chmod(0)
    machine.write("bad.yaml", "name: bad\nscript: train.py\n")
    _is_refused(machine, machine.run_bound("apply", "bad.yaml", "--wait"), "data/secret.bin")


def test_names_that_escape_a_directory_are_refused(machine: Machine) -> None:
    """A job's name is never a path: each is refused at its place, and no file appears anywhere."""
    machine.write("train.py", "")
    names = ["../../escape", "/absolute", "a/b", ".", "..", "a\\u0000b", "-rf", "x" * 300, "ab\\u202ec"]
    before = set(machine.root.rglob("*"))
    documents = [f'name: "{name}"\nscript: train.py\n' for name in names]
    _refused(machine, "---\n".join(documents), *(f"bad.yaml:{1 + 3 * number}:7" for number in range(len(names))))
    after = {path for path in set(machine.root.rglob("*")) - before if machine.home not in (path, *path.parents)}
    assert after == {machine.project / "bad.yaml"}


def test_N2_installing_is_streamed(machine: Machine) -> None:
    """What a setup step prints is on the terminal while it runs, and in `logs --setup` afterwards."""
    machine.write(
        "install.py",
        "import os, time\nprint('collecting torch', flush=True)\n"
        "while not os.path.exists(os.environ['WORLD'] + '/go'):\n    time.sleep(0.02)\nprint('installed')\n",
    )
    attached = machine.start("apply", job(machine, "tell('on')", setup=[["python3", "install.py"]]), "--wait")
    shown = machine.root / "started-0.out"
    machine.until(lambda: "collecting torch" in shown.read_text(), "the first line of the setup")
    assert attached.poll() is None
    assert not machine.told("on")
    (machine.world / "go").touch()
    assert attached.wait(PATIENCE) == 0
    assert machine.told("on")
    assert machine.run("logs", "job", "--setup").out.splitlines()[-2:] == ["collecting torch", "installed"]
    assert machine.run("logs", "job").out == ""


def test_N2_a_setup_that_hangs_or_fails_fails_the_job(machine: Machine) -> None:
    """Its own timeout ends it with all that it started; its failure is the job's, with the step and what it printed.
    The training never runs, and no exit code is made up for it."""
    machine.write(
        "hang.py",
        "import os, subprocess, sys\nprint('resolving', flush=True)\nchild = subprocess.Popen(['sleep', '120'])\n"
        "open(os.environ['WORLD'] + '/child', 'w').write(str(child.pid))\nchild.wait()\n",
    )
    hangs = job(machine, "tell('on')", name="hangs", setup=[["python3", "hang.py"]], limits={"setup": "1s"})
    done = machine.run("apply", hangs, "--wait")
    assert done.code == 1, done
    assert machine.status("hangs")["reason"] == "SetupFailed"
    assert "1 s" in done.err or "1s" in done.err
    assert not alive(int((machine.world / "child").read_text()))
    machine.write("fail.py", "import sys\nprint('no matching distribution for tensorfloe', flush=True)\nsys.exit(3)\n")
    fails = job(machine, "tell('on')", name="fails", setup=[["python3", "fail.py"]])
    done = machine.run("apply", fails, "--wait")
    assert done.code == 1, done
    assert "no matching distribution for tensorfloe" in done.err
    assert "exited with 3" in done.err
    assert "runctl logs fails --setup" in done.err
    status = machine.status("fails")
    assert (status["outcome"], status["reason"], status["exit_code"]) == ("Failed", "SetupFailed", None)
    assert not machine.told("on")


def test_R3_a_script_that_does_not_compile_starts_and_reserves_nothing(machine: Machine) -> None:
    """The place in the script and the line of the manifest; no job, no run directory, no money held."""
    machine.write("train.py", "import os\n\ndef train(:\n    pass\n")
    _refused(
        machine,
        "name: bad\nscript: train.py\ninstance: {hourly_rate: 9 USD}\ncost: {cap: 5 USD}\n",
        "train.py:3:11",
        "bad.yaml:2",
        "def train(:",
    )


def test_R3_a_missing_module_ends_the_attempt_before_the_script(machine: Machine) -> None:
    """What the environment doesn't have is an error that names what to add; not a line of the script was run."""
    done = machine.run("apply", job(machine, "tell('on')\nimport no_such_module_anywhere"), "--wait")
    assert done.code == 1, done
    assert "no_such_module_anywhere" in done.err
    assert not machine.told("on")


def test_R5_every_problem_of_every_manifest_at_once(machine: Machine) -> None:
    """Five mistakes in two files: five errors, each with what, where, why and what to do; nothing was started."""
    machine.write("one.yaml", "name: one\nscritp: train.py\nargs: --epochs 3\ncost: {cap: 5 euros}\n")
    machine.write("two.yaml", "name: two\nscript: train.py\ncheckpoint: {every: often}\ncost: {cap: 5 USD}\n")
    machine.write("train.py", "")
    done = machine.run("apply", "one.yaml", "two.yaml", "--wait")
    assert done.code == 2, done
    assert done.out == ""
    for place in ("one.yaml:2:1", "one.yaml:3:7", "one.yaml:4:", "two.yaml:3:", "two.yaml:4:"):
        assert place in done.err, done
    assert "did you mean `script`?" in done.err
    assert "instance.hourly_rate" in done.err, "a cap without a price names what would give it one"
    errors = [line for line in done.err.splitlines() if line.startswith("error")]
    assert len(errors) >= 5
    assert not [line for line in errors if line.endswith(".")]
    assert machine.run("status", "-o", "name").out == ""


AWS = "instance: {platform: aws, type: g5.xlarge}\ncost: {cap: 5 USD}\ncheckpoint: {upload: 's3://bucket/x'}\n"


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        (AWS, "3:22", "`platform: aws`"),
        ("instance: {host: me@box}\ncheckpoint: {resume: 'file:x'}\n", "4:22", "a relative path on another host"),
        ("instance: {platform: slurm}\n", "3:22", "`platform: slurm`"),
        ("instance: {platform: slurm, count: 2}\n", "3:36", "more than one machine"),
        ("checkpoint: {resume: 's3://bucket/x'}\n", "3:22", "a start from S3"),
        ("inputs: [{from: 's3://bucket/x', to: x}]\n", "3:1", "`inputs`"),
        ("outputs: [{from: x, to: 'file:/srv/x'}]\n", "3:1", "`outputs`"),
        ("notify: [{webhook: 'https://host/x'}]\n", "3:1", "`notify`"),
        ("secrets: [TOKEN: 'ssm:/team/token']\n", "3:11", "secrets from a parameter store"),
    ],
    ids=["aws", "relative", "slurm", "count", "resume", "inputs", "outputs", "notify", "secrets"],
)
def test_what_this_version_cannot_do_is_refused_and_not_ignored(
    machine: Machine, text: str, place: str, what: str
) -> None:
    """`validate` accepts it; `apply` says at its place that this version doesn't support it, and makes nothing of it.
    A secret of that name in the environment is no reason to take that one."""
    machine.write("train.py", "")
    machine.write("bad.yaml", f"name: bad\nscript: train.py\n{text}")
    assert machine.run("validate", "bad.yaml").code == 0
    machine.environ["TOKEN"] = "another one"
    done = machine.run("apply", "bad.yaml", "--wait")
    _is_refused(machine, done, f"bad.yaml:{place}\n", f"error: {what} is not supported by this version of runctl")
    assert machine.run("status", "-o", "name").out == ""
