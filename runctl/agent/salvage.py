"""What an attempt had saved whole when its agent died, and nobody had copied yet: it counts no less for that."""

from __future__ import annotations

import fcntl
import os
import select

from runctl.agent import clocks, processes
from runctl.agent.child import Helper, fork_helper
from runctl.agent.files import ExitRecord, Journal, complain, create_json, read_json
from runctl.agent.keeper import Keeper
from runctl.agent.leftovers import SALVAGED, salvage_seconds
from runctl.agent.orders import OrdersFile
from runctl.agent.record import HEARTBEAT_SECONDS, TRAINING_STARTED
from runctl.agent.spec import BadSpec, read_spec
from runctl.agent.watch import CutOff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from runctl.agent.spec import Spec

    Json = Dict[str, Any]


def _harmless(work: Callable[..., None]) -> Callable[..., None]:
    """Whatever happens to its last checkpoint, the end of an attempt is recorded."""

    def tried(*arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:
            complain(f"what the attempt had saved last couldn't be copied: {type(error).__name__}: {error}")

    return tried


@_harmless
def salvage(
    spec: Spec,
    died_at: float,
    keep: int,
    seconds: float,
    fork: Callable[..., Helper] = fork_helper,
) -> None:
    """Copy whole checkpoints that are newer than the newest durable one, for so many seconds at most, and note it in
    the attempt's journals. For when no process of the attempt is left.

    `died_at` is a wall-clock instant from which on the training may have been killed: what was written just before,
    and can't prove itself that it is whole, isn't trusted.
    """
    events = Journal(os.path.join(spec.run_dir, "events.jsonl"), "seq")
    began = _began(spec.run_dir, events.resume())
    if began is None:
        return  # it had not come to saving
    keeper = Keeper(spec, lambda word, detail: _note(events, word, detail), fork)
    keeper.resume(began, _object(_state(spec.run_dir).get("checkpoints")).get("settling"))
    keeper.cut_off = CutOff(died_at, machine=_is_of_another_boot(spec.run_dir))
    finish(keeper, keep, seconds)
    events.flush()


@_harmless
def finish(keeper: Keeper, keep: int, seconds: float) -> None:
    """Let a keeper settle what is left when nothing writes any more, for so many seconds at most."""
    until = clocks.now().active + seconds
    while True:
        now = clocks.now()
        keeper.poll(now, keep, False, max(0.0, until - now.active))
        processes.reap(lambda _pid, _status: None)
        if keeper.settled or now.active >= until:
            break
        reports = [keeper.helper.descriptor] if keeper.helper is not None and keeper.helper.descriptor >= 0 else []
        select.select(reports, [], [], min(until - now.active, keeper.wait(now)))
    keeper.stop(clocks.now())


def salvage_unwatched(run_dir: str, fork: Callable[..., Helper] = fork_helper) -> int:
    """The same for an attempt whose guardian is dead, too, by a process of its own. Returns its exit status."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        run_lock = os.open(os.path.join(run_dir, "run.lock"), flags, 0o600)
    except OSError:
        return 1
    try:
        fcntl.flock(run_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _salvage_locked(run_dir, read_spec(run_dir), fork)
    except (OSError, BadSpec):
        return 1  # somebody is at it, or there is nothing to go by
    finally:
        os.close(run_lock)


def _salvage_locked(run_dir: str, spec: Spec, fork: Callable[..., Helper]) -> int:
    # An `exit.json` that can't be read tells nobody that the attempt has ended.
    if ExitRecord(run_dir).exists() or os.path.lexists(os.path.join(run_dir, SALVAGED)):
        return 0
    orders = OrdersFile(run_dir)
    orders.refresh()
    last = _state(run_dir).get("heartbeat")
    died_at = float(last) if isinstance(last, (int, float)) else 0.0
    money_until = orders.current.limits.money_until
    # Nobody is billed for this time; what it may take counts from the death all the same.
    left = None if money_until is None else money_until - died_at - HEARTBEAT_SECONDS
    salvage(spec, died_at, orders.current.limits.keep, salvage_seconds(spec.checkpoint.grace, left), fork)
    create_json(os.path.join(run_dir, SALVAGED), {"at": clocks.now().wall})
    return 0


def _began(run_dir: str, events: List[Json]) -> Optional[float]:
    """When the training began, by the wall clock, or earlier where its state is lost or was of before; None: it
    didn't.
    """
    state = _state(run_dir)
    began = _object(state.get("training")).get("started_at")
    if isinstance(began, (int, float)):
        return float(began)
    # The state isn't synced: after a power cut it may be one of before the training.
    if state and not any(event.get("event") == TRAINING_STARTED for event in events):
        return None
    return os.stat(os.path.join(run_dir, "spec.json")).st_mtime


def _is_of_another_boot(run_dir: str) -> bool:
    """Whether the machine went down since the attempt began, as far as can be said: what was not synced may be lost."""
    try:
        claim = read_json(os.path.join(run_dir, "claim.json"))
    except (OSError, ValueError):
        claim = {}
    guardian = _object(claim.get("guardian")) or _object(_state(run_dir).get("guardian"))
    return guardian.get("boot_id") != processes.boot_id()


def _state(run_dir: str) -> Json:
    try:
        return read_json(os.path.join(run_dir, "state.json"))
    except (OSError, ValueError):
        return {}


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _note(events: Journal, word: str, detail: str) -> None:
    events.append({"at": clocks.now().wall, "event": word, "detail": detail})
