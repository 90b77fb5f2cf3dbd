"""What components say of themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from reconciler.store.components import KEEP_FOR, LIVE_FOR, Component, announce, announced
from reconciler.store.engine import writing
from reconciler.store.rows import read_now
from reconciler.store.schema import components

if TYPE_CHECKING:
    from sqlalchemy import Engine

SHIM = Component("shim", "job 7", "1.0", {"max_running_tasks": 500, "shares": {"gpu": 1}})


def say(engine: Engine, me: Component, deployment: str = "prod") -> None:
    with writing(engine).begin() as conn:
        announce(conn, deployment, me)


def age(engine: Engine, seconds: float) -> None:
    with writing(engine).begin() as conn:
        conn.execute(update(components).values(seen_at=read_now(conn) - timedelta(seconds=seconds)))


def test_what_was_said_last_is_what_is_known(engine: Engine) -> None:
    say(engine, SHIM)
    say(engine, replace(SHIM, version="1.1", trouble="no credentials"))
    say(engine, replace(SHIM, instance="job 8"))
    say(engine, Component("daemon", "host-1", "1.0"))
    say(engine, SHIM, "other")
    assert announced(engine, "prod") == [
        Component("daemon", "host-1", "1.0"),
        replace(SHIM, version="1.1", trouble="no credentials"),
        replace(SHIM, instance="job 8"),
    ]
    assert announced(engine, "other") == [SHIM]


def test_who_is_silent_is_not_shown_and_later_forgotten_by_its_kind(engine: Engine) -> None:
    say(engine, SHIM)
    age(engine, LIVE_FOR + 1)
    assert announced(engine, "prod") == []
    say(engine, SHIM)
    assert announced(engine, "prod") == [SHIM]
    age(engine, KEEP_FOR + 1)
    say(engine, Component("daemon", "host-1", "1.0"))
    say(engine, replace(SHIM, instance="job 8"))
    with engine.connect() as conn:
        assert {row.instance for row in conn.execute(select(components))} == {"host-1", "job 8"}
