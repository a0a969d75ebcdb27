"""The promises as questions to the world. What the product says of itself is compared with that, never believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from planner.kit import T0

from runctl.manifest.job import Busy
from runctl.planner.actions import Launch
from runctl.planner.record import EndReason, OutcomeType, Record
from runctl.planner.renting import LOOK_AGAIN
from runctl.planner.requests import StopJob
from runctl.providers.aws.instances import TOKEN_TAG
from runctl.store.interface import Ask, Write

from .version import version

# Any wall clock is at most this far from the true time, in seconds: what the product's bounds are stated with.
MOST_SKEW = 2.0
# A guardian ends an agent that shows no sign of life for so long.
LONGEST_HELD = 60.0

if TYPE_CHECKING:
    from .life import Life
    from .rented import RentedLife
    from .run import Run


class Violation(AssertionError):
    """A promise that was broken, with what replays it."""

    def __init__(self, life: Life, what: str) -> None:
        last = "\n".join(f"  {at:9.3f} {words}" for at, words in life.log[-50:])
        command = f"python -m tests.simulation --world {life.world} --seed {life.seed}"
        if life.crash_at:
            command += f" --crash-at {','.join(map(str, sorted(life.crash_at)))}"
        phase = "calm" if life.weather.calm else "storm"
        place = f"seed {life.seed}, {version()}, {phase}, at {life.loop.time():.3f}"
        super().__init__(f"{what}\n{place}\n{last}\nagain: {command}")
        self.what = what


def check(life: Life) -> None:
    """What holds after every event."""
    within_the_groups_cap(life, {uid: _local_cost(life, uid) for uid in life.uids} if life.together else {})
    _one_training_on_the_machine(life)
    no_more_of_a_group_than_allowed(life)
    for run in life.runs:
        if run.over is None:
            _within_the_cap(life, run)


def final(life: Life) -> None:
    """What holds when everything is over."""
    for run in life.runs:
        _within_the_cap(life, run)
    no_hot_loop(life)
    jobs_are_what_the_world_says(life)


# In any minute a job that waits is planned this often at most, and all jobs together so often for each thing that
# happened (in the world, in the books): each change of a record is planned once more, and a change of one job's record
# may be news for those of its group. A few more are for what controllers do when they start.
PLANS_A_MINUTE = 60 / LOOK_AGAIN.total_seconds()
PLANS_A_THING = 4
PLANS_BESIDES = 20


def no_hot_loop(life: Life) -> None:
    for minute, plans in life.planned_in.items():
        things = life.happened_in[minute] + life.happened_in[minute - 1]
        most = len(life.uids) * (PLANS_A_MINUTE + PLANS_A_THING * things) + PLANS_BESIDES
        if plans > most:
            raise Violation(life, f"{plans} plans in minute {minute}, in which {things} things happened")


def jobs_are_what_the_world_says(life: Life) -> None:
    for run in life.runs:
        if run.alive:
            raise Violation(life, f"attempt {run.key} is alive, and nobody cares for it")
    for uid in life.uids:
        record = life.record(uid)
        if record is None:
            if uid not in life.deleted and uid in {run.key[0] for run in life.runs}:
                raise Violation(life, f"{uid} is gone, though nobody deleted it")
            continue
        _truth_of_the_end(life, record)
        _nothing_acknowledged_is_lost(life, record)
        _attempts_are_those_of_the_world(life, record)


def within_the_groups_cap(life: Life, costs: dict[str, float]) -> None:
    """What all members have cost, in micro-dollars by uid, is within the highest cap that they have shared."""
    records = [record for uid in life.uids if (record := life.record(uid)) is not None]
    caps = [generation.job.group.cap for record in records for generation in record.generations]
    if life.together is None or not caps or None in caps:
        return
    cap = max(each.micros for each in caps if each is not None)
    if sum(costs.values()) > cap:
        raise Violation(life, f"the group has cost {sum(costs.values()):.0f} micro-dollars, its cap is {cap}")


def _local_cost(life: Life, uid: str) -> float:
    record = life.record(uid)
    rate = record.job.instance.hourly_rate if record is not None else None
    return 0.0 if rate is None else (sum(bill(life, uid).values()) - _unseen(life, uid)) * rate.micros / 3600


def _one_training_on_the_machine(life: Life) -> None:
    alive = [run for run in life.runs if run.training is not None and run.training.alive]
    # Whoever shares may come to another one; who doesn't was there alone when it came.
    for run in alive[1:]:
        if not run.shares:
            raise Violation(life, f"two trainings on one machine: {[each.key for each in alive]}")


def no_more_of_a_group_than_allowed(life: Life) -> None:
    """However many are in the group, no more of its attempts are there at once than any of its specs allowed."""
    if life.together is None:
        return
    records = [record for uid in life.uids if (record := life.record(uid)) is not None]
    most = [each.job.group.max_parallel for record in records for each in record.generations]
    there = [run.key for run in life.runs if run.over is None]
    if records and None not in most and len(there) > max(each for each in most if each is not None):
        raise Violation(life, f"{there} of one group are there at once, {most} were allowed")


def not_beside_a_foreign_training(life: Life, run: Run) -> None:
    """Who doesn't share isn't launched beside a training that was there when the launch was decided."""
    foreign = life.strangers.foreign
    if run.shares or run.host is not life.host or foreign is None or not life.strangers.is_foreign_there:
        return
    attempt = next(each for each in life.store.latest[run.key[0]].attempts if each.number == run.key[1])
    if (attempt.intended_at - T0).total_seconds() > foreign[0] + MOST_SKEW:
        raise Violation(life, f"attempt {run.key} is launched beside a training that no agent watches")


def has_its_secrets(life: Life, launch: Launch, secrets: Mapping[str, str]) -> None:
    missing = [each.name for each in launch.generation.job.secrets if each.name not in secrets]
    if missing:
        raise Violation(life, f"attempt {launch.attempt.number} is launched without {missing}")


def asks_only_its_own_to_stop(life: Life, writes: Sequence[Write]) -> None:
    """A controller asks a job to stop only if another one, which says so, is to have its machine."""
    for write in writes:
        if not isinstance(write, Ask) or not isinstance(write.request, StopJob):
            continue
        others = [record for uid, record in life.store.latest.items() if uid != write.uid]
        replaces = any(each.job.instance.busy is Busy.REPLACE for other in others for each in other.generations)
        if write.uid not in life.uids or not replaces:
            raise Violation(life, f"{write.uid} is asked to stop, and no job replaces it")


def one_training_a_job(life: RentedLife) -> None:
    """However many machines there are, a job trains on one of them."""
    alive = [run.key[0] for run in life.runs if run.training is not None and run.training.alive]
    if len(alive) != len(set(alive)):
        raise Violation(life, f"a job trains twice: {alive}")


def rented_within_the_cap(life: RentedLife) -> None:
    bills: dict[str, float] = {}
    for instance in life.cloud.instances.values():
        if instance.is_copy:
            continue
        bills[instance.uid] = bills.get(instance.uid, 0.0) + instance.bill()
    within_the_groups_cap(life, bills)
    for uid, micros in bills.items():
        record = life.record(uid)
        caps = [] if record is None else [each.job.cost.cap for each in record.generations]
        if caps and all(cap is not None for cap in caps) and micros > max(cap.micros for cap in caps if cap):
            raise Violation(life, f"{uid} has cost {micros:.0f} micro-dollars, its cap is {max(map(str, caps))}")


def one_machine_a_request(life: RentedLife) -> None:
    """A request that was sent more than once is granted once."""
    granted: set[str] = set()
    for instance in life.cloud.instances.values():
        if instance.is_copy:
            continue
        token = instance.tags[TOKEN_TAG]
        if token in granted:
            raise Violation(life, f"two machines for one request of {instance.uid}: {instance.name} is the second one")
        granted.add(token)


def no_dearer_than_allowed(life: RentedLife) -> None:
    for instance in life.cloud.instances.values():
        record = life.record(instance.uid)
        most = [] if record is None else [each.job.cost.max_hourly for each in record.generations]
        if instance.is_copy or not most or None in most:
            continue
        if instance.hourly > max(each.micros for each in most if each is not None):
            raise Violation(life, f"{instance.name} of {instance.uid} costs more an hour than it was allowed to")


def released_is_gone(life: RentedLife) -> None:
    """What the books call released isn't billed any more."""
    for uid in life.uids:
        record = life.record(uid)
        for rental in record.rentals if record is not None else ():
            instance = life.cloud.instances.get(rental.instance or "")
            if rental.released_at is not None and instance is not None and instance.going_at is None:
                raise Violation(life, f"{rental.instance} of {uid} counts as released, and is billed")


