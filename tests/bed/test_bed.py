"""The bed itself: that its hosts are hosts, that what happens to one happens to it alone, and that nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from . import cgroups, network
from .commands import run
from .host import Host, Trait
from .places import regions
from .region import Owner, Region, open_region
from .slow import slow_link

PATIENCE = 20.0
ROOT = Path(__file__).parents[2]


class Said:
    """How a command on a host ended."""

    def __init__(self, code: int | None, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out.strip(), err.strip()


async def connect(region: Region, host: Host, **options: Any) -> asyncssh.SSHClientConnection:
    options = {"keepalive_interval": 0.3, "keepalive_count_max": 3, "connect_timeout": 5, **options}
    return await asyncssh.connect(host.name, config=[str(region.config)], **options)


async def ask(region: Region, host: Host, line: str, **options: Any) -> Said:
    async with await connect(region, host, **options) as connection:
        done = await connection.run(line)
    return Said(done.returncode, str(done.stdout), str(done.stderr))


def on(region: Region, host: Host, line: str, **options: Any) -> Said:
    return asyncio.run(ask(region, host, line, **options))


def until(true: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} didn't happen within {PATIENCE} s")


def beats(host: Host) -> str:
    """What a host that beats wrote last, whether it can be reached or not."""
    try:
        return (host.home / "beat").read_text()
    except FileNotFoundError:
        return ""


BEAT = "setsid sh -c 'while :; do date +%s.%N >~/beat; sleep 0.05; done' >/dev/null 2>&1 </dev/null &"


@pytest.mark.needs(Trait.OWN_ROOT)
def test_a_host_is_a_host(region: Region) -> None:
    """With an address, a name, a process tree and a disk of its own, and a Python; and with nobody's files."""
    here = Path.home() / "a-secret-of-this-machine"
    (host,) = region.add()
    said = on(region, host, "hostname; whoami; ps -A -o pid=,comm= | head -1; cat /etc/machine-id")
    name, user, first, machine = said.out.splitlines()
    assert (name, user, first.split()) == ("box1", "root", ["1", "bash"])
    assert machine != Path("/etc/machine-id").read_text().strip()
    assert on(region, host, "python3 -c 'import ssl, sqlite3, sys; print(sys.version_info >= (3, 9))'").out == "True"
    assert on(region, host, "whoami; pwd", username="trainer").out.split() == ["trainer", "/home/trainer"]

    places = " ".join({"/root", "/tmp", "/home", "/var/tmp", "/opt", "/mnt", str(here.parent), str(ROOT)})
    assert on(region, host, f"find {places} -type f 2>/dev/null").out == ""
    assert on(region, host, f"mkdir -p {here.parent} && touch {here} /usr/bin/{here.name} /tmp/{here.name}").code == 0
    assert not [each for each in (here, Path("/usr/bin") / here.name, Path("/tmp") / here.name) if each.exists()]
    assert on(region, host, "ls /dev/vda /dev/sda /dev/loop0 2>/dev/null").out == ""
    assert on(region, host, "mknod /root/disk b 254 0").code != 0
    assert on(region, host, "stat -c %F /proc/sysrq-trigger").out in ("character special file", "")


@pytest.mark.needs(Trait.REBOOT)
def test_power_cut_and_reboot_keep_the_disk(region: Region) -> None:
    """Nothing survives that ran, not even in a session of its own; the boot is another one, the machine is not."""
    (host,) = region.add()
    identity = "cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id"
    first_boot, machine = on(
        region, host, f"echo kept >/root/kept; touch /tmp/lost; sync; {BEAT} {identity}"
    ).out.split()
    old = host.pids()
    host.power_cut()
    assert not host.answers()
    assert not [pid for pid in old if Path(f"/proc/{pid}").exists()]

    host.boot()
    second_boot, same_machine = on(region, host, identity).out.split()
    assert (second_boot != first_boot, same_machine) == (True, machine)
    assert on(region, host, "cat /root/kept; ls /tmp").out == "kept"

    asked = "trap 'echo told >/root/told; exit' TERM; while :; do date +%s.%N >~/beat; sleep 0.05; done"
    on(region, host, f'setsid sh -c "{asked}" >/dev/null 2>&1 </dev/null &')
    first = beats(host)
    until(lambda: beats(host) not in ("", first), "a beat")
    host.reboot()
    assert on(region, host, "cat /proc/sys/kernel/random/boot_id /root/kept /root/told").out.split()[1:] == [
        "kept",
        "told",
    ]
    uptime = float(on(region, host, "cat /proc/uptime").out.split()[0])
    assert uptime < PATIENCE


