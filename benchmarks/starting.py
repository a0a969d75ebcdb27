"""How long a command takes that does nearly nothing: what every use of the command line pays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.cold import RUNCTL, interleaved, paired_ratio
from benchmarks.table import Row, Settings

HERE = Path(__file__).resolve().parent
MANIFEST = HERE.parent / "examples" / "jobs" / "quickstart.yaml"
BARE = "a bare typer program's `--help`"


def measure(settings: Settings) -> Iterator[Row]:
    times = interleaved(
        {
            BARE: [sys.executable, str(HERE / "bare_typer.py"), "--help"],
            "`runctl --help`": [str(RUNCTL), "--help"],
            "`runctl validate` of one manifest": [str(RUNCTL), "validate", str(MANIFEST)],
        },
        settings.rounds,
    )
    base = times.pop(BARE)
    targets = {"`runctl --help`": "≤ 0.60", "`runctl validate` of one manifest": "≤ 1.35"}
    for name, spent in times.items():
        yield Row(
            f"{name}, cold, CPU",
            f"{paired_ratio(spent, base):.2f} × ({median(spent) * 1000:.0f} ms)",
            f"{targets[name]} ×",
            f"{BARE}: {median(base) * 1000:.0f} ms",
        )