def nothing_rented_is_left(life: RentedLife) -> None:
    # A copy that nobody's listing has shown since the storm is nothing that anybody could know of.
    standing = [each for each in life.cloud.instances.values() if each.going_at is None]
    left = [each.name for each in standing if each.is_shown or not each.is_copy]
    if left:
        raise Violation(life, f"{', '.join(left)} are billed, and nothing is left to do")


def bill(life: Life, uid: str) -> dict[int, float]:
    """Seconds that each attempt really had the machine, which costs nothing while it sleeps: from its claim to when
    nothing of it was left."""
    now = life.loop.time()
    return {
        run.key[1]: life.host.awake(run.began, now if run.over is None else run.over)
        for run in life.runs
        if run.key[0] == uid and not (run.exit is not None and run.exit["started"] is None)
    }


def _unseen(life: Life, uid: str) -> float:
    """Seconds by which the books may be wrong: who is lost with all that watched is billed to its last heartbeat and a
    little more. Only after a power cut nothing but the wall clock, which may have been set meanwhile, says how long ago
    that was, and of a rented machine it is another one; a held agent has none.
    """
    lost = [run for run in life.runs if run.key[0] == uid and run.exit is None and not run.alive]
    unsure = life.clocks_apart or (life.counts["clock step"] and life.counts["power cut"])
    skew = MOST_SKEW if unsure else 0.0
    return sum(skew + LONGEST_HELD * run.was_held for run in lost)


