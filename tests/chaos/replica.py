"""A daemon process with a network of its own, and what can be done to both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from tests.chaos.ecs import CLUSTER, CONTAINER, DEPLOYMENT, FAMILY
from tests.chaos.proxy import Proxy, Trap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.chaos.proxy import Network

LEASE_SECONDS: Final = 3.0
COMMAND: Final = (sys.executable, "-m", "reconciler", "run")


class Replica:
    """`ecs-reconciler run`. Each start is a new process under a new name."""

    def __init__(
        self,
        name: str,
        network: Network,
        folder: Path,
        *,
        database: Path,
        user: str,
        ecs_port: int,
        command: Sequence[str] = COMMAND,
        **settings: Any,
    ) -> None:
        self.name = name
        self.db, self.ecs = Proxy(network, database), Proxy(network, ecs_port)
        self.log = folder / f"{name}.log"
        self._folder, self._command, self._user = folder, list(command), user
        self._starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        options = {
            "DEPLOYMENT": DEPLOYMENT,
            "HTTP_PORT": 0,
            "LOG_FORMAT": "json",
            "LEASE_SECONDS": LEASE_SECONDS,
            "SWEEP_INTERVAL": 0.2,
            "LISTING_INTERVAL": 2,
            "ORPHAN_GRACE": 4,
            **settings,
        }
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))},
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/no-airflow.db",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:1/execution/",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-sixty-four-characters-or-more-that-nobody-else-knows-00",
            "AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER": CLUSTER,
            "AIRFLOW__AWS_ECS_EXECUTOR__CONTAINER_NAME": CONTAINER,
            "AIRFLOW__AWS_ECS_EXECUTOR__REGION_NAME": "us-east-1",
            "AIRFLOW__AWS_ECS_EXECUTOR__TASK_DEFINITION": FAMILY,
            "AIRFLOW__AWS_ECS_EXECUTOR__SUBNETS": "subnet-1",
            **{f"AIRFLOW__ECS_RECONCILER__{name}": str(value) for name, value in options.items()},
            "AWS_ENDPOINT_URL_ECS": f"http://127.0.0.1:{self.ecs.port}",
            "AWS_ACCESS_KEY_ID": "anything",
            "AWS_SECRET_ACCESS_KEY": "goes",
        }

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.alive:
            return
        self._starts += 1
        url = f"postgresql://{self._user}@127.0.0.1:{self.db.port}/chaos?sslmode=disable&gssencmode=disable"
        url += f"&application_name={self.name}.{self._starts}"
        environment = {**self._environment, "AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN": url}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, env=environment, cwd=self._folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def kill(self) -> None:
        """SIGKILL. Returns when it is gone, and its connections with it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: a pause that the process knows nothing of."""
        if self.alive and self.process:
            self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        if self.alive and self.process:
            self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        if self.alive and self.process:
            self.process.terminate()

    def heal(self) -> None:
        self.wake()
        self.db.heal()
        self.ecs.heal()
        self.start()


def _parameter(value: str) -> bytes:
    """Text as a parameter of a statement on PostgreSQL's wire: the text of statements does not look like this."""
    return len(value).to_bytes(4, "big") + value.encode()


def _call(operation: str) -> bytes:
    return f"AmazonEC2ContainerServiceV20141113.{operation}\r\n".encode()


POINTS: Final[dict[str, tuple[str, bytes, bytes, bool]]] = {
    "before the intent is committed": ("db", _parameter("LAUNCHING"), b"COMMIT", False),
    "the intent is committed, which the daemon never hears": ("db", _parameter("LAUNCHING"), b"COMMIT", True),
    "before RunTask arrives": ("ecs", _call("RunTask"), b"", False),
    "RunTask has made a task, which the daemon never hears": ("ecs", _call("RunTask"), b"", True),
    "before the ARN is committed": ("db", _parameter("STARTED"), b"COMMIT", False),
    "the ARN is committed, which the daemon never hears": ("db", _parameter("STARTED"), b"COMMIT", True),
    "before the end is committed": ("db", _parameter("EXITED"), b"COMMIT", False),
    "the end is committed, which the daemon never hears": ("db", _parameter("EXITED"), b"COMMIT", True),
    "before StopTask arrives": ("ecs", _call("StopTask"), b"", False),
    "StopTask has its effect, which the daemon never hears": ("ecs", _call("StopTask"), b"", True),
}
"""Moments that can be told from outside, by what is on the wire: edge, marker, what must follow it, and whether the
answer is waited for."""


def trap(replica: Replica, point: str, *, kill: bool) -> Trap:
    """Wait for this moment of this replica; then end the connection, and with `kill` the process before that."""
    edge, marker, then, answered = POINTS[point]
    made = Trap(marker, then, answered, replica.kill if kill else lambda: None)
    proxy: Proxy = getattr(replica, edge)
    return proxy.set(made)
