"""Writing the controller's side of a run directory: whole files, or none."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from runctl.agent.files import write_json
from runctl.checkpoints.lasting import make_directories
from runctl.planner.record import Orders


def make_run_dir(run_dir: Path) -> None:
    """Make it, with names that a power cut doesn't take back up to the home's: an attempt whose directory is gone would
    count as never started, and be started again.
    """
    make_directories(str(run_dir), levels=4)


def write_orders(run_dir: Path, orders: Orders, epoch: int) -> None:
    """Replace `orders.json`."""
    write_json(str(run_dir / "orders.json"), orders_json(orders, epoch))


def orders_json(orders: Orders, epoch: int) -> dict[str, Any]:
    """The orders in the agent's terms."""
    limits = orders.limits
    money = limits.money
    return {
        "serial": orders.serial,
        "epoch": epoch,
        "limits": {
            "money": {"until": seconds(money.until), "seconds": money.seconds} if money else None,
            "duration": {"seconds": limits.duration} if limits.duration is not None else None,
            "idle": limits.idle,
            "hang": limits.hang,
            "deadline": limits.deadline,
            "on_deadline": limits.on_deadline,
            "keep": limits.keep,
        },
        "end": {"reason": orders.end} if orders.end else None,
    }


def seconds(at: datetime) -> float:
    return at.timestamp()
