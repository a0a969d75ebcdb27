"""What an agent does about what it sees: a pure function of spec, orders, observations and the time.

Reads no clock and does no I/O, so that the simulation runs the real one. Instants here are of the active clock unless a
name says otherwise; the money's limit is judged on the wall clock and the boot-time clock, whichever is earlier.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, NoReturn, Optional, Tuple, Union

    from runctl.agent.clocks import Now
    from runctl.agent.orders import Orders
    from runctl.agent.spec import Spec

    Action = Union["BeginDrain", "Escalate", "AskForCheckpoint", "SendSignal", "KillAll", "Abandon", "Warn"]

# Of two reasons to end, the one further left is the one that is recorded.
PRECEDENCE = (
    "interruption", "cap", "duration", "cancel", "replace", "assume_dead", "stop", "deadline", "hang", "idle",
)  # fmt: skip
# The copy of the last checkpoint gets this many times what the copy before took, within these parts of the grace.
RESERVE_FACTOR = 1.5
RESERVE_LEAST = 0.1
RESERVE_MOST = 0.5
# A script that saves when it is asked gets this part of the grace for it before it is told to end.
ASK_SHARE = 0.5
# The whole group is signalled when this part of the time between the leader's signal and SIGKILL is over.
LEADER_SHARE = 0.6
# After an interval is over, a save may still be under way for this long before the script is said to ignore its policy.
INTERVAL_PATIENCE = 5.0
# From so many intervals on, fewer checkpoints than half of them is far fewer than asked.
FEW_AFTER_INTERVALS = 4
LONGEST_WAIT = 1.0


class _Value:
    """Compared and printed by its slots."""

    __slots__: Tuple[str, ...] = ()

    def _key(self) -> tuple[object, ...]:
        return (type(self).__name__, *(getattr(self, name) for name in self.__slots__))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in self.__slots__)})"


class BeginDrain(_Value):
    """Start ending the attempt for this reason, with this many seconds for all of it."""

    __slots__ = ("budget", "reason")

    def __init__(self, reason: str, budget: float) -> None:
        self.reason = reason
        self.budget = budget


class Escalate(_Value):
    """The drain under way has this reason from now on; nothing else about it changes."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class AskForCheckpoint(_Value):
    """Write the request file, and send `checkpoint.signal` if the script opted in. `seconds` is how long it may
    take.
    """

    __slots__ = ("reason", "seconds")

    def __init__(self, reason: str, seconds: float) -> None:
        self.reason = reason
        self.seconds = seconds


class SendSignal(_Value):
    """Send `stop.signal` to the `leader` or the whole `group`."""

    __slots__ = ("to",)

    def __init__(self, to: str) -> None:
        self.to = to


class KillAll(_Value):
    """SIGKILL to every process of the attempt."""

    __slots__ = ()


class Abandon(_Value):
    """The time is over: give up what is being copied and write down the end."""

    __slots__ = ()


class Warn(_Value):
    """Write an event: `checkpoint_overdue` or `checkpoint_policy_ignored`."""

    __slots__ = ("detail", "event")

    def __init__(self, event: str, detail: str) -> None:
        self.event = event
        self.detail = detail


class Drain:
    """A drain under way. `until` is fixed at its begin; the money's limit may only cut it."""

    __slots__ = (
        "asked",
        "budget",
        "grouped",
        "killed",
        "left_at_signal",
        "reason",
        "since",
        "since_wall",
        "until",
    )

    def __init__(self, reason: str, since: float, since_wall: float, budget: float) -> None:
        self.reason = reason
        self.since = since
        self.since_wall = since_wall
        self.budget = budget
        self.until = since + budget
        self.asked = False
        self.left_at_signal: Optional[float] = None
        self.grouped = False
        self.killed = False


