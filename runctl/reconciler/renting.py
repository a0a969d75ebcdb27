"""A controller's dealings with the clouds that its jobs rent from: asking, ending, and one sweep for all jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import anyio

from runctl.manifest.job import Platform
from runctl.planner.actions import Action, Rent
from runctl.planner.observed import InstanceSeen, Listing, RentAnswer
from runctl.planner.record import Record
from runctl.planner.rental import GOING, MachineState, Offer
from runctl.providers.interface import Cloud, ProviderError, RentRefused
from runctl.reconciler.pacing import Turns
from runctl.reconciler.resting import rests
from runctl.store.interface import NotFound, Store, StoreUnavailable

# A look that comes a moment before its turn would be in vain.
NOT_BEFORE = timedelta(milliseconds=10)

# Rented machines are listed this often: one request for all jobs.
SWEEP = timedelta(seconds=15)


class Swept(NamedTuple):
    """Of which jobs a sweep has news: `astray` rest, and nobody may care for them, and have machines that aren't in
    their books."""

    news: set[str]
    astray: set[str]


class Renting:
    """`trouble` is told what fails; what was asked for and failed is asked for again by the planner."""

    def __init__(self, clouds: Mapping[Platform, Cloud], store: Store, trouble: Callable[[str], None]) -> None:
        self._clouds = clouds
        self._store = store
        self._trouble = trouble
        self._turns = {platform: Turns(cloud.allowance) for platform, cloud in clouds.items()}
        self._shown: dict[str, tuple[InstanceSeen, ...]] = {}

    @property
    def platforms(self) -> tuple[Platform, ...]:
        return tuple(self._clouds)

    def listing(self, record: Record) -> Listing | None:
        cloud = self._cloud(record)
        return cloud.listing(record.uid) if cloud is not None else None

    def _cloud(self, record: Record) -> Cloud | None:
        """Where the job's machines are rented, or were before it moved; there is one cloud yet."""
        return next((cloud for platform, cloud in self._clouds.items() if platform in record.platforms), None)

    def turn(self, record: Record, now: datetime) -> datetime | None:
        """When the job may ask for a machine: later than `now` where others are first. None: now, or it needs none."""
        platform = record.job.instance.platform
        if platform not in self._turns or not _wants(record):
            return None
        current = anyio.current_time()
        turn = self._turns[platform].turn(record.uid, current)
        return None if turn <= current else now + timedelta(seconds=turn - current) + NOT_BEFORE

    def planned(self, record: Record, actions: Iterable[Action]) -> None:
        """The plan was made that the turn was for: it is taken, or somebody else's."""
        turns = self._turns.get(record.job.instance.platform)
        if turns is None:
            return
        if any(isinstance(action, Rent) for action in actions):
            turns.take(record.uid, anyio.current_time())
        else:
            turns.give_back(record.uid)

    async def offers(self, record: Record) -> tuple[Offer, ...] | None:
        """What could be rented, where a machine is wanted; None where nobody asks or nobody answers."""
        cloud = self._clouds.get(record.job.instance.platform)
        if cloud is None or not _wants(record):
            return None
        try:
            return await cloud.offers(record.job)
        except ProviderError as error:
            self._trouble(f"what machines cost isn't known: {error}")
            return None

    async def rent(self, record: Record, action: Rent) -> RentAnswer | None:
        """Send the request; None if nobody knows what it has come to."""
        rental = action.rental
        try:
            instance = await self._clouds[record.job.instance.platform].rent(record, rental)
        except RentRefused as error:
            return RentAnswer(token=rental.token, refusal=error.refusal, message=str(error), again=action.again)
        except ProviderError as error:
            self._trouble(f"a machine for `{record.name}` was asked for, with what effect isn't known: {error}")
            return None
        return RentAnswer(token=rental.token, instance=instance)

    async def end(self, record: Record, instance: str) -> None:
        try:
            cloud = self._cloud(record)
            assert cloud is not None, "only what a cloud has listed is ended"
            await cloud.end([instance])
        except ProviderError as error:
            self._trouble(f"{instance} of `{record.name}` couldn't be ended: {error}")

    async def sweep(self, platform: Platform, held: Mapping[str, Record]) -> Swept:
        """List the machines of all jobs. `held` are the jobs in this controller's care. What belongs to no job that
        anybody knows is ended.
        """
        cloud = self._clouds[platform]
        try:
            listed = await cloud.sweep()
            news = {uid for uid, record in held.items() if self._is_news(record, cloud.listing(uid))}
            swept = Swept(news, set())
            orphans: list[str] = []
            for uid in sorted({each.uid for each in listed} - held.keys()):
                alive = [each.seen.id for each in listed if each.uid == uid and each.seen.state not in GOING]
                # Read after the sweep: an intent is in the store before its request is sent.
                try:
                    record = self._store.get(uid).record
                except NotFound:
                    orphans += alive
                    continue
                if not {each.instance for each in record.unreleased}.issuperset(alive):
                    (swept.astray if rests(record) else swept.news).add(uid)
            if orphans:
                self._trouble(f"ending {', '.join(orphans)}: tagged as this owner's, and of no job that is known")
                await cloud.end(orphans)
        except (StoreUnavailable, ProviderError) as error:
            self._trouble(f"the machines of {platform.value} couldn't be swept: {error}")
            return Swept(set(), set())
        return swept

    def _is_news(self, record: Record, listing: Listing | None) -> bool:
        """Something has changed since the last sweep, a machine is on its way here or away, or one is wanted."""
        shown = () if listing is None else listing.instances
        before, self._shown[record.uid] = self._shown.get(record.uid), shown
        waits = record.live is None or any(each.state is not MachineState.RUNNING for each in record.unreleased)
        return waits or shown != before


def _wants(record: Record) -> bool:
    """The job needs a machine and has asked for none, or for none that came."""
    if record.outcome is not None or record.stopped is not None:
        return False
    rental = record.rental_of(record.live) if record.live is not None else None
    return record.live is None or (rental is not None and rental.released_at is not None)
