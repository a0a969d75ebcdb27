"""What a job goes by that its group holds back: the other members' machines, turns and money."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from runctl.planner.money import committed, spent
from runctl.planner.observed import GroupSeen
from runctl.planner.record import Phase, Record
from runctl.reconciler.resting import rests
from runctl.store.interface import Store, Versioned


class Groups:
    """The groups of a store's jobs, each as its members see it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._standings: dict[str, frozenset[object]] = {}

    def seen_by(self, record: Record, now: datetime) -> GroupSeen:
        """The others of its group, as the store has them now. Raises StoreUnavailable."""
        if record.group is None:
            return GroupSeen()
        head = self._store.group(record.group)
        others = [v.record for v in self._store.jobs() if v.record.group == record.group and v.record.uid != record.uid]
        waiting = [other for other in others if _is_waiting(other)]
        return GroupSeen(
            version=head.version,
            committed=head.spent + sum(committed(other, now) for other in others),
            spent=head.spent + sum(spent(other, now) for other in others),
            live=tuple(other.name for other in others if other.live is not None),
            ahead=tuple(other.name for other in waiting if other.order < record.order),
        )

    def changed(self, jobs: Iterable[Versioned]) -> set[str]:
        """The groups in which a member came, went, or has another standing than when this was asked last.

        `jobs` are all of the store. What a live member spends as time goes by was held for it, and changes nothing.
        """
        standings: dict[str, set[object]] = {}
        for versioned in jobs:
            if versioned.record.group is not None:
                standings.setdefault(versioned.record.group, set()).add(_standing(versioned.record))
        before, self._standings = self._standings, {group: frozenset(all_) for group, all_ in standings.items()}
        return {group for group, standing in self._standings.items() if standing != before.get(group)}


def _is_waiting(record: Record) -> bool:
    # One that nobody has planned yet has no conditions; it may turn out to be next in the queue.
    return record.live is None and not rests(record) and (record.phase is Phase.QUEUED or not record.conditions)


def _standing(record: Record) -> object:
    """What the others of a group go by."""
    live = record.live
    held = (0 if live is None else live.reserved, tuple(each.reserved for each in record.unreleased))
    return record.uid, live is not None, _is_waiting(record), held, len(record.attempts), len(record.ledger)
