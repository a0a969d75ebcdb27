"""What a host says of an attempt while things happen to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runctl.agent import hostside, leftovers, processes
from runctl.agent.files import ExitRecord


@pytest.mark.parametrize("lies", ["pipe", "directory", "link", "garbage"])
def test_what_lies_in_its_place_hides_no_end(tmp_path: Path, lies: str) -> None:
    """A training may write into its run directory: the record of the end is written all the same."""
    path = tmp_path / "exit.json"
    match lies:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("/nowhere")
        case _:
            path.write_text("garbage")
    record = ExitRecord(str(tmp_path))
    record.reserve()
    assert not record.exists()
    assert record.write({"reason": "exited", "exit_code": 3})
    assert hostside.look(str(tmp_path), "u-1").exit == {"reason": "exited", "exit_code": 3}


def test_one_who_says_who_he_is_in_the_midst_of_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guardian that writes its claim between two glances at the files is seen, not taken for one that is gone."""
    claim: dict[str, Any] = {"guardian": processes.identity(os.getpid()), "claimed_at": 1.0}
    programs = processes.programs

    def late(run_dir: str) -> dict[str, processes.Process]:
        found = programs(run_dir)
        (tmp_path / "claim.json").write_text(json.dumps(claim))
        return found

    monkeypatch.setattr(processes, "programs", late)
    facts = hostside.look(str(tmp_path), "u-1")
    assert facts.claim == claim
    assert facts.guardian == hostside.Watcher(os.getpid(), hostside.ABLE)


def test_a_host_tells_some_events_at_a_time(tmp_path: Path) -> None:
    """However many there are; none is left out."""
    lines = [json.dumps({"seq": number, "event": "x"}) for number in range(1, 2 * hostside.MOST_EVENTS + 2)]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    told, after = [], 0
    while events := hostside.look(str(tmp_path), "u-1", after).events:
        after = events[-1]["seq"]
        told += [event["seq"] for event in events]
    assert told == list(range(1, len(lines) + 1))


def test_a_stamp_tells_deaths_and_changes(tmp_path: Path) -> None:
    """What a look would find new, without looking."""
    before = hostside.stamp(str(tmp_path), [os.getpid()])
    assert hostside.stamp(str(tmp_path), [os.getpid()]) == before
    assert hostside.stamp(str(tmp_path), [2**22 + 1]) != before
    (tmp_path / leftovers.SALVAGED).touch()
    assert hostside.stamp(str(tmp_path), [os.getpid()]) != before
