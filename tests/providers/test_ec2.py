"""What is asked of EC2, and what its answers mean: against a far side that answers as its documentation says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest
from planner.kit import RENTED, T0, RentedLife, offer

from runctl.manifest.job import Job
from runctl.planner.rental import Demise, MachineState, Offer, Refusal, Rental
from runctl.providers.aws.api import ApiError, NoAnswer
from runctl.providers.aws.cloud import Ec2
from runctl.providers.interface import ProviderError, RentRefused, RentUnknown

TAGS = {"runctl:owner": "me", "runctl:job": "u1", "runctl:attempt": "1", "runctl:token": "t"}


class FarSide:
    """Answers calls in order; an exception among the answers is raised. `asked` is what came."""

    def __init__(self, *answers: Mapping[str, Any] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def __call__(self, operation: str, parameters: Mapping[str, Any], /) -> Mapping[str, Any]:
        self.asked.append((operation, parameters))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def no_offers(_job: Job) -> tuple[Offer, ...]:
    return ()


def ec2(far: FarSide) -> Ec2:
    return Ec2(far, "me", no_offers, lambda: T0)


def asked_for(spot: bool = False) -> tuple[RentedLife, Rental]:
    """A job with its first request."""
    spec = RENTED.replace("region: us-east-1", "region: us-east-1, capacity: spot") if spot else RENTED
    life = RentedLife("cost: {cap: 2 USD}", offer(spot=spot, hourly=1_000_000), spec=spec)
    life.see()
    return life, life.rental


def listed(state: str = "running", tags: Mapping[str, str] = TAGS, **more: Any) -> dict[str, Any]:
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"InstanceId": "i-1", "ClientToken": "t", "State": {"Name": state}, "LaunchTime": T0, "Tags": pairs, **more}


def answer(*instances: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"Reservations": [{"Instances": [each]} for each in instances], **more}


@pytest.mark.parametrize("spot", [False, True])
def test_a_request(spot: bool) -> None:
    """One machine, terminated by its own shutdown, tagged in the same call, under the rental's token."""
    life, rental = asked_for(spot)
    granted = {"Instances": [{"InstanceId": "i-7", "State": {"Name": "pending"}}]}
    far = FarSide(granted, granted)
    for _ in range(2):
        assert anyio.run(ec2(far).rent, life.job, rental) == "i-7"
    assert far.asked[0] == far.asked[1]
    operation, parameters = far.asked[0]
    assert operation == "RunInstances"
    assert (parameters["ClientToken"], parameters["MinCount"], parameters["MaxCount"]) == (rental.token, 1, 1)
    assert parameters["Placement"] == {"AvailabilityZone": "a"}
    assert parameters["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert parameters["MetadataOptions"]["HttpTokens"] == "required"
    assert ("InstanceMarketOptions" in parameters) is spot
    kinds = {each["ResourceType"] for each in parameters["TagSpecifications"]}
    tags = {each["Key"]: each["Value"] for each in parameters["TagSpecifications"][0]["Tags"]}
    assert kinds == {"instance", "volume"}
    assert rental.not_after is not None
    assert tags == {
        "runctl:owner": "me", "runctl:job": "u1", "runctl:name": "a", "runctl:attempt": "1",
        "runctl:token": rental.token, "runctl:not-after": rental.not_after.isoformat(),
    }  # fmt: skip


def test_a_price_that_a_request_names() -> None:
    """On the spot market the request says what an hour may cost at most."""
    life, rental = asked_for(spot=True)
    priced = msgspec.structs.replace(rental, offer=msgspec.structs.replace(rental.offer, max_price=950_000))
    far = FarSide({"Instances": [{"InstanceId": "i-7"}]})
    anyio.run(ec2(far).rent, life.job, priced)
    options = far.asked[0][1]["InstanceMarketOptions"]
    assert options == {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.95", "SpotInstanceType": "one-time"}}


@pytest.mark.parametrize(
    ("code", "status", "means"),
    [
        ("InsufficientInstanceCapacity", 500, Refusal.CAPACITY),
        ("SpotMaxPriceTooLow", 400, Refusal.CAPACITY),
        ("Unsupported", 400, Refusal.CAPACITY),
        ("VcpuLimitExceeded", 400, Refusal.QUOTA),
        ("MaxSpotInstanceCountExceeded", 400, Refusal.QUOTA),
        ("UnauthorizedOperation", 403, Refusal.PERMISSION),
        ("AuthFailure", 401, Refusal.PERMISSION),
        ("InvalidParameterValue", 400, Refusal.INVALID),
        ("InvalidAMIID.NotFound", 400, Refusal.INVALID),
        ("RequestLimitExceeded", 503, None),
        ("InternalError", 500, None),
        ("Unavailable", 503, None),
        ("IdempotentParameterMismatch", 400, None),
        ("IdempotentInstanceTerminated", 400, None),
    ],
)
def test_what_an_error_means(code: str, status: int, means: Refusal | None) -> None:
    """A definite refusal has a reason; whatever may be otherwise next time, or may have had an effect, is unknown."""
    life, rental = asked_for()
    with pytest.raises(RentRefused if means else RentUnknown) as caught:
        anyio.run(ec2(FarSide(ApiError(code, "because", status))).rent, life.job, rental)
    assert getattr(caught.value, "refusal", None) == means
    assert str(caught.value) == f"{code}: because"


def test_no_answer() -> None:
    """A request whose answer is lost may have had its effect."""
    life, rental = asked_for()
    with pytest.raises(RentUnknown):
        anyio.run(ec2(FarSide(NoAnswer("timed out"))).rent, life.job, rental)


def test_a_sweep_reads_every_page() -> None:
    """Of this owner alone, under the instant at which the first page was asked for."""
    other = listed("pending", {**TAGS, "runctl:job": "u2"}, InstanceId="i-2")
    far = FarSide(answer(listed(), NextToken="more"), answer(other, NextToken=""))
    cloud = ec2(far)
    assert cloud.listing("u1") is None
    found = anyio.run(cloud.sweep)
    assert [(each.uid, each.seen.id) for each in found] == [("u1", "i-1"), ("u2", "i-2")]
    assert [parameters.get("NextToken") for _, parameters in far.asked] == [None, "more"]
    assert all(parameters["Filters"] == [{"Name": "tag:runctl:owner", "Values": ["me"]}] for _, parameters in far.asked)
    (mine,) = (cloud.listing("u1") or pytest.fail("nothing listed")).instances
    assert (mine.state, mine.attempt, mine.token) == (MachineState.RUNNING, 1, "t")
    none = cloud.listing("u3")
    assert none is not None
    assert (none.as_of, none.instances) == (T0, ())


def test_half_a_sweep_is_none() -> None:
    """A page that doesn't come leaves the last whole listing as it was."""
    far = FarSide(answer(listed()), answer(NextToken="more"), NoAnswer("timed out"))
    cloud = ec2(far)
    anyio.run(cloud.sweep)
    before = cloud.listing("u1")
    with pytest.raises(ProviderError):
        anyio.run(cloud.sweep)
    assert cloud.listing("u1") == before


@pytest.mark.parametrize(
    ("reason", "demise"),
    [
        ("Server.SpotInstanceTermination", Demise.RECLAIMED),
        ("Server.SpotInstanceShutdown", Demise.RECLAIMED),
        ("Server.InsufficientInstanceCapacity", Demise.CAPACITY),
        ("Client.InstanceInitiatedShutdown", Demise.ITSELF),
        ("Client.UserInitiatedShutdown", Demise.ASKED),
        ("Server.InternalError", Demise.FAULT),
        ("", Demise.FAULT),
    ],
)
def test_why_it_went(reason: str, demise: Demise) -> None:
    gone = listed(
        "terminated", StateReason={"Code": reason}, StateTransitionReason="User initiated (2026-01-02 03:04:05 GMT)"
    )
    (found,) = anyio.run(ec2(FarSide(answer(gone))).sweep)
    assert (found.seen.demise, found.seen.ended_at) == (demise, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@pytest.mark.parametrize(
    "odd",
    [
        listed(tags={"runctl:owner": "me"}),
        listed(tags={**TAGS, "runctl:attempt": "one"}),
        listed("dreaming"),
        listed(LaunchTime="yesterday"),
        {"InstanceId": "i-1"},
    ],
)
def test_what_is_odd_is_nobodys(odd: dict[str, Any]) -> None:
    """An instance without a job's tags is never touched, whoever has put the owner's on it."""
    assert anyio.run(ec2(FarSide(answer(odd))).sweep) == []


@pytest.mark.parametrize("told", ["", "User initiated", "User initiated (2026-99-99 03:04:05 GMT)"])
def test_an_end_without_an_instant(told: str) -> None:
    (found,) = anyio.run(ec2(FarSide(answer(listed("terminated", StateTransitionReason=told)))).sweep)
    assert found.seen.ended_at is None


def end(far: FarSide, instances: Sequence[str]) -> None:
    anyio.run(ec2(far).end, instances)


def test_one_bad_id_fails_no_other() -> None:
    """EC2 refuses the whole request for one unknown id: each is asked for alone then."""
    missing = ApiError("InvalidInstanceID.NotFound", "i-2", 400)
    far = FarSide(missing, {}, missing, {})
    end(far, ["i-1", "i-2", "i-3"])
    assert [parameters["InstanceIds"] for _, parameters in far.asked] == [
        ["i-1", "i-2", "i-3"],
        ["i-1"],
        ["i-2"],
        ["i-3"],
    ]


@pytest.mark.parametrize("error", [ApiError("UnauthorizedOperation", "no", 403), NoAnswer("timed out")])
def test_an_end_that_fails_is_told(error: Exception) -> None:
    with pytest.raises(ProviderError):
        end(FarSide(error), ["i-1"])
