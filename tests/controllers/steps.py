"""What the tests of several controllers do, and what ECS answers in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.localecs import AwsError
from reconciler.store import shim

if TYPE_CHECKING:
    from tests.world import World

SERVER_ERROR = AwsError("ServerException", "The server failed.", 500)


def ended(world: World, *exec_ids: str) -> None:
    world.run_until(lambda: all(world.row(exec_id).terminal for exec_id in exec_ids))


def unwanted(world: World, *exec_ids: str) -> None:
    with world.engine.begin() as conn:
        shim.want_stop(conn, list(exec_ids), "cleared")
