"""The JSON behind the page, on each database."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.core.holds import Mode
from reconciler.core.phase import Phase
from reconciler.core.shares import Shares
from reconciler.core.task import TaskKey, Workload
from reconciler.ecs.ratelimit import Level
from reconciler.page.board import Board
from reconciler.page.documents import links
from reconciler.page.pages import KEPT_SECONDS, Pages
from reconciler.page.source import DaemonSource
from reconciler.page.table import Rules
from reconciler.store.engine import make_engine
from reconciler.store.holds import hold

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.conftest import Deployment

TOKEN = "a-token-of-a-test"
SHARES = Shares({"gpu": 1, "default": 3})


class Site:
    """Pages over a deployment's table, with a clock that stands still."""

    def __init__(
        self, prod: Deployment, engine: Engine | None = None, token: str | None = None, shares: Shares = SHARES
    ) -> None:
        self.now = 1000.0
        self.held: dict[str, str] = {}
        self.held_queues: dict[str, str] = {}
        self.board = Board(lambda: self.now)
        source = DaemonSource(
            engine or prod.engine,
            prod.name,
            Rules(10, shares, "https://airflow.example/"),
            self.board,
            lambda: self.held,
            self.held_queues.get,
            lambda: [prod.lease],
            lambda: {"launch": Level(16, 19.8, 19.8, 0)},
            lambda: self.now,
        )
        self.pages = Pages(source, lambda: self.now, token=token)

    def get(self, target: str, authorization: str = "") -> tuple[int, dict[str, Any]]:
        answer = self.pages.answer(target, authorization)
        assert answer is not None
        return answer.status, json.loads(answer.body)


def test_the_table_is_shown_with_problems_first_and_reasons_in_words(prod: Deployment) -> None:
    site = Site(prod)
    prod.queue("waits", key=TaskKey("etl", "load", "r/1", 3, 2), queue="gpu")
    prod.queue("runs")
    prod.move("runs", Phase.LAUNCHING, Phase.STARTED)
    arn = "arn:aws:ecs:eu-west-1:123:task/airflow/0123"
    prod.move("runs", Phase.RUNNING, task_arn=arn, started_at=prod.store.now())
    prod.queue("ended")
    prod.move("ended", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING, Phase.EXITED, exit_code=0)
    prod.queue("lost")
    prod.move("lost", Phase.LAUNCHING, Phase.LOST, reason="nobody knows")

    status, found = site.get("/api/v1/workloads")
    assert status == 200
    lines = {line["exec_id"]: line for line in found["workloads"]}
    assert next(iter(lines)) == "lost"
    assert set(lines) == {"waits", "runs", "ended", "lost"}
    assert lines["lost"]["why"] == "nobody knows"
    assert lines["waits"]["why"].startswith("waits for its launch")
    assert lines["waits"]["links"] == {
        "airflow": "https://airflow.example/dags/etl/runs/r%2F1/tasks/load/mapped/3?try_number=2"
    }
    assert lines["runs"]["links"]["ecs"] == (
        "https://eu-west-1.console.aws.amazon.com/ecs/v2/clusters/airflow/tasks/0123/configuration?region=eu-west-1"
    )
    # What Airflow and the DAG's author gave stays in the table.
    assert not {"spec", "params", "executor_config"} & lines["waits"].keys()

    _, found = site.get("/api/v1/status")
    assert found["table"]["quota"] == {
        "limit": 10,
        "used": 1,
        "headroom": 9,
        "running": 1,
        "stopping": 0,
        "starting": 0,
        "pending": 1,
    }
    assert found["table"]["queues"] == {"default": {"RUNNING": 1}, "gpu": {"PENDING": 1}}
    assert found["health"] == {"state": "ok", "reasons": []}
    assert {c["name"]: c["backlog"] for c in found["controllers"]} == {
        "launch": 1,
        "sweep": 1,
        "adopt": None,
        "retry": None,
        "cleanup": 0,
    }


