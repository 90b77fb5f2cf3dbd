"""The server through unmodified boto3: what goes over the wire, and how the server stops."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from reconciler.localecs import (
    AwsError,
    Effect,
    LocalEcs,
    Rate,
    ResponseLost,
    Settings,
    SignalContainer,
    Spread,
    StartContainer,
)
from tests.localecs.world import FARGATE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def idle() -> Iterator[LocalEcs]:
    """A server that runs nothing: containers run until they are stopped."""
    with LocalEcs(settings=Settings.unthrottled()) as running:
        yield running


def status(client: Any, arn: str) -> str:
    return str(client.describe_tasks(tasks=[arn])["tasks"][0]["lastStatus"])


def override(*command: str) -> dict[str, Any]:
    return {"containerOverrides": [{"name": "airflow", "command": list(command)}]}


def get(server: LocalEcs, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*_address(server))
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def post(server: LocalEcs, target: str, body: bytes) -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection(*_address(server))
    try:
        connection.request("POST", "/", body, {"X-Amz-Target": target})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), json.loads(response.read())
    finally:
        connection.close()


def _address(server: LocalEcs) -> tuple[str, int]:
    host, _, port = server.endpoint_url.removeprefix("http://").partition(":")
    return host, int(port)


def test_a_task_runs_to_its_exit_code_through_boto3(ecs: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(ecs)
    overrides = {
        "containerOverrides": [
            {
                "name": "airflow",
                "command": ["sh", "-c", "echo hello $WHO; exit 7"],
                "environment": [{"name": "WHO", "value": "world"}],
            }
        ]
    }
    arn = client.run_task(**FARGATE, overrides=overrides)["tasks"][0]["taskArn"]
    eventually(lambda: status(client, arn) == "STOPPED", "the task to stop")
    [task] = client.describe_tasks(tasks=[arn])["tasks"]
    assert task["containers"][0]["exitCode"] == 7
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["createdAt"] < task["startedAt"] < task["stoppedAt"]
    assert ecs.runner is not None
    assert ecs.runner.log_path(arn, "airflow").read_text() == "hello world\n"


def test_stop_task_ends_a_process_that_heeds_sigterm(ecs: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(ecs)
    arn = client.run_task(**FARGATE, overrides=override("sleep", "600"))["tasks"][0]["taskArn"]
    eventually(lambda: status(client, arn) == "RUNNING", "the task to run")
    assert client.stop_task(task=arn, reason="enough")["task"]["desiredStatus"] == "STOPPED"
    eventually(lambda: status(client, arn) == "STOPPED", "the task to stop")
    [task] = client.describe_tasks(tasks=[arn])["tasks"]
    assert task["containers"][0]["exitCode"] == 143
    assert (task["stopCode"], task["stoppedReason"]) == ("UserInitiated", "enough")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [(override("/no/such/program"), "No such file"), ({}, "must name a command")],
)
def test_a_command_that_cannot_be_run_ends_as_127_with_a_reason(
    ecs: LocalEcs, connect: Callable[..., Any], overrides: dict[str, Any], reason: str
) -> None:
    client = connect(ecs)
    arn = client.run_task(**FARGATE, overrides=overrides)["tasks"][0]["taskArn"]
    eventually(lambda: status(client, arn) == "STOPPED", "the task to stop")
    [container] = client.describe_tasks(tasks=[arn])["tasks"][0]["containers"]
    assert container["exitCode"] == 127
    assert "CannotStartContainerError" in container["reason"]
    assert reason in container["reason"]


def test_every_operation_works_through_boto3(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(idle)
    client.create_cluster(clusterName="jobs")
    assert client.describe_clusters(clusters=["jobs"])["clusters"][0]["status"] == "ACTIVE"
    container = {"name": "c", "image": "i", "memory": 64, "command": ["true"]}
    definition = client.register_task_definition(family="f", containerDefinitions=[container])["taskDefinition"]
    assert client.describe_task_definition(taskDefinition="f")["taskDefinition"] == definition
    answer = client.run_task(cluster="jobs", taskDefinition="f", startedBy="me", tags=[{"key": "a", "value": "b"}])
    arn = answer["tasks"][0]["taskArn"]
    assert client.list_tasks(cluster="jobs", startedBy="me")["taskArns"] == [arn]
    client.tag_resource(resourceArn=arn, tags=[{"key": "c", "value": "d"}])
    assert len(client.list_tags_for_resource(resourceArn=arn)["tags"]) == 2
    assert client.describe_tasks(cluster="jobs", tasks=[arn])["failures"] == []
    client.stop_task(cluster="jobs", task=arn)
    client.deregister_task_definition(taskDefinition="f:1")
    with pytest.raises(client.exceptions.ClientException):
        client.describe_task_definition(taskDefinition="g")


def test_waiters_and_paginators_of_boto3_work(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(idle)
    arns = {
        task["taskArn"]
        for _ in range(11)
        for task in client.run_task(**FARGATE, count=10, clientToken=f"t{_}")["tasks"]
    }
    pages = list(client.get_paginator("list_tasks").paginate(cluster="default"))
    assert [len(page["taskArns"]) for page in pages] == [100, 10]
    assert {arn for page in pages for arn in page["taskArns"]} == arns
    quick = {"Delay": 1, "MaxAttempts": 60}
    client.get_waiter("tasks_running").wait(tasks=list(arns)[:3], WaiterConfig=quick)


def test_a_conflict_carries_its_resource_ids_to_boto3(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(idle)
    arn = client.run_task(**FARGATE, clientToken="t")["tasks"][0]["taskArn"]
    with pytest.raises(client.exceptions.ConflictException) as caught:
        client.run_task(**FARGATE, clientToken="t", startedBy="changed")
    assert caught.value.response["resourceIds"] == [arn]
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_throttling_reaches_boto3_with_its_code(connect: Callable[..., Any]) -> None:
    with LocalEcs(settings=Settings(rates={"cluster-resource-read": Rate(1, 0)})) as server:
        client = connect(server)
        client.list_tasks()
        with pytest.raises(ClientError) as caught:
            client.list_tasks()
        assert caught.value.response["Error"] == {"Code": "ThrottlingException", "Message": "Rate exceeded"}
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_boto3_retries_a_server_error_by_itself(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(idle, retries={"total_max_attempts": 2})
    with idle.lock:
        idle.model.faults.on_call("ListTasks", AwsError("ServerException", "Service unavailable.", 500))
    answer = client.list_tasks()
    assert answer["ResponseMetadata"]["RetryAttempts"] == 1


@pytest.mark.parametrize(("after_effect", "made"), [(True, 1), (False, 0)])
def test_a_lost_answer_is_a_closed_connection(
    idle: LocalEcs, connect: Callable[..., Any], after_effect: bool, made: int
) -> None:
    client = connect(idle)
    with idle.lock:
        idle.model.faults.on_call("RunTask", ResponseLost(), after_effect=after_effect)
    with pytest.raises(ConnectionClosedError):
        client.run_task(**FARGATE, clientToken="t")
    assert len(client.list_tasks()["taskArns"]) == made
    client.run_task(**FARGATE, clientToken="t")
    assert len(client.list_tasks()["taskArns"]) == 1


def test_boto3_s_own_retry_of_a_lost_answer_makes_one_task(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(idle, retries={"total_max_attempts": 2})
    with idle.lock:
        idle.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
    client.run_task(**FARGATE)
    assert len(client.list_tasks()["taskArns"]) == 1


def test_concurrent_calls_with_one_token_make_one_task(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(idle, max_pool_connections=16)
    barrier = threading.Barrier(16)

    def launch(_: int) -> str:
        barrier.wait(60)
        return str(client.run_task(**FARGATE, clientToken="t")["tasks"][0]["taskArn"])

    with ThreadPoolExecutor(16) as pool:
        arns = set(pool.map(launch, range(16)))
    assert client.list_tasks()["taskArns"] == list(arns)


def test_thirty_two_threads_share_kept_connections(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(idle, max_pool_connections=32)
    with ThreadPoolExecutor(32) as pool:
        tokens = [f"{number % 200}" for number in range(400)]
        answers = list(pool.map(lambda token: client.run_task(**FARGATE, clientToken=token), tokens))
    arns = Counter(answer["tasks"][0]["taskArn"] for answer in answers)
    assert len(arns) == 200
    assert set(arns.values()) == {2}
    connections = idle._http._connections
    assert len(connections) <= 32
    assert idle.model.stats()["operations"]["RunTask"] == {"answered": 400, "throttled": 0, "failed": 0}


def test_answers_can_be_held_back(connect: Callable[..., Any]) -> None:
    settings = Settings(rates={}, answer_latency={"ListTasks": 0.2})
    with LocalEcs(settings=settings) as server:
        client = connect(server)
        before = server.now()
        client.list_tasks()
        assert server.now() - before >= 0.2


def test_how_long_answers_take_changes_nothing_of_what_the_model_does(connect: Callable[..., Any]) -> None:
    told = []
    for latency in ({}, {"RunTask": Spread(0.001, 0.002)}):
        settings = Settings(rates={}, answer_latency=latency)
        with LocalEcs(settings=settings, seed=1) as server:
            client = connect(server)
            told.append([client.run_task(**FARGATE)["tasks"][0]["taskArn"] for _ in range(5)])
    assert told[0] == told[1]


def test_a_slow_answer_holds_up_nobody_else(connect: Callable[..., Any]) -> None:
    settings = Settings(rates={}, answer_latency={"RunTask": 2.0})
    with LocalEcs(settings=settings) as server, ThreadPoolExecutor(1) as pool:
        client = connect(server)
        slow = pool.submit(client.run_task, **FARGATE)
        eventually(lambda: client.list_tasks()["taskArns"], "the task")
        assert not slow.done()


def test_a_spread_has_the_median_and_the_tail_that_it_was_given() -> None:
    chance = Random(1)
    drawn = sorted(Spread(0.15, 0.6).draw(chance) for _ in range(20_000))
    assert 0.147 < drawn[10_000] < 0.153
    assert 0.55 < drawn[19_800] < 0.65
    assert drawn[0] > 0
    with pytest.raises(ValueError, match="median"):
        Spread(0.6, 0.15)


def test_without_a_runner_effects_go_to_whoever_asked_for_them(connect: Callable[..., Any]) -> None:
    effects: list[Effect] = []
    with LocalEcs(settings=Settings.unthrottled(), on_effect=effects.append) as server:
        client = connect(server)
        arn = client.run_task(**FARGATE, overrides=override("run", "me"))["tasks"][0]["taskArn"]
        eventually(lambda: effects, "the container to be started")
        assert effects == [StartContainer(arn, "airflow", ("run", "me"), {})]
        client.stop_task(task=arn)
        eventually(lambda: len(effects) > 1, "the container to be signalled")
        assert effects[1:] == [SignalContainer(arn, "airflow", "SIGTERM")]
        server.container_exited(arn, "airflow", 42)
        eventually(lambda: status(client, arn) == "STOPPED", "the task to stop")
        assert client.describe_tasks(tasks=[arn])["tasks"][0]["containers"][0]["exitCode"] == 42


def test_a_server_that_runs_nothing_obeys_signals(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    client = connect(idle)
    arn = client.run_task(**FARGATE)["tasks"][0]["taskArn"]
    eventually(lambda: status(client, arn) == "RUNNING", "the task to run")
    client.stop_task(task=arn)
    eventually(lambda: status(client, arn) == "STOPPED", "the task to stop")
    assert client.describe_tasks(tasks=[arn])["tasks"][0]["containers"][0]["exitCode"] == 143


def test_health_and_stats_can_be_read_and_nothing_else(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    connect(idle).run_task(**FARGATE, clientToken="t")
    assert get(idle, "/_local/health") == (200, {"healthy": True})
    code, stats = get(idle, "/_local/stats")
    assert code == 200
    assert stats["tasks"] == {"created": 1, "live": 1, "known": 1}
    assert stats["tasks_by_client_token"] == {"t": 1}
    assert get(idle, "/other")[0] == 404


@pytest.mark.parametrize(
    ("target", "body", "code"),
    [
        ("", b"{}", "UnknownOperationException"),
        ("AmazonEC2ContainerServiceV20141113.NoSuchThing", b"{}", "UnknownOperationException"),
        ("AmazonEC2ContainerServiceV20141113.CreateService", b"{}", "InvalidParameterException"),
        ("AmazonEC2ContainerServiceV20141113.ListServices", b"{}", "UnknownOperationException"),
        ("AmazonEC2ContainerServiceV20141113.ListTasks", b"{", "SerializationException"),
        ("AmazonEC2ContainerServiceV20141113.ListTasks", b"[]", "SerializationException"),
        ("AmazonEC2ContainerServiceV20141113.ListTasks", b'{"maxResults": "1"}', "SerializationException"),
        ("AmazonEC2ContainerServiceV20141113.ListTasks", b'{"maxResults": true}', "SerializationException"),
        ("AmazonEC2ContainerServiceV20141113.DescribeTasks", b'{"tasks": ["a", 1]}', "SerializationException"),
        ("AmazonEC2ContainerServiceV20141113.DescribeTasks", b"{}", "InvalidParameterException"),
    ],
)
def test_a_malformed_request_is_an_error_in_aws_s_format(idle: LocalEcs, target: str, body: bytes, code: str) -> None:
    status_, headers, answer = post(idle, target, body)
    assert status_ == 400
    assert answer["__type"] == headers["x-amzn-errortype"] == code
    assert answer["message"]
    assert headers["x-amzn-RequestId"]


def test_members_that_botocore_does_not_know_are_ignored(idle: LocalEcs) -> None:
    target = "AmazonEC2ContainerServiceV20141113.ListTasks"
    assert post(idle, target, b'{"someday": {"a": 1}, "family": null}')[2] == {"taskArns": []}


def test_a_client_that_hangs_up_does_not_disturb_the_others(idle: LocalEcs, connect: Callable[..., Any]) -> None:
    with socket.create_connection(_address(idle)) as rude:
        rude.sendall(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
    connect(idle).list_tasks()
    assert get(idle, "/_local/health")[0] == 200


def test_closing_ends_idle_connections_and_the_containers(tmp_path: Path, connect: Callable[..., Any]) -> None:
    with LocalEcs(settings=Settings.unthrottled(), directory=tmp_path, stop_grace=0.2) as server:
        client = connect(server)
        stubborn = override("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done")
        arn = client.run_task(**FARGATE, overrides=stubborn)["tasks"][0]["taskArn"]
        assert server.runner is not None
        log = server.runner.log_path(arn, "airflow")
        pid = int(eventually(lambda: log.exists() and log.read_text(), "the container to run"))
        eventually(lambda: server.runner and server.runner.running() == 1, "the runner to know of it")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionError):
        socket.create_connection(_address(server))


def test_containers_are_left_alone_when_asked_for(tmp_path: Path, connect: Callable[..., Any]) -> None:
    with LocalEcs(settings=Settings.unthrottled(), directory=tmp_path, stop_tasks=False) as server:
        arn = connect(server).run_task(**FARGATE, overrides=override("sh", "-c", "echo $$; exec sleep 600"))["tasks"][
            0
        ]["taskArn"]
        assert server.runner is not None
        log = server.runner.log_path(arn, "airflow")
        pid = int(eventually(lambda: log.exists() and log.read_text(), "the container to run"))
    os.kill(pid, 0)
    server.runner.stop_all(5)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PROGRAM = """
