"""Where machines are rented: EC2's semantics as far as they can hurt, at the level of its calls, on virtual time.

What is written down here is the world's truth: which machine was there from when to when, and what it is billed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio

from runctl.providers.aws.api import ApiError, NoAnswer
from runctl.providers.aws.instances import JOB_TAG, NOT_AFTER_TAG, OWNER_TAG

from .host import EPOCH, Host
from .node import Node
from .oracles import Violation
from .run import Run

if TYPE_CHECKING:
    from .rented import RentedLife

# How late a listing may show a new instance, how old what it shows may be, and how long a terminated one is listed.
MOST_LAG = 60.0
MOST_STALE = 30.0
TERMINATED_LISTED = 3600.0
# A request that is lost on its way may take effect as late as this.
LATEST_REQUEST = 240.0
# The machine's own timer, which root owns: it powers off this long before the money is over.
TIMER_BEFORE = 45.0
NOTICE = 120.0
# Source: EC2's documented request buckets, as (size, refill a second).
BUCKETS = {"RunInstances": (5, 2.0), "TerminateInstances": (100, 5.0), "DescribeInstances": (100, 20.0)}

# The share of the price that is for disks and addresses, which are billed while the machine pends, too.
BESIDES = 0.05


class Instance(Host):
    """One machine of the cloud, from when it was granted to when it is forgotten. Instants are true seconds."""

    def __init__(self, cloud: SimulatedCloud, name: str, parameters: Mapping[str, Any], hourly: int) -> None:
        super().__init__(cloud.life, name)
        dice, now = cloud.life.dice, cloud.life.loop.time()
        self.cloud, self.parameters, self.hourly = cloud, parameters, hourly
        self.tags = {tag["Key"]: tag["Value"] for tag in parameters["TagSpecifications"][0]["Tags"]}
        self.granted_at = now
        self.visible_at = now + (dice.between("lag", 0.0, MOST_LAG) if cloud.strikes("lagging listings") else 0.1)
        self.history: list[tuple[float, str]] = [(now, "pending")]
        self.reason = ""
        self.running_at: float | None = None
        self.going_at: float | None = None
        self.terminated_at: float | None = None
        self.stopped_at: float | None = None
        self.reachable_at: float | None = None
        self.partitioned_until = -1.0
        self.timer_works = True
        # Somebody else's copy of a machine of ours, tags and all: to be ended, but no cost of any request of ours.
        self.is_copy = False
        # How long it is listed when it is gone. One that listings forget counts as gone when its money is over: it is
        # forgotten early only where that isn't long after this life.
        self.listed_for = TERMINATED_LISTED
        off = self.tags.get(NOT_AFTER_TAG)
        soon = off is not None and datetime.fromisoformat(off).timestamp() < EPOCH + now + TERMINATED_LISTED
        if soon and cloud.life.meets("forgotten early"):
            self.listed_for = dice.between("listed for", 0.0, 60.0)
        self.is_shown = False

    @property
    def uid(self) -> str:
        return str(self.tags[JOB_TAG])

    @property
    def spot(self) -> bool:
        return "InstanceMarketOptions" in self.parameters

    @property
    def up(self) -> bool:
        return self.running_at is not None and self.going_at is None and self.stopped_at is None

    @property
    def reachable(self) -> bool:
        now = self.life.loop.time()
        return self.up and self.reachable_at is not None and self.partitioned_until < now >= self.reachable_at

    def bill(self) -> float:
        """Micro-dollars until now: compute from running to going, a minute at least; the rest from granted to gone."""
        now = self.life.loop.time()
        besides = (self.terminated_at or now) - self.granted_at
        until = self.stopped_at or self.going_at or now
        compute = 0.0 if self.running_at is None else max(60.0, until - self.running_at)
        share = BESIDES if self.running_at is not None else 0.0
        return self.hourly / 3600 * (compute * (1 - BESIDES) + besides * share)

    # Its life

    def begin(self) -> None:
        dice, life = self.life.dice, self.life
        if self.life.meets("dies pending"):
            life.later(dice.between("pends", 1.0, 60.0), lambda: self.go("Server.InsufficientInstanceCapacity"))
        elif not life.meets("pends for ever"):
            life.later(dice.between("pends", 1.0, 60.0), self._run)

    def _run(self) -> None:
        if self.going_at is not None:
            return
        life, dice, now = self.life, self.life.dice, self.life.loop.time()
        self.running_at = now
        self.history.append((now, "running"))
        life.say("machine", self.name, "runs")
        if not life.meets("never boots"):
            self.reachable_at = now + dice.between("boots", 5.0, 60.0)
        if NOT_AFTER_TAG in self.tags:
            off = datetime.fromisoformat(self.tags[NOT_AFTER_TAG]).timestamp() - TIMER_BEFORE
            self.later(max(0.0, off - self.now().wall), self._timer)
        if self.spot and self.cloud.strikes("reclaim"):
            life.later(dice.between("reclaimed when", 1.0, 600.0), self._reclaim)
        if self.cloud.strikes("machine fails"):
            life.later(dice.between("fails when", 1.0, 600.0), self._fail)
        if self.cloud.strikes("copied"):
            life.later(dice.between("copied when", 1.0, 600.0), lambda: self.cloud.copy(self))
        if self.cloud.strikes("copied for another"):
            life.later(dice.between("copied so when", 1.0, 120.0), lambda: self.cloud.copy(self, for_another=True))
        if not self.spot and self.cloud.strikes("stopped by hand"):
            life.later(dice.between("stopped when", 1.0, 600.0), self._stop)
        if self.cloud.strikes("wiped by hand"):
            life.later(dice.between("wiped when", 30.0, 400.0), self._wipe)
        if self.cloud.strikes("partition"):
            life.later(dice.between("partitioned when", 1.0, 300.0), self._part)
        life.happened()

    def _reclaim(self) -> None:
        if not self.up:
            return
        if self.life.dice.between("notice", 0, 1) < 0.3:
            self.cloud.count("reclaimed without notice")
            self.go("Server.SpotInstanceTermination")
            return
        self.cloud.count("reclaimed")
        self.life.say("machine", self.name, "is to be reclaimed")
        for run in self.runs.values():
            run.interrupt()
        self.life.later(NOTICE, lambda: self.go("Server.SpotInstanceTermination"))

    def _fail(self) -> None:
        if self.up:
            self.cloud.count("machine fails")
            self.go("Server.InternalError")

    def _stop(self) -> None:
        """Somebody stops it in the console: it isn't billed for computing any more, its disks are, and nothing runs."""
        if not self.up or self.life.weather.calm:
            return
        now = self.life.loop.time()
        self.cloud.count("stopped by hand")
        self.stopped_at = now
        self.history += [(now, "stopping"), (now + 5.0, "stopped")]
        for run in self.runs.values():
            run.cut()
        self.life.happened()

    def _wipe(self) -> None:
        """Somebody ends what runs there and removes what it left behind; the machine's own timer is root's."""
        started = {
            (uid, live.number)
            for uid in self.life.uids
            if (record := self.life.record(uid)) is not None and (live := record.live) is not None and live.started_at
        }
        # Of the layers that hold the cap, one fails at a time.
        if not self.timer_works:
            return
        if self.up and not self.life.weather.calm and self.runs and started.issuperset(self.runs):
            self.cloud.count("wiped by hand")
            for run in self.runs.values():
                run.cut()
            self.removed |= self.runs.keys()
            self.runs.clear()
            self.life.happened()

    def _part(self) -> None:
        if self.up and not self.life.weather.calm:
            self.cloud.count("partition")
            self.partitioned_until = self.life.loop.time() + self.life.dice.between("partitioned for", 1.0, 400.0)

    def _timer(self) -> None:
        if self.timer_works:
            self.power_off()

    def power_off(self) -> None:
        if self.up:
            self.cloud.count("powered off")
            self.go("Client.InstanceInitiatedShutdown")

    def emptied(self, run: Run) -> None:
        """The agent powers its machine off when nothing is left to do, and has written its last word where it lasts."""
        if run.exit is not None and not (self.life.storage_is_away or self.cloud.strikes("last word lost")):
            self.life.words[run.key] = run
        if not (self.timer_works and self.life.meets("power-off hangs")):
            self.life.later(self.life.dice.between("powering off", 0.5, 5.0), self.power_off)

    def go(self, reason: str) -> None:
        """It is shut down, whoever wants that."""
        if self.going_at is not None:
            return
        now = self.life.loop.time()
        self.going_at, self.reason = now, reason
        self.history.append((now, "shutting-down"))
        self.life.say("machine", self.name, "goes:", reason)
        for run in self.runs.values():
            run.cut()
        self.life.later(self.life.dice.between("terminating", 0.5, 60.0), self._gone)
        self.life.happened()

    def _gone(self) -> None:
        self.terminated_at = self.life.loop.time()
        self.history.append((self.terminated_at, "terminated"))
        self.life.happened()

    # As it is listed

    def listed(self, at: float) -> dict[str, Any] | None:
        """What a listing shows that sees the world as it was at `at`."""
        if at < self.granted_at or self.life.loop.time() < self.visible_at:
            return None
        if self.terminated_at is not None and at > self.terminated_at + self.listed_for:
            return None
        state = [name for since, name in sorted(self.history, key=lambda entry: entry[0]) if since <= at][-1]
        shown: dict[str, Any] = {
            "InstanceId": self.name,
            "ClientToken": self.parameters["ClientToken"],
            "State": {"Name": state},
            "LaunchTime": datetime.fromtimestamp(int(EPOCH + self.granted_at), UTC),
            "Placement": dict(self.parameters["Placement"]),
            "InstanceType": self.parameters["InstanceType"],
            "Tags": [{"Key": key, "Value": value} for key, value in self.tags.items()],
        }
        if state in ("shutting-down", "terminated"):
            assert self.going_at is not None
            shown["StateReason"] = {"Code": self.reason, "Message": self.reason}
            if self.reason.startswith("Client."):
                gone = datetime.fromtimestamp(EPOCH + self.going_at, UTC)
                shown["StateTransitionReason"] = f"User initiated ({gone:%Y-%m-%d %H:%M:%S} GMT)"
        return shown


