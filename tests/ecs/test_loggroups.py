"""Where containers write to is asked once, and never keeps a launch from going on."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.core.errors import EcsThrottled, EcsUnavailable
from reconciler.ecs import loggroups
from reconciler.ecs.loggroups import LogGroups
from tests.world import VirtualClock

OPTIONS = {"awslogs-group": "g", "awslogs-region": "r", "awslogs-stream-prefix": "p"}
DEFINITION = {
    "containerDefinitions": [{"name": "main", "logConfiguration": {"logDriver": "awslogs", "options": OPTIONS}}]
}
FOUND = {"group": "g", "region": "r", "prefix": "p/main"}


class Definitions:
    """The one call of a gateway that is needed, and how often it was made."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked: list[str] = []

    def describe_task_definition(self, name: str) -> Any:
        self.asked.append(name)
        if self.error:
            raise self.error
        return DEFINITION


@pytest.fixture
def definitions() -> Definitions:
    return Definitions()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def groups(definitions: Definitions, clock: VirtualClock) -> LogGroups:
    return LogGroups(definitions, clock)  # type: ignore[arg-type]  # all that is needed of a gateway


def test_each_task_definition_is_asked_for_once_in_a_while(
    groups: LogGroups, definitions: Definitions, clock: VirtualClock
) -> None:
    assert [groups("etl", "main"), groups("etl", "main"), groups("ml", "main")] == [FOUND] * 3
    assert definitions.asked == ["etl", "ml"]
    clock.wait(loggroups.REMEMBER + 1)
    groups("etl", "main")
    assert definitions.asked == ["etl", "ml", "etl"]


@pytest.mark.parametrize("error", [EcsThrottled("x"), EcsUnavailable("x")])
def test_what_can_not_be_known_now_is_asked_again_later(
    groups: LogGroups, definitions: Definitions, clock: VirtualClock, error: Exception
) -> None:
    definitions.error = error
    assert (groups("etl", "main"), groups("etl", "main")) == (None, None)
    assert definitions.asked == ["etl"]
    definitions.error = None
    clock.wait(loggroups.REMEMBER + 1)
    assert groups("etl", "main") == FOUND


def test_authors_can_not_fill_the_memory(groups: LogGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggroups, "KEEP", 10)
    for n in range(100):
        groups(f"etl:{n}", "main")
    assert len(groups._known) <= 10
