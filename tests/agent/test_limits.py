"""Limits that the agent holds by itself, whatever the controller does."""

from __future__ import annotations

import time

import pytest

from .real_host import Host, until

# Saves when asked to end, as a training should.
SAVES = """
import os, signal, sys, time
def save(*_):
    with open('checkpoints/.step-7.npy.tmp', 'wb') as file:
        file.write(b'x' * 1000)
    os.rename('checkpoints/.step-7.npy.tmp', 'checkpoints/step-7.bin')
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print('up', flush=True)
while True: time.sleep(0.05)
"""
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
while True: time.sleep(0.05)
"""


@pytest.mark.parametrize("wall_error", [0.0, 5e6])
def test_the_cap_holds_with_a_wrong_clock(host: Host, wall_error: float) -> None:
    """The last save is done inside the cap, by whichever clock says that it is nearer."""
    began = time.monotonic()
    money = {"until": time.time() + 6.0 + wall_error, "seconds": 6.0}
    run = host.script(SAVES, checkpoint={"grace": 3.0}, limits={"money": money})
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"]) == ("cap", 0)
    assert time.monotonic() - began < 6.3
    assert ended["newest_durable"]["step"] == 7
    assert ended["newest_durable"]["status"] == "durable"


def test_a_cap_that_is_over_starts_nothing(host: Host) -> None:
    """A grant that the wall clock says is over ends the attempt before its training starts."""
    ended = host.script(SAVES, limits={"money": {"until": time.time() - 10, "seconds": 3600.0}}).exit()
    assert (ended["reason"], ended["training_started"]) == ("cap", False)


def test_the_cap_holds_against_a_stubborn_training(host: Host) -> None:
    """A training that ignores the request to end is dead, and the record written, before the cap."""
    began = time.monotonic()
    run = host.script(
        STUBBORN, checkpoint={"grace": 1.0}, limits={"money": {"until": time.time() + 2.5, "seconds": 2.5}}
    )
    ended = run.exit()
    assert (ended["reason"], ended["killed"], ended["signal"]) == ("cap", True, 9)
    assert time.monotonic() - began < 2.8
    run.gone()


def test_a_grant_can_be_extended(host: Host) -> None:
    """The controller may extend the grant of a running attempt; an older or lower order doesn't count."""
    chatty = SAVES.replace("time.sleep(0.05)", "time.sleep(0.05); print('x', flush=True)")
    run = host.script(chatty, checkpoint={"grace": 0.5}, limits={"money": {"until": time.time() + 3, "seconds": 3.0}})
    run.printed("up")
    run.order(serial=5, money={"until": time.time() + 600, "seconds": 600.0})
    run.wait_state(lambda state: state["serial"] == 5)
    run.order(serial=4, end="stop")
    until(lambda: run.state["active"] > 4)
    run.order(serial=9, epoch=0, end="stop")
    until(lambda: run.state["active"] > 5)
    assert run.state["phase"] == "training"
    run.order(serial=6, end="cancel")
    assert run.exit()["reason"] == "cancel"


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '{"serial": "x"}', '{"serial": 99, "epoch": 1}', "\x00" * 100, "[" * 100_000,
        '{"serial": 99, "epoch": 1, "limits": {"money": {"until": NaN, "seconds": -1}}, "end": null}',
    ],
    ids=range(8),
)  # fmt: skip
def test_hostile_orders(host: Host, content: str) -> None:
    """Orders that can't be read leave those before in force, and are said so once."""
    run = host.script(SAVES, limits={"duration": {"seconds": 2.5}})
    run.printed("up")
    (run.path / "orders.json").write_text(content)
    ended = run.exit()
    assert ended["reason"] == "duration"
    assert run.events().count("orders_refused") == 1


def test_duration(host: Host) -> None:
    """The duration's limit drains the attempt; an exit 0 after that belongs to the limit."""
    ended = host.script(SAVES, limits={"duration": {"seconds": 0.5}}).exit()
    assert (ended["reason"], ended["exit_code"]) == ("duration", 0)
    assert ended["newest_durable"]["name"] == "step-7.bin"


@pytest.mark.parametrize("end", ["stop", "cancel", "replace"])
def test_orders_to_end(host: Host, end: str) -> None:
    """An order to end drains: the request file is written, the script saves, the copy is durable, and the reason
    is the order's.
    """
    run = host.script(SAVES)
    run.printed("up")
    run.order(end=end)
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"], ended["killed"]) == (end, 0, False)
    assert len(run.durable()) == 1
    request = run.read("checkpoint-request")
    assert request is not None
    assert request["reason"] == end
    assert request["deadline"] > request["at"]


def test_a_checkpoint_signal(host: Host) -> None:
    """A script that opted in is asked by its signal, and told to end as soon as its checkpoint is complete."""
    run = host.script(
        "import os, signal, time\n"
        "def save(*_):\n"
        " open('checkpoints/.x', 'wb').write(b'asked'); os.rename('checkpoints/.x', 'checkpoints/epoch-3.bin')\n"
        "signal.signal(signal.SIGUSR1, save)\nprint('up', flush=True)\nwhile True: time.sleep(0.05)",
        checkpoint={"signal": "SIGUSR1", "grace": 20.0},
    )
    run.printed("up")
    run.order(end="stop")
    ended = run.exit()
    assert (ended["reason"], ended["signal"]) == ("stop", 15)
    assert ended["newest_durable"]["epoch"] == 3
    assert ended["active"] < 8  # half of the grace would be 10 s


