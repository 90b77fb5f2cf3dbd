"""The catalogue's metrics as objects of prometheus-client, in registries of their own and never the global one."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from reconciler.metrics.catalogue import CATALOGUE, Kind, Metric, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.metrics_core import Metric as Family

__all__ = ["Board"]

Values = tuple[str, ...]


class _Exposed(CollectorRegistry):
    """What a scrape sees: all of it on a replica that leads, on a standby only what concerns the process."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self._board = board

    def collect(self) -> Iterable[Family]:
        yield from self._board.process.collect()
        if self._board.leads:
            yield from self._board.shared.collect()


class Board:
    """Counts and sets by catalogue entry. `deployment` is filled in. Thread safe."""

    def __init__(self, deployment: str) -> None:
        # Otherwise each counter and histogram has a twin that says when it was made: PROMETHEUS_DISABLE_CREATED_SERIES.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client left this one untyped
        self._deployment = deployment
        self.leads = False
        self.process, self.shared = CollectorRegistry(), CollectorRegistry()
        self.exposed = _Exposed(self)
        ProcessCollector(registry=self.process)
        PlatformCollector(registry=self.process)
        self._families: dict[Metric, Counter | Gauge | Histogram] = {metric: self._make(metric) for metric in CATALOGUE}
        self._lock = threading.Lock()
        self._shown: dict[Metric, set[Values]] = {}
        """Label values under which a gauge of a shard has been set."""

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        registry = self.process if metric.scope is Scope.PROCESS else self.shared
        labels = ["deployment", *metric.labels]
        match metric.kind:
            case Kind.COUNTER:
                return Counter(metric.name, metric.help, labels, registry=registry)
            case Kind.GAUGE:
                return Gauge(metric.name, metric.help, labels, registry=registry)
            case Kind.HISTOGRAM:
                return Histogram(metric.name, metric.help, labels, registry=registry, buckets=metric.buckets)

    def inc(self, metric: Metric, *values: str, exemplar: Mapping[str, str] | None = None) -> None:
        """Count one."""
        family = cast(Counter, self._families[metric])
        family.labels(self._deployment, *values).inc(1, dict(exemplar) if exemplar else None)

    def observe(self, metric: Metric, seconds: float, *values: str, exemplar: Mapping[str, str] | None = None) -> None:
        """Put a duration into its bucket. Two clocks may disagree: less than nothing is nothing."""
        family = cast(Histogram, self._families[metric])
        family.labels(self._deployment, *values).observe(max(0.0, seconds), dict(exemplar) if exemplar else None)

    def set(self, metric: Metric, value: float, *values: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._shown.setdefault(metric, set()).add(values)
            cast(Gauge, self._families[metric]).labels(self._deployment, *values).set(value)

    def measure(self, metric: Metric, read: Callable[[], Mapping[str, float]]) -> None:
        """Read a gauge with one label at each scrape. `read` must not wait for anything."""
        for value in read():
            child = cast(Gauge, self._families[metric]).labels(self._deployment, value)
            child.set_function(partial(_one, read, value))

    def replace(self, metric: Metric, shard: str, found: Mapping[Values, float]) -> None:
        """Set a shard's gauge under these further label values, and drop it under all others."""
        wanted = {(shard, *values): value for values, value in found.items()}
        self._drop(metric, lambda shown: shown[0] == shard and shown not in wanted)
        for values, value in wanted.items():
            self.set(metric, value, *values)

    def forget(self, shard: str) -> None:
        """Drop all gauges of a shard that this replica does not lead any more: the leader knows better."""
        for metric in self._families:
            if metric.scope is Scope.LEADER and metric.labels[:1] == ("shard",):
                self._drop(metric, lambda shown: shown[0] == shard)

    def initialise(self, shard: str) -> None:
        """Make the series whose labels are known, at zero: an alert can not see a series' first increase."""
        for metric in CATALOGUE:
            own = [label for label in metric.labels if label != "shard"]
            if metric.kind is Kind.GAUGE or not all(label in metric.values for label in own):
                continue
            before = (shard,) if "shard" in metric.labels else ()
            for values in itertools.product(*(metric.values[label] for label in own)):
                self._families[metric].labels(self._deployment, *before, *values)

    def touch(self, metric: Metric, *values: str) -> None:
        """Make one series at zero."""
        self._families[metric].labels(self._deployment, *values)

    def _drop(self, metric: Metric, gone: Callable[[Values], bool]) -> None:
        with self._lock:
            for values in [shown for shown in self._shown.get(metric, ()) if gone(shown)]:
                self._shown[metric].discard(values)
                self._families[metric].remove(self._deployment, *values)


def _one(read: Callable[[], Mapping[str, float]], value: str) -> float:
    return read()[value]