def test_a_boot_takes_its_time(region: Region) -> None:
    (host,) = region.add()
    host.power_cut()
    host.boot_seconds = 1.0
    began = time.monotonic()
    host.start()
    assert not host.answers()
    host.wait()
    assert time.monotonic() - began >= 1.0


@pytest.mark.needs(Trait.PARTITION)
def test_a_partition_is_silent_and_heals(region: Region) -> None:
    """Who is cut off works on; a connection survives a short cut, and one that asks for a sign of life ends."""
    cut_off, other = region.add(2)

    on(region, cut_off, BEAT)
    until(lambda: beats(cut_off), "a beat")

    async def while_cut_off(impatient: asyncssh.SSHClientConnection) -> None:
        before = beats(cut_off)
        await impatient.wait_closed()
        with pytest.raises((OSError, asyncssh.Error, asyncio.TimeoutError)):
            await connect(region, cut_off, connect_timeout=1)
        assert beats(cut_off) not in ("", before)
        assert (await ask(region, other, "hostname")).out == "box2"

    async def body() -> None:
        impatient = await connect(region, cut_off)
        async with await connect(region, cut_off, keepalive_interval=0) as patient:
            cut_off.partition()
            asked = asyncio.create_task(patient.run("hostname"))
            try:
                await while_cut_off(impatient)
                assert not asked.done()
            finally:
                cut_off.heal()
            assert (await asyncio.wait_for(asked, PATIENCE)).stdout == "box1\n"

    asyncio.run(body())


def test_a_frozen_host_does_nothing_until_it_thaws(region: Region) -> None:
    """The kernel takes connections for it. It can be switched off as it is."""
    (host,) = region.add()
    on(region, host, BEAT)
    until(lambda: beats(host), "a beat")
    host.freeze()
    before = beats(host)
    assert not host.answers(within=0.5)
    assert beats(host) == before
    host.thaw()
    until(lambda: beats(host) not in ("", before), "a beat")
    host.freeze()
    host.power_cut()
    assert host.pids() == []
    host.boot()
    assert on(region, host, "true").code == 0


@pytest.mark.needs(Trait.FULL_DISK)
def test_a_full_disk_is_full(region: Region) -> None:
    full, other = region.add(2, disk_bytes=64 << 20)
    full.fill_disk()
    said = on(region, full, "head -c 100000 /dev/zero >/root/more")
    assert (said.code, "No space left on device" in said.err) == (1, True), said.err
    assert on(region, other, "head -c 100000 /dev/zero >/root/more").code == 0
    full.empty_disk()
    assert on(region, full, "head -c 100000 /dev/zero >/root/more").code == 0


@pytest.mark.needs(Trait.MEMORY)
def test_memory_that_runs_out_ends_who_took_it(region: Region) -> None:
    """On that host alone, which works on."""
    poor, other = region.add(2, memory_bytes=96 << 20)
    on(region, poor, BEAT)
    said = on(region, poor, "python3 -c 'taken = bytearray(200 << 20)'; echo $?")
    assert said.out.endswith("137"), (said.out, said.err)
    before = beats(poor)
    until(lambda: beats(poor) not in ("", before), "a beat")
    assert on(region, other, "hostname").out == "box2"


