"""An environment is built from what the tree declares, once for equal declarations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from runctl.manifest.job import Setup
from runctl.workspace.build import build_argv
from runctl.workspace.environment import Place, Recipe, RecipeKind, Step, check_step, elsewhere, recipe
from runctl.workspace.interpreter import Interpreter, find_interpreter
from runctl.workspace.problems import Severity

HERE = Interpreter(path=sys.executable, version=".".join(map(str, sys.version_info[:3])))
AUTO = Setup()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "train.py").write_text("import json\n")
    return Place(
        stored=tree,
        tree=tree,
        code_hash="c" * 64,
        work=tree,
        workdir=".",
        envs=tmp_path / "envs",
        path=os.environ["PATH"],
    )


def write(place: Place, **files: str) -> None:
    for name, text in files.items():
        path = place.tree / name.replace("__", "/").replace("_txt", ".txt").replace("_toml", ".toml").replace(
            "_lock", ".lock"
        )
        path = path.with_name(path.name.replace("_py", ".py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def made(place: Place, *, python: Interpreter | None = HERE, uv: str | None = None, setup: Setup = AUTO) -> Recipe:
    return recipe(place, "train.py", setup, python, uv)


def run(step: Step) -> subprocess.CompletedProcess[str]:
    """What the agent does with a step, and no network."""
    if step.unless is not None and Path(step.unless).exists():
        return subprocess.CompletedProcess(step.argv, 0, "", "skipped")
    environ = {**os.environ, "PIP_NO_INDEX": "1", **step.env}
    return subprocess.run(step.argv, cwd=step.cwd, env=environ, capture_output=True, text=True, timeout=100)


METADATA = '# /// script\n# requires-python = ">=3.9"\n# dependencies = [\n#   "numpy",\n# ]\n# ///\nimport numpy\n'
PYPROJECT = '[project]\nname = "thing"\nversion = "1"\ndependencies = ["torch>=2", "PyYAML"]\n'
LOCK = """version = 1
requires-python = ">=3.11"
[[package]]
name = "thing"
version = "1"
source = { editable = "." }
[[package]]
name = "numpy"
version = "2.0.0"
source = { registry = "https://example.invalid/simple" }
"""


def test_without_declarations_the_callers_python_runs_the_script(place: Place) -> None:
    """Nothing is built or installed, and PATH is the caller's."""
    found = made(place)
    assert (found.kind, found.steps, found.command) == (RecipeKind.NONE, (), (sys.executable, "train.py"))
    assert (found.env, found.env_dir, found.declared) == ({"PATH": place.path}, None, None)
    assert made(place, setup=Setup(kind="none")).command == found.command


def test_the_scripts_own_metadata_wins_then_the_nearest_directory(place: Place) -> None:
    """PEP 723, then uv.lock, requirements.txt and pyproject.toml of the nearest directory that has one."""
    write(place, pyproject_toml=PYPROJECT)
    assert made(place).kind is RecipeKind.PYPROJECT
    assert made(place).declared == ("torch", "pyyaml")
    write(place, requirements_txt="numpy\n")
    assert made(place).kind is RecipeKind.REQUIREMENTS
    write(place, uv_lock=LOCK)
    assert made(place).kind is RecipeKind.UV_LOCK
    write(place, sub__train_py="", sub__requirements_txt="rich\n")
    inner = msgspec.structs.replace(place, workdir="sub")
    assert made(inner).kind is RecipeKind.REQUIREMENTS
    assert made(inner).declared == ("rich",)
    (place.tree / "train.py").write_text(METADATA)
    assert (made(place).kind, made(place).declared) == (RecipeKind.SCRIPT, ("numpy",))


def test_a_pyproject_of_mere_tool_settings_declares_nothing(place: Place) -> None:
    """A file with nothing but `[tool.ruff]` in it isn't taken for a project."""
    write(place, pyproject_toml="[tool.ruff]\nline-length = 100\n")
    assert made(place).kind is RecipeKind.NONE


