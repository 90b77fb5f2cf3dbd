"""What Prometheus is told, and by whom.

| module | what it is |
| --- | --- |
| catalogue | every metric: name, type, unit, labels, help, buckets, stability |
| board | the same as objects of prometheus-client; what a standby hides |
| shard | the hooks of manager, controllers and gateway for one shard |
| database | listeners on the database's engine |
| reasons, invariants | AWS's sentences as a word; what must hold of every write |
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import reconciler
from reconciler.metrics import catalogue, database
from reconciler.metrics.board import Board
from reconciler.metrics.shard import Shard

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from sqlalchemy import Engine

__all__ = ["Metrics", "Shard"]


class Metrics:
    """The metrics of one process, which may lead several shards."""

    def __init__(self, deployment: str) -> None:
        self._board = Board(deployment)
        self._shards: dict[str, Shard] = {}
        self._board.set(catalogue.BUILD_INFO, 1, reconciler.__version__, platform.python_version())

    @property
    def registry(self) -> CollectorRegistry:
        """What /metrics shows."""
        return self._board.exposed

    def shard(self, name: str) -> Shard:
        """The hooks for one shard, an AWS account and region. The same name gives the same hooks."""
        if name not in self._shards:
            self._shards[name] = Shard(self._board, name, self._lead_changed)
        return self._shards[name]

    def watch(self, engine: Engine) -> None:
        """Time this engine's statements and transactions, and count its errors."""
        database.watch(engine, self._board)

    def _lead_changed(self) -> None:
        self._board.leads = any(shard.leads for shard in self._shards.values())
