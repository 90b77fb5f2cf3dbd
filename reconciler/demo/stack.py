"""All that the demo and the end-to-end tests need, on this machine: Airflow, a local ECS, the daemon, free ports.

Three environments, as in production: what Airflow's components and the daemon know, what the daemon alone needs, and
what a task's container is given, which is neither the database nor the signing key.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self, TypeVar

import boto3
from botocore.config import Config

from reconciler.demo.api import AirflowApi, ApiError, fetch
from reconciler.demo.ports import free_ports
from reconciler.demo.process import Process
from reconciler.localecs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from mypy_boto3_ecs import ECSClient

    from reconciler.seams import Clock

__all__ = ["CLUSTER", "DEPLOYMENT", "SECRET", "Stack", "StackError", "StackTimeoutError"]

CLUSTER: Final = "demo"
EVENTS_QUEUE: Final = "ecs-events"
DEPLOYMENT: Final = "demo"
REGION: Final = "us-east-1"
SECRET: Final = "a-secret-of-the-demo-that-signs-nothing-but-the-tokens-of-its-own-tasks"  # noqa: S105 - of a throw-away Airflow
"""Signs the tokens of the stack's tasks. Long enough for HS512."""

AIRFLOW: Final = ("api-server", "scheduler", "dag-processor", "triggerer")
START_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.2

Result = TypeVar("Result")


class StackError(RuntimeError):
    """Something of the stack did not start, died, or did not get where it was expected in time."""


class StackTimeoutError(StackError):
    """It did not get where it was expected in time."""


