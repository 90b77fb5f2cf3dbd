"""The far end: the local ECS with AWS's published rates and a network's latencies, in a process of its own.

It is told what to do by lines of JSON on its standard input, and answers each with one on its standard output.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from reconciler.localecs import AwsError, LocalEcs, ResponseLost, Settings, Spread
from tests.bench.containers import Containers, task_instance_of
from tests.bench.forks import Forks

if TYPE_CHECKING:
    from collections.abc import Mapping

LATENCIES: Final[Mapping[str, float | Spread]] = {
    "RunTask": Spread(0.150, 0.600),
    "StopTask": 0.06,
    "DescribeTasks": 0.06,
    "ListTasks": 0.06,
}
"""Seconds until an answer arrives."""
EVENT_DELAY, EVENT_SPREAD = 0.03, 0.1
"""At least, and up to so many more, seconds that an event is on its way over EventBridge into the queue. In the 99th
percentile that is what AWS says of EventBridge, from end to end: 129 ms. What ECS takes before it tells EventBridge is
not published, and not played.
https://aws.amazon.com/about-aws/whats-new/2024/11/amazon-eventbridge-improvement-latency-event-buses/
"""
PROBE: Final = 0.02
"""Seconds between two looks at how late this process is."""
LAUNCH: Final = {"cluster-resource-modify": 1.0, "fargate-run-task": 1.0, "fargate-launches": 1.0}
"""What one RunTask of a neighbour draws from the account."""


class FarEnd(LocalEcs):
    """Notes every call, plays the containers, and does to its clients what a scenario wants. Times are monotonic."""

    def __init__(
        self,
        *,
        database: str | None,
        latency: bool,
        events: bool,
        forks: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """`forks`: the containers are real, with this environment, and their logs go into this folder."""
        self._containers: Any
        if forks:
            self._containers = Forks(forks["environment"], forks["folder"], self.container_exited)
        else:
            self._containers = Containers(database, self.container_exited)
        self._held_back = threading.local()
        self.calls: list[tuple[float, str, str, int, float]] = []
        """When it arrived, operation, result, whose (map index, -1 for nobody's), and our own seconds in it."""
        self._late: list[float] = []
        self._stop_noise = threading.Event()
        self._hurry = False
        super().__init__(
            settings=Settings(answer_latency=LATENCIES if latency else {}, **settings),
            on_effect=self._containers.execute,
            events_queue="ecs-events" if events else None,
            seed=1,
        )
        with self.sqs.lock:
            self.sqs.model.faults.on_delivery(delay=EVENT_DELAY, spread=EVENT_SPREAD, times=None)
        self._containers.start()
        threading.Thread(target=self._probe, daemon=True).start()

    def call(self, operation: str, request: Any) -> dict[str, Any]:
        began, result = time.monotonic(), "ok"
        self._held_back.seconds = 0.0
        try:
            answer = super().call(operation, request)
        except AwsError as error:
            result = error.code
            raise
        except ResponseLost:
            result = "lost"
            raise
        else:
            if answer.get("failures") and operation == "RunTask":
                result = "failure"
            return answer
        finally:
            own = time.monotonic() - began - self._held_back.seconds
            self.calls.append((began, operation, result, _whose(operation, request), own))

    def _latency_of(self, operation: str) -> float:
        self._held_back.seconds = 0.0 if self._hurry else super()._latency_of(operation)
        return float(self._held_back.seconds)

    # -- what scenarios want -----------------------------------------------------------------------------------------

    def do(self, what: str, **details: Any) -> Any:
        """One of the methods below."""
        return getattr(self, f"do_{what}")(**details)

    def do_last(self, seconds: float | None, *, evenly: bool = True) -> None:
        """Containers that start from now on last so long, or without end. Unevenly: from half to one and a half times
        as long, so that they do not end in the waves in which they began."""
        self._containers.seconds, self._containers.evenly = seconds, evenly

    def do_end(self, number: int, over: float) -> int:
        """Let the oldest containers end."""
        return int(self._containers.end(number, over))

    def do_hurry(self, wanted: bool) -> None:
        """Neither limits nor latency, to prepare what is measured later; or all of them again."""
        self._hurry = wanted
        with self.lock:
            self.model.throttle._rates = {} if wanted else self.settings.rates

    def do_lose_answers(self) -> None:
        """RunTask does what it should, and nobody hears of it."""
        with self.lock:
            self.model.faults.on_call("RunTask", ResponseLost(), after_effect=True, times=None)

    def do_fail(self) -> None:
        """ECS answers nothing but 503."""
        with self.lock:
            error = AwsError("ServiceUnavailableException", "Service Unavailable", status=503)
            self.model.faults.on_call("*", error, times=None)

    def do_heal(self) -> None:
        """All is well again."""
        self._stop_noise.set()
        with self.lock:
            self.model.faults.clear()

    def do_neighbour(self, per_second: float, greedy_at: float, greedy_for: float) -> None:
        """Somebody else launches tasks in this account and region, and for a while as fast as ECS lets anybody."""
        began = time.monotonic()

        def make_noise() -> None:
            greedy = False
            while not self._stop_noise.wait(0.01 if greedy else 1 / per_second):
                greedy = greedy_at <= time.monotonic() - began < greedy_at + greedy_for
                with self.lock:
                    try:
                        self.model.throttle.take(LAUNCH, self.now())
                        while greedy:
                            self.model.throttle.take(LAUNCH, self.now())
                    except AwsError:
                        continue

        threading.Thread(target=make_noise, daemon=True).start()

    def do_counts(self) -> dict[str, int]:
        """How many tasks there are."""
        with self.lock:
            by_status = Counter(task.status for task in self.model._tasks.known.values())
        stopped = by_status.pop("STOPPED", 0)
        live = sum(by_status.values())
        return {"made": live + stopped, "live": live, "running": by_status["RUNNING"], "stopped": stopped}

    def do_report(self) -> dict[str, Any]:
        """All that is known."""
        with self.lock:
            tasks = [self._told(task) for task in self.model._tasks.known.values()]
        return {
            "tasks": tasks,
            "calls": self.calls,
            "admitted": self._containers.admitted,
            "refused_containers": self._containers.refused,
            "late": self._late,
        }

    def _told(self, task: Any) -> dict[str, Any]:
        ti = task_instance_of(task.containers[0].command)
        times = {name: round(task.times[name] - self._epoch, 4) for name in task.times}
        return {
            "arn": task.arn,
            "ti": ti.get("id"),
            "index": ti.get("map_index", -1),
            "made": times["createdAt"],
            "started": times.get("startedAt"),
            "stopped": times.get("stoppedAt"),
            "live": not task.stopped,
        }

    def _probe(self) -> None:
        """How much later than it should does this process wake up?"""
        due = time.monotonic()
        while True:
            due += PROBE
            time.sleep(max(0.0, due - time.monotonic()))  # it is how late this ends that is measured
            now = time.monotonic()
            self._late.append(round(now - due, 5))
            due = now


def _whose(operation: str, request: Mapping[str, Any]) -> int:
    if operation != "RunTask":
        return -1
    overrides = request.get("overrides", {}).get("containerOverrides", [])
    return int(task_instance_of(overrides[0].get("command", [])).get("map_index", -1)) if overrides else -1


def main() -> None:
    with FarEnd(**json.loads(sys.argv[1])) as ecs:
        told = {"endpoint": ecs.endpoint_url, "queue_url": ecs.sqs.events_queue_url}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            sys.stdout.write(json.dumps(ecs.do(**json.loads(line))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
