"""One lifetime: a world from a seed, a storm of faults, then calm; judged all the way by what is true."""

from __future__ import annotations

import contextvars
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from hashlib import blake2b
from typing import Any

from planner.kit import T0, job, source

from runctl.manifest.job import Job, Platform
from runctl.planner.launching import LAUNCH_WINDOW
from runctl.planner.record import CheckpointRef, Desired, Generation, Record
from runctl.planner.requests import Apply, CancelJob, DeleteJob, StopJob
from runctl.planner.seeing import LATE_EFFECT
from runctl.planner.verdict import FIRST_RETRY, MOST_UNSTARTED
from runctl.reconciler.controller import DEFECT
from runctl.reconciler.resting import rests
from runctl.store.interface import Ask, Create, StoreError

from . import oracles, wide
from .controllers import Controllers
from .dice import Dice, Weather
from .host import Host, HostPort
from .loop import Loop
from .node import Node
from .oracles import Violation
from .run import Run, ref_of
from .strangers import Strangers
from .training import Kind, Save
from .users import Users

STORM_SECONDS = 240.0
# After the storm every job comes to its end within this: the longest training from its first step, for each attempt
# that its retries allow then (one), with the longest pause before it, and what finding out takes.
LONGEST_TRAINING = 400.0
CALM_SECONDS = LONGEST_TRAINING + 144.0 + 130.0 + 60.0 + 60.0
# A call that is under way when the last job has come to its end may be tried again for half a minute.
SETTLING_SECONDS = 60.0
SILENCE_SECONDS = 120.0
# Before the last of the launches that a job gives up after.
LONGEST_BACKOFF = FIRST_RETRY * 2**MOST_UNSTARTED
USER_RETRY_SECONDS = 5.0

FAULTS = {
    "crash": 0.05,
    "disk full": 0.05,
    "store full": 0.5,
    "power cut": 0.02,
    "store unreadable": 0.02,
    "slow disk": 0.5,
    "launch refused": 0.5,
    "launch lost": 0.2,
    "launch late": 0.5,
    "launch answer lost": 0.2,
    "orders refused": 0.2,
    "agent killed": 0.6,
    "both killed": 0.4,
    "controller suspended": 0.5,
    "suspended in a write": 0.05,
    "second controller": 0.5,
    "user": 0.9,
    "lagging listings": 1.0,
    "stale listing": 0.5,
    "missing from a listing": 0.3,
    "small pages": 0.5,
    "throttled": 0.2,
    "no capacity": 0.6,
    "no quota": 0.2,
    "not allowed": 0.1,
    "copy cut short": 0.2,
    "agent held": 0.4,
    "clock step": 0.5,
    "machine sleeps": 0.3,
    "prices unknown": 0.2,
    "offer withdrawn": 0.2,
    "copied": 0.5,
    "stopped by hand": 0.5,
    "server fails": 0.2,
    "request lost": 0.2,
    "request late": 0.3,
    "answer lost": 0.2,
    "dies pending": 0.3,
    "pends for ever": 0.1,
    "never boots": 0.2,
    "reclaim": 0.8,
    "machine fails": 0.2,
    "partition": 0.5,
    "last word lost": 0.2,
    "power-off hangs": 0.5,
    "end refused": 0.9,
    "timer fails": 0.5,
    "moved away": 0.5,
    "slow uplink": 0.3,
    "storage away": 0.5,
    "manifest answer lost": 0.2,
    **wide.FAULTS,
}

RATE = "instance: {hourly_rate: 3.60 USD}\ncost: {cap: %s USD}\n"
JOBS = (
    "checkpoint: {grace: 5s}\n",
    "checkpoint: {grace: 5s}\nretry: {failures: 2}\n",
    "checkpoint: {grace: 5s}\nretry: {interruptions: 1}\n",
    "checkpoint: {grace: 5s}\nlimits: {duration: 60s}\n",
    "checkpoint: {grace: 5s, every: 10s, deadline: 30s, on_deadline: fail}\n",
    "checkpoint: {grace: 5s, every: 10s, deadline: 30s, on_deadline: save}\n",
    "checkpoint: {grace: 5s}\nlimits: {hang: 40s}\n",
    RATE % "0.05" + "checkpoint: {grace: 5s}\n",
    RATE % "0.02" + "checkpoint: {grace: 5s}\n",
    RATE % "0.20" + "checkpoint: {grace: 10s}\nstop: {to: group}\n",
)
# Jobs that were applied together: they hold one cap, and take turns on a machine of the user's or share it.
GROUP = "group: {cap: %s USD}\n"
GROUPED = tuple(
    (RATE % "0.20").replace("3.60 USD", f"3.60 USD, busy: {busy}") + "checkpoint: {grace: 5s}\n" + GROUP % cap
    for busy in ("wait", "share")
    for cap in ("0.06", "0.15")
)


