"""An attempt from its start to its exit record."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .real_host import Host, until

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def is_supported(python: str | Path) -> bool:
    check = "import sys; sys.exit(sys.version_info < (3, 9))"
    return subprocess.run([python, "-I", "-c", check], check=False, capture_output=True).returncode == 0


# Whichever other interpreters are at hand: pyenv's, and those on the PATH.
PYTHONS = [
    *Path.home().glob(".pyenv/versions/3.*/bin/python"),
    *map(shutil.which, ("python3.9", "python3.10", "python3.14")),
]
OTHER_PYTHONS = sorted({str(path) for path in PYTHONS if path and is_supported(path)})


@pytest.mark.parametrize("code", [0, 7, 255])
def test_exit_code(host: Host, code: int) -> None:
    """The exit code in the record is the one that the training gave."""
    ended = host.script(f"raise SystemExit({code})").exit()
    assert (ended["reason"], ended["exit_code"], ended["signal"]) == ("exited", code, None)
    assert ended["training_started"]
    assert ended["descendants_gone"]
    assert not ended["killed"]


def test_a_training_that_kills_itself(host: Host) -> None:
    """A signal is recorded as a signal, not as an exit code."""
    ended = host.script("import os; os.kill(os.getpid(), 11)").exit()
    assert (ended["reason"], ended["exit_code"], ended["signal"]) == ("exited", None, 11)


def test_a_training_that_is_killed_from_outside(host: Host) -> None:
    """A SIGKILL that the agent didn't send, as the kernel's when memory is short, is the training's own end."""
    run = host.script(SLEEP)
    os.kill(run.training()["training"]["pid"], signal.SIGKILL)
    ended = run.exit()
    assert (ended["reason"], ended["signal"], ended["killed"]) == ("exited", signal.SIGKILL, False)


def test_argv_byte_for_byte(host: Host) -> None:
    """Arguments reach the script unaltered, whatever is in them."""
    arguments = ["", " ", "it's fine", '"', "$HOME `id` $(id)", "a\nb", "*", "ünï", "--", "\\", "{}"]
    run = host.start(
        [sys.executable, "-c", "import sys; sys.stdout.buffer.write('\\0'.join(sys.argv[1:]).encode())", *arguments]
    )
    run.exit()
    assert run.output().decode().split("\0") == arguments


