"""The world of the controllers' tests; some make one of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()
