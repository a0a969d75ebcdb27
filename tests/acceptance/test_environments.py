"""N2: `setup: auto` with packages that are really installed, from a wheel in the project and without a network."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from .machine import Machine
from .scripts import job

IMPORTS = "import shouting\ntell('on', word=shouting.WORD, file=shouting.__file__)\n"

# What builds the project of the test, in the project itself: there is no index to take a builder from.
BACKEND = """\
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "mine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        wheel.write("src/mine.py", "mine.py")
        about = {"WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
                 "METADATA": "Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n", "RECORD": ""}
        for file, text in about.items():
            wheel.writestr("mine-1.0.dist-info/" + file, text)
    return name
"""


def _wheel(machine: Machine) -> Path:
    """A package `shouting`, as a wheel in the project."""
    path = machine.project / "wheels" / "shouting-1.0-py3-none-any.whl"
    path.parent.mkdir()
    about = {
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "METADATA": "Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("shouting.py", "WORD = 'HELLO'\n")
        for file, text in about.items():
            wheel.writestr(f"shouting-1.0.dist-info/{file}", text)
    return path


def _made(machine: Machine) -> dict[str, int]:
    """The environments that are complete, and when each of them was made."""
    return {path.parent.name: path.stat().st_mtime_ns for path in machine.home.glob("envs/*/.complete")}


def _runs_twice(machine: Machine, manifest: str) -> dict[str, Any]:
    """Applied and applied again: the second run installs nothing, and runs in the environment of the first."""
    done = machine.run("apply", manifest, "--wait")
    assert done.code == 0, done
    made = _made(machine)
    assert made
    assert "pip install" in machine.run("logs", "job", "--setup").out
    done = machine.run("apply", manifest, "--rerun", "--wait")
    assert done.code == 0, done
    assert _made(machine) == made
    assert machine.run("logs", "job", "--setup").out == ""
    first, second = machine.told("on")
    assert first["file"] == second["file"]
    assert machine.home / "envs" in Path(first["file"]).parents
    return second


@pytest.mark.slow
def test_N2_requirements_are_installed_once(machine: Machine) -> None:
    """`requirements.txt` with its own options: the script imports what it names."""
    _wheel(machine)
    machine.write("requirements.txt", "--no-index\n--find-links wheels\nshouting==1.0\n")
    told = _runs_twice(machine, job(machine, IMPORTS, setup="auto"))
    assert told["word"] == "HELLO"


@pytest.mark.slow
def test_N2_a_project_and_its_dependencies_are_installed_once(machine: Machine) -> None:
    """`pyproject.toml`: the script imports a dependency, and the package that the project itself is."""
    wheel = _wheel(machine)
    machine.write("src/mine.py", "from shouting import WORD\nMINE = WORD + ' WORLD'\n")
    machine.write("backend.py", BACKEND)
    machine.write(
        "pyproject.toml",
        f'[project]\nname = "mine"\nversion = "1.0"\ndependencies = ["shouting @ {wheel.as_uri()}"]\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    )
    told = _runs_twice(machine, job(machine, IMPORTS + "import mine\ntell('mine', word=mine.MINE)\n", setup="auto"))
    assert told["word"] == "HELLO"
    assert [each["word"] for each in machine.told("mine")] == ["HELLO WORLD"] * 2
