"""What users ask of a job: values that any process may put into the store, and one controller answers."""

from __future__ import annotations

from datetime import datetime

import msgspec

from runctl.manifest.job import Job
from runctl.planner.record import Source


class _Request(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    at: datetime


class Apply(_Request, frozen=True, kw_only=True):
    """Make the job be as `job` says. `generation` is the one that the caller's plan was made against;
    `replace` allows fields that need a relaunch to change while an attempt is live."""

    job: Job
    source: Source
    generation: int
    replace: bool = False


class StopJob(_Request, frozen=True, kw_only=True):
    why: str


class CancelJob(_Request, frozen=True, kw_only=True):
    why: str


class DeleteJob(_Request, frozen=True, kw_only=True):
    """`vouched`: a host that can't be asked never comes back, and what the job left there isn't waited for."""

    checkpoints: bool
    vouched: bool = False


class AssumeDead(_Request, frozen=True, kw_only=True):
    """The user vouches that the live attempt's host will never come back."""

    attempt: int


Request = Apply | StopJob | CancelJob | DeleteJob | AssumeDead


class Asked(msgspec.Struct, frozen=True):
    """A request with its serial in the job's queue (from 1, without gaps)."""

    serial: int
    request: Request
