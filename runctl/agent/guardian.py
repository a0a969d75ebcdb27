"""The guardian: claims the attempt and the host, starts the agent, and ends the attempt if the agent dies.

It knows no exit code and never writes one. It adopts what the agent leaves behind (a subreaper, where the kernel
has them)
and doesn't end before that is gone.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time

from runctl.agent import cgroup, clocks, hostlock, leftovers, policy, processes
from runctl.agent.beats import Listener
from runctl.agent.detach import run_program
from runctl.agent.files import ExitRecord, complain, create_json, encode, parse_lines, read_json, write_all
from runctl.agent.orders import OrdersFile
from runctl.agent.prctl import PR_SET_CHILD_SUBREAPER, prctl
from runctl.agent.spec import BadSpec, Spec, read_spec
from runctl.checkpoints.lasting import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    Json = Dict[str, Any]

# What SIGKILL can't end within this is in uninterruptible sleep; it keeps the host lock for as long as it lasts.
KILL_SECONDS = 60.0


# A start that was sent in time and comes later than this is no longer waited for: it must not happen any more.
LATE_SECONDS = 10.0


class Refused(Exception):
    """The attempt may not start here; `holder` is who does, if it is that. `reason`: the end that this is."""

    def __init__(self, detail: str, holder: Optional[Json] = None, reason: str = "refused") -> None:
        super().__init__(detail)
        self.detail = detail
        self.holder = holder
        self.reason = reason


def guard(entry: str, run_dir: str, umask: int) -> int:
    """Start and outlive one agent. Returns the exit status of the guardian's process, which nobody reads."""
    started = clocks.now()
    run_lock = os.open(os.path.join(run_dir, "run.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(run_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0  # started before, and alive
    me = processes.identity(os.getpid())
    record = ExitRecord(run_dir)
    spec = begin(run_dir, record, me, started)
    if spec is None:
        return 1
    try:
        lock = _take_host(spec)
    except Refused as refusal:
        _refuse(spec, record, refusal, started)
        return 1
    lock.write_holder(_holder(spec, me, me, started))
    agent, pipe, beats = _start_agent(entry, spec, umask, run_lock, lock.descriptor)
    lock.write_holder(_holder(spec, processes.identity(agent), me, started))
    orders = OrdersFile(run_dir)
    status, hung = _wait_for(agent, Listener(beats, clocks.now()), orders, started)
    died_at = time.time()
    gone = processes.kill_attempt(os.getpid(), spec.run_id, set(), KILL_SECONDS, _ignore_exit)
    cgroup.remove(spec.run_id)
    if not record.exists():
        _salvage(spec, orders, started, died_at)
        how = "gave no sign of life and was ended" if hung else _describe(status)
        detail = f"the agent {how}; the training's exit code, if it had one, is not known"
        value = _ending(run_dir, spec, started, "lost", detail)
        record.write({**value, "descendants_gone": gone})
    record.release()
    if gone:
        lock.write_holder({})
    os.close(pipe)
    return 0


def begin(run_dir: str, record: ExitRecord, me: Json, started: clocks.Now) -> Optional[Spec]:
    """Claim the attempt and what no other attempt may have passed; None if it is not to be started: it was before, or
    `exit.json` says why.
    """
    if not create_json(
        os.path.join(run_dir, "claim.json"), {"guardian": me, "claimed_at": started.wall, "monotonic": started.active}
    ):
        return None  # started before, and over
    try:
        record.reserve()
        spec = read_spec(run_dir)
    except BadSpec as error:
        record.write(_ending(run_dir, None, started, "start_failed", str(error)))
        return None
    except OSError as error:
        record.write(_ending(run_dir, None, started, "start_failed", f"the run directory can't be written: {error}"))
        return None
    if spec.launch_before is not None and started.wall > spec.launch_before + LATE_SECONDS:
        record.write(_ending(run_dir, spec, started, "not_started", "the start took too long, and is given up"))
        return None
    try:
        _pass_fence(spec)
    except Refused as refusal:
        _refuse(spec, record, refusal, started)
        return None
    return spec


def _refuse(spec: Spec, record: ExitRecord, refusal: Refused, started: clocks.Now) -> None:
    value = _ending(spec.run_dir, spec, started, refusal.reason, refusal.detail)
    record.write({**value, "holder": refusal.holder})


def _salvage(spec: Spec, orders: OrdersFile, started: clocks.Now, died_at: float) -> None:
    from runctl.agent import salvage  # with all that an agent needs for it: only when it has come to that

    orders.refresh()
    left = policy.money_left(orders.current, started, clocks.now())
    seconds = leftovers.salvage_seconds(spec.checkpoint.grace, left)
    salvage.salvage(spec, died_at, orders.current.limits.keep, seconds)


def _take_host(spec: Spec) -> hostlock.HostLock:
    try:
        leftovers.sweep()
        return hostlock.acquire(spec.busy)
    except hostlock.Busy as error:
        who = error.holder or {}
        name = f"attempt {who.get('attempt')} of `{who.get('job')}`" if who else "another training"
        raise Refused(f"{name} holds this machine", error.holder) from None
    except (hostlock.LockUnusable, OSError) as error:
        raise Refused(f"the host lock can't be taken: {error}", reason="launch_failed") from None


def _pass_fence(spec: Spec) -> None:
    """Refuse an attempt that is older than the newest one started of its job. Raises Refused."""
    if spec.home_fence is None:
        return
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(spec.home_fence, flags, 0o600)
    except OSError as error:
        raise Refused(f"the fence `{spec.home_fence}` can't be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        passed = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        for highest in parse_lines(passed):
            for name, mine in (("attempt", spec.attempt), ("epoch", spec.epoch)):
                other = highest.get(name)
                if isinstance(other, int) and other > mine:
                    raise Refused(f"{name} {other} of `{spec.job}` has been started, this is {name} {mine}")
        # Appended: a power cut while what was there is written anew would let every earlier attempt pass. The line
        # before may lack its end.
        line = encode({"attempt": spec.attempt, "epoch": spec.epoch})
        write_all(descriptor, line if passed.endswith(b"\n") or not passed else b"\n" + line)
        os.fsync(descriptor)
        sync(os.path.dirname(os.path.abspath(spec.home_fence)))
    except OSError as error:
        raise Refused(f"the fence `{spec.home_fence}` can't be written: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _start_agent(entry: str, spec: Spec, umask: int, *locks: int) -> "tuple[int, int, int]":
    """Fork the agent; it sees a pipe close when the guardian dies, and gives signs of life through another. Returns its
    pid and the guardian's ends of the two.
    """
    reader, writer = os.pipe()
    beats, beating = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            kept = (reader, *locks, beating)
            for descriptor in kept:
                os.set_inheritable(descriptor, True)
            numbers = [str(descriptor) for descriptor in kept]
            run_program(entry, ["--agent", spec.run_dir, f"{umask:o}", *numbers])
        finally:
            os._exit(1)
    os.close(reader)
    os.close(beating)
    return pid, writer, beats


def _wait_for(agent: int, listener: Listener, orders: OrdersFile, started: clocks.Now) -> "tuple[int, bool]":
    """Wait for the agent to end, and end it if it hangs: how it ended, and whether it hung. A request to end that comes
    here (the host shuts down) is passed on to it.
    """
    hung = False

    def pass_on(number: int, _frame: object) -> None:
        processes.signal_one(agent, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == agent:
            return status, hung
        if pid != 0:
            continue
        orders.refresh()
        beaten = listener.wait(policy.money_left(orders.current, started, clocks.now()))
        now = clocks.now()
        if beaten:
            listener.heard(now)
        elif listener.is_dead(now, policy.money_left(orders.current, started, now)):
            hung = True
            processes.signal_one(agent, signal.SIGKILL)


def _ignore_exit(_pid: int, _status: int) -> None:
    pass


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"ended with {os.WEXITSTATUS(status)}; see agent.log"


def _holder(spec: Spec, agent: Json, guardian: Json, started: clocks.Now) -> Json:
    return {
        "run_id": spec.run_id,
        "job": spec.job,
        "attempt": spec.attempt,
        "run_dir": spec.run_dir,
        "uid": os.getuid(),
        "agent": agent,
        "guardian": guardian,
        "since": started.wall,
    }


def _ending(run_dir: str, spec: Optional[Spec], started: clocks.Now, reason: str, detail: str) -> Json:
    """An `exit.json` without an exit code; what the agent knew last comes from its `state.json`."""
    try:
        state = read_json(os.path.join(run_dir, "state.json"))
    except (OSError, ValueError):
        state = {}
    now = clocks.now()
    checkpoints = state.get("checkpoints") or {}
    complain(f"{reason}: {detail}")
    return {
        "version": 1,
        "run_id": None if spec is None else spec.run_id,
        "attempt": None if spec is None else spec.attempt,
        "reason": reason,
        "exit_code": None,
        "signal": None,
        "detail": detail,
        "training_started": state.get("training") is not None,
        # Who never had the machine is billed nothing.
        "started_at": None if reason in ("refused", "not_started", "launch_failed") else started.wall,
        "ended_at": time.time(),
        "active": now.active - started.active,
        "oom": False,
        "killed": reason == "lost",
        "descendants_gone": True,
        "newest_durable": checkpoints.get("newest_durable"),
        "checkpoints": {name: checkpoints.get(name, 0) for name in ("seen", "durable", "invalid")},
    }
