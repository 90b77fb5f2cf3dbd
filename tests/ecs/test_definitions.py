"""A task definition is asked for once, and never keeps a launch from going on."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.core.errors import EcsThrottled, EcsUnavailable
from reconciler.ecs import definitions as module
from reconciler.ecs.definitions import Definitions
from tests.virtual import VirtualClock

SHOWN = {"cpu": "256", "containerDefinitions": [{"name": "main"}]}


class Gateway:
    """The one call of a gateway that is needed, and how often it was made."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.error: Exception | None = None
        """What it raises, after a time-out."""
        self.shown: Any = SHOWN
        self.asked: list[str] = []

    def describe_task_definition(self, name: str) -> Any:
        self.asked.append(name)
        if self.error:
            self.clock.wait(20)
            raise self.error
        return self.shown


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def gateway(clock: VirtualClock) -> Gateway:
    return Gateway(clock)


@pytest.fixture
def definitions(gateway: Gateway, clock: VirtualClock) -> Definitions:
    return Definitions(gateway, clock)  # type: ignore[arg-type]  # all that is needed of a gateway


def test_each_task_definition_is_asked_for_once_in_a_while(
    definitions: Definitions, gateway: Gateway, clock: VirtualClock
) -> None:
    assert [definitions("etl"), definitions("etl"), definitions("ml")] == [SHOWN] * 3
    assert gateway.asked == ["etl", "ml"]
    clock.wait(module.REMEMBER + 1)
    definitions("etl")
    assert gateway.asked == ["etl", "ml", "etl"]


@pytest.mark.parametrize("error", [EcsThrottled("x"), EcsUnavailable("x")])
def test_what_can_not_be_known_now_is_asked_again_soon(
    definitions: Definitions, gateway: Gateway, clock: VirtualClock, error: Exception
) -> None:
    """An outage of seconds must not hide the output of all that is launched in the minutes after it."""
    gateway.error = error
    assert (definitions("etl"), definitions("etl"), definitions("ml")) == (None, None, None)
    assert gateway.asked == ["etl"], "an ECS that hangs holds up more than one launch"
    gateway.error = None
    clock.wait(module.ASK_AGAIN + 1)
    assert definitions("etl") == SHOWN


def test_a_task_definition_that_is_registered_late_is_found_soon(
    definitions: Definitions, gateway: Gateway, clock: VirtualClock
) -> None:
    gateway.shown = None
    assert (definitions("etl"), definitions("etl")) == (None, None)
    assert gateway.asked == ["etl"]
    gateway.shown = SHOWN
    clock.wait(module.ASK_AGAIN + 1)
    assert definitions("etl") == SHOWN


def test_what_was_known_is_not_forgotten_while_ecs_does_not_answer(
    definitions: Definitions, gateway: Gateway, clock: VirtualClock
) -> None:
    definitions("etl")
    gateway.error = EcsUnavailable("x")
    clock.wait(module.REMEMBER + 1)
    assert definitions("etl") == SHOWN
    assert gateway.asked == ["etl", "etl"]
    clock.wait(module.ASK_AGAIN + 1)
    assert definitions("etl") == SHOWN


def test_authors_can_not_fill_the_memory(definitions: Definitions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP", 10)
    for n in range(100):
        definitions(f"etl:{n}")
    assert len(definitions._known) <= 10
