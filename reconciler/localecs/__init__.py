"""An ECS for one machine: a pure model on a virtual clock, a server that speaks AWS's protocol, a process runner."""

from reconciler.localecs.errors import AwsError, ResponseLost
from reconciler.localecs.events import Event
from reconciler.localecs.faults import Faults, QueueFaults
from reconciler.localecs.model import EcsModel
from reconciler.localecs.runner import Runner
from reconciler.localecs.server import LocalEcs, run_local_ecs
from reconciler.localecs.settings import PUBLISHED_RATES, Latencies, Rate, Settings, Spread
from reconciler.localecs.sqs import SqsModel
from reconciler.localecs.task import Effect, SignalContainer, StartContainer

__all__ = [
    "PUBLISHED_RATES",
    "AwsError",
    "EcsModel",
    "Effect",
    "Event",
    "Faults",
    "Latencies",
    "LocalEcs",
    "QueueFaults",
    "Rate",
    "ResponseLost",
    "Runner",
    "Settings",
    "SignalContainer",
    "Spread",
    "SqsModel",
    "StartContainer",
    "run_local_ecs",
]