@pytest.mark.parametrize(
    ("partition", "region", "host"),
    [
        ("aws", "eu-west-1", "eu-west-1.console.aws.amazon.com"),
        ("aws-us-gov", "us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
        ("aws-cn", "cn-north-1", "cn-north-1.console.amazonaws.cn"),
        ("aws-eusc", "eusc-de-east-1", "eusc-de-east-1.console.amazonaws-eusc.eu"),
    ],
)
def test_a_task_is_shown_by_the_console_of_its_partition(partition: str, region: str, host: str) -> None:
    w = Workload("x", "prod", task_arn=f"arn:{partition}:ecs:{region}:123:task/airflow/0123")
    path = "/ecs/v2/clusters/airflow/tasks/0123/configuration"
    assert links(w, None) == {"ecs": f"https://{host}{path}?region={region}"}


@pytest.mark.parametrize(
    "arn", [None, "arn:1", "arn:aws:ecs:eu-west-1:123:task/0123", "arn:aws-iso:ecs:us-iso-east-1:123:task/airflow/0123"]
)
def test_a_console_that_is_not_known_is_not_guessed(arn: str | None) -> None:
    assert links(Workload("x", "prod", task_arn=arn), None) == {}


def test_what_waits_for_a_share_that_is_used_up_is_said_to_wait_for_a_slot(prod: Deployment) -> None:
    site = Site(prod)
    for name, queue in {"a": "default", "b": "etl", "c": "other", "d": "etl", "g": "gpu"}.items():
        prod.queue(name, queue=queue)
    for name in "abc":
        prod.move(name, Phase.LAUNCHING)
    lines = {line["exec_id"]: line["why"] for line in site.get("/api/v1/workloads?phase=PENDING")[1]["workloads"]}
    assert lines["d"] == "waits for a free slot"
    assert lines["g"].startswith("waits for its launch")


def test_what_waits_for_a_slot_at_home_is_said_to_whatever_is_free_in_another_region(prod: Deployment) -> None:
    site = Site(prod, shares=Shares({"us": 7, "gpu": 2}, away=("us",), home=3))
    for name, queue in {"a": "default", "b": "gpu", "c": "default", "d": "etl", "g": "gpu", "u": "us"}.items():
        prod.queue(name, queue=queue)
    for name in "abc":
        prod.move(name, Phase.LAUNCHING)
    lines = {line["exec_id"]: line["why"] for line in site.get("/api/v1/workloads?phase=PENDING")[1]["workloads"]}
    assert lines["d"] == lines["g"] == "waits for a free slot"
    assert lines["u"].startswith("waits for its launch")


def test_filters_choose(prod: Deployment) -> None:
    site = Site(prod)
    for number in range(5):
        prod.queue(f"w{number}", key=TaskKey(f"dag{number % 2}", "t", "r", -1, 1), queue="gpu" if number else "cpu")
    prod.move("w4", Phase.LAUNCHING)

    def ids(query: str) -> set[str]:
        return {line["exec_id"] for line in site.get(f"/api/v1/workloads?{query}")[1]["workloads"]}

    assert ids("phase=PENDING&queue=gpu") == {"w1", "w2", "w3"}
    assert ids("dag=dag0") == {"w0", "w2", "w4"}
    assert ids("dag=dag0&phase=LAUNCHING") == {"w4"}
    assert ids("phase=EXITED") == set()
    assert ids("dag=%3Cscript%3E") == set()
    few = site.get("/api/v1/workloads?limit=2")[1]
    assert len(few["workloads"]) == 2
    assert few["truncated"] is True


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("/api/v1/workloads?phase=WAITING", 400, "use one of PENDING, LAUNCHING"),
        ("/api/v1/workloads?limit=0", 400, "limit: '0' is not a number from 1 to 1000"),
        ("/api/v1/workloads?limit=99999999999999999999999", 400, "is not a number from 1 to 1000"),
        ("/api/v1/events?limit=many", 400, "limit: 'many' is not a number from 1 to 500"),
        ("/api/v1/workloads?dag=%00", 400, r"dag: '\x00' holds NUL, and no name does"),
        ("/api/v1/events?run=a%00b&task=t", 400, r"run: 'a\x00b' holds NUL, and no name does"),
        ("/api/v2/status", 404, "try /api/v1/status"),
    ],
)
def test_a_wrong_question_is_answered_with_a_sentence(prod: Deployment, target: str, status: int, words: str) -> None:
    answered, body = Site(prod).get(target)
    assert answered == status
    assert words in body["error"]


def test_the_database_is_asked_once_for_all_who_ask_at_the_same_time(prod: Deployment) -> None:
    site = Site(prod)
    assert site.get("/api/v1/workloads")[1]["workloads"] == []
    prod.queue("new")
    assert site.get("/api/v1/workloads")[1]["workloads"] == []
    site.now += KEPT_SECONDS
    assert [line["exec_id"] for line in site.get("/api/v1/workloads")[1]["workloads"]] == ["new"]


