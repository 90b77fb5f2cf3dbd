"""The status page as Airflow's API server has it: the table's part of it, for those who are logged in.

Airflow mounts the applications of plugins without any check of its own. Here everything needs a user, every document
the right to read task instances (of the DAG, where one is asked for), and rows are of DAGs that the user may read.
Sums over all rows (the quota, how much waits) are shown to everybody who may read any DAG.
"""

from __future__ import annotations

import time
from functools import cache, partial
from typing import Any, Final

from airflow import settings
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from fastapi import Depends, FastAPI, Request
from starlette.responses import JSONResponse, Response

from reconciler.airflow.options import read
from reconciler.config import ConfigError, shim_settings
from reconciler.page.pages import Pages
from reconciler.page.table import Rules, TableSource

__all__ = ["make_app"]

FRAMES: Final = "'self'"
"""Airflow's UI shows the page in a frame."""
_USER: Final = Depends(get_user)


def make_app(base_path: str) -> FastAPI:
    """The application. It has one verb, GET. `base_path`: where Airflow's pages are on their host."""
    app = FastAPI(title="ECS reconciler", docs_url=None, redoc_url=None, openapi_url=None)
    pages = cache(partial(_pages, f"{base_path}/"))

    # Not `async`: Airflow's checks and the table are read with blocking calls, in a thread of the server's pool.
    @app.get("/{path:path}")
    def show(path: str, request: Request, user: Any = _USER) -> Response:
        dags: frozenset[str] | None = None
        if any("\0" in text for text in request.query_params.values()):
            # Airflow's check, too, asks the database for the DAG, and PostgreSQL takes it for no text.
            return JSONResponse({"error": "the query holds NUL, and no name does"}, 400)
        if path.startswith("api/"):
            dag_id = request.query_params.get("dag") or None
            requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE, dag_id)(request, user)
            dags = frozenset({dag_id} if dag_id else _readable(user))
        try:
            found = pages().answer(f"/{path}?{request.url.query}", dags=dags)
        except ConfigError as error:
            return JSONResponse({"error": "; ".join(error.problems)}, 503)
        if found is None:
            return JSONResponse({"error": "nothing is here"}, 404)
        return Response(found.body, found.status, {**found.headers, "Content-Type": found.content_type})

    return app


def _readable(user: Any) -> set[str]:
    """The DAGs that a user may read, as Airflow's own lists have it."""
    found: set[str] = get_auth_manager().get_authorized_dag_ids(user=user)
    return found


def _pages(home: str) -> Pages:
    """Raises ConfigError."""
    options = shim_settings(read)
    engine = settings.get_engine()  # type: ignore[no-untyped-call]  # Airflow's
    clocks = time.time, time.monotonic  # noqa: TID251 - Airflow makes plugins: there is no root of ours above
    rules = Rules(options.max_running_tasks, options.shares, home)
    source = TableSource(engine, options.deployment, rules, clocks[0])
    return Pages(source, clocks[1], frames=FRAMES)
