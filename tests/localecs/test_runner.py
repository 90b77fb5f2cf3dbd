"""Containers as processes: exit codes, environment, output, signals to the whole group."""

from __future__ import annotations

import os
import queue
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.localecs import Runner, SignalContainer, StartContainer
from reconciler.localecs.server import image_environment
from tests.localecs.world import eventually
from tests.processes import runs

if TYPE_CHECKING:
    from collections.abc import Iterator

ARN = "arn:aws:ecs:us-east-1:123456789012:task/default/0123"


class Host:
    """A runner and the exits it reported."""

    def __init__(self, directory: Path) -> None:
        self.exits: queue.Queue[tuple[str, str, int, str | None]] = queue.Queue()
        environment = {"PATH": os.environ["PATH"], "FROM": "image", "IMAGE": "yes"}
        self.runner = Runner(directory, environment, lambda *news: self.exits.put(news))
        self.log = self.runner.log_path(ARN, "airflow")

    def start(self, script: str, **environment: str) -> None:
        self.runner.execute(StartContainer(ARN, "airflow", ("sh", "-c", script), environment))

    def signal(self, name: str) -> None:
        self.runner.execute(SignalContainer(ARN, "airflow", name))

    def ended(self) -> tuple[str, str, int, str | None]:
        return self.exits.get(timeout=60)

    def first_line(self) -> str:
        return str(eventually(lambda: self.log.exists() and self.log.read_text().splitlines(), "some output")[0])


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.runner.stop_all(0.1)


def test_the_exit_code_is_the_process_s_own(host: Host) -> None:
    host.start("exit 7")
    assert host.ended() == (ARN, "airflow", 7, None)


def test_a_process_that_died_of_a_signal_exits_with_128_and_its_number(host: Host) -> None:
    host.start("kill -KILL $$")
    assert host.ended()[2] == 137


def test_output_of_both_kinds_is_captured(host: Host) -> None:
    host.start("echo out; echo err >&2")
    host.ended()
    assert host.log.read_text() == "out\nerr\n"
    assert host.log.name == "0123.log"
    assert host.log.parent.name == "airflow"


def test_the_environment_is_the_image_s_and_the_task_s(host: Host) -> None:
    host.start('echo "$FROM $IMAGE $MORE"', FROM="task", MORE="more")
    host.ended()
    assert host.log.read_text() == "task yes more\n"


def test_the_image_has_our_environment_without_aws_s_and_our_python_first() -> None:
    image = image_environment({"PATH": "/bin", "HOME": "/root", "AWS_SECRET_ACCESS_KEY": "x", "AWS_PROFILE": "y"})
    assert image == {"PATH": f"{Path(sys.executable).parent}{os.pathsep}/bin", "HOME": "/root"}


def test_a_process_can_end_itself_in_order_on_sigterm(host: Host) -> None:
    host.start("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    assert host.first_line() == "ready"
    host.signal("SIGTERM")
    assert host.ended()[2] == 3
    assert host.log.read_text().splitlines()[-1] == "bye"


def test_a_process_that_ignores_sigterm_dies_of_sigkill(host: Host) -> None:
    host.start("trap '' TERM; echo ready; while :; do sleep 0.05; done")
    host.first_line()
    host.signal("SIGTERM")
    assert host.runner.running() == 1
    host.signal("SIGKILL")
    assert host.ended()[2] == 137
    assert host.runner.running() == 0


def test_a_signal_reaches_the_whole_group(host: Host) -> None:
    host.start("sleep 600 & echo $!; wait")
    child = int(host.first_line())
    host.signal("SIGTERM")
    host.ended()
    eventually(lambda: not runs(child), "the child to die")


def test_when_the_first_process_ends_the_others_are_killed(host: Host) -> None:
    host.start("trap '' TERM; (trap '' TERM; sleep 600) & echo $!; exit 5")
    child = int(host.first_line())
    assert host.ended()[2] == 5
    eventually(lambda: not runs(child), "the child to die")


def test_one_that_moved_to_a_process_group_of_its_own_is_killed_with_the_others(host: Host) -> None:
    # As Airflow's supervisor does with the task that it runs.
    child = "import os, time; os.setpgid(0, 0); print(os.getpid(), flush=True); time.sleep(300)"
    host.start(f"{sys.executable} -c '{child}' & exec sleep 300")
    pid = int(host.first_line())
    assert os.getpgid(pid) == pid
    host.signal("SIGKILL")
    host.ended()
    eventually(lambda: not runs(pid), "the other process to be gone")


def test_a_signal_for_a_container_that_has_ended_does_nothing(host: Host) -> None:
    host.start("exit 0")
    host.ended()
    host.signal("SIGKILL")
    assert host.exits.empty()


def test_containers_of_a_task_have_logs_of_their_own(host: Host) -> None:
    for name in ("airflow", "proxy"):
        host.runner.execute(StartContainer(ARN, name, ("echo", name), {}))
    host.ended()
    host.ended()
    assert {name: host.runner.log_path(ARN, name).read_text() for name in ("airflow", "proxy")} == {
        "airflow": "airflow\n",
        "proxy": "proxy\n",
    }