def _within_the_cap(life: Life, run: Run) -> None:
    uid = run.key[0]
    record = life.record(uid)
    if record is None:
        return
    caps = [each.job.cost.cap.micros for each in record.generations if each.job.cost.cap is not None]
    rates = [each.job.instance.hourly_rate for each in record.generations]
    if len(caps) < len(record.generations) or any(rate is None for rate in rates):
        return  # some spec had no cap
    micros = [rate.micros for rate in rates if rate is not None]
    used = {attempt.number: micros[attempt.generation - 1] for attempt in record.attempts}
    seconds = bill(life, uid)
    spent = sum(lasted * used.get(number, max(micros)) for number, lasted in seconds.items()) / 3600
    spent -= _unseen(life, uid) * max(micros) / 3600
    if spent > max(caps):
        raise Violation(life, f"{uid} has cost {spent:.0f} micro-dollars, its cap is {max(caps)}")


def _truth_of_the_end(life: Life, record: Record) -> None:
    outcome, attempt = record.outcome, record.attempt
    if outcome is None or attempt is None or outcome.reason == "DoesNotFit":
        return  # the last attempt's end isn't what the outcome is of
    run = life.run_of(record.uid, attempt.number)
    told = (outcome.exit_code, outcome.signal)
    as_unknown = told == (None, None) and outcome.type is not OutcomeType.SUCCEEDED
    if run is None or run.exit is None:
        if not as_unknown:
            raise Violation(life, f"{record.uid} is said to have ended with {told}, and nobody knows that")
        return
    if as_unknown and not life.has_word_of(run):
        return
    if told != (run.exit["code"], run.exit["signal"]):
        raise Violation(life, f"{record.uid} is said to have ended with {told}, in truth with {run.exit}")
    training = run.training
    if outcome.type is OutcomeType.SUCCEEDED and (training is None or training.code != 0 or run.seen.drain is not None):
        raise Violation(life, f"{record.uid} succeeded, it is said, and it didn't: {run.exit}")
    if outcome.type is OutcomeType.SUCCEEDED and training is not None and training.step < training.kind.steps:
        raise Violation(life, f"{record.uid} succeeded after {training.step} of {training.kind.steps} steps")


def _nothing_acknowledged_is_lost(life: Life, record: Record) -> None:
    ref = record.checkpoint
    if ref is not None and (record.uid, ref.attempt, ref.seq) not in life.durable:
        raise Violation(life, f"the record of {record.uid} names {ref.path}, which never was durable")
    newest: int | None = None
    for attempt in record.attempts:
        run = life.run_of(record.uid, attempt.number)
        if run is None or run.training is None:
            continue
        resumes = attempt.resume is not None
        if record.generation_of(attempt).job.checkpoint.resume == "never":
            newest = None  # it was to begin anew
        if newest is not None and run.training.first < newest:
            raise Violation(life, f"attempt {run.key} began at step {run.training.first}, step {newest} was durable")
        assert resumes or run.training.first == 0
        # On a machine that has been wiped meanwhile it may have been started twice.
        runs = [each for each in life.runs if each.key == run.key]
        steps = [save.step for each in runs for save in each.durable]
        newest = max([*steps, *([] if newest is None else [newest])], default=newest)
        # What was on its way to the storage when its machine went with all that was on it is lost.
        if run.key in life.vouched and attempt.end is not None and attempt.end.reason is EndReason.LOST:
            newest = None  # nobody was to look at what is there
            continue
        on_way = {step for each in runs for step in each.lost_on_way}
        whole = [save.step for save in life.saves.get(run.key, ()) if save.whole and save.step not in on_way]
        # An agent that ended its attempt had a grace for the last copy; what it wrote at its end may be unknown.
        own = run.exit is not None and run.exit["reason"] != "lost"
        lost = attempt.end is not None and attempt.end.reason is EndReason.LOST and not own
        if lost and whole and max(whole) > (newest if newest is not None else -1):
            raise Violation(life, f"attempt {run.key} had saved step {max(whole)} whole, and {newest} was kept")


def _attempts_are_those_of_the_world(life: Life, record: Record) -> None:
    known = {attempt.number for attempt in record.attempts}
    real = {run.key[1] for run in life.runs if run.key[0] == record.uid}
    if not real <= known:
        raise Violation(life, f"attempts {sorted(real - known)} of {record.uid} are in nobody's books")
    for attempt in record.attempts:
        if attempt.end is None:
            raise Violation(life, f"attempt {attempt.number} of {record.uid} is over, and nobody has noted that")