class Observed:
    """What the agent knows at one instant. `durable_at` is when the content of the newest durable checkpoint was
    noticed.
    """

    __slots__ = (
        "alive_at",
        "asked_at",
        "busy_at",
        "complete_at",
        "drain",
        "durable_at",
        "few_told",
        "ignored_told",
        "interrupted",
        "interval_over_at",
        "intervals",
        "last_copy",
        "overdue_told",
        "phase",
        "saved",
        "training_since",
    )

    def __init__(self, phase: str = "preparing") -> None:
        self.phase = phase  # preparing | training | ending: from the exit of the training to the exit record
        self.training_since: Optional[float] = None
        self.durable_at: Optional[float] = None
        self.complete_at: Optional[float] = None  # of the newest complete checkpoint, durable or not yet
        self.saved = 0  # checkpoints noticed so far
        self.busy_at = 0.0  # last use of CPU or GPU
        self.alive_at = 0.0  # last output, checkpoint or progress
        self.drain: Optional[Drain] = None
        self.asked_at: Optional[float] = None  # on_deadline: save is waiting for its checkpoint since
        self.overdue_told = 0  # warnings since the newest durable checkpoint
        self.ignored_told = False
        self.few_told = False
        self.intervals = 0.0  # checkpoint intervals that are over, as far as the training's progress says
        self.interval_over_at: Optional[float] = None
        self.interrupted = False  # the host asked the agent itself to end
        self.last_copy = 0.0  # seconds that the last durable copy took


class Step:
    """The actions of one step, in order, and when the next step is due at the latest."""

    __slots__ = ("actions", "wait")

    def __init__(self, actions: List[Action], wait: float) -> None:
        self.actions = actions
        self.wait = wait


def unreachable(value: NoReturn) -> NoReturn:
    raise AssertionError(f"not an action: {value!r}")


def money_left(orders: Orders, started: Now, now: Now) -> Optional[float]:
    """Seconds until the cap is reached, by the clock that says it is nearer; None without one."""
    left = []
    if orders.limits.money_until is not None:
        left.append(orders.limits.money_until - now.wall)
    if orders.limits.money_seconds is not None:
        left.append(orders.limits.money_seconds - (now.boot - started.boot))
    return min(left) if left else None


def time_left(orders: Orders, drain: Drain, started: Now, now: Now) -> float:
    """Seconds that a drain still has, its last copy included."""
    left = drain.until - now.active
    money = money_left(orders, started, now)
    return left if money is None else min(left, money)


def copy_reserve(budget: float, last_copy: float) -> float:
    """The part of a drain that is kept for copying and verifying what the training saves last."""
    return min(max(RESERVE_FACTOR * last_copy, RESERVE_LEAST * budget), RESERVE_MOST * budget)


def age_of_durable(observed: Observed, now: Now) -> Optional[float]:
    """How much training a crash would lose now, in active seconds; None before the training runs."""
    if observed.training_since is None:
        return None
    since = observed.training_since if observed.durable_at is None else observed.durable_at
    return now.active - since


def step(spec: Spec, orders: Orders, observed: Observed, started: Now, now: Now) -> Step:
    """The policy. Applying its actions and stepping again at the same instant gives no further action."""
    clock = _Clock()
    reason = _reason_to_end(spec, orders, observed, started, now, clock)
    if observed.drain is None:
        if reason is None:
            return Step(_warnings(spec, orders, observed, now, clock), clock.wait)
        money = money_left(orders, started, now)
        budget = spec.checkpoint.grace if money is None else min(spec.checkpoint.grace, money)
        return Step([BeginDrain(reason, max(0.0, budget))], 0.0)
    if reason is not None and PRECEDENCE.index(reason) < PRECEDENCE.index(observed.drain.reason):
        return Step([Escalate(reason)], 0.0)
    left = time_left(orders, observed.drain, started, now)
    return Step(_drain(spec, observed, observed.drain, left, clock), clock.wait)


class _Clock:
    """Collects when something is due next."""

    def __init__(self) -> None:
        self.wait = LONGEST_WAIT

    def over(self, left: float) -> bool:
        """Whether a time is over; if not, the next step is due when it is."""
        if left <= 0:
            return True
        self.wait = min(self.wait, left)
        return False


