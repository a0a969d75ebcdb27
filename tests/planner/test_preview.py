"""What a plan says before anything is done, as the user reads it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from runctl.planner.observed import Foreign, Holder, MachineSeen
from runctl.planner.preview import preview, render
from runctl.planner.reapply import Decision, Reapply, decide

from .kit import PRICED, T0, Life, job, ref, source
from .test_reapply import BASE, SPECS, STATES, life_in

Golden = Callable[[str], None]

MANIFESTS = {
    "minimal": "",
    "priced": PRICED,
    "priced and bounded by time": "instance: {hourly_rate: 6 USD}\ncost: {cap: none}\nlimits: {duration: 2h}",
    "priced without bound": "instance: {hourly_rate: 6 USD}\ncost: {cap: none}",
    "group": "instance: {hourly_rate: 1 USD}\ncost: {cap: none}\ngroup: {cap: 5 USD}",
    "free": "instance: {hourly_rate: 0 USD}\nlimits: {hang: 1h}",
    "everything": PRICED
    + "\nargs: [--note, it's fine, '', -x]\nlauncher: [accelerate, launch]\nretry: {failures: 2, interruptions: 3}"
    + "\ncheckpoint: {every: 10m, upload: 'file:/mnt/ckpt', resume: /old/epoch-9.npz}\nlimits: {idle: 30m, hang: 1h}",
    "resume never": "checkpoint: {resume: never}",
}


@pytest.mark.parametrize("name", list(MANIFESTS))
def test_new(name: str, golden: Golden) -> None:
    """The plan of a new job."""
    spec = job(MANIFESTS[name])
    golden(render(preview(None, spec, source(), Decision(Reapply.CREATE), "uv.lock: `uv sync --frozen`", T0)))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["same", "cap", "args", "args replaced"])
def test_again(state: str, name: str, golden: Golden) -> None:
    """The plan of applying once more: what changes, and what that means."""
    life = life_in(state, job(BASE))
    spec = job(SPECS[name.removesuffix(" replaced")])
    decision = decide(life.job, spec, source(), replace=name.endswith("replaced"))
    shown = preview(life.job, spec, source(), decision, "none", life.now)
    golden(render(shown))
    assert shown.changed == (decision.kind not in (Reapply.ATTACH, Reapply.REPORT))


@pytest.mark.parametrize("busy", ["wait", "share", "replace", "refuse"])
def test_the_machine_is_busy(busy: str, golden: Golden) -> None:
    """What a start would meet is told: a training of this home, of another, and one of nobody's."""
    spec = job(f"instance: {{busy: {busy}}}")
    told = []
    for holder, foreign in (
        (_holder(ours=True), ()), (_holder(ours=False), ()), (None, (FOREIGN,)), (None, ()),
    ):  # fmt: skip
        machine = MachineSeen(as_of=T0, name="this machine", holder=holder, foreign=foreign)
        shown = preview(None, spec, source(), Decision(Reapply.CREATE), "none", T0, machine)
        told.append(dict(shown.lines)["now"] or "starts at once")
    golden("\n".join(told) + "\n")


def test_a_live_job_is_not_in_its_own_way() -> None:
    life = Life(job(PRICED))
    life.run(minutes=1)
    spec = job(f"{PRICED}\nargs: [x]")
    machine = MachineSeen(as_of=T0, name="this machine", holder=_holder(ours=True))
    shown = preview(life.job, spec, source(), decide(life.job, spec, source(), replace=True), "none", T0, machine)
    assert dict(shown.lines)["now"] == ""


FOREIGN = Foreign(pid=7, command="python train.py", evidence="uses the GPU")


def _holder(*, ours: bool) -> Holder:
    return Holder(job="other", uid="u9", run_id="u9-000001", pid=42, since=T0, ours=ours)


def test_one_file() -> None:
    one = msgspec.structs.replace(source(), files=1)
    assert " (1 file, " in render(preview(None, job(), one, Decision(Reapply.CREATE), "none", T0))


def test_rerun(golden: Golden) -> None:
    """A rerun starts from nothing: no checkpoint, nothing spent."""
    life = Life(job(PRICED))
    life.run(minutes=30)
    life.see(life.ended(code=0, newest=ref(1, 1, life.now)))
    shown = preview(life.job, job(PRICED), source(), Decision(Reapply.CREATE), "none", life.now)
    golden(render(shown))
    assert shown.worst_case == 1_000_000


def test_what_was_spent_counts(golden: Golden) -> None:
    """After half of the cap the plan says that half is left, and that an exhausted cap launches nothing."""
    life = Life(job(PRICED))
    life.run(minutes=30)
    life.see(life.live(newest=ref(1, 1, life.now)))
    life.see(life.dead(newest=ref(1, 1, life.now)))
    told = []
    for cap in ("1 USD", "0.5 USD", "0.2 USD"):
        spec = job(f"instance: {{hourly_rate: 1 USD}}\ncost: {{cap: {cap}}}")
        decision = decide(life.job, spec, source())
        told.append(render(preview(life.job, spec, source(), decision, "none", life.now)))
    golden("\n".join(told))


@pytest.mark.parametrize("cap", ["1 USD", "1.001 USD", "2 USD"])
def test_a_raised_cap_has_to_be_enough(cap: str, golden: Golden) -> None:
    """A job that reached its cap is reported, started, or not: what the new cap leaves has to be worth an attempt."""
    life = Life(job(PRICED))
    life.run(minutes=59)
    life.see(life.ended("cap", 0, newest=ref(1, 1, life.now)))
    spec = job(f"instance: {{hourly_rate: 1 USD}}\ncost: {{cap: {cap}}}")
    decision = decide(life.job, spec, source())
    golden(render(preview(life.job, spec, source(), decision, "none", life.now)))