def test_environment_of_the_script(host: Host) -> None:
    """The script sees its spec's environment, its secrets and runctl's variables, and nothing of the caller's."""
    run = host.prepare(
        [sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"],
        env={"PATH": os.environ["PATH"], "MODEL": "x"},
        secrets=["TOKEN"],
        limits={"duration": {"seconds": 1000.0}},
    )
    host.launch(run, TOKEN="hush", OTHER="caller")
    run.exit()
    seen = json.loads(run.output())
    assert seen["MODEL"] == "x"
    assert seen["TOKEN"] == "hush"
    assert "OTHER" not in seen
    assert seen["PYTHONUNBUFFERED"] == "1"
    assert seen["RUNCTL_RUN_ID"] == run.spec["run_id"]
    assert seen["RUNCTL_CHECKPOINT_EVERY"] == "2 epochs"
    assert seen["RUNCTL_CHECKPOINT_DIR"] == run.spec["checkpoint"]["dir"]
    assert Path(seen["RUNCTL_CHECKPOINT_REQUEST"]).parent == run.path
    assert float(seen["RUNCTL_DEADLINE"]) > 0
    assert "RUNCTL_RESUME_FROM" not in seen
    written = b"".join(path.read_bytes() for path in run.path.iterdir() if path.is_file() and path.name != "output.log")
    assert b"hush" not in written


def test_a_secret_that_is_missing(host: Host) -> None:
    """A secret that isn't in the environment of the start fails the start by name."""
    ended = host.script(SLEEP, secrets=["NO_SUCH_TOKEN"]).exit()
    assert ended["reason"] == "start_failed"
    assert "`NO_SUCH_TOKEN`" in ended["detail"]


@pytest.mark.parametrize(
    ("program", "content", "mode", "says"),
    [
        ("no-such-program", None, 0, "no such program in PATH"),
        ("./missing", None, 0, "No such file"),
        ("./script", "#!/no/such/interpreter\n", 0o755, "interpreter that its first line names"),
        ("./script", "just text\n", 0o755, "neither a binary"),
        ("./script", "#!/bin/sh\n", 0o644, "Permission denied"),
    ],
)
def test_a_program_that_cannot_be_executed(host: Host, program: str, content: str | None, mode: int, says: str) -> None:
    """What can't be executed is a failed start with the cause, not an exit code."""
    run = host.prepare([program])
    if content is not None:
        path = Path(run.spec["cwd"]) / program
        path.write_text(content)
        path.chmod(mode)
    host.launch(run)
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"], ended["training_started"]) == ("start_failed", None, False)
    assert says in ended["detail"]


def test_a_directory_that_is_missing(host: Host) -> None:
    """A working directory that doesn't exist is named as the cause."""
    ended = host.script(SLEEP, cwd="/no/such/dir").exit()
    assert ended["reason"] == "start_failed"
    assert "enter `/no/such/dir`" in ended["detail"]


def test_a_spec_that_cannot_be_read(host: Host) -> None:
    """A damaged spec fails the start in words."""
    run = host.prepare(["true"])
    (run.path / "spec.json").write_text('{"version": 1, "run_id"')
    host.launch(run)
    ended = run.exit()
    assert ended["reason"] == "start_failed"
    assert "`spec.json` can't be read" in ended["detail"]


def test_starting_twice_is_starting_once(host: Host) -> None:
    """A second start of an attempt does nothing, while it lives and when it is over."""
    run = host.script("import time; print('up', flush=True); time.sleep(0.5)")
    assert host.launch(run) == 0
    run.exit()
    assert host.launch(run) == 0
    run.gone()
    assert run.output() == b"up\n"
    assert run.events().count("training_started") == 1


def test_nothing_of_the_caller_is_kept(host: Host) -> None:
    """The agent has no descriptor, terminal, session or process group of its caller."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    run = host.prepare([sys.executable, "-c", SLEEP])
    argv = [sys.executable, "-I", "-S", "-E", str(host.agent / "launch.py"), str(run.path)]
    environment = {**os.environ, "RUNCTL_HOST_LOCK_DIR": str(host.locks)}
    done = subprocess.run(
        argv,
        env=environment,
        close_fds=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=10,
    )
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"")
    state = run.training()
    assert os.read(reader, 1) == b""  # nobody else holds the other end
    os.close(reader)
    for who in ("agent", "guardian"):
        pid = state[who]["pid"]
        assert os.getsid(pid) != os.getsid(0)
        assert os.getpgid(pid) != os.getpgid(0)
        assert Path(psutil.Process(pid).cwd()) == run.path.resolve()
        assert psutil.Process(pid).terminal() is None


def test_survives_its_terminal(host: Host) -> None:
    """A job that was started from a terminal goes on when that is closed."""
    run = host.prepare([sys.executable, "-c", SLEEP])
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "RUNCTL_HOST_LOCK_DIR": str(host.locks)}
        os.execve(
            sys.executable,
            [sys.executable, "-I", "-S", "-E", str(host.agent / "launch.py"), str(run.path)],
            environment,
        )
    os.waitpid(pid, 0)
    state = run.training()
    os.close(terminal)
    os.kill(state["guardian"]["pid"], signal.SIGHUP)
    os.kill(state["agent"]["pid"], signal.SIGHUP)
    run.order(end="stop")
    assert run.exit()["reason"] == "stop"


def test_signals_of_the_script_are_default(host: Host) -> None:
    """The script starts with no signal ignored or blocked, though its agent ignores some."""
    run = host.script(
        "import json, signal\n"
        "ignored = [int(n) for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]\n"
        "blocked = [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])]\n"
        "print(json.dumps([ignored, blocked]))"
    )
    run.exit()
    ignored, blocked = json.loads(run.output())
    assert set(ignored) <= {signal.SIGPIPE, signal.SIGXFSZ}, "those that Python itself ignores"
    assert blocked == []


def test_signals_that_the_caller_ignores_or_blocks_reach_the_guardian(host: Host) -> None:
    """Whoever starts it may be deaf to a shutdown; guardian and agent are not."""
    run = host.prepare([sys.executable, "-c", SLEEP])
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        assert host.launch(run) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGTERM, before)
    os.kill(run.training()["guardian"]["pid"], signal.SIGTERM)
    assert run.exit()["reason"] == "interruption"


@pytest.mark.parametrize("python", OTHER_PYTHONS)
def test_other_pythons(host: Host, python: str) -> None:
    """The agent runs with every Python from 3.9 on."""
    host.python = python
    run = host.script(
        "import os, time\nopen('checkpoints/.a', 'wb').write(b'x')\ntime.sleep(0.05)\n"
        "os.rename('checkpoints/.a', 'checkpoints/a.bin')\n"
        "raise SystemExit(3)"
    )
    ended = run.exit()
    assert (ended["reason"], ended["exit_code"]) == ("exited", 3)
    assert ended["checkpoints"]["durable"] == 1
    assert (run.path / "agent.log").read_text() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="the size is that of Python on Linux; others measure it otherwise")
def test_memory(host: Host) -> None:
    """The agent stays small after it has seen output and checkpoints."""
    run = host.script(
        "import time\n"
        "for i in range(20): print('epoch', i, '/ 50', 'x' * 10000, flush=True)\n"
        "open('checkpoints/a.bin', 'wb').write(b'x' * 100000)\n"
        "time.sleep(600)"
    )
    run.wait_state(lambda state: state["checkpoints"]["durable"] == 1)
    rss = psutil.Process(run.state["agent"]["pid"]).memory_info().rss
    assert rss < 14 * 1024 * 1024


def test_state_is_private(host: Host) -> None:
    """Nobody else can read what the agent writes."""
    run = host.script("print('x')")
    run.exit()
    run.gone()
    written = {path.name for path in run.path.iterdir()} & {
        "state.json", "exit.json", "claim.json", "run.lock", "output.log", "events.jsonl", "agent.log",
    }  # fmt: skip
    assert len(written) == 7
    for name in written:
        assert (run.path / name).stat().st_mode & 0o077 == 0


def test_umask_of_the_script(host: Host) -> None:
    """Files that the script makes have the permissions that they'd have by hand."""
    before = os.umask(0o027)
    try:
        run = host.script("open('made', 'w')")
    finally:
        os.umask(before)
    run.exit()
    assert (Path(run.spec["cwd"]) / "made").stat().st_mode & 0o777 == 0o640


def test_hooks(host: Host) -> None:
    """Hooks run at their points, a failing one is an event, and one that hangs is ended."""
    hooks = {
        "after_start": [["touch", "after_start"], ["false"]],
        "before_stop": [["touch", "before_stop"]],
        "before_terminate": [["sleep", "600"], ["touch", "before_terminate"]],
        "timeout": 0.5,
    }
    run = host.script(SLEEP, hooks=hooks)
    work = Path(run.spec["cwd"])
    until(lambda: (work / "after_start").exists())
    until(lambda: "hook_failed" in run.events())
    run.order(end="stop")
    assert run.exit()["reason"] == "stop"
    assert (work / "before_stop").exists()
    assert (work / "before_terminate").exists()
    failed = [line["detail"] for line in run.lines("events.jsonl") if line["event"] == "hook_failed"]
    assert [detail.split("`")[0].strip() for detail in failed] == ["after_start", "before_terminate"]
    run.gone()


def test_what_a_hook_leaves_running(host: Host) -> None:
    """A daemon that the last hook starts is gone when the end is recorded; the agent sees to that itself."""
    daemon = (
        "import subprocess\n"
        "left = subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=subprocess.DEVNULL)\n"
        "open('daemon', 'w').write(str(left.pid))"
    )
    hook = [sys.executable, "-c", daemon]
    run = host.script(SLEEP, hooks={"after_start": [], "before_stop": [], "before_terminate": [hook], "timeout": 5.0})
    guardian = run.training()["guardian"]["pid"]
    os.kill(guardian, signal.SIGSTOP)  # it would end what the agent leaves
    try:
        run.order(end="stop")
        assert run.exit()["reason"] == "stop"
        assert not psutil.pid_exists(int((Path(run.spec["cwd"]) / "daemon").read_text()))
    finally:
        os.kill(guardian, signal.SIGCONT)
    run.gone()


def test_a_start_that_comes_too_late(host: Host) -> None:
    """A launch that took its effect long after it was sent trains nothing: nobody waits for it any more."""
    run = host.script("open('ran', 'w')", launch_before=time.time() - 11)
    ended = run.exit()
    assert (ended["reason"], ended["training_started"], ended["started_at"]) == ("not_started", False, None)
    assert not (run.path / "work" / "ran").exists()
    assert host.script("pass", launch_before=time.time() - 5).exit()["exit_code"] == 0


def test_a_start_compiles_nothing(agent_directory: Path) -> None:
    """The agent's code is installed with its byte code, which Python takes; tracebacks name the place where it lies."""
    code = (
        f"import sys; sys.path.insert(0, {str(agent_directory)!r})\n"
        "from importlib.machinery import SourceFileLoader\n"
        "SourceFileLoader.source_to_code = None\n"
        "from runctl.agent import guardian, salvage, saver, supervisor\n"
        "from runctl.checkpoints import archives, durable, restoring, retention\n"
        "print(supervisor.supervise.__code__.co_filename)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-E", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{agent_directory}/runctl/agent/supervisor.py\n", "")
