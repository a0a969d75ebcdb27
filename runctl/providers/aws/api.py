"""The port to EC2's API, and the two ways in which a call can fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from runctl.planner.rental import Refusal


class ApiError(Exception):
    """EC2 answered no: nothing was done. `status` is the answer's HTTP status."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class NoAnswer(Exception):
    """No answer, or none that tells anything: the call may or may not have had an effect."""


class Call(Protocol):
    """Sends one request, once: nothing behind it repeats one. Raises `ApiError` or `NoAnswer`."""

    async def __call__(self, operation: str, parameters: Mapping[str, Any], /) -> Mapping[str, Any]: ...


# Sources: EC2's list of error codes, and its guide to idempotency. Lack of capacity arrives with the status 500.
_CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "SpotMaxPriceTooLow",
        "Unsupported",
    }
)
_QUOTA = frozenset(
    {
        "InstanceLimitExceeded",
        "VcpuLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "InsufficientFreeAddressesInSubnet",
        "VolumeLimitExceeded",
    }
)
_PERMISSION = frozenset(
    {"UnauthorizedOperation", "AccessDenied", "AuthFailure", "OptInRequired", "Blocked", "PendingVerification"}
)
# The request was refused, but not for what it asks: it may be sent again. The last two: its token was accepted once.
_LATER = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "RequestExpired",
        "ResourceCountExceeded",
        "IdempotentParameterMismatch",
        "IdempotentInstanceTerminated",
    }
)


def refusal(error: ApiError) -> Refusal | None:
    """Why a request for a machine definitely had no effect; None if that isn't certain, or a repetition may do."""
    if error.code in _CAPACITY:
        return Refusal.CAPACITY
    if error.code in _QUOTA:
        return Refusal.QUOTA
    if error.code in _PERMISSION:
        return Refusal.PERMISSION
    if error.code in _LATER or error.status >= 500:
        return None
    return Refusal.INVALID
