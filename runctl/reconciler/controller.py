"""A controller: holds the leases of some jobs and reconciles each of them until nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from traceback import format_exception
from typing import Any, assert_never

import anyio
import anyio.lowlevel
import msgspec

from runctl.manifest.job import Platform
from runctl.planner.actions import Action, AskToStop, EndMachine, Forget, Launch, Plan, Rent, SendOrders
from runctl.planner.intents import anticipate
from runctl.planner.money import HELPLESS_MARGIN, reserves_more
from runctl.planner.observed import GroupSeen, LaunchFailed, MachineSeen, Observed, RentAnswer
from runctl.planner.plan import plan
from runctl.planner.record import Attempt, Desired, Record
from runctl.planner.removing import WAITS
from runctl.planner.requests import Apply, Asked, StopJob
from runctl.providers.interface import Cloud, LaunchRefused, Provider, ProviderError
from runctl.reconciler.group_commit import GroupCommit
from runctl.reconciler.grouping import Groups
from runctl.reconciler.renting import SWEEP, Renting
from runctl.reconciler.resting import may_have_agent, rests
from runctl.reconciler.work_queue import WorkQueue
from runctl.store.interface import (
    Acquire,
    Ask,
    Conflict,
    ControllerId,
    LeaseHeld,
    NotFound,
    Put,
    Release,
    Remove,
    Store,
    StoreError,
    StoreUnavailable,
    Versioned,
)

WORKERS = 8

# How often the store and the run directories are glanced at: one PRAGMA, and three stat calls a live job.
GLANCE = timedelta(milliseconds=100)
GLANCE_IN_BACKGROUND = timedelta(seconds=1)

# A live attempt is looked at this often even if nothing seems to have changed.
HEARTBEAT = timedelta(seconds=15)

# Another controller's job is tried again after this: its holder may have died.
LEASE_RETRY = timedelta(seconds=1)

STORE_RETRY = timedelta(seconds=1)
DEFECT_RETRY = timedelta(seconds=10)
DEFECT = "a defect of runctl"


class Held(msgspec.Struct):
    """A job whose lease this controller holds."""

    epoch: int
    versioned: Versioned
    glance: object = None
    failed: LaunchFailed | None = None
    answer: RentAnswer | None = None
    not_forgotten: str | None = None


class Controller:
    """Reconciles jobs of `store`. `environ` is where secrets come from; `only`: the uids to care for, None for all.

    `trouble` is told what keeps the controller from its work (a full disk, say); it goes on trying. `companions` run as
    long as it does: what its providers need.
    """

    def __init__(
        self,
        store: Store,
        providers: Mapping[Platform, Provider],
        me: ControllerId,
        environ: Mapping[str, str],
        clock: Callable[[], datetime],
        *,
        only: Collection[str] | None = None,
        glance: timedelta = GLANCE,
        trouble: Callable[[str], None] = lambda message: None,
        clouds: Mapping[Platform, Cloud] | None = None,
        companions: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        self._store = store
        self._commit = GroupCommit(store)
        self._groups = Groups(store)
        self._providers = providers
        self._renting = Renting(clouds or {}, store, trouble)
        self._me = me
        self._environ = environ
        self._clock = clock
        self._only = None if only is None else set(only)
        self._glance = glance
        self._trouble = trouble
        self._companions = companions
        self._queue = WorkQueue()
        self._held: dict[str, Held] = {}
        self._yielded: dict[str, int] = {}
        self._busy_elsewhere: set[str] = set()
        # Jobs that may rest, and of which the sweep has found a machine that isn't in their books.
        self._astray: set[str] = set()
        self._token: int | None = None

    @property
    def done(self) -> bool:
        """Nothing is left to do: every job in its care rests or is finished, and no request is unanswered."""
        waits = self._held or self._busy_elsewhere or self._queue.next_due() is not None
        return self._queue.idle and not waits and self._token is not None

    async def run(self, *, linger: timedelta = timedelta(0)) -> None:
        """Reconcile until there has been nothing to do for `linger`. Cancelling it leaves every job as it is."""
        try:
            async with anyio.create_task_group() as tasks:
                for companion in self._companions:
                    tasks.start_soon(companion)
                for _ in range(WORKERS):
                    tasks.start_soon(self._work)
                for platform in self._renting.platforms:
                    tasks.start_soon(self._sweep, platform)
                await self._watch(linger)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._release_all()

    async def _watch(self, linger: timedelta) -> None:
        """Turn changes of the store, of run directories and of time into keys of the queue."""
        idle_since: datetime | None = None
        next_glance = anyio.current_time()
        while True:
            now = self._clock()
            # However often the queue wakes this loop, the world is glanced at in its own time.
            if anyio.current_time() >= next_glance:
                next_glance = anyio.current_time() + self._glance.total_seconds()
                self._glance_at_store()
                self._glance_at_runs()
            self._queue.due(now)
            if self.done:
                idle_since = idle_since or now
                if now - idle_since >= linger:
                    self._glance_at_store()
                    if self.done:
                        return
            else:
                idle_since = None
            pause = max(0.0, next_glance - anyio.current_time())
            due = self._queue.next_due()
            if due is not None:
                pause = min(pause, max(0.0, (due - now).total_seconds()))
            with anyio.move_on_after(pause):
                await self._queue.changed(now + timedelta(seconds=pause))

    def _glance_at_store(self) -> None:
        try:
            token = self._store.change_token()
            if token == self._token:
                return
            pending = self._store.pending()
            listed = self._store.jobs()
            for versioned in (*listed, *self._unlisted(pending, {each.record.uid for each in listed})):
                uid = versioned.record.uid
                if self._only is not None and uid not in self._only and uid not in self._held:
                    continue
                self._consider(versioned, uid in pending)
            self._wake_waiting(self._groups.changed(listed))
            self._token = token
        except StoreUnavailable as error:
            self._trouble(str(error))

    def _unlisted(self, pending: set[str], listed: set[str]) -> list[Versioned]:
        """Runs that a newer one of their name has superseded, and of which something is asked all the same, or which
        this controller holds. What it holds and another has removed is let go: that one took it for dead."""
        found = []
        for uid in (pending | self._held.keys()) - listed:
            try:
                found.append(self._store.get(uid))
            except NotFound:
                self._drop(uid)
        return found

    def _wake_waiting(self, groups: set[str]) -> None:
        """Plan anew whatever job waits for its turn, for the machine or for money in one of the groups."""
        for uid, held in self._held.items():
            record = held.versioned.record
            if record.group in groups and record.live is None:
                self._queue.add(uid)

    def _consider(self, versioned: Versioned, asked: bool) -> None:
        uid = versioned.record.uid
        held = self._held.get(uid)
        if held is not None and versioned.epoch != held.epoch:
            # Another took the job over: this process was taken for dead. What is held is history.
            self._held.pop(uid)
            self._queue.add(uid)
        elif held is not None:
            if asked:
                self._queue.add(uid)
        elif asked or not (rests(versioned.record) or self._yielded.get(uid) == versioned.version):
            self._queue.add(uid)

    def _glance_at_runs(self) -> None:
        for uid, held in self._held.items():
            live = held.versioned.record.live
            if live is None:
                continue
            glance = self._provider(held.versioned.record, live).glance(held.versioned.record, live)
            if glance != held.glance:
                held.glance = glance
                self._queue.add(uid)

    async def _sweep(self, platform: Platform) -> None:
        """List the rented machines of all jobs now and then, as long as a job here has to do with that cloud."""
        while True:
            held = {uid: each.versioned.record for uid, each in self._held.items()}
            if any(platform in record.platforms for record in held.values()):
                swept = await self._renting.sweep(platform, held)
                # What a job that rests has left, or somebody has made of it, is anybody's to end.
                news = {uid for uid in swept.news if self._only is None or uid in self._only} | swept.astray
                for uid in sorted(news):
                    self._astray |= {uid} - held.keys()
                    self._queue.add(uid)
            await anyio.sleep(SWEEP.total_seconds())

    async def _work(self) -> None:
        while True:
            uid = await self._queue.next()
            try:
                await self._reconcile(uid)
            except (StoreUnavailable, ProviderError) as error:
                self._trouble(str(error))
                self._queue.add_at(uid, self._clock() + STORE_RETRY)
            except Conflict:
                self._held.pop(uid, None)
                self._queue.add(uid)
            except NotFound:
                self._drop(uid)
            except Exception as error:
                # A defect that one job brings out must not keep the others from their controller.
                self._trouble(f"{DEFECT} while caring for job {uid}: {''.join(format_exception(error))}")
                self._queue.add_at(uid, self._clock() + DEFECT_RETRY)
            finally:
                self._queue.finish(uid)

    async def _reconcile(self, uid: str) -> None:
        """One pass over one job: observe, plan, persist, execute."""
        held = self._held.get(uid) or await self._take(uid)
        if held is None:
            return
        record, now = held.versioned.record, self._clock()
        observed = await self._observe(held, now)
        made = plan(record, observed, now)
        if observed.rent_from is None:
            self._renting.planned(record, made.actions)
        await self._persist(held, made, observed.group)
        for action in made.actions:
            await self._execute(held, action)
        if held.not_forgotten is not None:
            self._queue.add_at(uid, self._clock() + STORE_RETRY)
            if WAITS not in record.reminders:
                self._queue.add(uid)
            return
        if made.record is None:
            cost = sum(action.spent for action in made.actions if isinstance(action, Forget))
            await self._commit.apply(Remove(uid, held.versioned.version, held.epoch, record.group, cost))
            self._drop(uid)
            return
        if self._held.get(uid) is not held:
            self._queue.add(uid)  # let go in the midst of this pass, which is history
            return
        if made.wake_at is not None:
            self._queue.add_at(uid, made.wake_at)
        live = made.record.live
        if live is not None and may_have_agent(made.record, live):
            self._queue.add_at(uid, now + HEARTBEAT)
            money = live.orders.limits.money
            if money is not None:  # looks that end what its agent can't
                for at in (money.until - HELPLESS_MARGIN, money.until + timedelta(milliseconds=1)):
                    if at > now:
                        self._queue.add_at(uid, at)
        if made.record != record or held.failed is not None or held.answer is not None:
            self._queue.add(uid)
        elif rests(made.record) or made.yields:
            await self._let_go(uid, held)

    async def _take(self, uid: str) -> Held | None:
        """Take the job's lease; None if nothing is to be done, or another live controller has it (with a later try)."""
        if uid not in self._astray and rests(self._store.get(uid).record) and not self._store.requests(uid):
            self._drop(uid)
            return None
        holder = self._store.lease(uid)
        if holder is not None and holder != self._me:
            self._leave(uid)  # asked for again and again: a read costs no transaction
            return None
        try:
            epoch = await self._commit.apply(Acquire(uid, self._me, self._clock()))
        except LeaseHeld:
            self._leave(uid)
            return None
        self._busy_elsewhere.discard(uid)
        self._yielded.pop(uid, None)
        self._astray.discard(uid)
        held = Held(epoch, self._store.get(uid))
        self._held[uid] = held
        return held

    def _leave(self, uid: str) -> None:
        """Another live controller has the job."""
        self._busy_elsewhere.add(uid)
        self._queue.add_at(uid, self._clock() + LEASE_RETRY)
        if rests(self._store.get(uid).record) and uid not in self._store.pending():
            self._drop(uid)

    async def _let_go(self, uid: str, held: Held) -> None:
        if self._store.requests(uid):
            self._queue.add(uid)
            return
        await self._commit.apply(Release(uid, held.epoch))
        self._drop(uid)
        # Here it isn't taken again for what another controller may bring, before something of it has changed.
        self._yielded[uid] = held.versioned.version

    def _drop(self, uid: str) -> None:
        self._held.pop(uid, None)
        self._busy_elsewhere.discard(uid)
        self._yielded.pop(uid, None)
        self._astray.discard(uid)
        self._queue.forget(uid)

    async def _observe(self, held: Held, now: datetime) -> Observed:
        record = held.versioned.record
        live = record.live
        sight = await self._provider(record, live).look(record, live) if live is not None else None
        # Of a job that was applied again just now, the machine is looked at in this pass already.
        requests = self._store.requests(record.uid)
        machine = await self._machine(anticipate(record, requests, now))
        failed, held.failed = held.failed, None
        answer, held.answer = held.answer, None
        not_forgotten, held.not_forgotten = held.not_forgotten, None
        rent_from = self._renting.turn(record, now)
        return Observed(
            attempt=sight.attempt if sight else None,
            machine=machine,
            group=self._groups.seen_by(record, now),
            requests=requests,
            missing_secrets=tuple(sorted(_secrets(record, requests) - self._environ.keys())),
            launch_failed=failed,
            agent_events=sight.events if sight else (),
            listing=self._renting.listing(record),
            offers=await self._renting.offers(record) if rent_from is None else None,
            rent_from=rent_from,
            rent_answer=answer,
            not_forgotten=not_forgotten,
        )

    async def _machine(self, record: Record) -> MachineSeen | None:
        """Who trains where the job is to start, if it is to."""
        rests = record.outcome is not None or record.stopped is not None or record.desired is not Desired.RUN
        if record.live is not None or rests or record.rented:
            return None
        return await self._provider(record).machine(record)

    async def _persist(self, held: Held, made: Plan, seen: GroupSeen) -> None:
        record = held.versioned.record
        if made.record is None or (made.record == record and not made.events):
            return
        group = (record.group, seen.version) if record.group and reserves_more(record, made.record) else None
        put = Put(record.uid, held.versioned.version, held.epoch, made.record, made.events, group)
        version = await self._commit.apply(put)
        held.versioned = Versioned(made.record, version, held.epoch)

    async def _execute(self, held: Held, action: Action) -> None:
        record = held.versioned.record
        match action:
            case Launch(attempt=attempt) if self._clock() > attempt.launch_before:
                self._queue.add_at(record.uid, self._clock())
            case Launch(attempt=attempt):
                named = [secret.name for secret in action.generation.job.secrets]
                secrets = {name: self._environ[name] for name in named if name in self._environ}
                try:
                    await self._provider(record, attempt).launch(record, action, held.epoch, secrets)
                except ProviderError as error:
                    if isinstance(error, LaunchRefused) and not action.again:
                        held.failed = LaunchFailed(attempt=attempt.number, message=str(error))
                        return
                    # A refusal speaks for its own sending alone: an earlier one may still have its effect.
                    self._trouble(str(error))
                    self._queue.add_at(record.uid, self._clock() + STORE_RETRY)
            case Rent(rental=rental) if self._clock() > rental.launch_before:
                self._queue.add_at(record.uid, self._clock())
            case Rent():
                held.answer = await self._renting.rent(record, action)
            case EndMachine(instance=instance):
                await self._renting.end(record, instance)
            case SendOrders(attempt=number, orders=orders):
                try:
                    provider = self._provider(record, record.attempts[number - 1])
                    await provider.order(record, number, orders, held.epoch)
                except ProviderError as error:
                    # Who was cancelled in the midst of it says nothing: whoever goes on makes it good.
                    await anyio.lowlevel.checkpoint()
                    self._trouble(f"orders for `{record.name}` couldn't be written: {error}")
                    self._queue.add_at(record.uid, self._clock() + STORE_RETRY)
            case AskToStop(uid=other, why=why):
                try:
                    request = StopJob(at=self._clock(), why=why)
                    sake = (record.uid, held.versioned.version, held.epoch)
                    await self._commit.apply(Ask(other, request, sake))
                except NotFound:
                    pass
            case Forget(checkpoints=checkpoints, vouched=vouched):
                try:
                    # What is known of other hosts lies in this home, and is needed until they have forgotten.
                    for platform in sorted(record.platforms, key=lambda each: (each is Platform.LOCAL, each)):
                        await self._providers[platform].forget(record, checkpoints=checkpoints, vouched=vouched)
                except ProviderError as error:
                    self._trouble(f"what `{record.name}` left can't be removed: {error}")
                    held.not_forgotten = str(error)
            case _:  # pragma: no cover
                assert_never(action)

    def _provider(self, record: Record, attempt: Attempt | None = None) -> Provider:
        """Of the machine that `attempt` has, which an edit may have moved the job away from; None: of the next one."""
        job = record.job if attempt is None else record.generation_of(attempt).job
        return self._providers[job.instance.platform]

    async def _release_all(self) -> None:
        for uid, held in list(self._held.items()):
            try:
                await self._commit.apply(Release(uid, held.epoch))
            except StoreError as error:
                self._trouble(str(error))
        self._held.clear()


def _secrets(record: Record, requests: Iterable[Asked]) -> set[str]:
    """The names of those that any spec of the job wants, one included that was applied to it just now."""
    applied = [asked.request.job for asked in requests if isinstance(asked.request, Apply)]
    return {secret.name for job in (*(each.job for each in record.generations), *applied) for secret in job.secrets}
