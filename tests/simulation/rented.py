"""Lives on rented machines: the real provider's requests and error handling, against the simulated cloud."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from planner.kit import T0

from runctl.manifest.job import Job, Platform
from runctl.planner.machines import MISSING_FOR, VANISHING
from runctl.planner.observed import Absent, Dead
from runctl.planner.record import Attempt, Record
from runctl.planner.rental import Market, Offer
from runctl.providers.aws.cloud import Ec2
from runctl.providers.interface import ProviderError, Sight

from . import oracles, wide
from .cloud import CloudPort, Instance, SimulatedCloud
from .host import Host, HostPort
from .life import GROUP, Life
from .node import Node
from .run import Run, instant

PRICES = {"g5.xlarge": 3_600_000, "g4dn.xlarge": 2_400_000}
ZONES = ("us-east-1a", "us-east-1b")
SPOT_SHARE = 0.5

INSTANCE = "instance: {platform: aws, type: %s, region: us-east-1, capacity: %s}\n"
ONE, TWO = "g5.xlarge", "[g5.xlarge, g4dn.xlarge]"
CHECKPOINT = "checkpoint: {upload: s3://bucket/ckpt/, grace: %s%s}\n"
PLAIN = CHECKPOINT % ("5s", "")
JOBS = (
    INSTANCE % (ONE, "on-demand") + PLAIN + "cost: {cap: 2 USD}\n",
    INSTANCE % (TWO, "spot") + PLAIN + "cost: {cap: 2 USD}\n",
    INSTANCE % (TWO, "spot-then-on-demand") + PLAIN + "cost: {cap: 1.50 USD}\n",
    INSTANCE % (ONE, "spot") + PLAIN + "cost: {cap: 0.70 USD}\nretry: {interruptions: 2}\n",
    INSTANCE % (ONE, "spot-then-on-demand") + PLAIN + "cost: {cap: 0.50 USD}\n",
    INSTANCE % (TWO, "on-demand") + PLAIN + "cost: {cap: none}\nlimits: {duration: 60s}\n",
    INSTANCE % (TWO, "spot") + PLAIN + "cost: {cap: 3 USD, max_hourly: 1.50 USD}\nretry: {failures: 2}\n",
    INSTANCE % (TWO, "spot") + CHECKPOINT % ("10s", ", every: 10s, deadline: 30s, on_deadline: save")
    + "cost: {cap: 1 USD}\n",
    INSTANCE % (ONE, "on-demand") + PLAIN + "cost: {cap: none}\nlimits: {hang: 40s}\n",
)  # fmt: skip

# The user's own machine, where one more job beside another does no harm.
HERE = "instance: {busy: share}\n" + CHECKPOINT % ("5s", "")

GROUPED = tuple(
    INSTANCE % (kind, capacity) + PLAIN + "cost: {cap: 1 USD}\n" + GROUP % cap
    for kind, capacity in ((ONE, "spot"), (TWO, "on-demand"))
    for cap in ("1.00", "1.60")
)

# Attempts of a life on rented machines take minutes before they train, and the request of one that was lost isn't
# given up for a quarter of an hour.
STORM_SECONDS = 900.0
CALM_SECONDS = (VANISHING + MISSING_FOR).total_seconds() + 900.0


class RentedLife(Life):
    storm_seconds, calm_seconds = STORM_SECONDS, CALM_SECONDS
    world = "rented"
    clocks_apart = True
    glance = timedelta(seconds=8)
    jobs = JOBS
    grouped = GROUPED
    wide_jobs = wide.RENTED
    wide_grouped = wide.RENTED_GROUPS

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cloud = SimulatedCloud(self)
        # The storage that outlives machines: an attempt's last word. Checkpoints that are durable are in `durable`.
        self.words: dict[tuple[str, int], Run] = {}

    def ports(self, node: Node) -> tuple[dict[Platform, Any], dict[Platform, Any]]:
        cloud = Ec2(CloudPort(self, node), "me", self._offers, node.clock)
        return {Platform.AWS: RentedHostPort(self, node), Platform.LOCAL: HostPort(self, node)}, {Platform.AWS: cloud}

    def edited(self) -> str:
        """Now and then a job is moved to the user's own machine: what it has rented is still to be ended."""
        return HERE if self.meets("moved away") else super().edited()

    async def _offers(self, job: Job) -> tuple[Offer, ...]:
        """In the order of the manifest's types, each zone of one before the next type."""
        now = T0 + timedelta(seconds=self.loop.time())
        if self.meets("prices unknown"):
            raise ProviderError("the price list doesn't answer")
        offers = tuple(
            Offer(
                type=kind, zone=zone, market=market, hourly=self.most(kind, market is Market.SPOT), minimum=60,
                source="simulated", quoted_at=now,
                max_price=self.most(kind, True) if market is Market.SPOT else None,
            )
            for kind in job.instance.type
            for zone in ZONES
            for market in Market
        )  # fmt: skip
        return tuple(offer for offer in offers if not self.meets("offer withdrawn"))

    def most(self, kind: str, spot: bool) -> int:
        """Micro-dollars an hour at worst."""
        return int(PRICES[kind] * (SPOT_SHARE if spot else 1))

    def price(self, kind: str, zone: str, spot: bool) -> int:
        """What is billed in truth: on the spot market it may be less than what was offered for it."""
        most = self.most(kind, spot)
        return int(most * self.dice.between("spot price", 0.6, 1.0)) if spot else most

    def afflict(self, run: Run) -> None:
        """Of the layers that hold the cap, one fails at a time: a machine whose timer does has an agent that lives."""
        if isinstance(run.host, Instance) and self.meets("timer fails"):
            run.host.timer_works = False
        else:
            super().afflict(run)

    def lose_power(self) -> None:
        """The rented machines stand elsewhere."""

    def traffic(self) -> dict[str, int]:
        return {**super().traffic(), "calls": self.cloud.calls}

    def has_word_of(self, run: Run) -> bool:
        return run.key in self.words or run.host is self.host

    def check(self) -> None:
        oracles.one_training_a_job(self)
        oracles.no_more_of_a_group_than_allowed(self)
        oracles.rented_within_the_cap(self)
        oracles.one_machine_a_request(self)
        oracles.no_dearer_than_allowed(self)
        oracles.released_is_gone(self)

    def final(self) -> None:
        oracles.nothing_rented_is_left(self)
        oracles.rented_within_the_cap(self)
        oracles.no_hot_loop(self)
        oracles.jobs_are_what_the_world_says(self)


