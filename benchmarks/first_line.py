"""From `apply` to the first line, over what is paid anyway: `validate`, and starting the script by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.table import Row, Settings

SCRIPT = "import sys, time\nopen(sys.argv[1], 'w').write(repr(time.time()))\n"
MANIFEST = "name: first-{number}\nscript: first.py\nargs: ['{mark}']\nsetup: none\n"


def measure(settings: Settings) -> Iterator[Row]:
    """Wall clock; the three are taken in turn, each round with a job of its own."""
    project = settings.directory / "first-line"
    (project / ".git").mkdir(parents=True)  # its own root: nothing of the checkout around it is the job's code
    (project / "first.py").write_text(SCRIPT)
    (project / "lock").mkdir()
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RUNCTL_HOME": str(project / "home"),
        "RUNCTL_HOST_LOCK_DIR": str(project / "lock"),
    }
    rounds = [_round(project, environ, number) for number in range(settings.rounds + 1)][1:]
    applied, validated, by_hand = (median(column) * 1000 for column in zip(*rounds, strict=True))
    yield Row(
        "`apply` to the script's first line, beyond `validate` and starting it by hand",
        f"{applied - validated - by_hand:.0f} ms",
        "≤ 300 ms",
        f"apply {applied:.0f}, validate {validated:.0f}, by hand {by_hand:.0f} ms, wall clock",
    )


def _round(project: Path, environ: dict[str, str], number: int) -> tuple[float, float, float]:
    manifest, mark, by_hand_mark = project / "job.yaml", project / f"mark-{number}", project / f"hand-{number}"
    manifest.write_text(MANIFEST.format(number=number, mark=mark))
    runctl = [sys.executable, "-m", "runctl"]
    started = time.time()
    _run([*runctl, "apply", "job.yaml", "--wait"], project, environ)
    applied = float(mark.read_text()) - started
    started = time.time()
    _run([*runctl, "validate", "job.yaml"], project, environ)
    validated = time.time() - started
    started = time.time()
    _run([sys.executable, "first.py", str(by_hand_mark)], project, environ)
    return applied, validated, float(by_hand_mark.read_text()) - started


def _run(argv: list[str], cwd: Path, environ: dict[str, str]) -> None:
    subprocess.run(argv, cwd=cwd, env=environ, check=True, capture_output=True, stdin=subprocess.DEVNULL)
