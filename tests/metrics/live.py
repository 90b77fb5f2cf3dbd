"""Real parts on this machine: daemon, local ECS, Prometheus, Alertmanager; and a load that stands in for Airflow.

The tests and the picture of the README share it. Containers are not run: they end after some seconds.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Self

import yaml
from sqlalchemy.exc import OperationalError

from reconciler.clock import SystemClock
from reconciler.core.task import Spec, TaskKey, Workload
from reconciler.demo.ports import free_ports
from reconciler.localecs import LocalEcs, Settings, SignalContainer, StartContainer
from reconciler.store import shim
from reconciler.store.engine import make_engine, writing
from reconciler.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from sqlalchemy import Connection

    from reconciler.localecs import Effect

__all__ = ["DEPLOYMENT", "REGION", "Live", "shortened"]

DEPLOYMENT: Final = "prod"
REGION: Final = "us-east-1"
OWNER: Final = 1
PATIENCE: Final = 240.0
"""Seconds after which a condition that does not come about is a failure. Nothing waits this long that works."""


def shortened(rules: str) -> str:
    """The same rules sixty times as fast: each m in a duration becomes an s, and each h an m. Thresholds stay."""
    faster = {"m": "s", "h": "m"}
    return re.sub(r"(?<=[\[ ])(\d+)([mh])(?=\]|$)", lambda d: d[1] + faster[d[2]], rules, flags=re.MULTILINE)


class Live:
    """`with Live(folder, ...) as live:` starts everything and ends it, whatever happens."""

    def __init__(
        self,
        folder: Path,
        *,
        programs: Mapping[str, str],
        rules: str,
        settings: Settings,
        seconds: tuple[float, float],
        environment: Mapping[str, str],
        scrape: str = "1s",
        prometheus: Sequence[str] = (),
    ) -> None:
        """`programs`: prometheus, alertmanager. `seconds`: how long containers run, from and to."""
        self.folder, self._programs, self._rules, self._scrape = folder, programs, rules, scrape
        self._seconds, self._extra = seconds, prometheus
        self.clock = SystemClock()
        self.url = f"sqlite:///{folder}/airflow.db"
        self.engine = make_engine(self.url)
        migrate(self.engine)
        self.daemon_port, self.prometheus_port, self.alertmanager_port = free_ports(3)
        self.ecs = LocalEcs(settings=settings, on_effect=self._on_effect, seed=1)
        self._ends: list[tuple[float, str, str]] = []
        self._more = threading.Condition()
        self._random = random.Random(1)
        self._names = count(1)
        self._exit = ExitStack()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))},
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:1/execution/",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-sixty-four-characters-or-more-that-nobody-else-knows-00",
            "AIRFLOW__ECS_RECONCILER__DEPLOYMENT": DEPLOYMENT,
            "AIRFLOW__ECS_RECONCILER__HTTP_PORT": str(self.daemon_port),
            "AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER": "default",
            "AIRFLOW__AWS_ECS_EXECUTOR__CONTAINER_NAME": "airflow",
            "AIRFLOW__AWS_ECS_EXECUTOR__REGION_NAME": REGION,
            "AIRFLOW__AWS_ECS_EXECUTOR__TASK_DEFINITION": "airflow-task",
            "AIRFLOW__AWS_ECS_EXECUTOR__SUBNETS": "subnet-1",
            "AWS_ENDPOINT_URL_ECS": self.ecs.endpoint_url,
            "AWS_ACCESS_KEY_ID": "anything",
            "AWS_SECRET_ACCESS_KEY": "goes",
            **environment,
        }
        self.daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.engine.dispose)
            undo.enter_context(self.ecs)
            undo.callback(self.clock.stop)
            self._start_prometheus(undo)
            undo.callback(self.kill_daemon)
            self.start_daemon()
            for work in (self._end_containers, self._acknowledge):
                thread = threading.Thread(target=work, daemon=True)
                thread.start()
                undo.callback(thread.join)
            undo.callback(self._wake)
            undo.callback(self.clock.stop)
            self._exit = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    # -- processes -----------------------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """Start the daemon, on the port where Prometheus looks for it."""
        with (self.folder / "daemon.log").open("ab") as log:
            command = [sys.executable, "-m", "reconciler", "run"]
            self.daemon = subprocess.Popen(command, env=self._environment, cwd=self.folder, stdout=log, stderr=log)

    def kill_daemon(self) -> None:
        """SIGKILL, as a node that is gone."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGKILL)
            self.daemon.wait()

    def _start_prometheus(self, undo: ExitStack) -> None:
        (self.folder / "rules.yaml").write_text(self._rules)
        target = {"targets": [f"127.0.0.1:{self.daemon_port}"], "labels": {"namespace": "airflow", "pod": "daemon-0"}}
        config = {
            "global": {
                "scrape_interval": self._scrape,
                "scrape_timeout": self._scrape,
                "evaluation_interval": self._scrape,
            },
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "ecs-reconciler", "static_configs": [target]}],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{self.alertmanager_port}"]}]}]},
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        route = {"receiver": "nobody", "group_wait": "0s", "group_interval": "1s"}
        receivers = {"global": {"resolve_timeout": "5s"}, "route": route, "receivers": [{"name": "nobody"}]}
        (self.folder / "alertmanager.yaml").write_text(yaml.safe_dump(receivers))
        for name, arguments in (
            (
                "prometheus",
                [
                    "--config.file=prometheus.yaml",
                    "--storage.tsdb.path=tsdb",
                    f"--web.listen-address=127.0.0.1:{self.prometheus_port}",
                    "--enable-feature=exemplar-storage",
                    *self._extra,
                ],
            ),
            (
                "alertmanager",
                [
                    "--config.file=alertmanager.yaml",
                    "--storage.path=alerts",
                    f"--web.listen-address=127.0.0.1:{self.alertmanager_port}",
                    "--cluster.listen-address=",
                ],
            ),
        ):
            with (self.folder / f"{name}.log").open("wb") as log:
                command = [self._programs[name], *arguments]
                process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
            undo.callback(process.wait)
            undo.callback(process.terminate)

    # -- asking --------------------------------------------------------------------------------------------------------

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition."""
        deadline = self.clock.monotonic() + PATIENCE
        while not condition():
            assert self.clock.monotonic() < deadline, f"not in time: {what}\n{self._tail()}"
            self.clock.wait(0.2)

    def _tail(self) -> str:
        return "\n".join((self.folder / "daemon.log").read_text().splitlines()[-15:])

    def metrics(self) -> bytes:
        """What the daemon's /metrics shows."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.daemon_port}/metrics", timeout=10) as answer:
            shown: bytes = answer.read()
            return shown

    def ask(self, path: str, **parameters: str) -> Any:
        """Prometheus's API. Raises AssertionError with its words for a query that it refuses."""
        query = urllib.parse.urlencode(parameters)
        address = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 503:  # it starts
                    raise urllib.error.URLError(str(error)) from None
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def value(self, query: str) -> float | None:
        """The first sample of an instant query."""
        try:
            found = self.ask("query", query=query)["result"]
        except urllib.error.URLError:  # it starts
            return None
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, dict[str, Any]]:
        """What Alertmanager has, by alert."""
        try:
            address = f"http://127.0.0.1:{self.alertmanager_port}/api/v2/alerts"
            with urllib.request.urlopen(address, timeout=10) as answer:
                return {alert["labels"]["alertname"]: alert for alert in json.load(answer)}
        except urllib.error.URLError:
            return {}

    # -- the load ------------------------------------------------------------------------------------------------------

    def queue(self, how_many: int, queue: str = "default") -> None:
        """What the shim writes when Airflow queues tasks."""
        names = [f"{next(self._names):08x}-0000-4000-8000-000000000000" for _ in range(how_many)]
        row = Workload("", DEPLOYMENT, queue=queue, owner_job_id=OWNER, spec=Spec('{"ti": {}}'))
        key = TaskKey("etl", "load", "run", -1, 1)
        rows = [replace(row, exec_id=name, ti_id=name, key=replace(key, map_index=n)) for n, name in enumerate(names)]
        self._write(lambda conn: shim.insert(conn, rows))

    def _acknowledge(self) -> None:
        """What a scheduler's heartbeat does with outcomes."""
        while not self.clock.stopped:
            self._write(lambda conn: shim.acknowledge(conn, shim.undelivered(conn, DEPLOYMENT, OWNER, 1000).workloads))
            self.clock.wait(1.0)

    def _write(self, work: Callable[[Connection], object]) -> None:
        """As a scheduler does: what finds SQLite locked for seconds, on a busy machine, is done at its next turn."""
        while not self.clock.stopped:
            with suppress(OperationalError), writing(self.engine).begin() as conn:
                work(conn)
                return
            self.clock.wait(1.0)

    def _on_effect(self, effect: Effect) -> None:
        seconds = self._random.uniform(*self._seconds) if isinstance(effect, StartContainer) else 0.0
        if isinstance(effect, StartContainer | SignalContainer):
            with self._more:
                heapq.heappush(self._ends, (self.clock.monotonic() + seconds, effect.task_arn, effect.container))
                self._more.notify()

    def _end_containers(self) -> None:
        while not self.clock.stopped:
            with self._more:
                due = self._ends[0][0] - self.clock.monotonic() if self._ends else 1.0
                if due > 0:
                    self._more.wait(min(due, 1.0))
                    continue
                _, arn, container = heapq.heappop(self._ends)
            self.ecs.container_exited(arn, container, 0 if self._random.random() < 0.97 else 1)

    def _wake(self) -> None:
        with self._more:
            self._more.notify()
