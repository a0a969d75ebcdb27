"""Durable checkpoints in S3, by the commands. The service is moto's, on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from checkpoints.far_side import environment, served

from .machine import Machine
from .test_ssh import Host, far

BUCKET = "checkpoints"
UPLOAD = f"s3://{BUCKET}/team/"


class Service:
    def __init__(self, url: str) -> None:
        self.environ = environment(url)
        self._client = botocore.session.get_session().create_client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )

    def create(self) -> None:
        self._client.create_bucket(Bucket=BUCKET)

    def stored(self) -> set[str]:
        """Of what belongs to jobs."""
        listed = self._client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {each["Key"] for each in listed if not each["Key"].split("/")[-1].startswith(".runctl-probe")}

    def manifests(self) -> list[dict[str, Any]]:
        keys = sorted(key for key in self.stored() if key.endswith("manifest.json"))
        return [json.loads(self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()) for key in keys]

    def spoil(self) -> None:
        """The newest file isn't what was stored."""
        key = max(key for key in self.stored() if not key.endswith("manifest.json"))
        self._client.put_object(Bucket=BUCKET, Key=key, Body=b"what nobody saved")


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    with served() as url:
        made = Service(url)
        made.create()
        machine.environ.update(made.environ)
        yield made
        machine.end()


def in_s3(**fields: Any) -> dict[str, Any]:
    return {"checkpoint": {"every": "1 steps", "grace": "20s", "upload": UPLOAD, **fields}}


def test_what_is_durable_is_in_the_bucket_and_gone_on_from(machine: Machine, service: Service) -> None:
    """Also when nothing of it is on this machine any more; `verify` reads it there, and `delete` leaves nothing."""
    manifest = machine.training(4000, 0.1, **in_s3()).name
    machine.run("apply", manifest, "--no-wait")
    machine.until(service.manifests, "a durable checkpoint", 60)
    assert machine.run("stop", "job").code == 0
    drained = machine.told("drained")[-1]["step"]
    newest = machine.status()["checkpoints"]["newest"]
    assert (newest["step"], newest["path"].startswith(UPLOAD)) == (drained, True)
    assert max(each["step"] for each in service.manifests()) == drained
    assert not (machine.home / "checkpoints").exists()
    machine.training(drained + 3, 0.1, **in_s3())
    assert machine.run("apply", manifest, "--wait", "--replace").code == 0
    assert [each["step"] for each in machine.told("start")] == [0, drained]
    done = machine.run("checkpoints", "verify", "job")
    assert (done.code, done.out.count("ok ")) == (0, 3)
    service.spoil()
    done = machine.run("checkpoints", "verify", "job")
    assert (done.code, done.out.count("damaged ")) == (1, 1)
    done = machine.run("delete", "job", "--yes")
    assert f"are kept in {UPLOAD}" in done.err
    assert service.stored()


def test_delete_empties_the_bucket_of_its_checkpoints_alone(machine: Machine, service: Service) -> None:
    for name in ("job", "other"):
        machine.run("apply", machine.training(3, 0.1, name=name, **in_s3()).name, "--wait")
    uid = machine.status()["uid"]
    assert machine.run("delete", "job", "--yes", "--checkpoints").code == 0
    assert service.stored()
    assert not any(uid in key for key in service.stored())


def test_the_training_sees_no_credentials_and_nothing_keeps_them(machine: Machine, service: Service) -> None:
    """They are the agent's: neither the script's, nor in any file of the home."""
    machine.write("train.py", "import json, os\nprint(json.dumps(dict(os.environ)))\n")
    fields = {"name": "job", "script": "train.py", "setup": "none", **in_s3()}
    machine.write("job.yaml", json.dumps(fields))
    assert machine.run("apply", "job.yaml", "--wait").code == 0
    seen = json.loads(machine.run("logs", "job").out)
    assert [name for name in sorted(seen) if name.startswith("AWS_")] == []
    secret = service.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for path in machine.home.rglob("*"):
        assert not (path.is_file() and secret in path.read_bytes()), path


def test_a_bucket_that_is_not_there_fails_the_start_and_says_so(machine: Machine, service: Service) -> None:
    fields = in_s3(upload="s3://nobodys-bucket/")
    done = machine.run("apply", machine.training(3, 0.1, **fields).name, "--wait")
    assert done.code == 1, done
    assert "there is no such bucket" in done.err
    assert machine.told("start") == []


def test_on_a_host_over_ssh(machine: Machine, service: Service) -> None:
    """With a client that came with the agent and the host's own credentials; gone on from on this machine."""
    host = Host(machine)
    try:
        manifest = far(machine, steps=4000, **in_s3())
        machine.run("apply", manifest, "--no-wait")
        machine.until(service.manifests, "a durable checkpoint", 60)
        assert machine.run("stop", "job").code == 0
        assert list((host.home / "clients").glob("*/botocore"))
        drained = machine.told("drained")[-1]["step"]
        assert machine.run("checkpoints", "verify", "job").code == 0
        machine.training(drained + 2, 0.1, **in_s3())
        done = machine.run("apply", manifest, "--wait", "--replace")
        assert done.code == 0, done
        assert [each["step"] for each in machine.told("start")] == [0, drained]
        assert machine.run("delete", "job", "--yes", "--checkpoints").code == 0
        assert service.stored() == set()
    finally:
        machine.end()
        host.end()
