"""OpenTelemetry traces, by option: one for each workload, from queued to acknowledged, joined to Airflow's own.

The store tells what was changed, as it tells the metrics, and the steps of a workload are kept until a scheduler has
acknowledged its outcome; then its spans are made, with the times of the steps. So nothing is under way that a crash
could leave open, and no controller knows of it. What another replica saw before this one led is filled in from the row.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Final

from reconciler.core.errors import StartError
from reconciler.core.phase import Phase
from reconciler.core.why import is_problem, why

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from datetime import datetime

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AnyValue

    from reconciler.core.task import Workload
    from reconciler.store.inspect import Heard

    Hear = Callable[[Collection[str]], Mapping[str, Heard]]

__all__ = ["Trails", "end", "make_provider"]

MOST: Final = 20_000
"""How many workloads are followed at once. Of more, the oldest are let go without a trace."""
PATIENCE: Final = 600.0
"""Seconds after its end for which a workload's acknowledgement is waited for."""
FLUSH_SECONDS: Final = 1.5
NAMES: Final = {
    Phase.PENDING: "ecs.queued",
    Phase.LAUNCHING: "ecs.launching",
    Phase.STARTED: "ecs.starting",
    Phase.RUNNING: "ecs.running",
    Phase.STOPPING: "ecs.stopping",
}
"""The span of the time in each phase. What has ended waits for its acknowledgement."""


@dataclass(frozen=True, slots=True)
class Step:
    """When a workload came into a phase, in which attempt, and why."""

    at: datetime
    phase: Phase
    attempt: int
    reason: str | None = None
    task_arn: str | None = None


@dataclass(slots=True)
class Trail:
    """The steps of one workload, the oldest first, and its row as it was last told."""

    row: Workload
    steps: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        # Some times are ECS's and some the database's: a step never lies before the one that led to it.
        at = max(step.at, self.steps[-1].at) if self.steps else step.at
        self.steps.append(Step(at, step.phase, step.attempt, step.reason, step.task_arn))


class Trails:
    """Follows the workloads of one shard. `moved` is called by the threads of controllers, the rest by one loop.

    `tracer`: None follows nothing.
    """

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self._lock = threading.Lock()
        self._trails: OrderedDict[str, Trail] = OrderedDict()

    def moved(self, old: Workload, new: Workload) -> None:
        """A change that was committed."""
        if self._tracer is None or old.phase is new.phase:
            return
        with self._lock:
            trail = self._trails.get(new.exec_id)
            if trail is None:
                trail = self._trails[new.exec_id] = Trail(old)
                for step in _known(old):
                    trail.add(step)
                while len(self._trails) > MOST:
                    self._trails.popitem(last=False)
            trail.row = new
            if reached := _step(new):
                trail.add(reached)

    def forget(self) -> None:
        """Another replica leads from now on."""
        with self._lock:
            self._trails.clear()

    def settle(self, hear: Hear) -> None:
        """Make the traces of what has been acknowledged. `hear`: what the table says of these, if it has them.

        Raises what `hear` raises.
        """
        if self._tracer is None:
            return
        with self._lock:
            ended = {exec_id: trail.row.version for exec_id, trail in self._trails.items() if trail.row.terminal}
        if not ended:
            return
        heard = hear(ended.keys())
        for exec_id, version in ended.items():
            found = heard.get(exec_id)
            if found is not None and not found.acknowledged and found.age < PATIENCE:
                continue
            with self._lock:
                trail = self._trails.get(exec_id)
                if trail is None or trail.row.version != version:
                    continue  # it was refused, and is launched again
                del self._trails[exec_id]
            if found is not None:
                _emit(self._tracer, trail, found)


def _step(w: Workload) -> Step | None:
    at = {Phase.LAUNCHING: w.intent_at, Phase.RUNNING: w.started_at, Phase.EXITED: w.stopped_at}.get(w.phase)
    at = at or w.updated_at
    return Step(at, w.phase, w.attempt, w.reason, w.task_arn) if at else None


def _known(w: Workload) -> Iterator[Step]:
    """What a row says of its past: of earlier attempts, and of the moment of STARTED, it says nothing."""
    if w.created_at:
        yield Step(w.created_at, Phase.PENDING, 0)
    if w.intent_at and w.phase is not Phase.PENDING:
        yield Step(w.intent_at, Phase.LAUNCHING, w.attempt, None, w.task_arn)
        if w.started_at:
            yield Step(w.started_at, Phase.RUNNING, w.attempt, None, w.task_arn)