class Life:
    """`crash_at`: whoever passes one of these crash points dies there, beside those whom the weather kills."""

    def __init__(
        self, seed: int, crash_at: frozenset[int] = frozenset(), silenced: frozenset[str] = frozenset()
    ) -> None:
        self.seed = seed
        self.dice = Dice(seed, silenced)
        self.wide = wide.is_wide(self.dice)
        self.weather = Weather(self.dice, FAULTS, frozenset() if self.wide else frozenset(wide.FAULTS))
        self.loop = Loop()
        self._world = contextvars.Context()
        self.crash_at, self.points = crash_at, 0
        self.log: list[tuple[float, str]] = []
        self.counts: Counter[str] = Counter()
        self.looks = self.writes = self.plans = 0
        self._storage_away_until = 0.0
        # How often anything was planned, and how much happened, in each minute.
        self.planned_in: Counter[int] = Counter()
        self.happened_in: Counter[int] = Counter()
        self.runs: list[Run] = []
        self.host = Host(self)
        self.controllers = Controllers(self)
        from .node import MemoryStore

        self.store = MemoryStore(self)
        self.uids: list[str] = []
        # In some lives all jobs are of one group, and of one kind.
        together = self.dice.between("together", 0, 1) < 0.3
        self.together = self.dice.pick("group", self.grouped) if together else None
        if self.wide and together and self.dice.between("wide group", 0, 1) < wide.WIDE_JOBS:
            self.together = self.dice.pick("which wide group", self.wide_grouped)
        self.strangers, self.users = Strangers(self, self.host), Users(self)
        self.launcher_broken = self.meets("launcher broken")
        # Attempts whose host a user has vouched for, and jobs whose checkpoints are to go with them.
        self.vouched: set[tuple[str, int]] = set()
        self.checkpoints_too: set[str] = set()
        self.kinds: dict[str, Kind] = {}
        self.saves: dict[tuple[str, int], list[Save]] = {}
        self.durable: dict[tuple[str, int, int], Save] = {}
        self.forgotten: set[str] = set()
        self.deleted: set[str] = set()
        self.asked: Counter[str] = Counter()
        # What the user has asked for, and will once more.
        self._user_waits = 0
        self._token = -1
        self._all_rest: bool | None = None

    # What the parts of the world tell

    def say(self, *words: object) -> None:
        self.log.append((self.loop.time(), " ".join(map(str, words))))

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def meets(self, fault: str) -> bool:
        """Whether this fault strikes here and now; it is counted if it does."""
        struck = self.weather.strikes(fault)
        if struck:
            self.count(fault)
        return struck

    def note_trouble(self, message: str) -> None:
        if message.startswith(DEFECT):
            self.loop.fail(Violation(self, message))
        self.count("trouble told")

    def later(self, seconds: float, what: Callable[[], None]) -> Any:
        # The world goes on when the node dies in whose call this began.
        return self.loop.call_later(seconds, what, context=self._world)

    def happened(self) -> None:
        """Something in the world has changed: the promises hold now, too."""
        self.happened_in[self.minute] += 1
        self._judge()

    @property
    def minute(self) -> int:
        return int(self.loop.time() // 60)

    def wrote(self) -> None:
        self.writes += 1
        self.happened_in[self.minute] += 1
        self._judge()

    def _judge(self) -> None:
        try:
            self.check()
        except Violation as broken:
            self.loop.fail(broken)
            raise

    # What the host asks

    def kind_of(self, key: tuple[str, int]) -> Kind:
        return self.kinds[key[0]]

    def step_of(self, ref: CheckpointRef | None) -> int:
        if ref is None:
            return 0
        uid, attempt, seq = ref.path.split("/")
        save = self.durable.get((uid, int(attempt), int(seq)))
        if save is None or not save.whole:
            raise Violation(self, f"an attempt goes on from {ref.path}, which isn't a whole durable checkpoint")
        return save.step

    def copy_seconds(self) -> float:
        """More than a grace lets through, now and then."""
        return self.dice.between("copying slowly", 3.0, 90.0) if self.meets("slow uplink") else self._quick_copy()

    def _quick_copy(self) -> float:
        return self.dice.between("copying", 0.05, 3.0)

    @property
    def storage_is_away(self) -> bool:
        return self.loop.time() < self._storage_away_until and not self.weather.calm

    def _lose_storage(self) -> None:
        self.count("storage away")
        self.say("the storage is away")
        self._storage_away_until = self.loop.time() + self.dice.between("storage away for", 1.0, 300.0)

    def io_seconds(self) -> float:
        if not self.meets("slow disk"):
            return 0.0
        return self.dice.between("slow for", 0.01, 5.0)

    def saved(self, key: tuple[str, int], step: int, whole: bool) -> None:
        self.saves.setdefault(key, []).append(Save(step, whole, at=self.loop.time()))

    def became_durable(self, key: tuple[str, int], save: Save) -> None:
        if (*key, save.seq) in self.durable:
            raise Violation(self, f"checkpoint {save.seq} of {key} is overwritten")
        self.durable[*key, save.seq] = save
        self.say("checkpoint", *key, save.seq, "of step", save.step, "is durable")
        self.happened()

    def ref(self, key: tuple[str, int], save: Save) -> CheckpointRef:
        return ref_of(*key, save)

    def trains(self, run: Run) -> None:
        self.count("trainings")
        self.happened()
        self.afflict(run)

    def afflict(self, run: Run) -> None:
        """What befalls those who watch a training that has just begun."""
        if self.weather.strikes("agent killed"):
            self.later(self.dice.between("agent killed when", 0.1, 60.0), run.kill_agent)
        elif self.weather.strikes("agent held"):
            self.later(self.dice.between("agent held when", 0.1, 60.0), run.hold_agent)
        elif self.weather.strikes("both killed"):
            self.later(self.dice.between("both killed when", 0.1, 60.0), run.kill_both)
        elif run.host is self.host and self.weather.strikes("dies unseen"):
            self.later(self.dice.between("dies unseen when", 0.1, 60.0), run.die_unseen)
        elif run.host is self.host and self.weather.strikes("host away"):
            away = self.dice.between("away for", 5.0, 90.0)
            self.later(self.dice.between("away when", 0.1, 40.0), lambda: self.host.goes_away(run, away))
        elif self.weather.strikes("out of memory"):
            self.later(self.dice.between("out of memory when", 0.1, 60.0), run.out_of_memory)

    def forgets(self, record: Record, checkpoints: bool) -> None:
        if any(run.alive for run in self.runs if run.key[0] == record.uid):
            raise Violation(self, f"the run directories of {record.uid} are removed while it runs")
        if checkpoints and record.uid not in self.checkpoints_too:
            raise Violation(self, f"the checkpoints of {record.uid} are removed, and nobody asked for that")
        self.forgotten.add(record.uid)

    def run_of(self, uid: str, number: int) -> Run | None:
        return next((run for run in self.runs if run.key == (uid, number)), None)

    # What is different where machines are rented

    storm_seconds, calm_seconds = STORM_SECONDS, CALM_SECONDS
    world = "local"
    # Whether controllers have clocks of their own, and not that of the machine on which the agents are.
    clocks_apart = False
    glance = timedelta(seconds=2)
    jobs: tuple[str, ...] = JOBS
    grouped: tuple[str, ...] = GROUPED
    wide_jobs: tuple[str, ...] = wide.LOCAL
    wide_grouped: tuple[str, ...] = wide.LOCAL_GROUPS

    def ports(self, node: Node) -> tuple[dict[Platform, Any], dict[Platform, Any]]:
        """What a controller sees of machines, and of where they are rented."""
        return {Platform.LOCAL: HostPort(self, node)}, {}

    def has_word_of(self, run: Run) -> bool:
        """What an attempt wrote down at its end can be read."""
        return True

    def check(self) -> None:
        oracles.check(self)

    def final(self) -> None:
        oracles.final(self)

    # The life

    def live(self) -> None:
        for number in range(self.dice.whole("jobs", 1, 3)):
            self._create(number)
        self.controllers.start()
        self.controllers.plan()
        self._plan_user()
        if self.wide:
            self.users.plan()
            self.strangers.plan()
        if self.world == "local" and self.weather.strikes("machine sleeps"):
            self.later(self.dice.between("sleeps when", 1.0, 120.0), self.controllers.sleep)
        if self.weather.strikes("store full"):
            self.later(self.dice.between("store full when", 0.0, self.storm_seconds), self.controllers.fill_store)
        if self.weather.strikes("storage away"):
            self.later(self.dice.between("storage away when", 0.0, self.storm_seconds), self._lose_storage)
        if self.weather.strikes("clock step"):
            self.later(self.dice.between("clock steps when", 0.0, self.storm_seconds), self.host.step_clock)
        self.loop.run_until(self.storm_seconds)
        self.weather.calm = True
        self.say("calm")
        self.controllers.resume()
        self._end_what_hangs()
        if self.wide:
            self.controllers.start()  # from a shell that has every secret
        began = self.loop.time()
        within = self.calm_seconds
        if self.launcher_broken:
            # One job after the other gives up, after so many launches with all that each is waited for.
            within += len(self.uids) * MOST_UNSTARTED * (LAUNCH_WINDOW + LATE_EFFECT + LONGEST_BACKOFF).total_seconds()
        while self.loop.time() < began + within and not self.rested():
            self.loop.run_until(self.loop.time() + 5.0)
        if not self.rested():
            raise Violation(self, f"jobs don't come to their end within {within:.0f} s of calm")
        self.loop.run_until(self.loop.time() + SETTLING_SECONDS)
        before = self.traffic()
        self.loop.run_until(self.loop.time() + SILENCE_SECONDS)
        busy = [what for what, count in self.traffic().items() if count > before[what]]
        if busy:
            raise Violation(self, f"{', '.join(busy)} go on though nothing is left to do")
        self.final()

    def traffic(self) -> dict[str, int]:
        """What controllers have done so far."""
        return {"writes": self.writes, "plans": self.plans, "looks": self.looks}

    def _create(self, number: int) -> None:
        uid, name = f"uid{number}", f"job-{number}"
        spec = job(self.together or self._manifest(), name)
        self.kinds[uid] = self._kind(spec)
        record = Record(
            uid=uid, name=name, owner="me", group="g" if self.together else None, order=number, created_at=T0,
            desired=Desired.RUN,
            generations=(Generation(number=1, job=spec, source=source(), applied_at=T0),),
        )  # fmt: skip
        at = self.dice.between("created", 0.0, 20.0)
        self.uids.append(uid)
        self.later(at, lambda: self._write(Create(record)))

    def _manifest(self) -> str:
        plain = self.dice.pick("job", self.jobs)
        if self.wide and self.dice.between("wide job", 0, 1) < wide.WIDE_JOBS:
            return self.dice.pick("which wide job", self.wide_jobs)
        return plain

    def _kind(self, spec: Job) -> Kind:
        dice = self.dice
        steps = dice.whole("steps", 5, 100)
        hangs_at = dice.whole("hangs at", 1, steps) if dice.between("hangs", 0, 1) < 0.1 else None
        limited = spec.limits.hang is not None or spec.limits.idle is not None
        if self.wide and limited and dice.between("hangs, too", 0, 1) < 0.5:
            hangs_at = dice.whole("hangs, too, at", 1, steps)
        return Kind(
            steps=steps,
            pace=dice.between("pace", 0.2, 2.0),
            every=dice.pick("every", (0, 1, 3, 5, 10)),
            saving=dice.between("saving", 0.01, 2.0),
            on_term=dice.pick("on term", ("save", "save", "exit", "ignore", "die")),
            when_asked=dice.pick("when asked", (True, False)),
            code=dice.pick("code", (0, 0, 0, 1, 7)),
            hangs_at=hangs_at,
            torn=dice.pick("torn", (0, 0, 2, 3)),
            daemonizes=self.wide and dice.between("daemonizes", 0, 1) < 0.2,
        )

    def _write(self, write: Create | Ask) -> None:
        """What the user asks for; tried again where the machine or its disk is in no state for it."""
        if self.controllers.is_dark() or self.controllers.is_full():
            self._user_waits += 1
            self.later(USER_RETRY_SECONDS, lambda: self._write_again(write))
            return
        try:
            (receipt,) = self.store.apply([write])
        except StoreError:
            return
        if isinstance(receipt, StoreError):
            self.count(f"refused {type(receipt).__name__}")
        else:
            self.wrote()

    def _write_again(self, write: Create | Ask) -> None:
        self._user_waits -= 1
        self._write(write)

    # The machine of the user

    def lose_power(self) -> None:
        self.host.cut()

    def environ(self) -> dict[str, str]:
        """Of the shell that a controller is started from."""
        if self.wide and (self.weather.calm or self.dice.between("has the secret", 0, 1) < 0.5):
            return wide.SECRET
        return {}

    # The user

    def _plan_user(self) -> None:
        for _ in range(self.dice.whole("requests", 0, 4)):
            if self.weather.strikes("user"):
                self.later(self.dice.between("asks when", 0.0, self.storm_seconds), self._ask)

    def _end_what_hangs(self) -> None:
        """A training that hangs under no limit goes on for ever: the user sees that, and cancels it."""
        for run in self.runs:
            if run.training is not None and run.training.alive and run.training.hangs:
                self.count("user: cancel")
                self._write(Ask(run.key[0], CancelJob(at=T0 + timedelta(seconds=self.loop.time()), why="it hangs")))
        if not self.rested():
            self.later(20.0, self._end_what_hangs)

    def _ask(self) -> None:
        uid = self.dice.pick("asks whom", self.uids)
        record = self.record(uid)
        if record is None:
            return
        now = T0 + timedelta(seconds=self.loop.time())
        what = self.dice.pick("asks what", ("stop", "apply", "apply", "cancel", "delete", "edit"))
        self.count(f"user: {what}")
        self.say("user", what, uid)
        self.asked[uid] += 1
        match what:
            case "stop":
                self._write(Ask(uid, StopJob(at=now, why="by the user")))
            case "cancel":
                self._write(Ask(uid, CancelJob(at=now, why="by the user")))
            case "delete":
                self.deleted.add(uid)
                self._write(Ask(uid, DeleteJob(at=now, checkpoints=False)))
            case _:
                replace = what == "edit" and self.together is None
                spec = job(self.edited(), record.name) if replace else record.job
                number = record.generation.number
                request = Apply(at=now, job=spec, source=source(), generation=number, replace=replace)
                self._write(Ask(uid, request))

    def edited(self) -> str:
        """What the user makes of a job."""
        plain = self.dice.pick("edit", self.jobs)
        if self.wide and self.dice.between("wide edit", 0, 1) < wide.WIDE_JOBS:
            return self.dice.pick("which wide edit", self.wide_jobs)
        return plain

    # Standing

    def record(self, uid: str) -> Record | None:
        """What the store holds of a job by now; None: nothing."""
        return self.store.latest.get(uid)

    def rested(self) -> bool:
        if self._user_waits:
            return False
        self._refresh()
        if self._all_rest is None:
            self._all_rest = not self.store.pending() and all(map(rests, self.store.latest.values()))
        return self._all_rest

    def _refresh(self) -> None:
        """The books are read again when they have been written to."""
        token = self.store.change_token()
        if token != self._token:
            self._token, self._all_rest = token, None

    @property
    def digest(self) -> str:
        """Of all that happened: the same for the same seed, in every process."""
        lines = "\n".join(f"{at:.6f} {words}" for at, words in self.log)
        counts = repr(sorted(self.counts.items()))
        return blake2b(f"{lines}\n{counts}\n{self.looks} {self.writes}".encode(), digest_size=8).hexdigest()
