"""A controller's dealings with the clouds that its jobs rent from: asking, ending, and one sweep for all jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

from runctl.manifest.job import Platform
from runctl.planner.actions import Rent
from runctl.planner.observed import InstanceSeen, Listing, RentAnswer
from runctl.planner.record import Record
from runctl.planner.rental import GOING, MachineState, Offer
from runctl.providers.interface import Cloud, ProviderError, RentRefused
from runctl.store.interface import NotFound, Store, StoreUnavailable

# Rented machines are listed this often: one request for all jobs.
SWEEP = timedelta(seconds=15)


class Renting:
    """`trouble` is told what fails; what was asked for and failed is asked for again by the planner."""

    def __init__(self, clouds: Mapping[Platform, Cloud], store: Store, trouble: Callable[[str], None]) -> None:
        self._clouds = clouds
        self._store = store
        self._trouble = trouble
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

    async def offers(self, record: Record) -> tuple[Offer, ...] | None:
        """What could be rented, where a machine is wanted; None where nobody asks or nobody answers."""
        cloud = self._clouds.get(record.job.instance.platform)
        rental = record.rental_of(record.live) if record.live is not None else None
        has_one = record.live is not None and (rental is None or rental.released_at is None)
        if cloud is None or has_one or record.outcome is not None or record.stopped is not None:
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

    async def sweep(self, platform: Platform, held: Mapping[str, Record]) -> set[str]:
        """List the machines of all jobs; the uids of those that it is of interest to. `held` are the jobs in this
        controller's care. What belongs to no job that anybody knows is ended.
        """
        cloud = self._clouds[platform]
        try:
            listed = await cloud.sweep()
            wake = {uid for uid, record in held.items() if self._is_news(record, cloud.listing(uid))}
            orphans: list[str] = []
            for uid in sorted({each.uid for each in listed} - held.keys()):
                alive = [each.seen.id for each in listed if each.uid == uid and each.seen.state not in GOING]
                # Read after the sweep: an intent is in the store before its request is sent.
                try:
                    known = {each.instance for each in self._store.get(uid).record.unreleased}
                except NotFound:
                    orphans += alive
                else:
                    wake |= {uid} if not known.issuperset(alive) else set()
            if orphans:
                self._trouble(f"ending {', '.join(orphans)}: tagged as this owner's, and of no job that is known")
                await cloud.end(orphans)
        except (StoreUnavailable, ProviderError) as error:
            self._trouble(f"the machines of {platform.value} couldn't be swept: {error}")
            return set()
        return wake

    def _is_news(self, record: Record, listing: Listing | None) -> bool:
        """Something has changed since the last sweep, a machine is on its way here or away, or one is wanted."""
        shown = () if listing is None else listing.instances
        before, self._shown[record.uid] = self._shown.get(record.uid), shown
        waits = record.live is None or any(each.state is not MachineState.RUNNING for each in record.unreleased)
        return waits or shown != before