def test_the_key_changes_with_each_input_and_with_nothing_else(place: Place) -> None:
    """Requirements, included files, the interpreter and its version count; other files and the code don't."""
    write(place, requirements_txt="-r more.txt\nnumpy\n", more_txt="rich\n")
    key = made(place).key
    (place.tree / "other.py").write_text("x")
    assert made(msgspec.structs.replace(place, code_hash="d" * 64)).key == key
    keys = {key}
    (place.tree / "more.txt").write_text("rich>13\n")
    keys.add(made(place).key)
    write(place, requirements_txt="-r more.txt\nnumpy>2\n")
    keys.add(made(place).key)
    keys.add(made(place, python=Interpreter(path=sys.executable, version="3.99.0")).key)
    keys.add(made(place, python=Interpreter(path="/other/python3", version=HERE.version)).key)
    write(place, requirements_txt="-r more.txt\nnumpy\n./local\n")
    keys.add(made(place).key)
    keys.add(made(msgspec.structs.replace(place, code_hash="d" * 64)).key)
    assert len(keys) == 7


def test_an_included_file_that_doesnt_travel_is_an_error(place: Place) -> None:
    """A requirements file outside the tree, or missing, is named before anything starts."""
    write(place, requirements_txt="-r ../secret.txt\n--requirement=gone.txt\n")
    (finding,) = made(place).findings
    assert (finding.severity, finding.file) == (Severity.ERROR, "requirements.txt")
    assert "`../secret.txt`, `gone.txt`" in finding.message


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"pyproject_toml": "[project\n"}, "not valid TOML"),
        ({"pyproject_toml": '[project]\ndependencies = "numpy"\n'}, "not a list of strings"),
        ({"pyproject_toml": '[project]\ndependencies = ["--index-url=evil"]\n'}, "not a requirement"),
        ({"pyproject_toml": '[project]\nrequires-python = "three"\n'}, "not a version specifier"),
        ({"train_py": "x = 1\n# /// script\n# a = [\n# b\n# ///\n"}, "(at line 4, column 3)"),
        ({"train_py": METADATA + METADATA}, "2 blocks"),
        ({"pyproject_toml": PYPROJECT, "uv_lock": "package = 3\n"}, "not a lock"),
    ],
)
def test_a_broken_declaration_is_an_error_at_its_file(place: Place, files: dict[str, str], expected: str) -> None:
    """Nothing is installed from half of a file."""
    write(place, **files)
    (finding,) = made(place).findings
    assert finding.severity is Severity.ERROR
    assert expected in finding.message
    assert finding.file is not None
    assert (place.tree / finding.file).is_file()
    assert made(place).steps == ()


def test_a_python_of_the_wrong_version_is_an_error(place: Place) -> None:
    """`requires-python` is held against the Python that would be used; uv finds one by itself."""
    write(place, pyproject_toml=PYPROJECT + 'requires-python = ">=3.50"\n')
    (finding,) = made(place).findings
    assert (finding.code, finding.severity) == ("requires-python", Severity.ERROR)
    write(place, uv_lock=LOCK.replace(">=3.11", ">=3.50"))
    locked = made(place, uv="/bin/uv")
    assert locked.findings == ()
    assert "UV_PYTHON" not in locked.steps[0].env


def test_another_host_is_not_judged_by_the_python_that_is_here(place: Place) -> None:
    """What is wrong with the code is said all the same; which Python builds, nobody can tell from here."""
    found = elsewhere(made(place))
    assert (found.findings, "the host's own Python" in found.why) == ((), True)
    assert elsewhere(made(place, python=None)).findings == ()
    write(place, pyproject_toml=PYPROJECT + 'requires-python = ">=3.50"\n')
    found = elsewhere(made(place))
    assert (found.findings, found.why) == ((), "built from `pyproject.toml` with the host's own Python")
    write(place, pyproject_toml='[project]\nrequires-python = "three"\n')
    assert len(elsewhere(made(place)).findings) == 1


def test_a_lock_is_installed_by_uv_which_is_installed_where_it_is_missing(place: Place) -> None:
    """With uv on PATH it makes the environment; without, a step before installs it."""
    write(place, pyproject_toml=PYPROJECT, uv_lock=LOCK)
    (sync, project) = made(place, uv="/opt/uv").steps
    assert '["/opt/uv", "sync", "--frozen", "--no-install-project"' in sync.argv[-1]
    assert sync.env["UV_PROJECT_ENVIRONMENT"] == made(place).env_dir
    assert project.name == "install the project"
    assert [step.name for step in made(place).steps] == ["install uv", "install dependencies", "install the project"]
    assert made(place).declared == ("numpy",)
    write(place, uv_lock=LOCK.replace("editable", "virtual"))
    assert [step.name for step in made(place, uv="/opt/uv").steps] == ["install dependencies"]


