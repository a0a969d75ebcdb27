"""Applying a manifest again: what kind of change it is, field by field, and what becomes of it on the way."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from runctl.manifest.job import Job
from runctl.planner.intents import anticipate, fields
from runctl.planner.reapply import Effect, Reapply, changes, decide, raises
from runctl.planner.record import Desired, OutcomeType, Phase
from runctl.planner.requests import Apply, Asked, StopJob

from .kit import PRICED, Life, job, ref, source

Golden = Callable[[str], None]

BASE = PRICED + "\nlimits: {duration: 1h}\ngroup: {cap: 9 USD}"


def life_in(state: str, spec: Job) -> Life:
    life = Life(spec)
    match state:
        case "queued":
            life.see(looked=False)
        case "live":
            life.run()
        case "stopping" | "cancelling" | "deleting":
            life.run()
            {"stopping": life.stop, "cancelling": life.cancel, "deleting": life.delete}[state]()
            life.see(life.live())
        case "stopped":
            life.run()
            life.stop()
            life.see(life.live())
            life.see(life.ended("stop", 0))
        case "succeeded":
            life.run()
            life.see(life.ended(code=0))
        case "capped":
            life.run(minutes=59)
            life.see(life.ended("cap", 0))
        case "overdue":
            life.run(hours=1)
            life.see(life.ended("deadline", 0))
        case _:
            raise AssertionError(state)
    return life


STATES = ("queued", "live", "stopping", "cancelling", "deleting", "stopped", "succeeded", "capped", "overdue")
SPECS = {
    "same": BASE,
    "label": BASE + "\nlabels: {team: x}",
    "cap": BASE.replace("cap: 1 USD", "cap: 2 USD"),
    "lower cap": BASE.replace("cap: 1 USD", "cap: 0.5 USD"),
    "args": BASE + "\nargs: [x]",
    "deadline": BASE + "\ncheckpoint: {deadline: 5h}",
}


@pytest.mark.parametrize("state", STATES)
def test_decisions(state: str, golden: Golden) -> None:
    """What each change means in each state, with and without `--replace`."""
    life = life_in(state, job(BASE))
    lines = []
    for name, spec in SPECS.items():
        for replace in (False, True):
            decision = decide(life.record, job(spec), source(), replace=replace)
            lines.append(f"{name}{' --replace' if replace else ''}: {decision.kind} ({fields(decision.changes)})")
    golden("\n".join(lines) + "\n")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["same", "cap", "args"])
def test_applied(state: str, name: str, golden: Golden) -> None:
    """What the controller does about each: it decides again, on what is true by then."""
    life = life_in(state, job(BASE))
    before = len(life.story)
    life.apply(job(SPECS[name]), replace=name == "args")
    view = life.live() if life.job.live else None
    life.see(view, looked=False)
    if life.record is not None and life.job.live is None:
        life.see()
    golden("\n".join(life.story[before:]) + "\n")


def test_a_job_that_is_gone_or_going_is_created() -> None:
    """Nothing remembered, or only a deletion: a new job."""
    assert decide(None, job(), source()).kind is Reapply.CREATE
    assert decide(life_in("deleting", job()).job, job(), source()).kind is Reapply.CREATE


def test_new_code_needs_a_new_attempt() -> None:
    """Edited code is a change like any other, shown by its hash."""
    found = changes(job(), source("0"), job(), source("1"))
    assert [(c.path, c.before, c.after, c.effect) for c in found] == [("code", "0" * 12, "1" * 12, Effect.RELAUNCH)]


def test_another_workdir_needs_a_new_attempt() -> None:
    """The same tree with another directory to run in is another run."""
    import msgspec

    moved = msgspec.structs.replace(source(), workdir="sub")
    assert [c.path for c in changes(job(), source(), job(), moved)] == ["workdir"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("", "env: {text: a}", "env.text: unset → a"),
        ("env: {text: a}", "env: {text: b}", "env.text: a → b"),
        ("args: [a]", "args: [a, b c]", "args: [a] → [a, b c]"),
        ("args: [a]", "", "args: [a] → unset"),
        ("limits: {duration: 60m}", "limits: {duration: 1h}", "no field"),
        ("limits: {duration: 60m}", "limits: {duration: 2h}", "limits.duration: 60m → 2h"),
        ("cost: {warn_at: [50%]}", "cost: {warn_at: [50%, 60%]}", "cost.warn_at: [50%] → [50%, 60%]"),
        (
            "setup: [[make, a]]",
            "setup: [[make, b]]",
            "setup.commands: [[make, a]] → [[make, b]]",
        ),
        (
            "inputs: [{from: s3://my-bucket/a/, to: b}]",
            "inputs: [{from: s3://my-bucket/a/, to: c}]",
            "inputs[0].target: b → c",
        ),
        ("secrets: [A]", "", "secrets[0].name: A → unset"),
    ],
)  # fmt: skip
def test_fields(before: str, after: str, said: str) -> None:
    """A difference is shown by its path and both values as they were written; one of writing alone is none."""
    assert fields(changes(job(before), source(), job(after), source())) == said


@pytest.mark.parametrize(
    ("outcome", "after", "lifts"),
    [
        (OutcomeType.CAP_REACHED, BASE.replace("cap: 1 USD", "cap: none"), True),
        (OutcomeType.CAP_REACHED, BASE.replace("cap: 9 USD", "cap: 10 USD"), True),
        (OutcomeType.CAP_REACHED, BASE.replace("cap: 1 USD", "cap: 0.5 USD"), False),
        (OutcomeType.DURATION_REACHED, BASE.replace("1h", "2h"), True),
        (OutcomeType.DURATION_REACHED, BASE.replace("1h", "off"), True),
        (OutcomeType.DURATION_REACHED, BASE.replace("1h", "10m"), False),
        (OutcomeType.CHECKPOINT_OVERDUE, BASE + "\ncheckpoint: {deadline: 9h}", True),
        (OutcomeType.CHECKPOINT_OVERDUE, BASE + "\ncheckpoint: {on_deadline: save}", True),
        (OutcomeType.CHECKPOINT_OVERDUE, BASE, False),
        (OutcomeType.FAILED, BASE.replace("cap: 1 USD", "cap: 2 USD"), False),
    ],
)  # fmt: skip
def test_what_lifts_a_limit(outcome: OutcomeType, after: str, lifts: bool) -> None:
    """Only the limit that ended the job, and only upwards."""
    assert raises(outcome, job(BASE), job(after)) is lifts


def test_a_plan_made_against_an_older_generation_is_refused() -> None:
    """Two users changed the job at once: the second is told, and nothing of it is done."""
    life = life_in("live", job(BASE))
    life.apply(job(SPECS["label"]))
    life.apply(job(SPECS["cap"]))
    life.see(life.live())
    assert life.job.generation.number == 2
    assert "ApplyRefused!: the plan was made against generation 1" in life.story[-1]


def test_replace_goes_on_from_the_checkpoint(golden: Golden) -> None:
    """The live attempt saves and ends, and the next runs the new spec from there."""
    life = Life(job(BASE))
    life.run(minutes=1)
    life.apply(job(SPECS["args"]), code="1", replace=True)
    life.see(life.live())
    life.see(life.ended("replace", 0, newest=ref(1, 1, life.now)))
    life.see()
    golden("\n".join(life.story[3:]) + "\n")
    assert life.job.live is not None
    assert (life.job.live.generation, life.job.live.resume) == (2, ref(1, 1, life.now))


def test_stopped_and_applied_while_it_drains_goes_on() -> None:
    """A stop that is taken back before it is done costs a restart, not the job."""
    life = life_in("stopping", job(BASE))
    life.apply(job(BASE))
    life.see(life.live("draining", drain="stop"))
    life.see(life.ended("stop", 0))
    life.see()
    assert [attempt.number for attempt in life.job.attempts] == [1, 2]


def test_what_was_asked_before_is_anticipated() -> None:
    """An apply is compared with the job as it will be: after the change, or the stop, that is still open."""
    life = life_in("live", job(BASE))
    raised = job(BASE.replace("cap: 1 USD", "cap: 2 USD"))
    change = Apply(at=life.now, job=raised, source=source(), generation=1)
    stop = StopJob(at=life.now, why="enough")
    seen = anticipate(life.job, (Asked(1, change), Asked(2, stop)), life.now)
    assert (seen.generation.number, seen.job, seen.desired) == (2, raised, Desired.STOPPED)
    assert decide(seen, raised, source()).kind is Reapply.RESUME
    assert anticipate(msgspec.structs.replace(life.job, answered=2), (Asked(1, change),), life.now).job == job(BASE)


def test_resume_never_starts_from_nothing() -> None:
    """`checkpoint.resume: never` is obeyed also after an interruption."""
    life = Life(job("checkpoint: {resume: never}"))
    life.run()
    life.see(life.dead(newest=ref(1, 1, life.now)))
    life.after(seconds=2)
    life.see()
    assert life.job.live is not None
    assert life.job.live.resume is None


def test_forgiven_attempts_do_not_count() -> None:
    """A job that ran out of retries and got a higher limit starts counting anew."""
    life = life_in("capped", job(BASE))
    life.apply(job(SPECS["cap"]))
    life.see(looked=False)
    assert life.job.forgiven == 1
    assert life.job.phase is Phase.QUEUED
    life.see()
    assert life.job.live is not None
