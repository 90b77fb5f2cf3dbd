"""What the HTTP port answers beside metrics and probes: the page, its assets, and its JSON."""

from __future__ import annotations

import hmac
import json
import threading
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qs

from reconciler.core.errors import StoreUnavailable
from reconciler.core.phase import Phase
from reconciler.page.documents import API_VERSION
from reconciler.store.listing import MOST, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pages", "Response", "Source"]

KEPT_SECONDS: Final = 2.0
"""How long an answer from the database serves all who ask."""
PATIENCE: Final = 3.0
"""Seconds for which one reader waits for another's query to end."""
ASSETS: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
JSON: Final = "application/json; charset=utf-8"
# Nothing from anywhere else, no script in a text, no frame: a dag_id with markup stays a text.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {frames}",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Where the documents come from: the daemon, or Airflow's API server. All may raise StoreUnavailable."""

    def status(self) -> dict[str, Any]: ...

    def workloads(self, wanted: Wanted) -> dict[str, Any]: ...

    def events(self, wanted: Wanted) -> dict[str, Any]: ...


class BadQueryError(ValueError):
    """A parameter of the query is wrong."""


class Pages:
    """Answers GET requests. At most one query to the database at a time, so that a reload storm costs it nothing.

    `token`: what `Authorization: Bearer ...` must hold to read the JSON. The page itself holds no data.
    `frames`: who may show the page in a frame, a source of Content-Security-Policy.
    """

    def __init__(
        self, source: Source, monotonic: Callable[[], float], *, token: str | None = None, frames: str = "'none'"
    ) -> None:
        self._source, self._monotonic, self._token = source, monotonic, token
        self._headers = HEADERS | {"Content-Security-Policy": HEADERS["Content-Security-Policy"].format(frames=frames)}
        self._busy = threading.Lock()
        self._kept: dict[tuple[str, Wanted | None], tuple[float, Response]] = {}

    def answer(self, target: str, authorization: str = "", dags: frozenset[str] | None = None) -> Response | None:
        """The answer to `GET target`. None: nothing is here. `dags`: those whose workloads the reader may see."""
        path, _, query = target.partition("?")
        if path in ASSETS:
            name, content_type = ASSETS[path]
            body = files("reconciler.page").joinpath("assets", name).read_bytes()
            return Response(200, body, content_type, self._headers)
        if not path.startswith("/api/"):
            return None
        if not self._may_read(authorization):
            return self._error(
                401,
                "give the value of [ecs_reconciler] status_page_token as `Authorization: Bearer ...`",
                {"WWW-Authenticate": "Bearer"},
            )
        return self._document(path, query, dags)

    def _may_read(self, authorization: str) -> bool:
        given = authorization.removeprefix("Bearer ").strip()
        return not self._token or hmac.compare_digest(given.encode(), self._token.encode())

    def _document(self, path: str, query: str, dags: frozenset[str] | None) -> Response:
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        try:
            if path == "/api/v1/status":
                return self._kept_or(path, None, self._source.status)
            if path == "/api/v1/workloads":
                wanted = _wanted(asked, dags, 200, MOST)
                return self._kept_or(path, wanted, lambda: self._source.workloads(wanted))
            if path == "/api/v1/events":
                wanted = _wanted(asked, dags, 100, 500)
                return self._kept_or(path, wanted, lambda: self._source.events(wanted))
        except BadQueryError as error:
            return self._error(400, str(error))
        return self._error(404, "try /api/v1/status, /api/v1/workloads or /api/v1/events")

    def _kept_or(self, path: str, wanted: Wanted | None, make: Callable[[], dict[str, Any]]) -> Response:
        key = (path, wanted)
        if response := self._fresh(key):
            return response
        if not self._busy.acquire(timeout=PATIENCE):
            return self._error(503, "the database is slow to answer, and another request waits for it already")
        try:
            if response := self._fresh(key):
                return response
            try:
                document = {"api_version": API_VERSION, **make()}
            except StoreUnavailable as error:
                return self._error(503, f"the database can not be reached: {error}")
            response = Response(200, json.dumps(document).encode(), JSON, self._headers)
            now = self._monotonic()
            self._kept = {key_: kept for key_, kept in self._kept.items() if now - kept[0] < KEPT_SECONDS}
            self._kept[key] = (now, response)
            return response
        finally:
            self._busy.release()

    def _fresh(self, key: tuple[str, Wanted | None]) -> Response | None:
        at, response = self._kept.get(key, (float("-inf"), None))
        return response if self._monotonic() - at < KEPT_SECONDS else None

    def _error(self, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
        body = json.dumps({"api_version": API_VERSION, "error": text}).encode()
        return Response(status, body, JSON, self._headers | (headers or {}))


def _wanted(asked: dict[str, str], dags: frozenset[str] | None, default: int, most: int) -> Wanted:
    for name, text in asked.items():
        if "\0" in text:  # PostgreSQL takes it for no text
            raise BadQueryError(f"{name}: {text!r} holds NUL, and no name does")
    phase, index = asked.get("phase"), asked.get("map")
    if phase and phase not in Phase.__members__:
        raise BadQueryError(f"phase: {phase!r} is no phase; use one of {', '.join(Phase)}")
    if index and not index.removeprefix("-").isdecimal():
        raise BadQueryError(f"map: {index!r} is no map index")
    return Wanted(
        phase=Phase(phase) if phase else None,
        dag_id=asked.get("dag"),
        queue=asked.get("queue"),
        task_id=asked.get("task"),
        run_id=asked.get("run"),
        map_index=int(index[:9]) if index else None,
        dags=dags,
        limit=_number(asked, "limit", default, most),
    )


def _number(asked: dict[str, str], name: str, default: int, most: int) -> int:
    text = asked.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text[:6]) <= most:
        raise BadQueryError(f"{name}: {text!r} is not a number from 1 to {most}")
    return int(text)