import sys
from pathlib import Path
from reconciler.localecs import run_local_ecs
def ready(ecs):
    print(ecs.sqs.events_queue_url, flush=True)
run_local_ecs("127.0.0.1", 0, Path(sys.argv[1]), "mine", events_queue="told", on_ready=ready)
print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_local_ecs_serves_until_it_is_signalled(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, _, queue = process.stdout.readline().strip().partition("/123456789012/")
        assert queue == "told"
        with urllib.request.urlopen(f"{url}/_local/health") as response:
            assert response.status == 200
        process.send_signal(number)
        assert process.stdout.read() == "stopped\n"
        assert process.wait(60) == 0


@pytest.mark.skipif(shutil.which("aws") is None, reason="the aws command line is not installed")
def test_the_aws_command_line_works(idle: LocalEcs, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL_ECS": idle.endpoint_url,
        "AWS_ACCESS_KEY_ID": "anything",
        "AWS_SECRET_ACCESS_KEY": "goes",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_PAGER": "",
    }

    def aws(*words: str) -> Any:
        done = subprocess.run(["aws", "ecs", *words], env=environment, capture_output=True, check=True, timeout=120)
        return json.loads(done.stdout)

    network = "awsvpcConfiguration={subnets=[subnet-1]}"
    run = ("run-task", "--task-definition", "airflow-task", "--launch-type", "FARGATE", "--client-token", "t")
    arn = aws(*run, "--network-configuration", network)["tasks"][0]["taskArn"]
    assert aws("list-tasks") == {"taskArns": [arn]}
