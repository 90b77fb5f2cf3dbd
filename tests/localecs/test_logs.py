"""A container's output as CloudWatch Logs: what the local ECS serves, and what a task's page makes of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from reconciler.airflow import log_reader
from reconciler.airflow.log_reader import LogReader, running
from reconciler.core.logs import awslogs, stream_of
from reconciler.core.phase import Phase
from reconciler.core.task import TaskKey, Workload
from tests.localecs.world import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_logs import CloudWatchLogsClient

    from reconciler.localecs import LocalEcs
    from tests.conftest import Deployment

LOGS = {"group": "/ecs/airflow-task", "region": "us-east-1", "prefix": "ecs/airflow"}
NETWORK: Any = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}


@pytest.fixture
def arn(ecs: LocalEcs, connect: Callable[..., Any]) -> str:
    """An ECS task that has written 25 lines and ended."""
    client = connect(ecs)
    overrides = {"containerOverrides": [{"name": "airflow", "command": ["sh", "-c", "seq 25"]}]}
    started = client.run_task(
        taskDefinition="airflow-task", launchType="FARGATE", networkConfiguration=NETWORK, overrides=overrides
    )
    arn = str(started["tasks"][0]["taskArn"])
    eventually(lambda: client.describe_tasks(tasks=[arn])["tasks"][0]["lastStatus"] == "STOPPED", "its end")
    return arn


@pytest.fixture
def logs(ecs: LocalEcs, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudWatchLogsClient]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", ecs.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anything")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "goes")
    client = boto3.client("logs", region_name="us-east-1")
    yield client
    client.close()


@pytest.fixture
def reader(logs: CloudWatchLogsClient) -> Iterator[LogReader]:
    reader = LogReader(lambda: 0.0)
    yield reader
    for client in reader._clients.values():
        client.close()


def workload(arn: str, **changes: Any) -> Workload:
    return replace(Workload("x", "prod", task_arn=arn, logs=LOGS, phase=Phase.RUNNING), **changes)


def test_the_task_definition_says_where_the_output_is(ecs: LocalEcs, connect: Callable[..., Any], arn: str) -> None:
    definition = connect(ecs).describe_task_definition(taskDefinition="airflow-task")["taskDefinition"]
    assert awslogs(definition, "airflow") == LOGS
    assert stream_of(LOGS, arn) == f"ecs/airflow/{arn.rpartition('/')[2]}"


@pytest.mark.parametrize(
    "config",
    [
        None,
        {"logDriver": "splunk", "options": {"awslogs-group": "g", "awslogs-stream-prefix": "p"}},
        {"logDriver": "awslogs", "options": {"awslogs-group": "g"}},
        {"logDriver": "awslogs"},
    ],
)
def test_other_ways_to_log_are_not_guessed_at(config: Any) -> None:
    definition = {"containerDefinitions": [{"name": "sidecar"}, {"name": "airflow", "logConfiguration": config}]}
    assert awslogs(definition, "airflow") is None
    assert awslogs(definition, "nobody") is None


def test_pages_lead_from_the_head_to_the_end_and_stay_there(logs: CloudWatchLogsClient, arn: str) -> None:
    where: Any = {"logGroupName": LOGS["group"], "logStreamName": stream_of(LOGS, arn), "limit": 10}
    found, request = [], {**where, "startFromHead": True}
    for _ in range(4):
        page = logs.get_log_events(**request)
        found.append([event["message"] for event in page["events"]])
        request["nextToken"] = page["nextForwardToken"]
    assert [len(page) for page in found] == [10, 10, 5, 0]
    assert [line for page in found for line in page] == [str(n) for n in range(1, 26)]
    last = logs.get_log_events(**where)
    assert [event["message"] for event in last["events"]] == [str(n) for n in range(16, 26)]
    before = logs.get_log_events(**where, nextToken=last["nextBackwardToken"])
    assert [event["message"] for event in before["events"]] == [str(n) for n in range(6, 16)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"logGroupName": "/another"}, "ResourceNotFoundException"),
        ({"logStreamName": "ecs/airflow/0123"}, "ResourceNotFoundException"),
        ({"logStreamName": "../../etc/passwd"}, "ResourceNotFoundException"),
        ({"nextToken": "nonsense"}, "InvalidParameterException"),
        ({"limit": 10001}, "InvalidParameterException"),
    ],
)
def test_what_does_not_exist_is_said_as_aws_says_it(
    logs: CloudWatchLogsClient, arn: str, change: Any, code: str
) -> None:
    request: Any = {"logGroupName": LOGS["group"], "logStreamName": stream_of(LOGS, arn)}
    with pytest.raises(ClientError) as error:
        logs.get_log_events(**{**request, **change})
    assert error.value.response["Error"]["Code"] == code


def test_the_page_shows_the_output_and_where_it_is_from(reader: LogReader, arn: str) -> None:
    messages, lines = reader.read(workload(arn))
    assert lines == [str(n) for n in range(1, 26)]
    assert messages == [f"CloudWatch Logs, group /ecs/airflow-task, stream {stream_of(LOGS, arn)}"]


def test_a_stream_that_is_not_there_yet_is_no_error(reader: LogReader, ecs: LocalEcs) -> None:
    messages, lines = reader.read(workload(f"{ecs.endpoint_url}/nothing"))
    assert lines == []
    assert messages[0].endswith("nothing has been written yet")


class Endless:
    """A stream that never ends, and a clock that each page moves on."""

    def __init__(self, seconds_per_page: float) -> None:
        self.now = 0.0
        self.pages = 0
        self._seconds = seconds_per_page

    def get_log_events(self, **request: Any) -> Any:
        self.now += self._seconds
        self.pages += 1
        return {"events": [{"message": f"line {self.pages}"}], "nextForwardToken": f"f/{self.pages}"}


@pytest.mark.parametrize(("seconds", "pages"), [(0.1, log_reader.PAGES), (2.6, 2), (60, 1)])
def test_it_ends_after_some_pages_or_seconds_and_says_that_there_is_more(seconds: float, pages: int) -> None:
    endless = Endless(seconds)
    messages, lines = LogReader(lambda: endless.now, lambda _: endless).read(workload("arn/1"))
    assert endless.pages == len(lines) == pages
    assert f"the first {pages} lines; see the rest there" in messages[0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetLogEvents"),
            "logs:GetLogEvents",
        ),
        (ConnectionError("refused"), "can not be read now (ConnectionError: refused)"),
        (ImportError("boto3"), "boto3 is not installed"),
        (KeyError("events"), "can not be read now (KeyError"),
    ],
)
def test_no_error_breaks_the_page(error: Exception, said: str) -> None:
    def refuse(_region: str) -> Any:
        raise error

    messages, lines = LogReader(lambda: 0.0, refuse).read(workload("arn/1"))
    assert (len(messages), lines) == (1, [])
    assert said in messages[0]


def test_where_there_is_nothing_to_show_it_says_why_or_leaves_it_to_airflow() -> None:
    reader = LogReader(lambda: 0.0, lambda region: pytest.fail(f"nobody needs a client for {region}"))
    assert reader.read(None) == ([], [])
    assert "can not be read from CloudWatch Logs" in reader.read(workload("arn/1", logs=None))[0][0]


def test_the_newest_queueing_of_this_try_that_has_a_task_is_the_one(prod: Deployment) -> None:
    key = TaskKey("etl", "load", "r", -1, 2)
    for exec_id, its_key in {"old": replace(key, try_number=1), "first": key, "second": key, "waits": key}.items():
        prod.queue(exec_id, key=its_key)
        if exec_id != "waits":
            prod.move(exec_id, Phase.LAUNCHING, logs=LOGS)
            prod.move(exec_id, Phase.STARTED)
    found = running(prod.engine, key)
    assert found is not None
    assert (found.exec_id, found.logs) == ("second", LOGS)
    assert running(prod.engine, replace(key, map_index=3)) is None


def test_boto3_is_not_loaded_until_a_page_needs_it() -> None:
    assert "boto3" not in vars(sys.modules["reconciler.airflow.log_reader"])