def test_setup_commands_run_in_the_workdir_before_every_attempt(place: Place) -> None:
    """They are argvs, aren't cached, and the caller's Python runs the script."""
    found = made(place, setup=Setup(kind="commands", commands=(("make", "data"), ("echo", "a b"))))
    assert [step.argv for step in found.steps] == [("make", "data"), ("echo", "a b")]
    assert {(step.cwd, step.unless, step.lock) for step in found.steps} == {(str(place.work), None, None)}
    assert found.command == (sys.executable, "train.py")


def test_without_a_python_there_is_an_error_and_not_a_guess(place: Place) -> None:
    """No `python3` on PATH is said before anything starts."""
    assert [finding.code for finding in made(place, python=None).findings] == ["no-python"]
    assert find_interpreter("/nonexistent") is None
    found = find_interpreter(os.path.dirname(sys.executable))
    assert found is not None
    assert found.minor == sys.version_info[:2]


@pytest.mark.parametrize(("fails", "code"), [("exit 7", 7), ("kill -9 $$", 1), (None, 127)])
def test_a_failed_installation_leaves_no_mark(tmp_path: Path, fails: str | None, code: int) -> None:
    """What couldn't be installed fails the step, says so, ends it there, and is tried again the next time."""
    env = tmp_path / "envs" / "key"
    failing = ("/bin/sh", "-c", f"echo no such thing >&2; {fails}") if fails else ("/nowhere/pip", "install")
    commands = (("/bin/mkdir", str(env)), failing, ("/bin/touch", str(env / "later")))
    for _ in range(2):
        argv = build_argv(sys.executable, str(env), commands)
        result = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert result.returncode == code
        assert ("no such thing" if fails else "/nowhere/pip") in result.stderr
        assert [path.name for path in env.iterdir()] == []


def test_a_script_that_needs_nothing_gets_an_empty_environment_once(place: Place) -> None:
    """PEP 723 metadata without dependencies isolates the script from the caller's packages. The environment is marked
    when it is complete, and isn't built twice; a half-built one is removed."""
    (place.tree / "train.py").write_text("# /// script\n# dependencies = []\n# ///\nimport sys\nprint(sys.prefix)\n")
    found = made(place)
    (step,) = found.steps
    assert found.env_dir is not None
    leftover = Path(found.env_dir) / "leftover"
    leftover.mkdir(parents=True)
    result = run(step)
    assert result.returncode == 0, result.stderr
    assert not leftover.exists()
    assert Path(step.unless or "").is_file()
    assert run(step).stderr == "skipped"
    answer = subprocess.run(found.command, cwd=place.cwd, env=found.env, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == os.path.realpath(found.env_dir)


def test_imports_are_looked_for_in_the_environment(place: Place) -> None:
    """What is installed there is found; of the rest it is said which distribution has it."""
    (place.tree / "train.py").write_text("# /// script\n# dependencies = []\n# ///\n")
    found = made(place)
    (step,) = found.steps
    assert run(step).returncode == 0
    (packages,) = Path(found.env_dir or "").glob("lib/python*/site-packages")
    (packages / "tinything.py").touch()
    check = run(check_step(found, ("tinything", "yaml"), place))
    assert check.returncode == 3
    assert "imports `yaml`" in check.stderr
    assert "add `pyyaml`" in check.stderr
    assert "tinything" not in check.stderr


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv isn't installed here")
def test_uv_makes_the_environment_of_a_lock(place: Place) -> None:
    """A lock without packages from elsewhere is installed by the real uv."""
    lock = LOCK[: LOCK.index('[[package]]\nname = "numpy"')].replace("editable", "virtual").replace("3.11", "3.9")
    write(place, pyproject_toml='[project]\nname = "thing"\nversion = "1"\nrequires-python = ">=3.9"\n', uv_lock=lock)
    found = made(place, uv=shutil.which("uv"))
    for step in found.steps:
        result = run(step)
        assert result.returncode == 0, result.stderr
    assert os.access(found.python, os.X_OK)
