"""Rented machines as they are in truth, and the listings that show them late, old or not at all."""

from __future__ import annotations

from datetime import datetime, timedelta

from runctl.planner.money import cost_of
from runctl.planner.observed import InstanceSeen, Listing, RentAnswer
from runctl.planner.rental import GOING, Demise, MachineState, Refusal, Rental

from .agents import Agent

# The machine's own timer powers it off this long before its money is over.
TIMER_BEFORE = timedelta(seconds=45)
# An agent whose attempt is over powers its machine off after this.
POWERING_OFF = timedelta(seconds=5)
SHUTTING_DOWN = timedelta(seconds=30)
# A terminated instance is listed for about an hour.
LISTED = timedelta(minutes=60)
# A request that is lost on its way may take effect as late as this.
LATEST = timedelta(seconds=240)
# A machine is missing from so many sweeps in a row at most: by one more the product takes it for gone.
MOST_MISSED = 2


class Machine:
    """One instance, from when it was granted. `copied`: somebody's copy of one, tags and all."""

    def __init__(self, name: str, rental: Rental, at: datetime, *, copied: bool = False) -> None:
        self.name, self.rental, self.granted_at, self.copied = name, rental, at, copied
        self.token = f"console-{name}" if copied else rental.token
        self.history = [(at, MachineState.PENDING)]
        self.demise: Demise | None = None
        self.agent: Agent | None = None
        self.boots = self.powers_off = True
        self.word_lost = False
        self.missed = 0

    @property
    def state(self) -> MachineState:
        return self.history[-1][1]

    @property
    def up(self) -> bool:
        return self.state is MachineState.RUNNING

    @property
    def reachable(self) -> bool:
        return self.up and self.boots

    @property
    def billable(self) -> bool:
        return self.state not in GOING

    def since(self, state: MachineState) -> datetime | None:
        return next((at for at, each in self.history if each is state), None)

    def to(self, state: MachineState, at: datetime) -> None:
        self.history.append((max(at, self.history[-1][0]), state))

    def go(self, why: Demise, at: datetime) -> None:
        """It is shut down, and what runs on it is cut."""
        if not self.billable:
            return
        self.demise = why
        self.to(MachineState.SHUTTING_DOWN, at)
        self.cut(at)

    def take(self, agent: Agent) -> None:
        """Launch it here; twice is the same as once."""
        if self.agent is None:
            self.agent = agent
        elif self.agent.state == "sent":
            self.agent.orders = agent.orders

    def stop(self, state: MachineState, at: datetime) -> None:
        """Somebody stops it by hand; it is stopping, or already stopped."""
        if self.up:
            self.to(MachineState.STOPPING, at)
            self.cut(at)
        if state is MachineState.STOPPED and self.state is MachineState.STOPPING:
            self.to(state, at)

    def cut(self, at: datetime) -> None:
        if self.agent is not None and self.agent.alive:
            self.agent.die(at)

    def settle(self, now: datetime) -> None:
        """What its timer, its agent and the provider do by themselves until `now`, in the order of time."""
        ends = []
        if self.agent is not None and self.up:
            self.agent.enforce(now)
            over = self.agent.ended_at
            if self.powers_off and self.agent.state == "ended" and over is not None:
                ends.append(over + POWERING_OFF)
        if self.up and self.rental.not_after is not None:
            ends.append(max(self.rental.not_after - TIMER_BEFORE, self.since(MachineState.RUNNING) or now))
        if ends and min(ends) <= now:
            self.go(Demise.ITSELF, min(ends))
        going = self.since(MachineState.SHUTTING_DOWN)
        if going is not None and going + SHUTTING_DOWN <= now and self.state is not MachineState.TERMINATED:
            self.to(MachineState.TERMINATED, going + SHUTTING_DOWN)

    def bill(self, now: datetime) -> int:
        """From running to shut down or stopped, a minute at least."""
        running = self.since(MachineState.RUNNING)
        if running is None:
            return 0
        ends = [at for at in (self.since(MachineState.STOPPING), self.since(MachineState.SHUTTING_DOWN)) if at]
        span = min([*ends, now]) - running
        return cost_of(self.rental.offer.hourly, max(span, timedelta(seconds=self.rental.offer.minimum)))

    def listed(self, at: datetime) -> InstanceSeen | None:
        """As a listing shows it that sees the world as it was at `at`."""
        states = [state for since, state in self.history if since <= at]
        gone = self.since(MachineState.TERMINATED)
        if not states or (gone is not None and at > gone + LISTED):
            return None
        state = states[-1]
        going = state in GOING
        gone_at, told = self.since(MachineState.SHUTTING_DOWN), self.demise in (Demise.ITSELF, Demise.ASKED)
        return InstanceSeen(
            id=self.name, token=self.token, attempt=self.rental.attempt, state=state,
            launched_at=self.granted_at.replace(microsecond=0), demise=self.demise if going else None,
            ended_at=gone_at.replace(microsecond=0) if gone_at and going and told else None,
        )  # fmt: skip


class Cloud:
    """Grants what it is asked for unless `fates` say otherwise, one for each request to come."""

    def __init__(self) -> None:
        self.machines: list[Machine] = []
        self.fates: list[str] = []
        self.late: list[tuple[datetime, Rental]] = []
        self.ends_refused = False

    def rent(self, rental: Rental, again: bool, now: datetime) -> RentAnswer | None:
        """What the sender of the request learns of it."""
        fate = self.fates.pop(0) if self.fates else "granted"
        if fate == "late":
            self.late.append((now + LATEST, rental))
        if fate in ("lost", "late"):
            return None
        known = next((each for each in self.machines if each.token == rental.token), None)
        if known is None and fate in list(Refusal):
            return RentAnswer(token=rental.token, refusal=Refusal(fate), message=f"no {fate}", again=again)
        if known is not None and known.state is MachineState.TERMINATED:
            return None
        machine = known or self.grant(rental, now)
        return None if fate == "answer lost" else RentAnswer(token=rental.token, instance=machine.name, again=again)

    def grant(self, rental: Rental, at: datetime, *, copied: bool = False) -> Machine:
        machine = Machine(f"i-{len(self.machines) + 1}", rental, at, copied=copied)
        self.machines.append(machine)
        return machine

    def settle(self, now: datetime) -> None:
        due = [each for each in self.late if each[0] <= now]
        self.late = [each for each in self.late if each[0] > now]
        for at, rental in due:
            if all(each.token != rental.token for each in self.machines):
                self.grant(rental, at)
        for machine in self.machines:
            machine.settle(now)

    def end(self, name: str, now: datetime) -> None:
        if not self.ends_refused:
            self.named(name).go(Demise.ASKED, now)

    def named(self, name: str | None) -> Machine:
        return next(each for each in self.machines if each.name == name)

    def sweep(self, now: datetime, stale: timedelta, *, missing: bool, clock: datetime) -> Listing:
        """A listing that sees the world as it was; `missing`: it lacks what lives, as far as a listing may."""
        shown = []
        for machine in self.machines:
            seen = machine.listed(now - stale)
            hidden = missing and machine.billable and machine.missed < MOST_MISSED
            if seen is None or hidden:
                machine.missed += 1
            else:
                machine.missed = 0
                shown.append(seen)
        return Listing(as_of=clock, instances=tuple(shown))
