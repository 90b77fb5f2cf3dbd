"""What people see in a terminal: `status` and `events`, once and again and again, and completion."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.cli.watch import again
from reconciler.clock import SystemClock
from reconciler.core.errors import StoreUnavailable
from reconciler.core.task import TaskKey, Workload
from reconciler.store import shim
from reconciler.store.engine import writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.site import Site

KEY = TaskKey("etl", "load", "run", -1, 1)
COMMAND = [sys.executable, "-m", "reconciler"]
OWN_SCREEN, FORMER_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """A command in a terminal of 80 columns, and all it has shown."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master, self.shown = process, master, ""

    def until(self, words: str) -> None:
        while words not in self.shown:
            try:
                read = os.read(self._master, 65536)
            except OSError:  # what Linux says when the command has ended
                read = b""
            assert read, self.shown
            self.shown += read.decode()

    def interrupt(self) -> int:
        """Ctrl-C, and the exit code."""
        os.write(self._master, b"\x03")
        return self.process.wait(30)


@contextmanager
def terminal(site: Site, *arguments: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    environment = {**site.environment, "COLUMNS": "80", "LINES": "30", "TERM": "xterm"}
    # Of its own session, so that Ctrl-C reaches it as it does from a keyboard.
    process = subprocess.Popen(
        ["setsid", "--ctty", *COMMAND, *arguments],
        env=environment,
        cwd=site.home,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """A shell's background jobs ignore Ctrl-C, and so does what they start: this suite may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_status_is_drawn_anew_until_ctrl_c_and_gives_the_screen_back(site: Site) -> None:
    site.queue("a", key=KEY)
    with terminal(site, "status", "--watch", "--interval", "0.2") as shown:
        shown.until("PENDING       1")
        assert OWN_SCREEN in shown.shown
        site.queue("b", key=TaskKey("etl", "dump", "run", -1, 1))
        shown.until("PENDING       2")
        assert shown.interrupt() == 0
        shown.until(FORMER_SCREEN)
        shown.until("Terminal phases count")
    assert "Traceback" not in shown.shown
    assert "PENDING       2" in shown.shown.partition(FORMER_SCREEN)[2]


def test_events_are_told_once_each_the_newest_last(site: Site) -> None:
    site.queue("a", key=KEY)
    with terminal(site, "events", "--watch", "--interval", "0.2") as shown:
        shown.until("etl.load run try 1")
        site.queue("b", key=TaskKey("[bold]etl", "dump", "run", 3, 1))
        shown.until("[bold]etl.dump[3] run try 1")
        assert shown.interrupt() == 0
    assert shown.shown.count("time (UTC)") == 1
    assert shown.shown.count("etl.load run try 1") == 1
    assert "Traceback" not in shown.shown


def test_a_wave_between_two_looks_is_told_whole(site: Site) -> None:
    site.queue("a", key=TaskKey("etl", "before", "run", -1, 1))
    site.queue("b", key=KEY)
    with terminal(site, "events", "--watch", "--interval", "0.2", "--limit", "1") as shown:
        shown.until("etl.load run try 1")
        with writing(site.engine).begin() as conn:
            keys = {f"w{n}": TaskKey("etl", "dump", "run", n, 1) for n in range(9)}
            shim.insert(conn, [Workload(name, "test", ti_id=name, key=key) for name, key in keys.items()])
        for number in range(9):
            shown.until(f"etl.dump[{number}] run try 1")
        assert shown.interrupt() == 0
    assert "etl.before" not in shown.shown


def test_scripts_get_a_document_for_each_event_and_each_look(site: Site) -> None:
    site.queue("a", key=KEY)
    site.queue("b", key=TaskKey("payroll", "load", "run", -1, 1))
    told = [json.loads(line) for line in site.call("events", "--json", "--dag", "etl").stdout.splitlines()]
    assert [(event["exec_id"], event["phase"], event["what"]) for event in told] == [
        ("a", "PENDING", "queued in default")
    ]
    assert told[0]["dag_id"] == "etl"
    assert told[0]["at"].endswith("+00:00")

    command = [*COMMAND, "status", "--watch", "--json", "--interval", "0.2"]
    with subprocess.Popen(command, env=site.environment, cwd=site.home, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline())["phases"]["PENDING"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert looks == [2, 2]


def test_events_of_nothing_say_so(site: Site) -> None:
    assert "Nothing that matches" in site.call("events", "--task", "load").stdout


def test_a_database_that_does_not_answer_is_asked_again() -> None:
    clock, looks = SystemClock(), iter([StoreUnavailable("gone"), None, KeyboardInterrupt()])
    said: list[str] = []

    def look() -> None:
        if error := next(looks):
            raise error

    again(look, 0, clock, said.append)

    assert said == ["gone"]
    assert not list(looks)


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """An environment in which `ecs-reconciler` is found by its name."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "AIRFLOW_HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ecs-reconciler e", {"events"}),
        ("ecs-reconciler events --w", {"--watch"}),
        ("ecs-reconciler completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_commands_options_and_choices(program: dict[str, str], typed: str, offered: set[str]) -> None:
    script = f"""
        source <(ecs-reconciler completion bash)
        COMP_LINE={typed!r} COMP_POINT={len(typed)} COMP_TYPE=9 COMP_WORDS=({typed}) COMP_CWORD=1
        _python_argcomplete ecs-reconciler
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], env=program, capture_output=True, text=True, check=True)
    assert offered <= {word.strip() for word in done.stdout.split()}, done.stderr


def test_zsh_and_fish_get_scripts_of_their_own(program: dict[str, str]) -> None:
    def script(shell: str) -> str:
        command = ["ecs-reconciler", "completion", shell]
        return subprocess.run(command, env=program, capture_output=True, text=True, check=True).stdout

    assert "compdef" in script("zsh")
    assert script("zsh").startswith("autoload -Uz compinit")
    assert "complete --command ecs-reconciler" in script("fish")
