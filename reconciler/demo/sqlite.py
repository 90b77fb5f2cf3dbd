"""How Airflow connects to the stack's SQLite: `[database] sql_alchemy_connect_args` names a value to import."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["CONNECT_ARGS"]

CONNECT_ARGS: Final[dict[str, Any]] = {"timeout": 30}
"""Seconds that whoever writes waits for others, where the driver's own limit is 5 s: nobody queues for SQLite's lock,
and while twenty tasks start on a busy machine the luckless wait long."""
