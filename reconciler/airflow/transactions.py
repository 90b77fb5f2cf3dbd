"""Heartbeat of our own in a scheduler, on Airflow's engine."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from airflow import settings

from reconciler.store import shim
from reconciler.store.engine import prepares_if_direct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

__all__ = ["Apart", "Heartbeat", "airflow_engine", "begin", "shared"]


def airflow_engine() -> Engine:
    """Not kept: a process that forks makes a new one."""
    engine: Engine = settings.get_engine()  # type: ignore[no-untyped-call]  # Airflow's
    return engine


@contextmanager
def begin() -> Iterator[Connection]:
    """A transaction by itself, which writes."""
    with airflow_engine().begin() as connection:
        if connection.dialect.name == "sqlite":
            # The driver begins before the first INSERT or UPDATE only: what was read before may be old by then.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        shim.lose_patience(connection)
        yield connection


class Heartbeat:
    """Implements `delivery.Transactions`: all that a heartbeat reads between two writes is one, whichever part reads.

    Airflow's ping, BEGIN, the limits and COMMIT are a round trip each: for every part anew they would take longer than
    what is read. PostgreSQL shows each statement all that has been committed by then. A part that fails leaves a new
    connection to the others.

    The connection is kept from one heartbeat to the next, because with it go the statements that psycopg has prepared:
    on one that Airflow's sessions use as well, whose every rollback makes it forget them, PostgreSQL would plan most
    anew, for as long as it takes to run them.
    """

    def __init__(self) -> None:
        self._connection: Connection | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        try:
            if self._connection is None or self._connection.engine is not airflow_engine():
                self._connection = airflow_engine().connect()
                prepares_if_direct(self._connection.connection.dbapi_connection)
            if not self._connection.in_transaction():
                shim.hurry(self._connection)
            yield self._connection
        except BaseException:
            self.close()
            raise

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One that writes. Reading has ended by then: somebody who alters our tables would wait for its end, and the
        write for him."""
        self.end()
        with self.read() as connection:
            yield connection
            self.end()

    def end(self) -> None:
        """What is read next is read in a new one."""
        try:
            if self._connection is not None:
                self._connection.commit()  # also what was only read: psycopg forgets all it has prepared at a rollback
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@cache
def shared() -> Heartbeat:
    """That of this process. A scheduler may have an executor for each team, which have their turns one after the other:
    with a connection for each of them its pool would soon be empty."""
    return Heartbeat()


class Apart:
    """The same on SQLite, where each is by itself: whoever reads there may keep out whoever writes."""

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with airflow_engine().begin() as connection:
            yield connection

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with begin() as connection:
            yield connection

    def end(self) -> None:
        """Nothing is left open."""

    def close(self) -> None:
        """Nothing is kept."""