def test_leader_then_group_then_kill(host: Host) -> None:
    """The leader is told first, then the group, then everything is killed."""
    run = host.script(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('leader', flush=True))\n"
        "if os.fork() == 0:\n"
        " signal.signal(signal.SIGTERM, lambda *_: print('child', flush=True))\n"
        "print('up', flush=True)\nwhile True: time.sleep(0.05)",
        checkpoint={"grace": 3.0},
    )
    until(lambda: run.output().count(b"up") == 2)
    run.order(end="stop")
    ended = run.exit()
    assert (ended["killed"], ended["signal"]) == (True, 9)
    output = run.output()
    assert output.index(b"leader") < output.index(b"child")


@pytest.mark.parametrize("policy", ["stop", "fail"])
def test_deadline_ends(host: Host, policy: str) -> None:
    """A durable checkpoint that is overdue ends the attempt where the policy says so."""
    ended = host.script(SAVES, limits={"deadline": 0.5, "on_deadline": policy}).exit()
    assert ended["reason"] == "deadline"


def test_deadline_warns(host: Host) -> None:
    """`warn` says so, with backoff, and lets the training run."""
    run = host.script("import time; time.sleep(2.5)", limits={"deadline": 0.5, "on_deadline": "warn"})
    assert run.exit()["reason"] == "exited"
    assert run.events().count("checkpoint_overdue") == 3  # at 0.5, 1 and 2 s


@pytest.mark.parametrize("obeys", [True, False])
def test_deadline_asks(host: Host, obeys: bool) -> None:
    """`save` asks for a checkpoint; one that comes in time lets the training run, else it ends."""
    run = host.script(
        "import os, time\n"
        "while True:\n time.sleep(0.02)\n"
        f" if {obeys} and os.path.exists(os.environ['RUNCTL_CHECKPOINT_REQUEST']):\n"
        "  os.unlink(os.environ['RUNCTL_CHECKPOINT_REQUEST'])\n"
        "  open('checkpoints/.x', 'wb').write(b'x'); os.rename('checkpoints/.x', 'checkpoints/a.bin')\n",
        checkpoint={"grace": 4.0 if obeys else 1.0},
        limits={"deadline": 2.5, "on_deadline": "save"},
    )
    if obeys:
        run.wait_state(lambda state: state["checkpoints"]["durable"] >= 2)
        assert run.state["phase"] == "training"
        run.order(end="cancel")
        assert run.exit()["reason"] == "cancel"
    else:
        assert run.exit()["reason"] == "deadline"


def test_hang(host: Host) -> None:
    """A training without output, checkpoints, progress, CPU or GPU is hung."""
    ended = host.script(SLEEP, limits={"hang": 1.0}).exit()
    assert ended["reason"] == "hang"
    assert 0.9 < ended["active"] < 5


def test_output_is_no_hang_but_idle(host: Host) -> None:
    """Output says that a training isn't hung; without using CPU or GPU it is idle all the same."""
    chatty = "import time\nwhile True: print('waiting', flush=True); time.sleep(0.3)"
    run = host.script(chatty, limits={"hang": 1.2, "idle": 3.0})
    assert run.exit()["reason"] == "idle"


def test_saving_is_no_hang(host: Host) -> None:
    """A training that says nothing and uses no CPU to speak of, but saves, isn't hung."""
    saves = (
        "import os, time\nfor step in range(1000):\n"
        " open('checkpoints/.x', 'wb').write(b'x'); os.rename('checkpoints/.x', f'checkpoints/step-{step}.bin')\n"
        " time.sleep(0.5)"
    )
    run = host.script(saves, limits={"hang": 1.8, "duration": {"seconds": 4.0}})
    assert run.exit()["reason"] == "duration"


def test_work_is_not_idle(host: Host) -> None:
    """A training that computes is neither idle nor hung, however silent; in a child, too."""
    run = host.script(
        "import os, time\nif os.fork() == 0:\n while True: sum(range(10000))\nos.wait()",
        limits={"idle": 1.0, "hang": 1.0, "duration": {"seconds": 3.5}},
    )
    assert run.exit()["reason"] == "duration"


def test_a_higher_reason_takes_over(host: Host) -> None:
    """A drain under way takes a higher reason as its own, and is neither begun again nor made longer."""
    run = host.script(STUBBORN, checkpoint={"grace": 4.0})
    run.printed("up")
    run.order(serial=2, end="stop")
    run.wait_state(lambda state: state["phase"] == "draining")
    run.order(serial=3, end="cancel")
    ended = run.exit()
    assert ended["reason"] == "cancel"
    assert run.events().count("drain_started") == 1
    assert ended["active"] < 8


def test_a_script_that_never_saves_is_told(host: Host) -> None:
    """A script whose progress shows that an interval is over without a checkpoint is noticed."""
    run = host.script(
        "import time\nfor epoch in range(1, 5): print(f'epoch {epoch}/40', flush=True)"
        "; time.sleep(1.2)\ntime.sleep(600)"
    )
    until(lambda: "checkpoint_policy_ignored" in run.events(), patience=30)
