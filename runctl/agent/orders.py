"""`orders.json`: the limits that the controller grants, and its wish that the attempt ends.

Silence never changes anything: a file that is gone, torn, hostile, of an older serial or of a lower epoch leaves the
last good orders in force.
"""

from __future__ import annotations

import os

from runctl.agent.files import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

    Json = Dict[str, Any]

END_REASONS = ("cancel", "replace", "stop", "assume_dead")
ON_DEADLINE = ("warn", "save", "stop", "fail")


class BadOrders(ValueError):
    """The orders can't be used; `args[0]` says where and why."""


class Limits:
    """Seconds, None where there is no limit. `money_until` is a wall-clock instant, `money_seconds` counts on the
    boot-time
    clock from the agent's start, `duration` on the active clock from there."""

    __slots__ = (
        "deadline",
        "duration",
        "hang",
        "idle",
        "keep",
        "money_seconds",
        "money_until",
        "on_deadline",
    )

    def __init__(
        self,
        *,
        money_until: Optional[float] = None,
        money_seconds: Optional[float] = None,
        duration: Optional[float] = None,
        idle: Optional[float] = None,
        hang: Optional[float] = None,
        deadline: Optional[float] = None,
        on_deadline: str = "warn",
        keep: int = 3,
    ) -> None:
        self.money_until = money_until
        self.money_seconds = money_seconds
        self.duration = duration
        self.idle = idle
        self.hang = hang
        self.deadline = deadline
        self.on_deadline = on_deadline
        self.keep = keep


class Orders:
    __slots__ = ("end", "epoch", "limits", "serial")

    def __init__(self, serial: int, epoch: int, limits: Limits, end: Optional[str]) -> None:
        self.serial = serial
        self.epoch = epoch
        self.limits = limits
        self.end = end


def parse_orders(value: Json) -> Orders:
    """Raises BadOrders."""
    limits = value.get("limits")
    if not isinstance(limits, dict):
        raise BadOrders("`limits` is missing")
    on_deadline = limits.get("on_deadline") or "warn"
    if on_deadline not in ON_DEADLINE:
        raise BadOrders(f"`limits.on_deadline` is not one of {', '.join(ON_DEADLINE)}")
    end = value.get("end")
    if end is not None:
        end = end.get("reason") if isinstance(end, dict) else end
        if end not in END_REASONS:
            raise BadOrders(f"`end.reason` is not one of {', '.join(END_REASONS)}")
    money, duration = limits.get("money") or {}, limits.get("duration") or {}
    if not isinstance(money, dict) or not isinstance(duration, dict):
        raise BadOrders("`limits.money` or `limits.duration` is not an object")
    return Orders(
        serial=_whole(value, "serial"),
        epoch=_whole(value, "epoch"),
        limits=Limits(
            money_until=_number(money, "until"),
            money_seconds=_number(money, "seconds"),
            duration=_number(duration, "seconds"),
            idle=_number(limits, "idle"),
            hang=_number(limits, "hang"),
            deadline=_number(limits, "deadline"),
            on_deadline=on_deadline,
            keep=max(1, _whole(limits, "keep")) if limits.get("keep") is not None else 3,
        ),
        end=end,
    )


def _whole(value: Json, name: str) -> int:
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise BadOrders(f"`{name}` is not a whole number")
    return found


def _number(value: Json, name: str) -> Optional[float]:
    found = value.get(name)
    if found is None:
        return None
    # NaN compares false with everything, so it is refused here and not only by luck.
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < 1e12:
        raise BadOrders(f"`{name}` is not a number of seconds")
    return float(found)


class OrdersFile:
    """The orders in force. Reads the file only when it has changed."""

    def __init__(self, run_dir: str) -> None:
        self._path = os.path.join(run_dir, "orders.json")
        self._seen: Optional[Tuple[int, int, int]] = None
        self.current = Orders(0, 0, Limits(), None)
        self.complaint: Optional[str] = None

    def refresh(self) -> bool:
        """Take over newer orders, if there are; True if there were. `complaint` is why the file was not taken."""
        try:
            stat = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            orders = parse_orders(read_json(self._path))
        except (OSError, ValueError) as error:
            self.complaint = f"`orders.json` can't be used, the orders before it stay in force: {error}"
            return False
        if orders.epoch < self.current.epoch or orders.serial <= self.current.serial:
            return False
        self.complaint = None
        self.current = orders
        return True
