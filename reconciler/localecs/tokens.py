"""RunTask's client tokens (API reference, "Ensuring idempotency").

A token belongs to one cluster. With the same parameters it gives the tasks of the first call as they are now; with
others it is a ConflictException that names them. It lives the shorter of 24 h and the life of its last task plus an
hour, so the token of a short task is dead an hour after the task stopped, and sending it again starts a second one.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reconciler.localecs.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.localecs.settings import Settings

Key = tuple[str, str]  # cluster ARN, token

# "Failures that are over an hour old only include the number of failed tasks."
FAILURE_DETAIL = 3600.0


@dataclass
class Remembered:
    """What the first call with a token led to."""

    fingerprint: str
    arns: tuple[str, ...]
    failures: tuple[Mapping[str, str], ...]
    at: float
    expires_at: float
    live: int

    def failures_at(self, now: float) -> list[dict[str, str]]:
        """The failures as a repeated call reports them: after an hour only their number is left."""
        recent = now < self.at + FAILURE_DETAIL
        return [dict(failure) if recent else {} for failure in self.failures]


class Tokens:
    """The tokens that are still alive."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[Key, Remembered] = {}
        self._expiry: list[tuple[float, Key]] = []
        self.tasks_created: dict[str, int] = {}

    def find(self, key: Key, request: Mapping[str, Any], now: float) -> Remembered | None:
        """The first call with this token, None if there is none (any more); ConflictException for other parameters."""
        self._forget(now)
        known = self._known.get(key)
        if known is not None and known.fingerprint != fingerprint(request):
            raise AwsError(
                "ConflictException",
                "The client token was already used for a request with other parameters.",
                extra={"resourceIds": list(known.arns)},
            )
        return known

    def store(
        self,
        key: Key,
        request: Mapping[str, Any],
        arns: tuple[str, ...],
        failures: tuple[Mapping[str, str], ...],
        now: float,
    ) -> None:
        """Remember what a call led to. Calls that were refused never come here."""
        expires_at = now + self._settings.token_ttl
        self._known[key] = Remembered(fingerprint(request), arns, failures, now, expires_at, len(arns))
        heapq.heappush(self._expiry, (expires_at, key))
        self.tasks_created[key[1]] = self.tasks_created.get(key[1], 0) + len(arns)

    def task_stopped(self, key: Key, at: float) -> None:
        """One of the token's tasks reached STOPPED. With the last one the end of the token is known."""
        known = self._known.get(key)
        if known is None:
            return  # the task outlived its token, which ends after 24 h whatever the task does
        known.live -= 1
        if known.live == 0:
            known.expires_at = min(known.expires_at, at + self._settings.token_after_stop)
            heapq.heappush(self._expiry, (known.expires_at, key))

    def _forget(self, now: float) -> None:
        while self._expiry and self._expiry[0][0] <= now:
            _, key = heapq.heappop(self._expiry)
            known = self._known.get(key)
            if known is not None and known.expires_at <= now:
                del self._known[key]


def fingerprint(request: Mapping[str, Any]) -> str:
    """All parameters but the token itself and the cluster, which is part of the key under any of its names."""
    rest = {name: value for name, value in request.items() if name not in ("clientToken", "cluster")}
    return json.dumps(rest, sort_keys=True, separators=(",", ":"))
