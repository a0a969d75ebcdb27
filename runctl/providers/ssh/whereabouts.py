"""On which host an attempt was started, and in which home there: a name may lead to another machine later, or a user to
another home, and what isn't found in them is no evidence that nothing runs.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from runctl.agent.files import write_json
from runctl.agent.hostside import read_json
from runctl.checkpoints.lasting import make_directories
from runctl.home import Home
from runctl.planner.record import Record
from runctl.providers.hosts.link import Up

NAME = "host.json"


class Whereabouts(msgspec.Struct, frozen=True):
    """`machine_id`: "" where a host has none; `node` is the name that it has for itself: machines behind one name may
    share all but that. `key` is the fingerprint of one by which it proves who it is, of which it may have several.
    """

    machine_id: str
    node: str
    key: str
    home: str

    @classmethod
    def of(cls, up: Up) -> Whereabouts:
        machine_id, node = (str(up.hello.get(name) or "") for name in ("machine_id", "node"))
        return cls(machine_id, node, up.channel.identity, up.installed.home)

    def other_than(self, found: Whereabouts, name: str) -> str:
        """Why the machine that is there now isn't the one that was meant; "" if it is."""
        signs = [("machine id", self.machine_id, found.machine_id), ("name", self.node, found.node)]
        if not self.machine_id:
            signs.append(("key", self.key, found.key))
        for what, was, is_ in signs:
            if was != is_:
                return (
                    f"another machine answers as {name} than the one on which this was started "
                    f"({what} {is_ or 'none'}, it was {was or 'none'})"
                )
        return ""


def written(run_dir: Path) -> Whereabouts | None:
    """Those of the attempt whose directory here this is; None before its launch."""
    match read_json(str(run_dir / NAME)):
        case {"machine_id": str(machine_id), "node": str(node), "key": str(key), "home": str(home)}:
            return Whereabouts(machine_id, node, key, home)
    return None


def places(home: Home, record: Record) -> list[str]:
    """Where on other hosts attempts of this job have their directories, as `host:path`."""
    found = []
    for each in record.attempts:
        where = written(home.run_dir(record.uid, each.number))
        if where is not None:
            host = record.generation_of(each).job.instance.host
            found.append(f"{host}:{Home(Path(where.home)).job_dir(record.uid)}")
    return list(dict.fromkeys(found))


def write(run_dir: Path, where: Whereabouts) -> None:
    """Raises OSError."""
    make_directories(str(run_dir), levels=4)
    write_json(str(run_dir / NAME), msgspec.to_builtins(where))
