"""What is shown are the words themselves, whatever Rich would make of brackets and colons in them."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console

from reconciler.core.finding import Finding, Level
from reconciler.core.phase import Phase
from reconciler.core.task import Spec, Workload
from reconciler.show import Story, show_findings, show_story, status_screen
from reconciler.store.inspect import Attempt

REASON = "[ecs_reconciler] cluster: arn:aws:secretsmanager:eu-west-1:1:secret:db is not in [/data]"
AT = datetime(2026, 1, 1, tzinfo=UTC)


def screen() -> Console:
    return Console(file=io.StringIO(), width=300)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_story() -> None:
    config = {"overrides": {"containerOverrides": [{"command": ["ls", "[/data]"]}]}}
    w = Workload("a", "prod", phase=Phase.FAILED_START, reason=REASON, spec=Spec("{}", config))
    attempt = Attempt(1, AT, 1, AT, f"FAILED_START: {REASON}", "arn:aws:ecs:eu-west-1:1:task/c/[dim]")
    console = screen()
    show_story(console, Story(w, [attempt], None, REASON))
    assert shown(console).count(REASON) == 3
    assert '"command": ["ls", "[/data]"]' in shown(console)
    assert "[dim]" in shown(console)


def test_the_state_of_a_deployment() -> None:
    queue = {"queue": "[/data]", "profile": ":key:", "pending": 0, "in_flight": 0, "limit": None, "held": None}
    found = {
        "deployment": "prod",
        "quota": {"limit": 1, "used": 0, "headroom": 1},
        "oldest_pending_seconds": 0.0,
        "leaders": [],
        "trouble": [REASON],
        "shards": [],
        "holds": [],
        "queues": [queue, queue],
        "phases": {},
    }
    console = screen()
    console.print(status_screen(found))
    assert REASON in shown(console)
    assert "[/data]  :key:" in shown(console)


def test_findings() -> None:
    console = screen()
    show_findings(console, [Finding(Level.ERROR, "[ecs_reconciler] cluster", REASON, REASON)])
    assert shown(console).count(REASON) == 2
