"""The example manifests, and what the README says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runctl.cli.exit_codes import PRECEDENCE, ExitCode
from runctl.manifest.load import load

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "examples" / "jobs"
README = (ROOT / "README.md").read_text()


def fenced(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", sorted(JOBS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(JOBS)))
def test_an_example_manifest_has_no_problem_and_an_existing_script(path: Path) -> None:
    """Every example is valid without a warning, nothing in it is refused today, and its scripts exist."""
    loaded = load(path.read_bytes(), str(path), str(path.parent))
    assert (loaded.diagnostics, loaded.refusals) == ((), ())
    assert loaded.jobs
    for sourced in loaded.jobs:
        assert (Path(sourced.base) / sourced.job.workdir / sourced.job.script).resolve().is_file()


def test_X3_every_example_that_is_priced_has_a_cap() -> None:
    """Examples are copied: one with a price and no cap would teach the costliest mistake."""
    for path in JOBS.rglob("*.yaml"):
        for sourced in load(path.read_bytes(), str(path), str(path.parent)).jobs:
            assert sourced.job.instance.hourly_rate is None or sourced.job.cost.cap is not None, path


def test_the_readme_shows_the_manifest_that_its_first_command_runs() -> None:
    """The quickstart in the README is the file, to the letter."""
    assert (JOBS / "quickstart.yaml").read_text() in fenced("yaml", README)
    assert "runctl apply examples/jobs/quickstart.yaml" in fenced("bash", README)[0]


def test_the_continuous_check_runs_the_readmes_second_command() -> None:
    """`.ci/run` and the contributing page have the README's test command, and nothing else."""
    command = fenced("bash", README)[1].strip()
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands[-1] == command
    assert all(line.startswith(("set ", "cd ")) for line in commands[:-1])
    assert command in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/exit-codes.md"])
def test_a_page_with_exit_codes_has_all_of_them_and_no_other(page: str) -> None:
    """The tables name exactly the codes that the program has."""
    cells = re.findall(r"^\| (\d[\d ·]*) \|", (ROOT / page).read_text(), re.MULTILINE)
    assert sorted(int(code) for cell in cells for code in cell.split(" · ")) == sorted(ExitCode)


def test_the_page_on_exit_codes_has_the_precedence_of_the_program() -> None:
    """The order in which a group's codes outweigh each other is the program's."""
    order = ", ".join(str(int(code)) for code in PRECEDENCE)
    assert order in " ".join((ROOT / "docs" / "exit-codes.md").read_text().split())


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """Every relative link names a file or a directory of the repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target