@pytest.mark.needs(Trait.CLOCK)
def test_a_clock_is_wrong_and_is_set(region: Region) -> None:
    """For what reads the time and for the times of files, also in what runs already; not for what counts seconds."""
    host, other = region.add(2)
    host.set_clock(timedelta(minutes=10))
    code = (
        "import os, time; open('/root/new', 'w'); print(time.time(), os.stat('/root/new').st_mtime, time.monotonic())"
    )
    wall, written, counted = map(float, on(region, host, f'python3 -c "{code}"').out.split())
    assert abs(wall - time.time() - 600) < PATIENCE
    assert abs(written - wall) < 1
    assert counted < PATIENCE
    assert abs(float(on(region, other, "date +%s").out) - time.time()) < PATIENCE

    on(region, host, BEAT.replace("date +%s.%N", 'printf "%(%s)T" -1').replace("sh -c", "bash -c"))
    until(lambda: beats(host) and float(beats(host)) > time.time() + 300, "a beat by the wrong clock")
    host.set_clock(timedelta(minutes=-10))
    until(lambda: beats(host) and float(beats(host)) < time.time() - 300, "a beat by the clock that was set")
    host.reboot()
    assert abs(float(on(region, host, "date +%s").out) - time.time() + 600) < PATIENCE
    assert on(region, host, "date -s 2020-01-01").code != 0


def test_a_slow_link_is_slow(region: Region) -> None:
    """Each answer takes both ways; the bytes of a second are bounded, and all of them come."""
    (host,) = region.add()

    async def body() -> tuple[float, float, int]:
        async with await connect(region, host, keepalive_interval=0) as connection:
            began = time.monotonic()
            await connection.run("true")
            answered = time.monotonic()
            got = await connection.run("head -c 200000 /dev/urandom | base64 -w0")
        return answered - began, time.monotonic() - answered, len(str(got.stdout))

    with slow_link((host.address, host.port), delay=0.1, rate=200_000) as link:
        region.route(host, link.address, link.port)
        asked, read, size = asyncio.run(body())
    assert asked >= 2 * 2 * 0.1  # a channel, then its command
    assert read >= size / 200_000
    assert size == 266_668


@pytest.mark.needs(Trait.IMDS)
def test_the_metadata_service_wants_a_token(region: Region) -> None:
    """Version 1, which takes any request for its owner's, isn't there."""
    (host,) = region.add()
    code = """
import json, sys, urllib.error, urllib.request

def ask(path, method="GET", **headers):
    headers = {"X-aws-ec2-metadata-" + name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request("http://169.254.169.254/latest/" + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""

first = ask("meta-data/instance-id")[0]
mute = ask("api/token", "PUT")[0]
_, token = ask("api/token", "PUT", token_ttl_seconds="60")
more = [ask("meta-data/" + path, token=token) for path in ("instance-id", "spot/instance-action", "", "spot/")]
print(json.dumps([first, mute, *more]))
"""
    line = f"python3 - <<'END'\n{code}\nEND"
    assert json.loads(on(region, host, line).out) == [
        401, 400, [200, "i-box1"], [404, ""], [200, "instance-id\nlocal-ipv4"], [404, ""],
    ]  # fmt: skip
    host.metadata["spot/instance-action"] = '{"action": "terminate"}'
    assert json.loads(on(region, host, line).out)[3:] == [
        [200, '{"action": "terminate"}'], [200, "instance-id\nlocal-ipv4\nspot/"], [200, "instance-action"],
    ]  # fmt: skip


@pytest.mark.needs(Trait.OWN_ROOT)
def test_ten_hosts_at_once_reach_each_other(region: Region) -> None:
    hosts = region.add(10)
    assert len({host.address for host in hosts}) == 10

    async def names() -> list[str]:
        said = await asyncio.gather(*(ask(region, host, "hostname", connect_timeout=PATIENCE) for host in hosts))
        return [each.out for each in said]

    assert asyncio.run(names()) == [f"box{number}" for number in range(1, 11)]
    line = f"exec 3<>/dev/tcp/{hosts[1].address}/22; head -c 4 <&3"
    assert on(region, hosts[0], line).out == "SSH-"


