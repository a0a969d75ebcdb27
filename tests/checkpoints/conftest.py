"""A far side for each test: a directory of its own, or a bucket of its own on one server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from runctl.agent import bundle

from .far_side import Bucket, Directory, Far, environment, served


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with served() as url:
        yield url


@pytest.fixture
def s3_environment(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = environment(s3_url)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def bucket(s3_environment: dict[str, str]) -> Iterator[Bucket]:
    import botocore.session

    name = f"b-{uuid4().hex}"
    client = botocore.session.get_session().create_client("s3")
    client.create_bucket(Bucket=name)
    yield Bucket(name)
    client.close()


@pytest.fixture(scope="session")
def agent_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.install(tmp_path_factory.mktemp("agents"))


@pytest.fixture(params=["file", "s3"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Far:
    if request.param == "file":
        return Directory(tmp_path / "far")
    found: Bucket = request.getfixturevalue("bucket")
    return found
