"""The status page in Airflow's API server: who may see what, and that nothing there can break Airflow."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from airflow import plugins_manager, settings
from airflow.api_fastapi.app import create_app, get_auth_manager
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi.testclient import TestClient

from reconciler.airflow import plugin
from reconciler.airflow import view as view_module
from tests.shim.inside.world import make_dag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.shim.inside.world import World

API = "/ecs-reconciler/api/v1"
ALL = ("status", "workloads", "events")
MARKUP = "<img src=x onerror=alert(1)>"
OTHER = "payroll"


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    """Airflow's API server, as it starts with our package installed."""
    yield TestClient(create_app("core"), follow_redirects=False)
    settings.dispose_orm()
    settings.configure_orm()


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    """Answers are kept for two seconds."""
    plugin.EcsReconcilerPlugin.fastapi_apps[0]["app"]._app = None


@pytest.fixture
def two_dags(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload of each of two DAGs. `clerk` may read only the first."""
    make_dag(OTHER)
    world.queued()
    world.queued(dag_id=OTHER)
    allowed = SimpleAuthManager.is_authorized_dag

    def is_authorized_dag(self: Any, *, user: Any, details: Any = None, **rest: Any) -> bool:
        hidden = user.username == "clerk" and details is not None and details.id == OTHER
        return not hidden and allowed(self, user=user, details=details, **rest)

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", is_authorized_dag)


def logged_in(name: str = "reader", role: str | None = "VIEWER") -> dict[str, str]:
    user: Any = SimpleAuthManagerUser(username=name, role=role)
    return {"Authorization": f"Bearer {get_auth_manager().generate_jwt(user)}"}


def seen(answer: Any) -> set[str]:
    return {line["dag_id"] for line in answer.json().get("workloads", answer.json().get("events"))}


def test_airflow_has_loaded_the_plugin_with_a_page_and_a_tab() -> None:
    _, errors = plugins_manager._get_plugins()
    assert errors == {}
    (ours,) = [info for info in plugins_manager.get_plugin_info() if info["name"] == "ecs_reconciler"]
    places = {shown["destination"]: shown["href"] for shown in ours["external_views"]}
    assert places == {"nav": "/ecs-reconciler/", "task_instance": "/ecs-reconciler/" + plugin.ONE}


def test_airflows_own_api_can_describe_it(server: TestClient) -> None:
    found = server.get("/api/v2/plugins", headers=logged_in(role="ADMIN")).json()["plugins"]
    assert "ecs_reconciler" in {shown["name"] for shown in found}


@pytest.mark.usefixtures("two_dags")
def test_nobody_sees_anything_without_logging_in(server: TestClient) -> None:
    for path in ("", "page.js", "icon.svg", "no/such/page", *(f"api/v1/{name}" for name in ALL)):
        answer = server.get(f"/ecs-reconciler/{path}")
        assert answer.status_code == 401, path
        assert "etl" not in answer.text
    assert server.get(f"{API}/status", headers={"Authorization": "Bearer nonsense"}).status_code in (401, 403)


@pytest.mark.usefixtures("two_dags")
def test_who_may_read_no_dag_sees_no_data(server: TestClient) -> None:
    for name in ALL:
        answer = server.get(f"{API}/{name}", headers=logged_in(role=None))
        assert answer.status_code == 403, name
        assert "etl" not in answer.text


@pytest.mark.usefixtures("two_dags")
def test_everybody_sees_the_rows_of_the_dags_that_they_may_read(server: TestClient) -> None:
    for name in ("workloads", "events"):
        assert seen(server.get(f"{API}/{name}", headers=logged_in())) == {"etl", OTHER}
        # At the same moment: what was kept for the first is not shown to the second.
        assert seen(server.get(f"{API}/{name}", headers=logged_in("clerk"))) == {"etl"}
        assert server.get(f"{API}/{name}?dag={OTHER}", headers=logged_in("clerk")).status_code == 403
        assert seen(server.get(f"{API}/{name}?dag=etl", headers=logged_in("clerk"))) == {"etl"}
        # Somebody else's name for the parameter opens nothing.
        trick = server.get(f"{API}/{name}?dag_id=etl&dag={OTHER}", headers=logged_in("clerk"))
        assert trick.status_code == 403
        assert seen(server.get(f"{API}/{name}?dag_id=etl&dag=", headers=logged_in("clerk"))) == {"etl"}


def test_it_shows_one_task_instance_and_what_happened_to_it(server: TestClient, world: World) -> None:
    rows = world.queued(2)
    first = next(w for w in rows if w.key.map_index == 0)
    key = first.key
    one = urlencode({"dag": key.dag_id, "task": key.task_id, "run": key.run_id, "map": key.map_index})
    found = server.get(f"{API}/workloads?{one}", headers=logged_in()).json()["workloads"]
    assert [line["exec_id"] for line in found] == [first.exec_id]
    assert found[0]["links"]["airflow"].endswith("/dags/etl/runs/run_1/tasks/work/mapped/0?try_number=1")
    (event,) = server.get(f"{API}/events?{one}", headers=logged_in()).json()["events"]
    assert event["what"] == "queued in default"


@pytest.mark.usefixtures("world")
def test_a_wrong_question_is_answered_with_400(server: TestClient) -> None:
    for question in ("dag=%00", "dag_id=%00", "dag=etl&task=%00", "phase=WAITING"):
        for name in ("workloads", "events"):
            assert server.get(f"{API}/{name}?{question}", headers=logged_in()).status_code == 400, question


def test_it_shows_the_table_of_the_whole_deployment(server: TestClient, world: World) -> None:
    world.queued(3)
    found = server.get(f"{API}/status", headers=logged_in()).json()
    assert found["deployment"] == "test"
    assert found["table"]["quota"]["pending"] == 3
    assert found["health"] == {"state": "ok", "reasons": []}
    assert found["history"] is None


def test_markup_is_text_in_a_frame_of_airflows_own(server: TestClient, world: World) -> None:
    (w,) = world.queued()
    world.daemon(w.exec_id, phase="FAILED_START", reason=MARKUP)
    answer = server.get(f"{API}/workloads", headers=logged_in())
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["workloads"][0]["why"] == MARKUP
    page = server.get("/ecs-reconciler/", headers=logged_in())
    assert "<title>ecs-reconciler</title>" in page.text
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_it_shows_no_secret(server: TestClient, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ECS_RECONCILER__STATUS_PAGE_TOKEN", "planted")
    # No digits: a random id on the page may have any of them.
    world.queued(executor_config={"tags": [{"key": "team", "value": "what a user wrote"}]})
    for name in ALL:
        text = server.get(f"{API}/{name}", headers=logged_in()).text
        assert "planted" not in text
        assert "what a user wrote" not in text
        assert "a secret of this test" not in text


def test_no_verb_changes_anything(server: TestClient) -> None:
    for verb in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("/ecs-reconciler/", f"{API}/workloads"):
            assert server.request(verb, path, headers=logged_in(role="ADMIN")).status_code == 405


@pytest.mark.usefixtures("world")
def test_without_our_tables_it_says_so(server: TestClient) -> None:
    with settings.get_engine().begin() as connection:
        connection.exec_driver_sql("ALTER TABLE ecs_workload RENAME TO ecs_elsewhere")
    try:
        for name in ALL:
            answer = server.get(f"{API}/{name}", headers=logged_in())
            assert answer.status_code == 503
            assert "airflow db migrate" in answer.json()["error"]
    finally:
        with settings.get_engine().begin() as connection:
            connection.exec_driver_sql("ALTER TABLE ecs_elsewhere RENAME TO ecs_workload")


def test_wrong_options_are_a_sentence_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ECS_RECONCILER__BACKLOG", "many")
    fresh = TestClient(view_module.make_app(""))
    answer = fresh.get("/api/v1/status", headers=logged_in())
    assert answer.status_code == 503
    assert "backlog" in answer.json()["error"]


def test_where_the_package_is_installed_and_not_used_airflow_shows_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AIRFLOW__ECS_RECONCILER__DEPLOYMENT")
    assert not plugin._used()


def test_below_a_path_the_page_is_below_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.com/airflow/")
    assert {shown["icon"] for shown in plugin._views()} == {"/airflow/ecs-reconciler/icon.svg"}


def test_processes_that_load_plugins_load_no_web_server_and_no_aws_with_ours() -> None:
    code = (
        "import sys, airflow.plugins_manager\n"
        "before = set(sys.modules)\n"
        "import reconciler.airflow.plugin\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('reconciler')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = done.stdout.strip().splitlines()[-1]
    assert not [name for name in ("fastapi", "starlette", "sqlalchemy", "boto3") if f"'{name}" in loaded]
