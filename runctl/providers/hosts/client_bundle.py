"""The S3 client as files: this computer's botocore with what it imports, cut to S3 and to what finds credentials, as it
is delivered to hosts beside the agent, under the hash of its content.

Unpacked, not imported out of the archive: botocore reads its data, and the certificates it trusts, from files.
"""

from __future__ import annotations

import functools
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.specifiers import SpecifierSet

from runctl.agent.bundle import zipped
from runctl.agent.unpack import deliver, hash_of
from runctl.checkpoints.s3_client import REQUIRES_PYTHON

# The agent's.
LEAST_PYTHON = (3, 9)
_DISTRIBUTIONS = {
    "botocore": "botocore",
    "dateutil": "python-dateutil",
    "jmespath": "jmespath",
    "six": "six",
    "urllib3": "urllib3",
}
# Of some four hundred services: the storage, and roles, single sign-on and `aws login`, from which credentials come.
_SERVICES = frozenset({"s3", "signin", "sso", "sso-oidc", "sts"})
# Only for documentation; dateutil's own time zones are for hosts without any, and no time here has one but UTC.
_LEFT_OUT = frozenset({"examples-1.json", "dateutil-zoneinfo.tar.gz", "py.typed"})
_NEWEST_MINOR = 30


@functools.cache
def client_files() -> dict[str, bytes]:
    """Every file by its path in the client's directory, which goes on `sys.path`, and the least Python for them."""
    files = {REQUIRES_PYTHON: f"{_least_python()}\n".encode()}
    for name in _DISTRIBUTIONS:
        found = find_spec(name)
        assert found is not None and found.origin is not None
        origin = Path(found.origin)
        if origin.name != "__init__.py":
            files[origin.name] = origin.read_bytes()
            continue
        for path in sorted(origin.parent.rglob("*")):
            if path.is_file() and _belongs(path.relative_to(origin.parent)):
                files[f"{name}/{path.relative_to(origin.parent).as_posix()}"] = path.read_bytes()
    return files


def _belongs(path: Path) -> bool:
    if path.name in _LEFT_OUT or "__pycache__" in path.parts:
        return False
    service = path.parts[0] == "data" and len(path.parts) > 2
    return not service or path.parts[1] in _SERVICES


def _least_python() -> str:
    declared = SpecifierSet()
    for name in _DISTRIBUTIONS.values():
        declared &= SpecifierSet(distribution(name).metadata["Requires-Python"])
    versions = (f"{LEAST_PYTHON[0]}.{minor}" for minor in range(LEAST_PYTHON[1], _NEWEST_MINOR))
    # What a release of a minor version after its first may lack isn't asked.
    return next(version for version in versions if declared.contains(f"{version}.99"))


@functools.cache
def client_hash() -> str:
    """The name of these files."""
    return hash_of(client_files())


@functools.cache
def client_archive() -> bytes:
    """The files as a zip archive, for the way to a host."""
    return zipped(client_files())


def install_client(root: Path) -> Path:
    """Put the client below `root` and return its directory, `<root>/<hash>`."""
    target = root / client_hash()
    return target if target.is_dir() else Path(deliver(str(root), target.name, client_files()))
