"""A trace for each workload, on each database, and what the daemon sends of it."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reconciler import traces
from reconciler.core.errors import StartError
from reconciler.core.phase import Phase
from reconciler.core.task import Spec, TaskKey
from reconciler.store import shim
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import writing
from reconciler.store.inspect import Heard, heard
from reconciler.traces import Trails

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from tests.conftest import Deployment
    from tests.site import Site

TRACE, PARENT = "89e88ee73c4f9a06831ce4f57292e831", "8d0c31bf2faa8946"
CARRIER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
KEY = TaskKey("etl", "load", "run", 2, 1)
ARN = "arn:aws:ecs:eu-west-1:1:task/airflow/0123"


class Followed:
    """A deployment whose store tells its changes to trails, and the spans that were made."""

    def __init__(self, prod: Deployment) -> None:
        self.prod, self.sent = prod, InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.sent))
        self.trails = Trails(provider.get_tracer("test"))
        prod.store = SqlStore(prod.engine, prod.name, on_written=self.trails.moved)

    def queue(self, exec_id: str, workload: str = json.dumps({"ti": {"context_carrier": CARRIER}})) -> None:
        self.prod.queue(exec_id, key=KEY, spec=Spec(workload))

    def acknowledge(self, exec_id: str) -> None:
        with writing(self.prod.engine).begin() as conn:
            shim.acknowledge(conn, [self.prod.get(exec_id)])

    def settle(self) -> list[ReadableSpan]:
        """The spans that have been made since, those that began first first, the wider before what is in it."""
        self.trails.settle(lambda ids: heard(self.prod.engine, self.prod.name, ids))
        spans = self.sent.get_finished_spans()
        self.sent.clear()
        return sorted(spans, key=lambda span: (span.start_time or 0, -(span.end_time or 0)))


@pytest.fixture
def followed(prod: Deployment) -> Followed:
    return Followed(prod)


def tree(spans: list[ReadableSpan]) -> list[tuple[str, str | None]]:
    """Each span with the name of the one it is in."""
    names = {span.context.span_id: span.name for span in spans if span.context}
    return [(span.name, names.get(span.parent.span_id) if span.parent else None) for span in spans]


def named(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def test_a_workload_is_one_trace_in_airflows_from_queued_to_acknowledged(followed: Followed, prod: Deployment) -> None:
    followed.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.PENDING, reason="RESOURCE:CPU")
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, task_arn=ARN)
    prod.move("a", Phase.RUNNING, started_at=prod.store.now())
    prod.move("a", Phase.EXITED, exit_code=0, stopped_at=prod.store.now())
    assert followed.settle() == []
    followed.acknowledge("a")
    spans = followed.settle()

    assert sorted(tree(spans)) == sorted(
        [
            ("ecs.workload", None),
            ("ecs.queued", "ecs.workload"),
            ("ecs.attempt", "ecs.workload"),
            ("ecs.launching", "ecs.attempt"),
            ("ecs.queued", "ecs.workload"),
            ("ecs.attempt", "ecs.workload"),
            ("ecs.launching", "ecs.attempt"),
            ("ecs.starting", "ecs.attempt"),
            ("ecs.running", "ecs.attempt"),
            ("ecs.acknowledging", "ecs.workload"),
        ]
    )
    (root,) = named(spans, "ecs.workload")
    assert root.context is not None
    assert root.parent is not None
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {TRACE}
    assert f"{root.parent.span_id:016x}" == PARENT
    facts = dict(root.attributes or {})
    assert (facts["airflow.dag_id"], facts["airflow.task_instance.map_index"]) == ("etl", 2)
    assert (facts["ecs_reconciler.exec_id"], facts["ecs_reconciler.attempts"]) == ("a", 2)
    assert root.status.is_unset
    first, second = named(spans, "ecs.attempt")
    assert (first.status.is_ok, first.status.description) == (False, "RESOURCE:CPU")
    assert dict(second.attributes or {}) == {"ecs_reconciler.attempt": 2, "aws.ecs.task.arn": ARN}
    # One follows the other without a gap, and together they are the whole.
    chain = [span for span in spans if span.name not in ("ecs.workload", "ecs.attempt")]
    assert [span.end_time for span in chain[:-1]] == [span.start_time for span in chain[1:]]
    assert (chain[0].start_time, chain[-1].end_time) == (root.start_time, root.end_time)
    assert followed.settle() == []


def test_a_failed_start_says_why(followed: Followed, prod: Deployment) -> None:
    followed.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.FAILED_START, reason="no such image")
    followed.acknowledge("a")
    (root,) = named(followed.settle(), "ecs.workload")
    assert root.status.description == "no such image"


def test_what_airflow_refused_and_had_launched_again_is_one_trace(followed: Followed, prod: Deployment) -> None:
    followed.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED, exit_code=1)
    with writing(prod.engine).begin() as conn:
        shim.refuse(conn, [prod.get("a")])
    assert followed.settle() == []
    prod.move("a", Phase.PENDING, reason="Airflow did not admit it")
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING, Phase.EXITED, exit_code=0)
    followed.acknowledge("a")
    spans = followed.settle()
    assert len(named(spans, "ecs.workload")) == 1
    assert [span.status.is_unset for span in named(spans, "ecs.attempt")] == [False, True]


def test_what_is_launched_again_in_the_very_moment_of_the_look_is_followed_on(
    followed: Followed, prod: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "PATIENCE", 0.0)
    followed.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED, exit_code=1)

    def hear(exec_ids: Collection[str]) -> dict[str, Heard]:
        found = heard(prod.engine, prod.name, exec_ids)
        prod.move("a", Phase.PENDING)
        return found

    followed.trails.settle(hear)
    assert followed.settle() == []


def test_a_new_leader_tells_what_the_row_still_knows(followed: Followed, prod: Deployment) -> None:
    followed.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, task_arn=ARN)
    prod.move("a", Phase.RUNNING, started_at=prod.store.now())
    followed.trails.forget()
    prod.move("a", Phase.EXITED, exit_code=0)
    followed.acknowledge("a")
    assert sorted(tree(followed.settle())) == sorted(
        [
            ("ecs.workload", None),
            ("ecs.queued", "ecs.workload"),
            ("ecs.attempt", "ecs.workload"),
            ("ecs.launching", "ecs.attempt"),
            ("ecs.running", "ecs.attempt"),
            ("ecs.acknowledging", "ecs.workload"),
        ]
    )


@pytest.mark.parametrize(
    "workload", ["{}", "not json", "[]", '{"ti": 7}', '{"ti": {"context_carrier": {"traceparent": 7}}}']
)
def test_without_a_context_it_is_a_trace_of_its_own(followed: Followed, prod: Deployment, workload: str) -> None:
    followed.queue("a", workload)
    prod.move("a", Phase.LAUNCHING, Phase.FAILED_START)
    followed.acknowledge("a")
    (root,) = named(followed.settle(), "ecs.workload")
    assert root.parent is None


def test_what_nobody_acknowledges_is_told_in_the_end(
    followed: Followed, prod: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.LOST)
    assert followed.settle() == []
    monkeypatch.setattr(traces, "PATIENCE", 0.0)
    (root,) = named(followed.settle(), "ecs.workload")
    assert dict(root.attributes or {})["ecs_reconciler.acknowledged"] is False


def test_only_so_many_are_followed(followed: Followed, prod: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST", 1)
    for exec_id in ("a", "b"):
        followed.queue(exec_id)
        prod.move(exec_id, Phase.LAUNCHING, Phase.FAILED_START)
        followed.acknowledge(exec_id)
    spans = named(followed.settle(), "ecs.workload")
    assert [dict(span.attributes or {})["ecs_reconciler.exec_id"] for span in spans] == ["b"]


def test_switched_off_nothing_is_kept_and_nothing_is_asked(prod: Deployment) -> None:
    trails = Trails(None)
    prod.store = SqlStore(prod.engine, prod.name, on_written=trails.moved)
    prod.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.FAILED_START)
    trails.settle(lambda _: pytest.fail("the table was asked"))


def test_without_opentelemetry_the_option_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(StartError, match=r"\[ecs_reconciler\] traces is on.*airflow-ecs-reconciler\[otel\]"):
        traces.make_provider("prod", "1")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OpenTelemetry collector's address, and what it has been sent."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_daemon_sends_them_where_the_standard_variables_say(
    site: Site, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    address, received = collector
    options = {
        "AIRFLOW__ECS_RECONCILER__TRACES": "True",
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_SERVICE_NAME": "my-daemon",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    site.queue("a", spec=Spec(json.dumps({"ti": {"context_carrier": CARRIER}})))
    with site.daemon(**options) as daemon:
        site.until(lambda: site.row("a").terminal, daemon.log)
        with writing(site.engine).begin() as conn:
            shim.acknowledge(conn, [site.row("a")])
        site.until(lambda: bool(received), daemon.log)
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0

    sent = [(whose, span) for whole in received for whose in whole.resource_spans for span in _spans(whose)]
    assert {span.name for _, span in sent} >= {"ecs.workload", "ecs.queued", "ecs.attempt"}
    assert {span.trace_id.hex() for _, span in sent} == {TRACE}
    facts = {fact.key: fact.value.string_value for whose, _ in sent for fact in whose.resource.attributes}
    assert (facts["service.name"], facts["service.namespace"]) == ("my-daemon", "test")
    # The token that the container was given is in no span.
    assert "eyJ" not in str(received)


def _spans(whose: Any) -> list[Any]:
    return [span for scope in whose.scope_spans for span in scope.spans]
