"""One of the two systems with a far end of its own: its processes, waiting for conditions, and what is known of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from reconciler.demo.ports import free_ports
from reconciler.options import ReconcilerOptions
from tests.bench.database import BENCH, NUMBER, airflow_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.database import Databases

OURS, PEER = "ours", "peer"
EXECUTORS: Final = {
    OURS: "reconciler.airflow.executor.EcsReconcilerExecutor",
    PEER: "airflow.providers.amazon.aws.executors.ecs.AwsEcsExecutor",
}
ROOT: Final = Path(__file__).parents[2]
BACKLOG: Final = 50
"""[ecs_reconciler] backlog."""
LOOK: Final = 0.25
"""Seconds between two looks at a condition: the waiting must not load the machine that is measured."""
PATIENCE: Final = 300.0
"""Seconds for what is no part of any measurement, such as a start."""


class CutOffError(Exception):
    """What was waited for did not happen in the time that it was given."""


class Process:
    """A process whose output goes into a file."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str], *command: str) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command], env=environment, cwd=ROOT, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class FarEnd:
    """The process of `far_end`, told what to do over its pipes."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        command = [sys.executable, "-m", "tests.bench.far_end", json.dumps(settings)]
        with (folder / "far-end.log").open("ab") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._lock = threading.Lock()
        told = self._answer()
        self.endpoint: str = told["endpoint"]
        self.queue_url: str | None = told["queue_url"]

    def do(self, what: str, **details: Any) -> Any:
        with self._lock:
            assert self._process.stdin
            self._process.stdin.write(json.dumps({"what": what, **details}) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the far end has ended, see far-end.log")
        return json.loads(line)


class Stand:
    """`with Stand(...) as stand:` a scheduler with this system's executor runs, and our daemon if it is ours."""

    def __init__(
        self,
        system: str,
        databases: Databases,
        folder: Path,
        *,
        slots: int,
        max_tis_per_query: int = 512,
        far_end: dict[str, Any] | None = None,
        daemon: bool = True,
        real: bool = False,
        events: bool = False,
        forks: bool = False,
        **airflow: str,
    ) -> None:
        """`slots`: how many tasks the executor is told that it may run. `airflow`: further settings, as the names of
        their variables without the prefix. `real`: with all that a scheduler does. `forks`: containers are real, and
        so is the API server that they call."""
        self.system, self._folder = system, folder
        self._databases, self._far_end_settings = databases, far_end or {}
        self._daemon_wanted = daemon and system == OURS
        self._real, self._events = real, events
        self._api_port = free_ports(1)[0] if forks else None
        self._options = {
            "CORE__EXECUTOR": EXECUTORS[system],
            # Ours counts what waits for a slot as well, or there would be no backlog for a slot that becomes free.
            "CORE__PARALLELISM": str(slots + BACKLOG if system == OURS else slots),
            "SCHEDULER__MAX_TIS_PER_QUERY": str(max_tis_per_query),
            "AWS_ECS_EXECUTOR__CLUSTER": "default",
            "AWS_ECS_EXECUTOR__CONTAINER_NAME": "airflow",
            "AWS_ECS_EXECUTOR__REGION_NAME": "us-east-1",
            "AWS_ECS_EXECUTOR__TASK_DEFINITION": "airflow-task",
            "AWS_ECS_EXECUTOR__SUBNETS": "subnet-1",
            "AWS_ECS_EXECUTOR__LAUNCH_TYPE": "FARGATE",
            "ECS_RECONCILER__DEPLOYMENT": "bench",
            "ECS_RECONCILER__MAX_RUNNING_TASKS": str(slots),
            "ECS_RECONCILER__HTTP_PORT": "0",
            "ECS_RECONCILER__LOG_FORMAT": "json",
            **airflow,
        }
        if self._api_port:
            self._options["CORE__EXECUTION_API_SERVER_URL"] = f"http://127.0.0.1:{self._api_port}/execution/"
        self.scheduler: Process
        self.daemon: Process | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.database = self._databases.make()
            undo.callback(self.database.close)
            if self._real:
                # Or the scheduler would have a look at this run as well, and launch its only task.
                self.database.all("UPDATE dag SET is_paused = true WHERE dag_id = :dag", dag=BENCH)
            far_end = {"latency": True, "events": self._events, **self._far_end_settings}
            if self._api_port:
                far_end["forks"] = {"environment": self._image(), "folder": str(self._folder / "containers")}
            self.ecs = FarEnd(self._folder, database=self.database.url, **far_end)
            undo.callback(self.ecs.close)
            self.environment = self._environment()
            if self._api_port:
                command = ["airflow", "api-server", "--apps", "execution", "--host", "127.0.0.1"]
                command += ["--port", str(self._api_port)]
                api_server = Process("api-server", self._folder, self.environment, *command)
                undo.callback(api_server.kill)
            self.scheduler = self.start_scheduler()
            undo.callback(self._kill)
            if self._daemon_wanted:
                self.daemon = self.start_daemon()
                self.until("a leader", self._led, PATIENCE)
            if self._api_port:
                self.until("the API server", self._api_answers, PATIENCE)
            self.until("the scheduler", lambda: len(self.notes("beat")) > 1, PATIENCE)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def start_scheduler(self) -> Process:
        real = ["real"] if self._real else []
        return Process("scheduler", self._folder, self.environment, "tests.bench.scheduler", str(self._folder), *real)

    def start_daemon(self) -> Process:
        return Process("daemon", self._folder, self.environment, "reconciler", "run")

    def _environment(self) -> dict[str, str]:
        environment = airflow_environment(self.database.url, self._folder)
        environment |= {f"AIRFLOW__{name}": value for name, value in self._options.items()}
        environment |= {
            "AWS_ENDPOINT_URL_ECS": self.ecs.endpoint,
            "AWS_ACCESS_KEY_ID": "anything",
            "AWS_SECRET_ACCESS_KEY": "goes",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        if self.ecs.queue_url:
            environment["AIRFLOW__ECS_RECONCILER__EVENTS_QUEUE_URL"] = self.ecs.queue_url
            environment["AWS_ENDPOINT_URL_SQS"] = self.ecs.endpoint
        return environment

    def _image(self) -> dict[str, str]:
        """What a container has: DAGs, and no way to the database."""
        nowhere = airflow_environment("sqlite:////nowhere/no-database-in-a-task.db", self._folder)
        del nowhere["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"]
        return nowhere | {
            NUMBER: str(self._databases.mapped),
            # So many tasks at once keep two cores busy, and then an answer takes its time.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        }

    # -- doing -------------------------------------------------------------------------------------------------------

    def set_max_tis_per_query(self, number: int) -> None:
        """From its next loop on, the scheduler queues so many task instances at once."""
        (self._folder / "control").write_text(json.dumps({"max_tis_per_query": number}))

    def kill_scheduler(self) -> None:
        """SIGKILL to the scheduler; to our daemon as well, if it is ours."""
        self._kill()

    def kill_daemon(self) -> None:
        self.its_daemon.kill()

    def _kill(self) -> None:
        self.scheduler.kill()
        if self.daemon:
            self.daemon.kill()

    def restart(self) -> None:
        """Another scheduler, and another daemon."""
        before = len(self.notes("started"))
        self.scheduler = self.start_scheduler()
        if self._daemon_wanted:
            self.daemon = self.start_daemon()
        self.until("another scheduler", lambda: len(self.notes("started")) > before, PATIENCE)

    # -- looking -----------------------------------------------------------------------------------------------------

    def until(self, what: str, condition: Callable[[], object], seconds: float) -> None:
        """Wait until it holds. Raises CutOffError if it does not in this time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise CutOffError(f"waited {seconds:.0f} s in vain for {what}: {self._folder}")
            if not self.scheduler.alive:
                raise RuntimeError(f"the scheduler has ended: {self.scheduler.log.read_text()[-2000:]}")
            time.sleep(LOOK)  # between looks at another process, which tells nobody when it holds

    def reached(self, what: str, condition: Callable[[], object], seconds: float) -> bool:
        """Whether it came to hold in this time."""
        try:
            self.until(what, condition, seconds)
        except CutOffError:
            return False
        return True

    def counts(self) -> dict[str, int]:
        """ECS tasks: made, live, running, stopped."""
        found: dict[str, int] = self.ecs.do("counts")
        return found

    def notes(self, what: str) -> list[dict[str, Any]]:
        """What the schedulers have noted so far."""
        path = self._folder / "notes"
        if not path.exists():
            return []
        lines = path.read_text().splitlines()
        # The last line may be one that is being written, or was when its writer was killed.
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [note for note in found if note["what"] == what]

    def known_in_memory(self) -> dict[str, Any]:
        """What the official executor knew at the moment `t`: ARNs, as far back as its process goes, and the indexes of
        all its tasks."""
        path = self._folder / "known"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"t": 0, "arns": [], "indexes": []}
        return found

    def metrics(self) -> str:
        """What our daemon tells Prometheus."""
        lines = self.its_daemon.log.read_text().splitlines()
        address = next(json.loads(line)["address"] for line in reversed(lines) if '"address"' in line)
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    @property
    def its_daemon(self) -> Process:
        """Our daemon, where there is one."""
        if self.daemon is None:
            raise RuntimeError("this system has no daemon")
        return self.daemon

    def _api_answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._api_port)) == 0

    def _led(self) -> bool:
        if not self.its_daemon.alive:
            raise RuntimeError(f"the daemon has ended: {self.its_daemon.log.read_text()[-2000:]}")
        return bool(self.database.one("SELECT count(*) FROM ecs_lease WHERE expires_at > now()"))


def can_hear_events() -> bool:
    """Whether this release of ours takes events from a queue."""
    return "events_queue_url" in ReconcilerOptions.model_fields