def _emit(tracer: Tracer, trail: Trail, heard: Heard) -> None:
    from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - an extra: only with the option on
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    w, steps = trail.row, trail.steps
    above = TraceContextTextMapPropagator().extract(_carrier(heard.workload))
    root = tracer.start_span("ecs.workload", above, attributes=_facts(w, heard), start_time=_nanoseconds(steps[0].at))
    inside = set_span_in_context(root)
    # What exited unadmitted and was launched again waits from then on, in no span of its own.
    between = [(step, following) for step, following in pairwise(steps) if step.phase in NAMES]
    for attempt, group in groupby(between, lambda pair: 0 if pair[0].phase is Phase.PENDING else pair[0].attempt):
        its = list(group)
        around, last = None, its[-1][1]
        if attempt:
            facts: dict[str, AnyValue] = {"ecs_reconciler.attempt": attempt, "aws.ecs.task.arn": last.task_arn or ""}
            begin = _nanoseconds(its[0][0].at)
            around = tracer.start_span("ecs.attempt", inside, attributes=facts, start_time=begin)
        parent = set_span_in_context(around) if around else inside
        for step, following in its:
            span = tracer.start_span(NAMES[step.phase], parent, start_time=_nanoseconds(step.at))
            span.end(_nanoseconds(following.at))
        if around is not None:
            _blame(around, w, last, final=last is steps[-1])
            around.end(_nanoseconds(last.at))
    ended = steps[-1].at
    until = _nanoseconds(max(ended, heard.now))
    tracer.start_span("ecs.acknowledging", inside, start_time=_nanoseconds(ended)).end(until)
    _blame(root, w, steps[-1], final=True)
    root.end(until)


def _blame(span: Span, w: Workload, last: Step, *, final: bool) -> None:
    """Mark a span as failed if what ended it was not what was wanted. An attempt that is not the last one failed."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - as above

    if not final:
        span.set_status(Status(StatusCode.ERROR, last.reason))
    elif is_problem(w):
        span.set_status(Status(StatusCode.ERROR, why(w, last.at)))


def _facts(w: Workload, heard: Heard) -> dict[str, str | int | bool]:
    """Attributes. Those of Airflow are called as Airflow's own spans call them."""
    facts: dict[str, str | int | bool | None] = {
        "airflow.dag_id": w.key.dag_id,
        "airflow.task_id": w.key.task_id,
        "airflow.dag_run.run_id": w.key.run_id,
        "airflow.task_instance.map_index": w.key.map_index,
        "airflow.task_instance.try_number": w.key.try_number,
        "ecs_reconciler.exec_id": w.exec_id,
        "ecs_reconciler.queue": w.queue,
        "ecs_reconciler.shard": w.shard,
        "ecs_reconciler.phase": w.phase.value,
        "ecs_reconciler.attempts": w.attempt,
        "ecs_reconciler.acknowledged": heard.acknowledged,
        "process.exit.code": w.exit_code,
        "aws.ecs.task.arn": w.task_arn,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _carrier(workload: str | None) -> dict[str, str]:
    """The context that Airflow gave the task instance. It comes from a table that others write: what is odd is none."""
    try:
        ti = json.loads(workload or "{}").get("ti") or {}
        carrier = ti.get("context_carrier") or ti.get("parent_context_carrier") or {}
        return {name: value for name, value in carrier.items() if isinstance(value, str)}
    except (ValueError, AttributeError):
        return {}


def _nanoseconds(at: datetime) -> int:
    return round(at.timestamp() * 1e6) * 1000


def make_provider(deployment: str, version: str) -> TracerProvider:
    """Sends spans where the variables OTEL_EXPORTER_OTLP_... say. Raises StartError where OpenTelemetry is missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise StartError(
            "[ecs_reconciler] traces is on, and OpenTelemetry is not installed beside the daemon: "
            "pip install 'airflow-ecs-reconciler[otel]', or switch it off"
        ) from error
    facts: dict[str, Any] = {"service.namespace": deployment, "service.version": version}
    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins.
    resource = Resource({"service.name": "ecs-reconciler", **facts}).merge(Resource.create())
    # Not at the exit: an endpoint that hangs must not keep the process from its end.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def end(provider: TracerProvider | None) -> None:
    """Send what is left, if that can be done in a moment."""
    if provider is not None:
        sending = threading.Thread(target=provider.force_flush, daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)
