"""The model on a loopback port: one lock around it, one thread that carries out its effects.

Requests are not authenticated: any signature is accepted, so do not listen on a public address.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from random import Random  # noqa: TID251 - the server is a composition root
from typing import TYPE_CHECKING, Any, Self

from reconciler.localecs.errors import AwsError
from reconciler.localecs.logs import get_log_events, no_such_stream, stream_prefix
from reconciler.localecs.model import EcsModel
from reconciler.localecs.runner import Runner
from reconciler.localecs.settings import Settings, Spread
from reconciler.localecs.shapes import Shapes
from reconciler.localecs.sqs import SqsModel
from reconciler.localecs.sqs_server import LocalSqs
from reconciler.localecs.task import Effect, SignalContainer
from reconciler.localecs.wire import HttpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

DEMO_DEFINITION: Mapping[str, Any] = {
    "family": "airflow-task",
    "networkMode": "awsvpc",
    "requiresCompatibilities": ["FARGATE"],
    "cpu": "256",
    "memory": "512",
    "executionRoleArn": "arn:aws:iam::123456789012:role/ecsTaskExecutionRole",
    "containerDefinitions": [
        {
            "name": "airflow",
            "image": "apache/airflow",
            "essential": True,
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": "/ecs/airflow-task",
                    "awslogs-region": "us-east-1",
                    "awslogs-stream-prefix": "ecs",
                },
            },
        }
    ],
}


class LocalEcs:
    """An ECS endpoint in this process: `with LocalEcs() as ecs: boto3.client("ecs", endpoint_url=ecs.endpoint_url)`.

    `directory` gets the log files of the containers, which run as processes. Without it nothing is run: `on_effect`
    is called for each effect, from one thread, and ends are reported through `container_exited`; without that either,
    a container runs until it is signalled. `cluster` is created, and with `task_definition` the family
    `airflow-task` with a container `airflow` (Fargate, awsvpc, 256 cpu units, 512 MiB) is registered.
    `stop_tasks` says whether `close` ends the running containers, with `stop_grace` seconds between SIGTERM and
    SIGKILL. `events_queue` is the name of a queue of `sqs` that gets an event for each change of a task.
    Touch `model` only while holding `lock`, and call `wake` after changing it.
    """

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        directory: Path | None = None,
        on_effect: Callable[[Effect], None] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        cluster: str = "default",
        task_definition: bool = True,
        stop_tasks: bool = True,
        stop_grace: float = 5.0,
        events_queue: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.settings = settings or Settings()
        rng, sqs_rng = Random(seed), Random(seed)  # noqa: S311 - make names, not secrets
        self.model = EcsModel(self.settings, rng, events=events_queue is not None)
        # Not the model's: how long answers take must change nothing of what it does.
        self._slowness = Random(seed)  # noqa: S311
        self.lock = threading.Condition()
        self._epoch = time.time() - time.monotonic()  # noqa: TID251 - the server owns its clock
        self._shapes, self._log_shapes = Shapes("ecs"), Shapes("logs")
        self._stop_tasks, self._stop_grace = stop_tasks, stop_grace
        self._stopping = False
        self.runner = Runner(directory, image_environment(os.environ), self.container_exited) if directory else None
        self._on_effect = self.runner.execute if self.runner else on_effect or self._obey
        now = self.now()
        self.model.call("CreateCluster", {"clusterName": cluster}, now)
        if task_definition:
            self.model.call("RegisterTaskDefinition", DEMO_DEFINITION, now)
        self._http = HttpServer((host, port), self)
        self.sqs = LocalSqs(SqsModel(self.settings, sqs_rng, self.endpoint_url), self.now, events_queue)
        self._driver = threading.Thread(target=self._drive, name="localecs-driver", daemon=True)
        self._listener = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, name="localecs-http", daemon=True
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def endpoint_url(self) -> str:
        """What AWS_ENDPOINT_URL_ECS should be, and AWS_ENDPOINT_URL_SQS."""
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def healthy(self) -> bool:
        """Whether tasks still move."""
        return self._driver.is_alive()

    def now(self) -> float:
        """Epoch seconds that never run backward."""
        return self._epoch + time.monotonic()  # noqa: TID251 - the server owns its clock

    def start(self) -> None:
        """Begin to serve. `close` undoes it."""
        self._driver.start()
        self._listener.start()

    def close(self) -> None:
        """Stop serving, then end the running containers or leave them."""
        self._http.shutdown()
        self._http.close_connections()
        self.sqs.stop()
        self._http.server_close()
        self._listener.join()
        with self.lock:
            self._stopping = True
            self.lock.notify_all()
        self._driver.join()
        if self.runner is not None and self._stop_tasks:
            self.runner.stop_all(self._stop_grace)

    def wake(self) -> None:
        """Tell the driver that the model was changed from outside. Needs `lock`."""
        self.lock.notify_all()

    def container_exited(self, task_arn: str, container: str, exit_code: int, reason: str | None = None) -> None:
        """Report the end of a container."""
        with self.lock:
            self.model.container_exited(task_arn, container, exit_code, self.now(), reason)
            self._publish()
            self.wake()

    def call(self, operation: str, request: Any) -> dict[str, Any]:
        """What the handlers do with a request: check its types, ask the model, hold the answer back if so set."""
        self._shapes.check_request(operation, request)
        with self.lock:
            before = self.model.next_event_at()
            try:
                answer = self.model.call(operation, request, self.now())
            finally:
                self._publish()
                if self.model.next_event_at() != before:
                    self.wake()
        delay = self._latency_of(operation)
        if delay:
            time.sleep(delay)  # noqa: TID251 - this is the network's slowness, not a wait for anything
        return answer

    def _latency_of(self, operation: str) -> float:
        """Seconds by which an answer is held back."""
        latency = self.settings.answer_latency.get(operation, 0.0)
        return latency.draw(self._slowness) if isinstance(latency, Spread) else latency

    def call_logs(self, operation: str, request: Any) -> dict[str, Any]:
        """The same for CloudWatch Logs, of which there is GetLogEvents only."""
        self._log_shapes.check_request(operation, request)
        if operation != "GetLogEvents":
            raise AwsError("UnknownOperationException", f"There is no {operation} here, only GetLogEvents.")
        prefix, _, task_id = request["logStreamName"].rpartition("/")
        container = prefix.rpartition("/")[2]
        with self.lock:
            found = self.model.find_definition_of(task_id)
        path = self.runner.log_path(found[0], container) if self.runner and found else None
        if found is None or path is None or not path.exists():
            raise no_such_stream()
        if stream_prefix(found[1], container, request.get("logGroupName", "")) != prefix:
            raise no_such_stream()
        lines = path.read_text(errors="replace").splitlines()
        return get_log_events(request, lines, path.stat().st_mtime)

    def call_sqs(self, operation: str, request: Any) -> dict[str, Any]:
        """The same for SQS, which knows nothing of tasks."""
        return self.sqs.call(operation, request)

    def stats(self) -> dict[str, Any]:
        """The models' own figures."""
        with self.lock:
            return self.model.stats() | {"sqs": self.sqs.stats()}

    def _drive(self) -> None:
        while True:
            with self.lock:
                if self._stopping:
                    return
                effects = self.model.advance(self.now())
                self._publish()
                if not effects:
                    due = self.model.next_event_at()
                    self.lock.wait(None if due is None else max(0.0, due - self.now()))
            for effect in effects:
                self._on_effect(effect)

    def _publish(self) -> None:
        """EventBridge: what the model has to tell goes into the queue. Needs `lock`."""
        events = self.model.take_events()
        if events:
            self.sqs.deliver(events)

    def _obey(self, effect: Effect) -> None:
        """The runner of nothing: a container runs until it gets a signal and then ends with the code of that signal."""
        if isinstance(effect, SignalContainer):
            number = signal.Signals[effect.signal]
            self.container_exited(effect.task_arn, effect.container, 128 + number)


def image_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a container's image would bring: our own environment without AWS's, and our Python first in the PATH."""
    image = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    path = [str(Path(sys.executable).parent), *filter(None, [environment.get("PATH")])]
    return image | {"PATH": os.pathsep.join(path)}


def run_local_ecs(
    host: str,
    port: int,
    directory: Path,
    cluster: str = "default",
    *,
    settings: Settings | None = None,
    task_definition: bool = True,
    stop_tasks: bool = True,
    events_queue: str | None = None,
    on_ready: Callable[[LocalEcs], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; must run in the main thread. `on_ready` is called once it answers.

    The containers are stopped with it unless `stop_tasks` is false. The state lives in memory only.
    """
    done = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, lambda *_: done.set()) for number in numbers]
    try:
        with LocalEcs(
            settings=settings,
            directory=directory,
            host=host,
            port=port,
            cluster=cluster,
            task_definition=task_definition,
            stop_tasks=stop_tasks,
            events_queue=events_queue,
        ) as ecs:
            if on_ready is not None:
                on_ready(ecs)
            done.wait()
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