class RentedHostPort(HostPort):
    """The hosts of rented machines, reached through a network; and what they have left in the storage."""

    _life: RentedLife

    def _host(self, record: Record, attempt: Attempt) -> Host | None:
        rental = record.rental_of(attempt)
        instance = self._life.cloud.instances.get(rental.instance or "") if rental is not None else None
        return instance if instance is not None and instance.reachable else None

    async def look(self, record: Record, attempt: Attempt) -> Sight:
        rental = record.rental_of(attempt)
        if rental is None or rental.released_at is None:
            return await super().look(record, attempt)
        self._alive()
        self._life.looks += 1
        now, key = self._node.clock(), (record.uid, attempt.number)
        if self._life.storage_is_away:
            raise ProviderError("the storage doesn't answer")
        run = self._life.words.get(key)
        if run is not None:
            return Sight(run.look(now), run.told(attempt.events_seen))
        run = self._life.run_of(*key)
        if run is None or run.training is None:
            return Sight(Absent(as_of=now))
        newest = self._life.ref(key, run.stored[-1]) if run.stored else None
        seen = Dead(
            as_of=now, started_at=instant(run.started.wall), last_seen=instant(run.heartbeat),
            active=run.heartbeat_active - run.started.active, durable=len(run.stored), newest=newest,
        )  # fmt: skip
        return Sight(seen)