class SimulatedCloud:
    def __init__(self, life: RentedLife) -> None:
        self.life = life
        self.instances: dict[str, Instance] = {}
        # Machines that are none of runctl's, though some carry a tag of its owner.
        self.neighbours = {
            "i-neighbour": {},
            "i-bastion": {OWNER_TAG: "me"},
            "i-colleague": {OWNER_TAG: "she", JOB_TAG: "u"},
        }
        # As they were sent; what comes late was sent long before.
        self.calls = 0
        self.no_capacity_ever = life.meets("no capacity ever")
        # From when to when no call reaches it.
        self._out_of_reach = (-1.0, -1.0)
        if life.meets("cloud out of reach"):
            start = life.dice.between("out of reach when", 0.0, life.storm_seconds / 2)
            self._out_of_reach = (start, start + life.dice.between("out of reach for", 60.0, 200.0))
        self._tokens: dict[tuple[str, str], tuple[str, Instance]] = {}
        self._buckets = {name: float(size) for name, (size, _) in BUCKETS.items()}
        self._refilled = dict.fromkeys(BUCKETS, 0.0)

    def strikes(self, kind: str) -> bool:
        return self.life.weather.strikes(kind)

    def count(self, what: str) -> None:
        self.life.count(what)

    def is_out_of_reach(self) -> bool:
        start, end = self._out_of_reach
        return start <= self.life.loop.time() < end

    def do(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        self._draw(operation)
        match operation:
            case "RunInstances":
                return self._run(parameters)
            case "DescribeInstances":
                return self._describe(parameters)
            case "TerminateInstances":
                return self._terminate(parameters)
            case _:
                raise ApiError("InvalidAction", operation, 400)

    def _draw(self, operation: str) -> None:
        size, refill = BUCKETS[operation]
        now = self.life.loop.time()
        self._buckets[operation] = min(size, self._buckets[operation] + (now - self._refilled[operation]) * refill)
        self._refilled[operation] = now
        if self._buckets[operation] < 1:
            self.life.loop.fail(Violation(self.life, f"{operation} is called more often than EC2 allows"))
        if self.life.meets("throttled"):
            raise ApiError("RequestLimitExceeded", "Request limit exceeded.", 503)
        self._buckets[operation] -= 1

    def _run(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        zone, token = parameters["Placement"]["AvailabilityZone"], parameters["ClientToken"]
        print_ = repr(sorted((key, repr(value)) for key, value in parameters.items()))
        if (zone, token) in self._tokens:
            known, instance = self._tokens[zone, token]
            if known != print_:
                raise ApiError("IdempotentParameterMismatch", "other parameters, same token", 400)
            if instance.terminated_at is not None:
                raise ApiError("IdempotentInstanceTerminated", "the instance of that token is terminated", 400)
            self.count("token known")
        else:
            offer = (parameters["InstanceType"], zone, "InstanceMarketOptions" in parameters)
            # A job that has trained waits for capacity as long as it takes: in calm there is some for it.
            ever = self.no_capacity_ever and not (self.life.weather.calm and self.life.counts["trainings"])
            if ever or self.life.meets("no capacity"):
                raise ApiError("InsufficientInstanceCapacity", f"no {offer[0]} in {zone} now", 500)
            if self.life.meets("no quota"):
                raise ApiError("VcpuLimitExceeded", "you have requested more vCPU capacity than your limit", 400)
            if self.life.meets("not allowed"):
                raise ApiError("UnauthorizedOperation", "you are not authorized to perform this operation", 403)
            if self.strikes("server fails"):
                raise ApiError("InternalError", "an internal error has occurred", 500)
            instance = self._grant(parameters, self.life.price(*offer))
            self._tokens[zone, token] = (print_, instance)
            self.count("machines")
        return {"Instances": [{"InstanceId": instance.name, "State": {"Name": "pending"}}]}

    def _grant(self, parameters: Mapping[str, Any], hourly: int, is_copy: bool = False) -> Instance:
        name = f"i-{len(self.instances) + 1:017x}"
        instance = self.instances[name] = Instance(self, name, parameters, hourly)
        instance.is_copy = is_copy
        if is_copy:
            instance.listed_for = TERMINATED_LISTED
        self.life.say("machine", name, "is granted to", instance.uid, *(["as a copy"] if is_copy else []))
        instance.begin()
        self.life.happened()
        return instance

    def copy(self, of: Instance, *, for_another: bool = False) -> None:
        """Somebody launches one more like it in the console, which copies its tags; and may edit whose it is."""
        if of.going_at is None and not of.is_copy and not self.life.weather.calm:
            self.count("copied")
            parameters = {**of.parameters, "ClientToken": f"console-{len(self.instances)}"}
            if for_another:
                self.count("copied for another")
                uids = self.life.uids
                idle = [uid for uid in uids if (record := self.life.record(uid)) is not None and not record.rentals]
                other = {"Key": JOB_TAG, "Value": self.life.dice.pick("copied for", idle or uids)}
                tagged = parameters["TagSpecifications"][0]
                kept = [each for each in tagged["Tags"] if each["Key"] != JOB_TAG]
                parameters["TagSpecifications"] = [{**tagged, "Tags": [*kept, other]}]
            self._grant(parameters, of.hourly, is_copy=True)

    def _describe(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        (owner,) = parameters["Filters"][0]["Values"]
        stale = 0.5
        if self.life.meets("stale listing"):
            stale = self.life.dice.between("stale by", 0.0, MOST_STALE)
        at = self.life.loop.time() - stale
        shown = []
        for instance in self.instances.values():
            listed = instance.listed(at) if instance.tags.get(OWNER_TAG) == owner else None
            if listed is not None and self.life.meets("missing from a listing"):
                listed = None
            if listed is not None:
                shown.append(listed)
                instance.is_shown |= self.life.weather.calm
        shown += [_neighbour(name, tags) for name, tags in self.neighbours.items() if tags.get(OWNER_TAG) == owner]
        size = 1 if self.strikes("small pages") else int(parameters["MaxResults"])
        start = int(parameters.get("NextToken", "0"))
        answer: dict[str, Any] = {"Reservations": [{"Instances": [each]} for each in shown[start : start + size]]}
        if start + size < len(shown):
            answer["NextToken"] = str(start + size)
        return answer

    def _terminate(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        if self.life.meets("end refused"):
            raise ApiError("OperationNotPermitted", "the instance may not be terminated", 400)
        found = []
        for name in parameters["InstanceIds"]:
            if name in self.neighbours:
                self.life.loop.fail(Violation(self.life, f"{name} is none of runctl's, and is ended"))
            instance = self.instances.get(name)
            if instance is None or self.life.loop.time() < instance.visible_at:
                self.count("not found")
                raise ApiError("InvalidInstanceID.NotFound", f"The instance ID '{name}' does not exist", 400)
            found.append(instance)
        for instance in found:
            instance.go("Client.UserInitiatedShutdown")
        return {}


def _neighbour(name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {
        "InstanceId": name, "State": {"Name": "running"}, "LaunchTime": datetime.fromtimestamp(EPOCH, UTC),
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }  # fmt: skip


class CloudPort:
    """What one node's calls go through: a network that delays, loses requests and answers, and sends requests late."""

    def __init__(self, life: RentedLife, node: Node) -> None:
        self._life = life
        self._node = node

    async def __call__(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        life, node = self._life, self._node
        node.at(f"before {operation}")
        life.cloud.calls += 1
        await anyio.sleep(life.dice.between("way there", 0.01, 0.3))
        if node.dead:
            node.at(operation)
        if life.cloud.is_out_of_reach() or life.meets("request lost"):
            await anyio.sleep(20.0)
            raise NoAnswer("the request timed out")
        if operation != "DescribeInstances" and life.meets("request late"):
            life.later(life.dice.between("late by", 1.0, LATEST_REQUEST), lambda: self._late(operation, parameters))
            await anyio.sleep(20.0)
            raise NoAnswer("the request timed out")
        answer = life.cloud.do(operation, parameters)
        node.at(f"after {operation}")
        await anyio.sleep(life.dice.between("way back", 0.01, 0.3))
        if life.meets("answer lost"):
            await anyio.sleep(20.0)
            raise NoAnswer("the answer timed out")
        return answer

    def _late(self, operation: str, parameters: Mapping[str, Any]) -> None:
        try:
            self._life.cloud.do(operation, parameters)
        except ApiError:
            self._life.count("late request refused")
