"""Ends the wait for a database that has fallen silent.

libpq waits for an answer as long as TCP says that the connection lives, and TCP says so for as long as whatever is
nearest, a load balancer or a pooler, acknowledges packets. Neither `statement_timeout`, which the server enforces, nor
keepalives help then. So a connection that has been waited for too long is shut down from outside, which both drivers
report as a lost connection.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["ANSWER_SECONDS", "watch"]

ANSWER_SECONDS: Final = 15
"""How long one answer is waited for. What is merely slow has been ended by the server's `statement_timeout` before."""


class _Watchdog:
    """Counts seconds for connections in use. `start` counts anew, `stop` ends it; one thread serves all.

    It counts its own rounds instead of reading a clock: a process that was paused for a minute has not waited, and may
    find the answer in its socket when it wakes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: dict[int, tuple[Any, int]] = {}
        self._thread: threading.Thread | None = None

    def start(self, connection: Any) -> None:
        with self._lock:
            self._left[id(connection)] = connection, ANSWER_SECONDS
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="database-watchdog", daemon=True)
                self._thread.start()

    def stop(self, connection: Any) -> None:
        with self._lock:
            self._left.pop(id(connection), None)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(1.0)
            with self._lock:
                for key, (connection, left) in list(self._left.items()):
                    if left > 0:
                        self._left[key] = connection, left - 1
                    else:
                        del self._left[key]
                        _cut(connection)


def _cut(connection: Any) -> None:
    """Shut the connection's socket down: whoever waits for it is told that the server has gone.

    The connection is in use, or it would not be watched; the file descriptor is its own unless the driver is closing it
    in this very moment. USE CAUTION: closing it here, instead of a copy of it, would end somebody else's connection.
    """
    # The drivers' own errors for a connection that is closed by now, and the system's.
    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


def watch(engine: Engine) -> None:
    """Bound each wait of this engine by ANSWER_SECONDS, once a connection stands. SQLite has no server to wait for.

    Making a connection is bounded by libpq's own `connect_timeout`.
    """
    if engine.dialect.name != "postgresql":
        return
    watchdog = _Watchdog()

    def start(connection: Any, *_: Any) -> None:
        watchdog.start(connection)

    def stop(connection: Any, *_: Any) -> None:
        if connection is not None:
            watchdog.stop(connection)

    ping = engine.dialect.do_ping

    def watched_ping(dbapi_connection: Any) -> bool:
        watchdog.start(dbapi_connection)
        return ping(dbapi_connection)

    # The ping comes before any event of the pool, and a connection that died while it was idle is found by it.
    engine.dialect.do_ping = watched_ping  # type: ignore[method-assign] # of this one object
    event.listen(engine, "connect", start, insert=True)  # first of all: others ask the server for its settings
    for name in ("checkin", "close", "close_detached", "invalidate"):
        event.listen(engine, name, stop)

    @event.listens_for(engine, "before_cursor_execute")
    def executing(conn: Any, *_: Any) -> None:
        watchdog.start(conn.connection.dbapi_connection)

    @event.listens_for(engine, "commit")
    @event.listens_for(engine, "rollback")
    def ending(conn: Any) -> None:
        if not (conn.invalidated or conn.closed):
            watchdog.start(conn.connection.dbapi_connection)
