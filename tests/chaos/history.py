"""What happened, in the words of the simulation's checker (`tests/sim/check.py`), which judges it.

Rows are told by triggers of the database, so what is judged is what was committed, whoever wrote it and whatever it
believes. Containers write their own lines into a file. All clocks are this machine's.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

_TRIGGERS: Final = (
    "CREATE TABLE chaos_history (id bigserial PRIMARY KEY, at float, who text, relation text, old jsonb, new jsonb)",
    """
    CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      INSERT INTO chaos_history (at, who, relation, old, new) VALUES (
        extract(epoch FROM clock_timestamp()), current_setting('application_name'), TG_TABLE_NAME,
        CASE WHEN TG_OP = 'INSERT' THEN NULL ELSE to_jsonb(OLD) END,
        CASE WHEN TG_OP = 'DELETE' THEN NULL ELSE to_jsonb(NEW) END);
      RETURN NULL;
    END $$
    """,
    *(
        # At the commit: what is written long before is seen by nobody until then.
        f"CREATE CONSTRAINT TRIGGER chaos AFTER INSERT OR UPDATE OR DELETE ON {table} "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos_note()"
        for table in ("ecs_workload", "ecs_lease")
    ),
)


def install(engine: Engine) -> None:
    """Make the database tell of every row that is written."""
    with engine.begin() as conn:
        for statement in _TRIGGERS:
            conn.execute(text(statement))


def short(arn: str) -> str:
    """An ARN as the checker knows it: the start of its last part."""
    return arn.rsplit("/", 1)[-1][:8]


class History:
    """Events, from any thread. `lines` is the file that containers write to."""

    def __init__(self, lines: Path) -> None:
        self.lines = lines
        lines.touch()
        self._lock = threading.Lock()
        self._noted: list[dict[str, Any]] = []
        self._began = time.time()

    def note(self, kind: str, **facts: Any) -> None:
        with self._lock:
            self._noted.append({"t": time.time() - self._began, "kind": kind, **facts})

    def containers(self) -> list[dict[str, Any]]:
        """What containers wrote. One that was killed may have been cut off in the middle of its last line."""
        return [json.loads(line) for line in self.lines.read_text().splitlines() if line.endswith("}")]

    def trace(self, engine: Engine) -> list[dict[str, Any]]:
        """All of it, in the order in which it happened."""
        with self._lock:
            events = list(self._noted)
        events += self._rows(engine)
        events += [{**line, "t": line["t"] - self._began} for line in self.containers()]
        return sorted(events, key=lambda event: event["t"])

    def _rows(self, engine: Engine) -> Iterator[dict[str, Any]]:
        epochs: dict[str, int] = {}
        """The epoch in which each process writes: that of the lease which it took last."""
        with engine.connect() as conn:
            noted = conn.execute(text("SELECT at, who, relation, old, new FROM chaos_history ORDER BY id")).all()
        for at, who, relation, old, new in noted:
            if relation == "ecs_lease":
                if new is not None:
                    epochs[who] = new["epoch"]
                continue
            event = {"who": who, "via": "trigger", "epoch": epochs.get(who), "old": _row(old), "new": _row(new)}
            yield {"t": at - self._began, "kind": "row", **event}


def _row(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return row and {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
