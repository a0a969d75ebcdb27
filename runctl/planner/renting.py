"""Phase 6, of rented machines: which one an attempt is to have, and the request for it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256

import msgspec

from runctl.manifest.job import Capacity
from runctl.manifest.quantities import format_money
from runctl.planner.machines import SHUNNED
from runctl.planner.money import Rate, affordable, cost_of, duration_left, holder_of_the_rest, least_useful, unheld
from runctl.planner.observed import GroupSeen, Observed
from runctl.planner.record import OutcomeType, Record
from runctl.planner.rental import Market, Offer, Refusal, Rental, Shunned

# A request that wasn't sent by then isn't sent any more.
RENT_WINDOW = timedelta(seconds=60)

# A machine that is to train must last longer than it takes to come up and to go.
COMING_UP = timedelta(minutes=3)

# Every layer that ends a machine does so this long before its money is over: powering off takes time, and is billed.
OFF_MARGIN = timedelta(seconds=60)

LOOK_AGAIN = timedelta(seconds=1)

# What is rented is looked at this often, whether a sweep brings news or not.
LOOK_AGAIN_RENTED = timedelta(seconds=30)

# What a duration limit doesn't count, but a bill does: coming up, and what a clock may differ.
UNCOUNTED = timedelta(minutes=20)


class NoOffer(msgspec.Struct, frozen=True):
    """Nothing can be asked for now. `until`: when an offer is worth another try; None: never, `outcome` says why.
    `held`: others of the group, or earlier machines of this job, hold the money, and may not need all of it."""

    message: str
    until: datetime | None = None
    outcome: OutcomeType = OutcomeType.NO_CAPACITY
    held: bool = False


def choose(record: Record, observed: Observed, now: datetime) -> Offer | NoOffer:
    """The first offer that the manifest accepts, that wasn't refused just now, and that the money lasts for."""
    accepted = _accepted(record, observed.offers or ())
    if not accepted:
        most = record.job.cost.max_hourly
        return NoOffer("nothing is on offer" + (f" at {most} an hour or less (cost.max_hourly)" if most else ""))
    group = observed.group
    lasting = [offer for offer in accepted if _lasts(record, offer, group, now)]
    rest = msgspec.structs.replace(group, committed=group.spent)
    if not lasting and any(_lasts(unheld(record), offer, rest, now) for offer in accepted):
        return NoOffer(holder_of_the_rest(record, group), until=now + LOOK_AGAIN_RENTED, held=True)
    if not lasting:
        least = min(accepted, key=lambda offer: offer.hourly)
        message = (
            f"what the cap leaves is too little for a start on {least.name} at {format_money(least.hourly)} an hour"
        )
        return NoOffer(message, outcome=OutcomeType.CAP_REACHED)
    free = [offer for offer in lasting if not _is_shunned(record, offer)]
    if free:
        return free[0]
    refused = [each for each in record.shunned if any(_same(each, offer) for offer in lasting)]
    last = refused[-1]
    what = "quota" if last.why is Refusal.QUOTA else "capacity"
    return NoOffer(f"no {what}: {last.message}", until=min(each.at for each in refused) + SHUNNED)


def request(record: Record, attempt: int, choice: int, offer: Offer, group: GroupSeen, now: datetime) -> Rental:
    """The request for `offer`, with what it may cost at worst."""
    lasts = _longest(record, offer, group, now)
    least = timedelta(seconds=offer.minimum)
    return Rental(
        attempt=attempt,
        choice=choice,
        offer=offer,
        token=token_of(record, attempt, choice),
        intended_at=now,
        launch_before=now + RENT_WINDOW,
        not_after=None if lasts is None else now + lasts,
        reserved=0 if lasts is None else cost_of(offer.hourly, max(lasts, least)),
        asked_at=now,
    )


def token_of(record: Record, attempt: int, choice: int) -> str:
    """What makes a request that is sent twice the same one: of this attempt, for its so-manieth machine."""
    return sha256(f"{record.owner}/{record.uid}/{attempt}/{choice}".encode()).hexdigest()[:32]


def _accepted(record: Record, offers: Iterable[Offer]) -> list[Offer]:
    """Those that the manifest allows, in its order: of `spot-then-on-demand` every spot offer comes first."""
    capacity, most = record.job.instance.capacity, record.job.cost.max_hourly
    allowed = [offer for offer in offers if most is None or offer.hourly <= most.micros]
    spot = [offer for offer in allowed if offer.market is Market.SPOT]
    on_demand = [offer for offer in allowed if offer.market is Market.ON_DEMAND]
    if capacity is Capacity.SPOT:
        return spot
    return on_demand if capacity is Capacity.ON_DEMAND else [*spot, *on_demand]


def _longest(record: Record, offer: Offer, group: GroupSeen, now: datetime) -> timedelta | None:
    """How long the machine may be there in all, by the caps and by the duration limit; None: nothing bounds it."""
    bounds = []
    if (time := affordable(record, group.committed, now, rate=Rate(offer.hourly, offer.source))) is not None:
        bounds.append(time)
    if (left := duration_left(record)) is not None:
        bounds.append(left + 2 * record.job.checkpoint.grace.delta + record.job.limits.setup.delta + UNCOUNTED)
    return min(bounds, default=None)


def _lasts(record: Record, offer: Offer, group: GroupSeen, now: datetime) -> bool:
    longest = _longest(record, offer, group, now)
    return longest is None or longest > least_useful(record.job) + COMING_UP + OFF_MARGIN


def _is_shunned(record: Record, offer: Offer) -> bool:
    return any(_same(each, offer) for each in record.shunned)


def _same(one: Shunned, offer: Offer) -> bool:
    return (one.type, one.zone, one.market) == (offer.type, offer.zone, offer.market)
