"""The status page inside Airflow: an entry in its navigation, and a tab on the page of each task instance.

Every process of Airflow's loads plugins, task containers too: so nothing is imported here but Airflow, and nothing may
fail. Where `[ecs_reconciler] deployment` is not set, the package is installed and not used, and nothing is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

__all__ = ["PREFIX", "EcsReconcilerPlugin"]

PREFIX: Final = "/ecs-reconciler"
"""Where Airflow's API server has the page, below the path of `[api] base_url`."""
NAME: Final = "ECS"
ONE: Final = "?dag={DAG_ID}&task={TASK_ID}&run={RUN_ID}&map={MAP_INDEX}"
"""Airflow's UI fills it in."""


class Page:
    """An ASGI application that is made when it is first asked: only the API server ever does."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if self._app is None:
            from reconciler.airflow.view import make_app  # noqa: PLC0415 - see above

            self._app = make_app(_base_path())
        await self._app(scope, receive, send)


def _base_path() -> str:
    """The path of `[api] base_url`, without a slash at its end: where Airflow's pages are on their host."""
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


def _used() -> bool:
    names = ("deployment", "deployment_cmd", "deployment_secret")
    return any(conf.has_option("ecs_reconciler", name) for name in names)


def _views() -> list[dict[str, Any]]:
    """Forms: airflow/api_fastapi/core_api/datamodels/plugins.py. Each `url_route` is a page of Airflow's own."""
    home = f"{_base_path()}{PREFIX}/"
    shown = {"name": NAME, "icon": f"{home}icon.svg"}
    return [
        {**shown, "href": home, "url_route": "ecs-reconciler", "destination": "nav", "category": "browse"},
        {**shown, "href": home + ONE, "url_route": "ecs-workload", "destination": "task_instance"},
    ]


class EcsReconcilerPlugin(AirflowPlugin):
    """Registered through the entry point `airflow.plugins`."""

    name = "ecs_reconciler"
    fastapi_apps = [{"app": Page(), "url_prefix": PREFIX, "name": NAME}] if _used() else []
    external_views = _views() if _used() else []
