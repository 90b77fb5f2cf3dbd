"""What the edges may raise. An exception's docstring says what it means for the caller."""

from __future__ import annotations

__all__ = ["EcsThrottled", "EcsUnavailable", "EventsUnavailable", "LeaseLost", "NoSuchCluster", "ReconcilerError"]
__all__ += ["StartError", "StoreUnavailable"]


class ReconcilerError(Exception):
    """The base of all errors that this project raises on purpose."""


class EcsThrottled(ReconcilerError):
    """ECS refused the call for its rate. Nothing happened; the same call may be made again later."""


class EcsUnavailable(ReconcilerError):
    """ECS can not be reached or will not serve this account now. Whether the call had an effect is unknown."""


class NoSuchCluster(EcsUnavailable):
    """ECS knows no such cluster: it was deleted, or this is another region or account than that of its tasks."""


class EventsUnavailable(ReconcilerError):
    """The queue of events can not be read, or not be deleted from. What was not deleted comes again."""


class StoreUnavailable(ReconcilerError):
    """The database did not answer. Whether the last commit took place is unknown, so every write is repeatable."""


class LeaseLost(ReconcilerError):
    """Another replica holds the lease. Nothing was written; stop acting at once."""


class StartError(ReconcilerError):
    """The daemon can not start as it is configured. The message says what to do."""
