"""Virtual time: a clock, a database that asks it, and the models of ECS and SQS as boto3's clients on it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ReadTimeoutError
from sqlalchemy import create_engine
from sqlalchemy import event as sql_event
from sqlalchemy.pool import StaticPool

from reconciler.localecs import AwsError, EcsModel, ResponseLost, SqsModel
from reconciler.store.schema import metadata

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from sqlalchemy import Engine


EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualClock:
    """Implements `seams.Clock`. Waiting is moving on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def datetime(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now)


def make_store_engine(clock: VirtualClock) -> Engine:
    """An SQLite database in memory whose clock is virtual: the store asks for it with strftime."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    def strftime(_format: str, _now: str, modifier: str = "0 seconds") -> str:
        moment = clock.datetime() + timedelta(seconds=float(modifier.split(maxsplit=1)[0]))
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f")

    @sql_event.listens_for(engine, "connect")
    def own_the_clock(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("strftime", -1, strftime)

    metadata.create_all(engine)
    return engine


class ModelClient:
    """What the gateway needs of a boto3 client, answered by the model without a network between."""

    def __init__(self, model: EcsModel, clock: VirtualClock) -> None:
        self._model, self._clock = model, clock
        self._hooks: list[Callable[..., None]] = []
        self.meta = SimpleNamespace(
            events=SimpleNamespace(register_last=lambda _, hook: self._hooks.append(hook), unregister=lambda *_: None)
        )

    def close(self) -> None: ...

    def run_task(self, **request: Any) -> Any:
        return self._call("RunTask", request)

    def stop_task(self, **request: Any) -> Any:
        return self._call("StopTask", request)

    def describe_tasks(self, **request: Any) -> Any:
        return self._call("DescribeTasks", request)

    def list_tasks(self, **request: Any) -> Any:
        return self._call("ListTasks", request)

    def _call(self, operation: str, request: dict[str, Any]) -> Any:
        for hook in self._hooks:
            hook()
        return _with_times(answered(self._model, operation, request, self._clock))


class ModelQueueClient:
    """The same of SQS, for the queue of events."""

    def __init__(self, model: SqsModel, clock: VirtualClock) -> None:
        self._model, self._clock = model, clock

    def close(self) -> None: ...

    def receive_message(self, **request: Any) -> Any:
        return answered(self._model, "ReceiveMessage", request, self._clock)

    def delete_message_batch(self, **request: Any) -> Any:
        return answered(self._model, "DeleteMessageBatch", request, self._clock)

    def get_queue_attributes(self, **request: Any) -> Any:
        return answered(self._model, "GetQueueAttributes", request, self._clock)


def answered(model: EcsModel | SqsModel, operation: str, request: dict[str, Any], clock: VirtualClock) -> Any:
    """What boto3 makes of the model's answer."""
    try:
        answer = model.call(operation, request, EPOCH.timestamp() + clock.now)
    except AwsError as error:
        body: Any = {"Error": {"Code": error.code, "Message": error.message}, **error.extra}
        body["ResponseMetadata"] = {"HTTPStatusCode": error.status}
        raise ClientError(body, operation) from error
    except ResponseLost as error:
        raise ReadTimeoutError(endpoint_url="model") from error
    return json.loads(json.dumps(answer))


def _with_times(value: Any) -> Any:
    """boto3 gives datetimes where the wire has seconds."""
    if isinstance(value, list):
        return [_with_times(item) for item in value]
    if isinstance(value, dict):
        return {
            name: datetime.fromtimestamp(item, UTC)
            if name.endswith("At") and isinstance(item, int | float)
            else _with_times(item)
            for name, item in value.items()
        }
    return value
