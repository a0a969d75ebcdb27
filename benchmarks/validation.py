"""What one more manifest costs in a run of `runctl validate` over a thousand of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.cold import RUNCTL, interleaved
from benchmarks.table import Row, Settings

COUNT = 1000
MANIFEST = """\
apiVersion: runctl/v1
kind: Job
name: job-{number}
labels: {{team: vision, number: "{number}"}}
instance:
  platform: local
  hourly_rate: 1.10 USD
  busy: wait
script: train.py
args: [--epochs, 50, --learning-rate, 1e-4, --note, "it's fine"]
env:
  WANDB_MODE: offline
  SEED: "{number}"
secrets: [HF_TOKEN]
setup: auto
sync:
  exclude: ["data/", "*.tmp"]
checkpoint:
  dir: checkpoints
  every: 2 epochs
  deadline: 1h
  on_deadline: save
  signal: SIGUSR1
  keep: 3
  grace: 60s
  format: auto
  resume: auto
cost:
  cap: 25 USD
  warn_at: [50%, 80%, 95%]
  max_hourly: 2 USD
limits:
  duration: 12h
  idle: 30m
  setup: 20m
  hang: off
stop: {{signal: SIGTERM, to: leader}}
retry: {{interruptions: unlimited, failures: 0}}
wait: auto
hooks:
  after_start: [[echo, started]]
  before_stop: [[echo, stopping]]
"""


def measure(settings: Settings) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=settings.directory) as name:
        many = Path(name)
        (many / "train.py").write_text("print('hello')\n")
        for number in range(COUNT):
            (many / f"job-{number}.yaml").write_text(MANIFEST.format(number=number))
        times = interleaved(
            {
                "one": [str(RUNCTL), "validate", str(many / "job-0.yaml")],
                "all": [str(RUNCTL), "validate", str(many)],
            },
            max(3, settings.rounds // 5),
        )
    each = median((a - o) / (COUNT - 1) for a, o in zip(times["all"], times["one"], strict=True))
    yield Row(
        f"`runctl validate`, each of {COUNT} manifests, CPU",
        f"{each * 1000:.2f} ms",
        "≤ 1.0 ms",
        f"{len(MANIFEST.splitlines())} lines each; one alone: {median(times['one']) * 1000:.0f} ms",
    )
