"""Airflow's REST API, as little of it as the demo and the end-to-end tests need.

Source: https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html
"""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

__all__ = ["AirflowApi", "ApiError", "fetch"]

Instance = dict[str, Any]


class ApiError(RuntimeError):
    """The API server did not answer, or not with success. `status` is None when it did not answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AirflowApi:
    """A client for an API server on this machine whose simple auth manager lets everybody in as admin."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._token: str | None = None

    def health(self) -> dict[str, Any]:
        """Each component's status."""
        return dict(json.loads(fetch(self._port, "/api/v2/monitor/health")))

    def version(self) -> str:
        """Airflow's."""
        return str(self._call("GET", "/version")["version"])

    def knows(self, dag_id: str) -> bool:
        """Whether the DAG has been parsed."""
        try:
            self._call("GET", f"/dags/{dag_id}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any] | None = None) -> None:
        """Start a run of a DAG."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}}
        self._call("POST", f"/dags/{dag_id}/dagRuns", body)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run."""
        return str(self._call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")["state"])

    def instances(self, dag_id: str, run_id: str) -> list[Instance]:
        """The task instances of a run in their present try."""
        return self._list(f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances")

    def instance(self, dag_id: str, run_id: str, task_id: str) -> Instance:
        """The present try of a task that is not mapped."""
        return dict(self._call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}"))

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """What "Clear" in the UI does, whatever the state of the task."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [task_id], "only_failed": False}
        self._call("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """What "Mark as ..." in the UI does."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}"
        self._call("PATCH", path, {"new_state": state})

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        """What "Mark run as ..." in the UI does."""
        self._call("PATCH", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}", {"state": state})

    def make_pool(self, name: str, slots: int) -> None:
        """A pool that does not exist yet."""
        self._call("POST", "/pools", {"name": name, "slots": slots})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """What "Delete run" in the UI does."""
        self._call("DELETE", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """What a task's page shows of its log."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/logs/{try_number}"
        return json.dumps(self._call("GET", f"{path}?full_content=true"))

    def events(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The audit log of a run."""
        return self._list(f"/eventLogs?dag_id={dag_id}&run_id={quote(run_id, safe='')}", "event_logs")

    def _list(self, path: str, member: str = "task_instances") -> list[dict[str, Any]]:
        joint = "&" if "?" in path else "?"
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", f"{path}{joint}limit=100&offset={len(found)}")
            found += page[member]
            if not page[member] or len(found) >= page["total_entries"]:
                return found

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if self._token is None:
            self._token = str(json.loads(fetch(self._port, "/auth/token"))["access_token"])
        text = fetch(self._port, f"/api/v2{path}", method=method, body=body, token=self._token)
        return json.loads(text) if text else None


def fetch(
    port: int, path: str, *, method: str = "GET", body: dict[str, Any] | None = None, token: str | None = None
) -> str:
    """What a server on this machine answers. Raises ApiError."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, HTTPException) as error:
        raise ApiError(f"{method} http://127.0.0.1:{port}{path}: {error}") from error
    finally:
        connection.close()
    if answer.status >= 300:
        raise ApiError(f"{method} {path}: {answer.status} {text[:500]}", answer.status)
    return text
