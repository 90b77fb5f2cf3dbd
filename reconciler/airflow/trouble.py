"""Errors stop at the executor: Airflow catches nothing, and one exception would end the scheduler."""

from __future__ import annotations

import functools
from collections import Counter
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from airflow._shared.observability.metrics import stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Trouble", "contained"]

_REMIND: Final = 100
"""An error that comes back with every heartbeat is logged the first time and then every so many times."""


class Log(Protocol):
    """What is needed of Airflow's logger, whose type differs between its versions."""

    def info(self, event: Any, *args: Any) -> Any: ...

    def error(self, event: Any, *args: Any, exc_info: Any) -> Any: ...


class Trouble:
    """Contains errors, counts them, and logs them without flooding the log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.in_a_row: Counter[str] = Counter()

    def contained(self, what: str) -> _Contained:
        """A block that no exception leaves."""
        return _Contained(self, what)

    def note(self, what: str, error: BaseException) -> None:
        if self.in_a_row[what] % _REMIND == 0:
            self._log.error("%s failed; the scheduler goes on and it will be tried again", what, exc_info=error)
        self.in_a_row[what] += 1
        try:
            # Airflow 3.2 has a class Stats where later versions have a module.
            getattr(stats, "Stats", stats).incr("ecs_reconciler.executor_errors", tags={"what": what.replace(" ", "_")})
        except Exception as uncounted:  # noqa: BLE001 - a metrics backend is no reason to end the scheduler either
            self._log.error("the error could not be counted", exc_info=uncounted)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """A block whose duration goes into Airflow's metrics as `ecs_reconciler.<what>_duration`."""
        began = perf_counter()
        try:
            yield
        finally:
            milliseconds = (perf_counter() - began) * 1000
            try:
                getattr(stats, "Stats", stats).timing(f"ecs_reconciler.{what}_duration", milliseconds)
            except Exception as untimed:  # noqa: BLE001 - as above
                self._log.error("the duration could not be told", exc_info=untimed)

    def over(self, what: str) -> None:
        if repeated := self.in_a_row.pop(what, 0):
            self._log.info("%s works again, after %d failures", what, repeated)


class _Contained:
    def __init__(self, trouble: Trouble, what: str) -> None:
        self._trouble = trouble
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if error is None:
            self._trouble.over(self._what)
        elif isinstance(error, Exception):
            self._trouble.note(self._what, error)
            return True
        return False  # SystemExit is how Airflow's scheduler stops


P = ParamSpec("P")
R = TypeVar("R")


class Troubled(Protocol):
    @property
    def trouble(self) -> Trouble: ...


T = TypeVar("T", bound=Troubled)


def contained(otherwise: R) -> Callable[[Callable[Concatenate[T, P], R]], Callable[Concatenate[T, P], R]]:
    """Decorates a method of the executor: it returns `otherwise` where it would have raised."""

    def decorate(method: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
        @functools.wraps(method)
        def guarded(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
            with self.trouble.contained(method.__name__):
                return method(self, *args, **kwargs)
            return otherwise

        return guarded

    return decorate
