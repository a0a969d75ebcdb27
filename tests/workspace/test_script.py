"""What is wrong with a script is known before it runs, and nothing of it is executed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.snapshots.manifest import read_manifest
from runctl.workspace.import_check import EXIT_MISSING, import_check_argv
from runctl.workspace.problems import ScriptError, Severity
from runctl.workspace.root import ProjectRoot, find_root
from runctl.workspace.script import ScriptReport, check_script, check_travels, launch_prefix, required_imports
from runctl.workspace.snapshot import freeze


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectRoot:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p/.git").mkdir(parents=True)
    return find_root(tmp_path / "p", ".")


def check(
    project: ProjectRoot, source: str | bytes, declared: tuple[str, ...] | None = (), name: str = "train.py"
) -> ScriptReport:
    path = project.workdir / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    return check_script(project, path, declared)


@pytest.mark.parametrize(
    ("source", "message", "line", "column", "excerpt"),
    [
        (b"x = 1\nif x\n    y\n", "expected ':'", 2, 5, "if x"),
        (b"def f(:\n", "invalid syntax", 1, 7, "def f(:"),
        (b"x = 1\nreturn x\n", "'return' outside function", 2, 1, "return x"),
        (b"x = 1\ny = '\xff'\n", "(unicode error)", None, None, None),
        (b"# coding: nonsense\n", "unknown encoding", None, None, None),
        (b"ok = 1\nx\0y\n", "it contains a null byte", 2, 2, "x\0y"),
        (b"(" * 5000 + b")" * 5000, "", 1, None, None),
    ],
)
def test_R3_source_that_doesnt_compile_is_an_error_at_its_place(
    project: ProjectRoot, source: bytes, message: str, line: int | None, column: int | None, excerpt: str | None
) -> None:
    """With line, column and the line itself."""
    (finding,) = check(project, source).findings
    assert (finding.severity, finding.code, finding.file) == (Severity.ERROR, "script-syntax", "train.py")
    assert message in finding.message
    assert line is None or finding.line == line
    assert column is None or finding.column == column
    assert excerpt is None or finding.excerpt == excerpt


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"\xef\xbb\xbfprint('bom')\r\n",
        "# coding: latin-1\nx = 'é'\n".encode("latin-1"),
        b"x = '\\d'\n",
        b"await_ = 1\n",
    ],
)
def test_R3_what_python_accepts_is_accepted(project: ProjectRoot, source: bytes) -> None:
    """Byte order marks, CRLF, other encodings, and what Python only warns of."""
    assert check(project, source) == ScriptReport()


def test_R3_checking_runs_nothing(project: ProjectRoot, tmp_path: Path) -> None:
    """A script that would write a file at import doesn't."""
    check(project, f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert not (tmp_path / "ran").exists()


def test_R3_another_pythons_syntax_is_only_doubted(project: ProjectRoot) -> None:
    """The job's Python may be newer than the one that runctl runs with."""
    path = project.workdir / "train.py"
    path.write_text("future syntax\n")
    (finding,) = check_script(project, path, None, python=(3, 99)).findings
    assert finding.severity is Severity.WARNING
    assert "3.99" in finding.hint


def modules(source: str) -> list[str]:
    return [found.module for found in required_imports(ast.parse(source))]


def test_F3_only_imports_that_are_always_executed_are_required() -> None:
    """Not those of a `try` that catches the failure, of a condition, of a function; relative ones never."""
    source = """
import numpy as np, torch.nn.functional as F
from sklearn import svm
from google.cloud import storage
from google import protobuf
from . import sibling
try:
    import wandb
except ImportError:
    wandb = None
try:
    import required_in_try
except ValueError:
    pass
finally:
    import last
try:
    import a_or_b
except (KeyError, ModuleNotFoundError):
    pass
if TYPE_CHECKING:
    import typed
if sys.platform == "win32":
    import winreg_like
def f():
    import lazy
class C:
    import in_class
with x:
    import in_with
if __name__ == "__main__":
    import main_only
"""
    expected = ["numpy", "torch", "sklearn", "google.cloud", "google.protobuf", "required_in_try", "last", "in_class"]
    assert modules(source) == [*expected, "in_with", "main_only"]


def test_F3_what_the_dependencies_dont_seem_to_bring_is_warned_of(project: ProjectRoot) -> None:
    """Names differ, and what comes with a declared package is there; each warning has a place and a hint."""
    source = "import os\nimport cv2, yaml\nfrom PIL import Image\nimport sklearn\nimport numpy\nimport requests\n"
    report = check(project, source, ("opencv-python-headless", "Scikit_Learn", "torchvision"))
    assert [(f.line, f.column, f.hint.split("`")[1]) for f in report.findings] == [(2, 1, "pyyaml"), (6, 1, "requests")]
    assert {f.severity for f in report.findings} == {Severity.WARNING}
    assert report.findings[0].excerpt == "import cv2, yaml"
    assert report.imports == ("cv2", "yaml", "PIL", "sklearn", "numpy", "requests")
    assert check(project, source, None).findings == ()


def test_F3_modules_of_the_tree_and_of_python_are_no_dependencies(project: ProjectRoot) -> None:
    """Beside the script, in the workdir, at the root or below `src`."""
    for name in ("jobs/beside.py", "atroot/__init__.py", "src/insrc/mod.py", "space/mod.py"):
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_text("")
    source = "import beside, atroot, insrc, space.mod, os, tomllib, elsewhere\n"
    assert check(project, source, (), name="jobs/train.py").imports == ("elsewhere",)


def test_F3_a_script_that_changes_its_module_path_isnt_held_to_it(project: ProjectRoot) -> None:
    """Its imports are warned of, but can't be demanded of the environment."""
    report = check(project, "import sys\nsys.path.insert(0, 'lib')\nimport mine\n")
    assert (report.imports, [f.code for f in report.findings]) == ((), ["import-undeclared"])


def test_F3_missing_modules_are_an_error_in_the_built_environment(tmp_path: Path) -> None:
    """The check names each missing module and what to add, imports nothing, and finds modules beside the script."""
    (tmp_path / "beside.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "google/inner").mkdir(parents=True)
    good = ("json", "beside", "google.inner", "msgspec")
    found = subprocess.run(import_check_argv(sys.executable, good, str(tmp_path)), capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    bad = ("cv2_nope", "json", "google.gone", "skimage")
    found = subprocess.run(import_check_argv(sys.executable, bad, str(tmp_path)), capture_output=True, text=True)
    assert found.returncode == EXIT_MISSING
    *hints, error = found.stderr.splitlines()
    assert error.startswith("error: the script imports `cv2_nope`, `google.gone`, `skimage`, not found by ")
    assert len(hints) == 3
    assert "add `scikit-image`" in hints[2]


@pytest.mark.parametrize(
    ("name", "source", "mode", "expected"),
    [
        ("run", b"#!/usr/bin/env python3\n", 0o755, ("./run",)),
        ("run", b"#!/usr/bin/env -S python3 -u\n", 0o644, ("python3", "-u", "./run")),
        ("run", b"#! /bin/bash -e\r\n", 0o644, ("/bin/bash", "-e", "./run")),
        ("run.sh", b"echo\n", 0o644, ("sh", "./run.sh")),
        ("a/run.bash", b"echo\n", 0o755, ("bash", "a/run.bash")),
        ("prog", b"\x7fELF...", 0o755, ("./prog",)),
    ],
)
def test_a_script_of_another_language_says_how_it_is_run(
    tmp_path: Path, name: str, source: bytes, mode: int, expected: tuple[str, ...]
) -> None:
    """By its `#!` line, executable or not; shell scripts by their name."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(source)
    (tmp_path / name).chmod(mode)
    assert launch_prefix(tmp_path, name) == expected


def test_a_script_that_nothing_can_run_is_an_error(project: ProjectRoot) -> None:
    """Neither Python nor shell nor `#!`."""
    (finding,) = check(project, "data", name="model.txt").findings
    assert (finding.severity, finding.code) == (Severity.ERROR, "script-not-runnable")
    with pytest.raises(ScriptError, match="nothing says how to run"):
        launch_prefix(project.workdir, "model.txt")


def test_F3_a_script_that_an_ignore_rule_leaves_out_is_an_error(project: ProjectRoot, tmp_path: Path) -> None:
    """The rule is named, for the script and for what it links to."""
    for name, text in ((".gitignore", "# mine\n*.gen.py\n"), ("a.gen.py", ""), ("b.py", "")):
        (project.root / name).write_text(text)
    (project.root / "link.py").symlink_to("a.gen.py")
    manifest = read_manifest(freeze(project.root, ("c/",), tmp_path / "store").path)
    assert check_travels(project, project.root / "b.py", manifest, ("c/",)) is None
    for script in ("a.gen.py", "link.py"):
        finding = check_travels(project, project.root / script, manifest, ("c/",))
        assert finding is not None
        assert (finding.code, finding.severity) == ("script-ignored", Severity.ERROR)
        assert "`*.gen.py` (.gitignore:2) excludes `a.gen.py`" in finding.message


@settings(max_examples=60, deadline=None, derandomize=True)
@given(source=st.binary(max_size=200))
def test_no_bytes_make_the_check_fail(tmp_path_factory: pytest.TempPathFactory, source: bytes) -> None:
    """Whatever is in the file, the answer is a list of findings."""
    root = tmp_path_factory.getbasetemp() / "fuzz"
    root.mkdir(exist_ok=True)
    (root / "x.py").write_bytes(source)
    report = check_script(ProjectRoot(root=root, workdir=root, reason=""), root / "x.py", ())
    assert all(finding.file == "x.py" for finding in report.findings)
