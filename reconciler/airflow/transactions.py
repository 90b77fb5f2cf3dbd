"""Heartbeat of our own in a scheduler, on Airflow's engine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow import settings

from reconciler.store import shim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

__all__ = ["Heartbeat", "airflow_engine", "begin"]


def airflow_engine() -> Engine:
    """Not kept: a process that forks makes a new one."""
    engine: Engine = settings.get_engine()  # type: ignore[no-untyped-call]  # Airflow's
    return engine


@contextmanager
def begin() -> Iterator[Connection]:
    """A transaction by itself."""
    with airflow_engine().begin() as connection:
        shim.lose_patience(connection)
        yield connection


class Heartbeat:
    """Implements `delivery.Transactions`: all that a heartbeat reads between two writes is one, whichever part reads.

    Airflow's ping, BEGIN, the limit of patience and COMMIT are a round trip each: for every part anew they would take
    longer than what is read. PostgreSQL shows each statement all that has been committed by then. A part that fails
    leaves a new transaction to the others.
    """

    def __init__(self) -> None:
        self._reading: Connection | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """On SQLite one by itself: there whoever reads may keep out whoever writes."""
        if airflow_engine().dialect.name == "sqlite":
            with begin() as connection:
                yield connection
            return
        try:
            if self._reading is None:
                self._reading = airflow_engine().connect()
                shim.lose_patience(self._reading)
            yield self._reading
        except BaseException:
            self._close()
            raise

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One that writes. Reading has ended by then: somebody who alters our tables would wait for its end, and the
        write for him."""
        self.end()
        with begin() as connection:
            yield connection

    def end(self) -> None:
        """What is read next is read in a new one."""
        try:
            if self._reading is not None:
                self._reading.commit()  # psycopg forgets all it has prepared at a rollback
        finally:
            self._close()

    def _close(self) -> None:
        connection, self._reading = self._reading, None
        if connection is not None:
            connection.close()
