"""From the caller's process to the guardian: detached for good, nothing of the caller kept but its environment.

Each start pays for what is imported here: no more than leads to the program that is asked for.
"""

from __future__ import annotations

import gc
import os
import sys

from runctl.agent.prctl import PR_SET_CHILD_SUBREAPER, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Sequence

USAGE = (
    "usage: python -I -S -E launch.py [--salvage] <run dir> | --serve | --receive <store> <name> | "
    "--unpack <root> <name>\n"
)
MAX_DESCRIPTORS = 4096


def main(entry: str, arguments: List[str]) -> int:
    """Run one of the programs behind `launch.py`; returns its exit status."""
    if arguments == ["--serve"]:
        from runctl.agent import serve

        gc.enable()
        return serve.main()
    if len(arguments) == 3 and arguments[0] == "--receive":
        from runctl.snapshots import receiving

        gc.enable()
        return receiving.main(arguments[1], arguments[2])
    if len(arguments) == 3 and arguments[0] == "--unpack":
        from runctl.agent import unpack

        return unpack.receive(arguments[1:])
    if len(arguments) == 1:
        return launch(entry, arguments[0], "--guardian")
    if len(arguments) == 3 and arguments[0] == "--guardian":
        from runctl.agent.guardian import guard
        from runctl.agent.signals import reset_signals_for_python

        reset_signals_for_python()
        _begin_collecting()
        return guard(entry, arguments[1], umask=int(arguments[2], 8))
    if len(arguments) == 2 and arguments[0] == "--salvage":
        return launch(entry, arguments[1], "--salvage-detached")
    if len(arguments) == 3 and arguments[0] == "--salvage-detached":
        from runctl.agent.salvage import salvage_unwatched
        from runctl.agent.signals import reset_signals_for_python

        reset_signals_for_python()
        _begin_collecting()
        return salvage_unwatched(arguments[1])
    if len(arguments) == 7 and arguments[0] == "--agent":
        from runctl.agent.supervisor import supervise

        _begin_collecting()
        descriptors = [int(number) for number in arguments[3:]]
        return supervise(arguments[1], int(arguments[2], 8), *descriptors)
    sys.stderr.write(USAGE)
    return 2


def _begin_collecting() -> None:
    """Look for garbage from here on, and never in what was imported: forks would copy all of it."""
    gc.freeze()
    gc.enable()


def launch(entry: str, run_dir: str, program: str) -> int:
    """Start the guardian of a run directory, or another of these programs, in a session of its own; 0 once it is on its
    way, 2 if there is no such directory.
    """
    run_dir = os.path.abspath(run_dir)
    if not os.path.isfile(os.path.join(run_dir, "spec.json")):
        sys.stderr.write(f"error: there is no attempt to start in `{run_dir}`: it has no `spec.json`\n")
        return 2
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return 0 if status == 0 else 1
    try:
        os.setsid()
        if os.fork():  # the one that stays is no session leader, so no terminal that it opens becomes its own
            os._exit(0)
        umask = os.umask(0o077)
        os.chdir(run_dir)
        _take_descriptors(run_dir)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        run_program(entry, [program, run_dir, f"{umask:o}"])
    finally:
        os._exit(1)


def run_program(entry: str, arguments: Sequence[str]) -> None:
    """Become another program of this file, in this process."""
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-E", entry, *arguments])


def _take_descriptors(run_dir: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = os.open(os.path.join(run_dir, "agent.log"), flags, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, MAX_DESCRIPTORS)
    for name in _open_descriptors():
        if int(name) >= MAX_DESCRIPTORS:
            try:
                os.close(int(name))
            except OSError:
                pass


def _open_descriptors() -> List[str]:
    try:
        return os.listdir("/dev/fd")
    except OSError:
        return []