WITHOUT_RIGHTS = """
import json, subprocess, sys, time
from tests.bed.region import open_region

def on(host, line):
    argv = ["ssh", "-F", str(region.config), host.name, line]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20).stdout.strip()

def later(before):
    end = time.monotonic() + 20
    while (now := beat.read_text() if beat.exists() else "") in ("", before) and time.monotonic() < end:
        time.sleep(0.02)
    return now not in ("", before)

with open_region() as region:
    first, second = region.add(2)
    homes = [on(host, "pwd; cd; pwd").split()[-1] for host in (first, second)]
    on(first, sys.argv[1])
    beat = first.home / "beat"
    told = {"beats": later("")}
    first.freeze()
    frozen = beat.read_text()
    told["frozen"] = not first.answers(0.5) and beat.read_text() == frozen
    first.thaw()
    told["thawed"] = later(frozen)
    first.power_cut()
    told["off"] = first.pids() == [] and not first.answers()
    told["other"] = second.answers()
    first.boot()
    told["kept"] = on(first, "cat ~/kept")
    told["homes"] = len(set(homes))
    told["missing"] = [f"{trait}: {why}" for trait, why in region.missing.items()]
told["left"] = list(region.directory.parent.iterdir()) + first.pids() + second.pids()
print(json.dumps(told))
"""


@pytest.mark.needs(Trait.OWN_ROOT)
def test_hosts_without_namespaces(region: Region) -> None:
    """As who has no rights gets them: on a host of this region, by a user that isn't root."""
    (host,) = region.add(memory_bytes=1 << 30)
    if on(region, host, "python3 -c 'import sys; print(sys.version_info >= (3, 11))'").out != "True":
        pytest.skip("left out: hosts without namespaces, since this machine's own python3 is older than 3.11")
    bed = host.inside("/home/trainer/tests/bed")
    bed.mkdir(parents=True)
    for file in Path(__file__).parent.glob("*.*"):
        shutil.copy(file, bed)
    host.inside("/home/trainer/without.py").write_text(WITHOUT_RIGHTS)
    line = f"PYTHONPATH=. python3 without.py {shlex.quote(f'echo kept >~/kept; {BEAT}')}"
    said = on(region, host, line, username="trainer")
    told = json.loads(said.out or said.err)
    assert len(told.pop("missing")) == len(Trait)
    done = dict.fromkeys(("beats", "frozen", "thawed", "off", "other"), True)
    assert told == {**done, "kept": "kept", "homes": 2, "left": []}


def left_of(owner: Owner) -> list[str]:
    """Whatever there is of a region on this machine."""
    found = [str(each) for each in cgroups.left(owner.region)] + network.left(owner.prefix)
    found += [line for line in run("losetup", "-a").splitlines() if owner.region in line]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if owner.region in line]
    found += [str(each) for each in regions().iterdir() if each.name == owner.region]
    return found


@pytest.mark.needs(Trait.OWN_ROOT)
@pytest.mark.usefixtures("region")
def test_nothing_is_left_of_a_region() -> None:
    """Also of one whose hosts are in trouble."""
    with open_region() as troubled:
        hosts = troubled.add(3)
        hosts[0].freeze()
        if Trait.PARTITION not in troubled.missing:
            hosts[1].partition()
        hosts[2].power_cut()
        owner = troubled.owner
        assert left_of(owner)
    assert left_of(owner) == []


KILLED = """
import os, sys
from tests.bed.region import open_region
with open_region() as region:
    region.add(2)[1].freeze()
    print(region.owner.pid, region.owner.start, region.owner.number, flush=True)
    sys.stdin.read()
"""


@pytest.mark.needs(Trait.OWN_ROOT)
def test_what_a_killed_process_left_is_taken_away(region: Region) -> None:
    """Its hosts lose their power with it; the next region takes away what is left, and no living one's."""
    (host,) = region.add()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        pid, start, number = process.stdout.readline().split()
        owner = Owner(int(pid), start, int(number))
        os.kill(process.pid, signal.SIGKILL)
    thawed = cgroups.cgroup(owner.region, "box1")
    until(lambda: thawed.pids() == [], "the end of the host that isn't frozen")
    assert left_of(owner)
    with open_region():
        assert left_of(owner) == []
    assert host.answers()


@pytest.mark.usefixtures("region")
def test_the_command_boots_and_ends_with_its_input() -> None:
    """It says how each host is reached."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bed", "--hosts", "2"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert [line.split("#")[0].split()[-1] for line in lines] == ["box1", "box2"]
    config = Path(lines[0].split()[2])
    done = subprocess.run(["ssh", "-F", config, "box2", "echo it is"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "it is", done.stderr
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert not config.parent.exists()