def _reason_to_end(
    spec: Spec, orders: Orders, observed: Observed, started: Now, now: Now, clock: _Clock
) -> Optional[str]:
    """The reason with the highest precedence that holds now."""
    limits = orders.limits
    money = money_left(orders, started, now)
    if observed.interrupted:
        return "interruption"
    if money is not None and clock.over(money - spec.checkpoint.grace):
        return "cap"
    if limits.duration is not None and clock.over(started.active + limits.duration - now.active):
        return "duration"
    if orders.end is not None:
        return orders.end
    if observed.phase != "training" or observed.training_since is None:
        return None
    age = age_of_durable(observed, now)
    if limits.deadline is not None and age is not None and clock.over(limits.deadline - age):
        if limits.on_deadline in ("stop", "fail"):
            return "deadline"
        asked_at = observed.asked_at if limits.on_deadline == "save" else None
        if asked_at is not None and clock.over(asked_at + spec.checkpoint.grace - now.active):
            return "deadline"
    busy_at = max(observed.busy_at, observed.training_since)
    alive_at = max(busy_at, observed.alive_at)
    if limits.hang is not None and clock.over(alive_at + limits.hang - now.active):
        return "hang"
    if limits.idle is not None and clock.over(busy_at + limits.idle - now.active):
        return "idle"
    return None


def _warnings(spec: Spec, orders: Orders, observed: Observed, now: Now, clock: _Clock) -> List[Action]:
    if observed.phase != "training":
        return []
    actions: List[Action] = []
    limits = orders.limits
    age = age_of_durable(observed, now)
    if limits.deadline is not None and age is not None:
        # At the deadline, then after twice, four times, … its age: a reminder and not a stream.
        if clock.over(limits.deadline * 2**observed.overdue_told - age):
            actions.append(Warn("checkpoint_overdue", f"the newest durable checkpoint is {age:.0f} s old"))
        if age >= limits.deadline and limits.on_deadline == "save" and observed.asked_at is None:
            actions.append(AskForCheckpoint("deadline", spec.checkpoint.grace))
    over_at = observed.interval_over_at
    if observed.intervals >= 1 and over_at is not None and clock.over(over_at + INTERVAL_PATIENCE - now.active):
        actions += _policy_ignored(spec, observed)
    return actions


def _policy_ignored(spec: Spec, observed: Observed) -> List[Action]:
    """A script that saves never, or far less often than asked, is said so once each."""
    every = spec.checkpoint.every_text
    if observed.saved == 0:
        detail = f"no checkpoint has appeared in `{spec.checkpoint.dir}`, though one was due after {every}"
        return [] if observed.ignored_told else [Warn("checkpoint_policy_ignored", detail)]
    few = observed.intervals >= FEW_AFTER_INTERVALS and observed.saved < observed.intervals / 2
    if not few or observed.few_told or observed.ignored_told:
        return []
    saved = "1 checkpoint" if observed.saved == 1 else f"{observed.saved} checkpoints"
    detail = f"{saved} in {observed.intervals:.0f} intervals of {every}"
    return [Warn("checkpoint_policy_ignored", detail)]


def _drain(spec: Spec, observed: Observed, drain: Drain, left: float, clock: _Clock) -> List[Action]:
    """The stages of a drain, each when its time has come; several at once when time was lost."""
    if observed.phase == "preparing":
        return [] if drain.killed else [KillAll()]
    if observed.phase == "ending":
        return [Abandon()] if clock.over(left) else []
    actions: List[Action] = []
    reserve = copy_reserve(drain.budget, observed.last_copy)
    if not drain.asked:
        actions.append(AskForCheckpoint(drain.reason, max(0.0, left)))
    signalled = drain.left_at_signal
    if signalled is None:
        saved = observed.complete_at is not None and observed.complete_at >= drain.since
        if spec.checkpoint.signal is None or saved or clock.over(left - ASK_SHARE * drain.budget):
            signalled = left
            actions.append(SendSignal(spec.stop_to))
    if signalled is not None and not drain.grouped and spec.stop_to == "leader":
        until_group = left - signalled + LEADER_SHARE * max(0.0, signalled - reserve)
        if clock.over(until_group):
            actions.append(SendSignal("group"))
    if not drain.killed and clock.over(left - reserve):
        actions.append(KillAll())
    return actions
