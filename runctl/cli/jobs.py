"""Finding jobs in this home's store, by the names that users give."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runctl.cli.errors import Failure
from runctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from runctl.home import Home
    from runctl.store.interface import Store, Versioned


def home() -> Home:
    from runctl.home import find_home

    return find_home(os.environ)


@contextmanager
def opened() -> Iterator[tuple[Home, Store]]:
    """This home and its store, made if it isn't there."""
    from runctl.reconciler.background import open_store

    here = home()
    store = open_store(here)
    try:
        yield here, store
    finally:
        store.close()


@contextmanager
def opened_to_read() -> Iterator[tuple[Home, Store | None]]:
    """As `opened`, but looking leaves no trace: the store is None where there is none."""
    here = home()
    try:
        here.database.stat()
    except FileNotFoundError:
        yield here, None
        return
    except OSError:
        pass  # what is wrong with it is said by whoever opens it
    with opened() as (_, store):
        yield here, store


def find(store: Store | None, name: str) -> Versioned:
    """The current run of that name, or the run of that uid. Raises a `Failure` that says which name was probably
    meant."""
    from runctl.store.interface import NotFound

    if store is not None:
        for get in (store.current, store.get):
            try:
                return get(name)
            except NotFound:
                continue
    raise Failure(ExitCode.INVALID, f"no job `{name}`", hint=_advice(store, name))


def find_all(store: Store | None, names: list[str]) -> list[Versioned]:
    """Each name once, in the order given; all unknown ones are known before anything is done."""
    return [find(store, name) for name in dict.fromkeys(names)]


def settled(store: Store, uid: str) -> tuple[Versioned, bool]:
    """The job, and whether nothing more will happen to it until somebody asks. Raises `NotFound`.

    The requests are read first: one that is answered in between shows in the record.
    """
    from runctl.reconciler.resting import rests

    asked = store.requests(uid)
    found = store.get(uid)
    return found, not asked and rests(found.record)


def known_names() -> list[str]:
    with opened_to_read() as (_, store):
        return [] if store is None else sorted(each.record.name for each in store.jobs())


def _advice(store: Store | None, name: str) -> str:
    from difflib import get_close_matches

    names = [] if store is None else [each.record.name for each in store.jobs()]
    near = get_close_matches(name, names, n=1)
    if near:
        return f"did you mean `{near[0]}`? `runctl status` lists the jobs"
    if names:
        return "`runctl status` lists the jobs"
    return f"there are no jobs in `{home().root}`; `runctl apply job.yaml` makes one, RUNCTL_HOME names another home"
