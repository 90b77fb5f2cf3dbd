"""How Airflow connects to the stack's SQLite: `[database] sql_alchemy_connect_args` names a value to import."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["CONNECT_ARGS"]

CONNECT_ARGS: Final[dict[str, Any]] = {"timeout": 30}
"""Seconds that whoever writes waits for others. With the driver's own 5 s a scheduler on a busy machine has died of
"database is locked": nobody queues up for SQLite's lock, and with twenty tasks the luckless wait long."""
