"""Renting EC2's machines: requests built, answers read, errors told apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import anyio

from runctl.manifest.job import Job
from runctl.manifest.quantities import decimal_money
from runctl.planner.observed import InstanceSeen, Listing
from runctl.planner.record import Record
from runctl.planner.rental import Market, Offer, Rental
from runctl.providers.aws.api import ApiError, Call, NoAnswer, refusal
from runctl.providers.aws.instances import (
    ATTEMPT_TAG,
    JOB_TAG,
    NAME_TAG,
    NOT_AFTER_TAG,
    OWNER_TAG,
    TOKEN_TAG,
    instances,
)
from runctl.providers.interface import Allowance, ProviderError, RentRefused, RentUnknown, Tagged

# As many instances as one answer may hold.
PAGE = 1000

Offers = Callable[[Job], Awaitable[tuple[Offer, ...]]]


class Ec2:
    """The machines of one owner in one region. `offers` prices what a job could run on."""

    # RunInstances: a bucket of 5 requests, refilled by 2 a second for the whole account (EC2's documentation); another
    # controller may be at work beside this one.
    allowance = Allowance(burst=2, seconds=1.0)

    def __init__(self, call: Call, owner: str, offers: Offers, clock: Callable[[], datetime]) -> None:
        self._call = call
        self._owner = owner
        self._offers = offers
        self._clock = clock
        self._as_of: datetime | None = None
        self._listed: dict[str, tuple[InstanceSeen, ...]] = {}

    async def offers(self, job: Job) -> tuple[Offer, ...]:
        return await self._offers(job)

    async def rent(self, record: Record, rental: Rental) -> str:
        with anyio.CancelScope(shield=True):
            try:
                answer = await self._call("RunInstances", self._request(record, rental))
            except NoAnswer as error:
                raise RentUnknown(str(error)) from error
            except ApiError as error:
                why = refusal(error)
                if why is None:
                    raise RentUnknown(str(error)) from error
                raise RentRefused(why, str(error)) from error
        return str(answer["Instances"][0]["InstanceId"])

    def _request(self, record: Record, rental: Rental) -> dict[str, Any]:
        """The same rental gives the same request, however often it is built: its token demands that."""
        tags = {
            OWNER_TAG: self._owner,
            JOB_TAG: record.uid,
            NAME_TAG: record.name,
            ATTEMPT_TAG: str(rental.attempt),
            TOKEN_TAG: rental.token,
        }
        if rental.not_after is not None:
            tags[NOT_AFTER_TAG] = rental.not_after.isoformat()
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        request: dict[str, Any] = {
            "ClientToken": rental.token,
            "MinCount": 1,
            "MaxCount": 1,
            "InstanceType": rental.offer.type,
            "Placement": {"AvailabilityZone": rental.offer.zone},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
            "TagSpecifications": [{"ResourceType": kind, "Tags": listed} for kind in ("instance", "volume")],
        }
        if rental.offer.market is Market.SPOT:
            options = {"SpotInstanceType": "one-time"}
            if rental.offer.max_price is not None:
                options["MaxPrice"] = decimal_money(rental.offer.max_price)
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        return request

    async def end(self, instances: Sequence[str]) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._terminate(instances)
            except ApiError as error:
                if not error.code.startswith("InvalidInstanceID"):
                    raise ProviderError(str(error)) from error
                # One id that isn't known (yet) fails the whole request.
                for instance in instances if len(instances) > 1 else ():
                    await self.end([instance])
            except NoAnswer as error:
                raise ProviderError(str(error)) from error

    async def _terminate(self, instances: Sequence[str]) -> None:
        await self._call("TerminateInstances", {"InstanceIds": list(instances)})

    async def sweep(self) -> Sequence[Tagged]:
        as_of = self._clock()
        parameters: dict[str, Any] = {
            "Filters": [{"Name": f"tag:{OWNER_TAG}", "Values": [self._owner]}],
            "MaxResults": PAGE,
        }
        found: list[Tagged] = []
        while True:
            answer = await self._read("DescribeInstances", parameters)
            found += instances(answer)
            token = answer.get("NextToken")
            if not token:
                break
            parameters = {**parameters, "NextToken": token}
        listed: dict[str, list[InstanceSeen]] = {}
        for each in found:
            listed.setdefault(each.uid, []).append(each.seen)
        self._as_of = as_of
        self._listed = {uid: tuple(sorted(seen, key=lambda each: each.id)) for uid, seen in listed.items()}
        return found

    async def _read(self, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return await self._call(operation, parameters)
        except (ApiError, NoAnswer) as error:
            raise ProviderError(f"{operation}: {error}") from error

    def listing(self, uid: str) -> Listing | None:
        if self._as_of is None:
            return None
        return Listing(as_of=self._as_of, instances=self._listed.get(uid, ()))