class Stack:
    """`with Stack(directory, dags=..., clock=...) as stack:` starts everything, and ends it whatever happens.

    `python` is the interpreter whose Airflow is run; the reconciler must be installed there as well. `settings` are
    further environment variables, for Airflow's components and the daemon. `say` is told what is being waited for.
    """

    def __init__(
        self,
        directory: Path,
        *,
        dags: Path,
        clock: Clock,
        python: str = sys.executable,
        settings: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory = directory
        self.database = f"sqlite:///{directory / 'airflow.db'}"
        self.api_port, self.ecs_port, self.daemon_port = free_ports(3)
        self.api = AirflowApi(self.api_port)
        self._clock, self._say = clock, say
        container = self._container_environment(dags)
        control = container | self._control_environment() | dict(settings or {})
        here = ["--host", "127.0.0.1", "--port"]
        containers = ["--directory", str(directory / "containers"), "--cluster", CLUSTER]
        containers += ["--events-queue", EVENTS_QUEUE]
        commands = {
            "local-ecs": ("reconciler", ["local-ecs", *here, str(self.ecs_port), *containers], container),
            "migrate": ("airflow", ["db", "migrate"], control),
            "api-server": ("airflow", ["api-server", *here, str(self.api_port)], control | self._aws_environment()),
            "scheduler": ("airflow", ["scheduler", "--skip-serve-logs"], control),
            "dag-processor": ("airflow", ["dag-processor"], control),
            "triggerer": ("airflow", ["triggerer", "--skip-serve-logs"], control),
            "daemon": ("reconciler", ["run"], control | self._aws_environment()),
        }
        self.processes = {
            name: Process(name, [python, "-m", module, *arguments], environment, directory / f"{name}.log")
            for name, (module, arguments, environment) in commands.items()
        }

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.close)
            self.start()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Airflow's UI."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def daemon_url(self) -> str:
        """The daemon's metrics and probes."""
        return f"http://127.0.0.1:{self.daemon_port}"

    @property
    def ecs_url(self) -> str:
        """The local ECS, as in AWS_ENDPOINT_URL_ECS."""
        return f"http://127.0.0.1:{self.ecs_port}"

    def ecs(self) -> ECSClient:
        """A client of the local ECS. Close it."""
        return boto3.client(
            "ecs",
            region_name=REGION,
            endpoint_url=self.ecs_url,
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106 - the local ECS accepts any signature
            config=Config(proxies={}),
        )

    def start(self) -> None:
        """Start everything and wait until all of it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.processes["local-ecs"].start()
        self.migrate()
        for name in (*AIRFLOW, "daemon"):
            self.processes[name].start()
        self.wait("the local ECS", self._ecs_healthy)
        self.wait("the API server", self._api_healthy)
        self.wait("scheduler, DAG processor and triggerer", self._airflow_healthy)
        self.wait("the daemon", self.daemon_ready)

    def migrate(self) -> None:
        """Make the tables, Airflow's and ours."""
        migrate = self.processes["migrate"]
        migrate.start()
        self.wait("the database's tables", lambda: migrate.exit_code is not None)
        if migrate.exit_code:
            raise StackError(self._died(migrate))
        migrate.stop(self._clock)

    def close(self) -> None:
        """End everything: first those who would report the end of others as a failure."""
        for name in ("daemon", *AIRFLOW, "migrate"):
            self.processes[name].terminate()
        for name in ("daemon", *AIRFLOW, "migrate", "local-ecs"):
            self.processes[name].stop(self._clock)

    def wait(self, what: str, condition: Callable[[], Result], seconds: float = START_SECONDS) -> Result:
        """Wait until `condition` is true, and return what it returned.

        An API that does not answer, or not yet, is a condition that is not yet true. Raises StackTimeoutError, and
        StackError as soon as a process has died.
        """
        self._say(what)
        deadline = self._clock.monotonic() + seconds
        trouble = ""
        while self._clock.monotonic() < deadline:
            for process in self.processes.values():
                if process.name != "migrate" and process.exit_code is not None:
                    raise StackError(self._died(process))
            try:
                if result := condition():
                    return result
            except ApiError as error:
                trouble = f" ({error})"
            self._clock.wait(POLL_SECONDS)
        raise StackTimeoutError(f"waited {seconds:.0f} s in vain for {what}{trouble}; the logs are in {self.directory}")

    def has_parsed(self, dag_id: str) -> None:
        """Wait until a DAG can be triggered."""
        self.wait(f"the DAG {dag_id}", lambda: self.api.knows(dag_id))

    def daemon_ready(self) -> bool:
        """Whether the daemon works, and not only stands by."""
        return fetch(self.daemon_port, "/readyz").strip() == "leading"

    def _ecs_healthy(self) -> bool:
        return bool(fetch(self.ecs_port, "/_local/health"))

    def _api_healthy(self) -> bool:
        return bool(self.api.health())

    def _airflow_healthy(self) -> bool:
        health = self.api.health()
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))

    def _died(self, process: Process) -> str:
        return f"{process.name} ended with exit code {process.exit_code}; the end of {process.log}:\n{process.tail()}"

    def _container_environment(self, dags: Path) -> dict[str, str]:
        """What the image of a task's container brings: Airflow and its DAGs. Logs go to files that the UI shows."""
        return _inherited() | {
            "AIRFLOW_HOME": str(self.directory),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # Whoever tries to reach the database from a task shall fail here as on Fargate.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/no-database-in-a-task.db",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
            # Twenty tasks at once keep two cores busy, and then an answer takes its time.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        }

    def _control_environment(self) -> dict[str, str]:
        """What Airflow's components need beyond that, and the daemon as well: it reads Airflow's configuration."""
        return {
            "AIRFLOW__CORE__EXECUTOR": "reconciler.airflow.executor.EcsReconcilerExecutor",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS": "reconciler.demo.sqlite.CONNECT_ARGS",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC": "reconciler.demo.sqlite.CONNECT_ARGS",
            # On SQLite the API server runs out of connections while the one that could go on waits for a second one.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_ENABLED": "False",
            "AIRFLOW__API_AUTH__JWT_SECRET": SECRET,
            "AIRFLOW__API__PORT": str(self.api_port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__PARALLELISM": "64",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
            "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "64",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__ECS_RECONCILER__DEPLOYMENT": DEPLOYMENT,
            # More containers at once would only share the same cores and memory; the rest waits, as for a quota of AWS.
            "AIRFLOW__ECS_RECONCILER__MAX_RUNNING_TASKS": "10",
            "AIRFLOW__ECS_RECONCILER__LISTING_INTERVAL": "5",
            "AIRFLOW__ECS_RECONCILER__LEASE_SECONDS": "3",
            "AIRFLOW__ECS_RECONCILER__EVENTS_QUEUE_URL": f"{self.ecs_url}/{Settings().account_id}/{EVENTS_QUEUE}",
            "AIRFLOW__ECS_RECONCILER__HTTP_PORT": str(self.daemon_port),
            "AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER": CLUSTER,
            "AIRFLOW__AWS_ECS_EXECUTOR__CONTAINER_NAME": "airflow",
            "AIRFLOW__AWS_ECS_EXECUTOR__REGION_NAME": REGION,
            "AIRFLOW__AWS_ECS_EXECUTOR__TASK_DEFINITION": "airflow-task",
            "AIRFLOW__AWS_ECS_EXECUTOR__LAUNCH_TYPE": "FARGATE",
            "AIRFLOW__AWS_ECS_EXECUTOR__SUBNETS": "subnet-0123456789abcdef0",
        }

    def _aws_environment(self) -> dict[str, str]:
        """What the daemon alone has, a way to ECS, and the API server, a way to the logs."""
        return {
            "AWS_ENDPOINT_URL_ECS": self.ecs_url,
            "AWS_ENDPOINT_URL_SQS": self.ecs_url,
            "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": self.ecs_url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _inherited() -> dict[str, str]:
    """Our environment without what would lead Airflow or boto3 elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}
    # Some forty processes import the same Airflow: without its compiled modules each takes twice as long.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {"NO_PROXY": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