def test_without_its_token_nothing_is_told(prod: Deployment) -> None:
    site = Site(prod, token=TOKEN)
    for given in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xe4"):
        assert site.get("/api/v1/status", given)[0] == 401
        assert site.get("/api/v1/workloads", given)[0] == 401
        assert site.get("/api/v1/nothing", given)[0] == 401
    assert site.get("/api/v1/status", f"Bearer {TOKEN}")[0] == 200
    page = site.pages.answer("/")
    assert page is not None
    assert page.status == 200


def test_without_the_database_the_page_still_says_what_is_wrong(prod: Deployment) -> None:
    gone = make_engine("sqlite:////nowhere/at/all.db")
    site = Site(prod, gone)
    status, found = site.get("/api/v1/status")
    gone.dispose()
    assert status == 200
    assert found["table"] is None
    assert found["health"]["state"] == "down"
    assert "the database can not be reached" in found["health"]["reasons"][0]
    assert site.get("/api/v1/workloads")[0] == 503


def test_what_holds_launches_degrades_health_with_its_reason(prod: Deployment) -> None:
    site = Site(prod)
    site.held["ecs"] = "the security token is expired"
    found = site.get("/api/v1/status")[1]
    assert found["health"]["state"] == "degraded"
    assert found["launches"]["held"] == {"ecs": "the security token is expired"}


def test_each_queue_waits_for_its_own_reason(prod: Deployment) -> None:
    """Queues may be launched in accounts and regions of their own, and have limits of their own."""
    site = Site(prod)
    site.held_queues["far"] = "the security token is expired"
    hold(prod.engine, prod.name, "later", Mode.PAUSED, "alice")
    prod.queue("runs", queue="gpu")
    prod.move("runs", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING)
    for queue in ("default", "far", "gpu", "later"):
        prod.queue(queue, queue=queue)

    lines = site.get("/api/v1/workloads?phase=PENDING")[1]["workloads"]
    why = {line["exec_id"]: line["why"] for line in lines}
    assert why["default"].startswith("waits for its launch")
    assert why["far"] == "launches are held: the security token is expired"
    assert why["gpu"] == "waits for a free slot"
    assert why["later"].startswith('launches are held: the queue "later" is paused by alice since ')
    (shown,) = site.get("/api/v1/status")[1]["table"]["holds"]
    assert (shown["queue"], shown["mode"], shown["held_by"]) == ("later", "paused", "alice")


def test_an_account_or_region_that_nobody_leads_is_missed_only_while_tasks_run_there(prod: Deployment) -> None:
    site = Site(prod)
    lease = prod.store.hold(f"{prod.name}/west", "second", timedelta(seconds=60))
    assert lease is not None
    prod.queue("there")
    prod.move("there", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING, shard="west")
    assert site.get("/api/v1/status")[1]["health"]["state"] == "ok"
    prod.store.release(lease)
    site.now += KEPT_SECONDS
    assert site.get("/api/v1/status")[1]["health"] == {
        "state": "degraded",
        "reasons": ["no daemon leads west: tasks there are not observed"],
    }
    prod.move("there", Phase.EXITED, exit_code=0)
    site.now += KEPT_SECONDS
    assert site.get("/api/v1/status")[1]["health"]["state"] == "ok"


def test_a_controller_without_a_good_pass_degrades_health(prod: Deployment) -> None:
    site = Site(prod)
    site.board.leading(1)
    site.now += 10
    for name in ("launch", "sweep", "adopt", "retry"):
        site.board.passed(name, "success", 0.1)
    site.now += 115
    site.board.passed("sweep", "success", 0.1)
    site.board.passed("adopt", "success", 0.1)
    site.board.passed("retry", "error", 0.1)
    assert site.get("/api/v1/status")[1]["health"] == {
        "state": "degraded",
        # The last one has had none at all since this replica leads.
        "reasons": ["cleanup has had no good pass for 2 min 5 s"],
    }


def test_the_page_may_load_nothing_from_elsewhere_and_stand_in_no_frame(prod: Deployment) -> None:
    site = Site(prod)
    for target in ("/", "/page.js", "/page.css", "/icon.svg", "/api/v1/status", "/api/v1/nothing"):
        answer = site.pages.answer(target)
        assert answer is not None
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert b"https://" not in answer.body
    assert site.pages.answer("/../config.py") is None
