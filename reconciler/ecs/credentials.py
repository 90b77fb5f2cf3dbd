"""AWS credentials that heal: looked up again while there are none, and after AWS has refused the ones we have.

botocore looks for credentials once per client and keeps what it found, nothing included: a daemon that starts a moment
before its credentials do, or whose access key is rotated, would be locked out until it is restarted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials
from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, NoCredentialsError

from reconciler.ecs.client import credentials_config

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

    from reconciler.seams import Clock

__all__ = ["LookUp", "Renewed", "chain", "make_session"]

LookUp = Callable[[], Credentials | None]
"""Finds credentials, each time anew. None: there are none. Raises where they can not be had now: a LookupError's text
is for people, and of other errors than boto3's only the type is told, because they may quote what they could not read.
"""

PAUSE: Final = 5.0
"""Seconds between two looks: a secrets backend costs money and has limits of its own."""

_REFUSED: Final = frozenset(
    (
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    )
)
"""Codes with which AWS says that it does not know these credentials, or not any more."""


def chain() -> Credentials | None:
    """boto3's own chain: environment, shared files, web identity (IRSA), containers (ECS, EKS Pod Identity), EC2."""
    session = botocore.session.Session()
    session.set_default_client_config(credentials_config())
    return session.get_credentials()


class Renewed(Credentials):
    """What signs a client's requests. Thread safe, and found when the first request is signed."""

    def __init__(self, look_up: LookUp, clock: Clock) -> None:
        # Nobody reads these two: whoever signs asks for frozen credentials.
        super().__init__("", "", method="ecs-reconciler")
        self._look_up, self._clock = look_up, clock
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._error: Exception | None = None
        self._wanted = True
        self._again_at = 0.0

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Raises NoCredentialsError, or what the look-up raised."""
        with self._lock:
            if self._wanted and self._clock.monotonic() >= self._again_at:
                self._renew()
            if self._current is None:
                raise self._error or NoCredentialsError()
            current = self._current
        return current.get_frozen_credentials()

    def answered(self, parsed: dict[str, Any], **_: Any) -> None:
        """Called by botocore with every answer: one that refuses our credentials makes us look for others."""
        if parsed.get("Error", {}).get("Code") in _REFUSED:
            with self._lock:
                self._wanted = True

    def _renew(self) -> None:
        self._again_at = self._clock.monotonic() + PAUSE
        found = None
        try:
            found, self._error = self._look_up(), None
        except (BotoCoreError, ClientError) as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - kept, and raised to whoever signs
            told = str(error) if isinstance(error, LookupError) else type(error).__name__
            self._error = CredentialRetrievalError(provider="Airflow", error_msg=told)
        # Without others, what we have may still be good: only AWS can tell.
        if found is not None:
            self._current, self._wanted = found, False


class _Provider(CredentialProvider):
    METHOD = "ecs-reconciler"

    def __init__(self, renewed: Renewed) -> None:
        super().__init__()
        self._renewed = renewed

    def load(self) -> Credentials:
        return self._renewed


def make_session(look_up: LookUp, clock: Clock) -> boto3.Session:
    """A session whose clients sign with what `look_up` finds, and find it again when AWS refuses it."""
    renewed = Renewed(look_up, clock)
    session = botocore.session.Session()
    session.register_component("credential_provider", CredentialResolver([_Provider(renewed)]))
    session.register("after-call", renewed.answered)  # type: ignore[arg-type]  # botocore calls it with keywords
    return boto3.Session(botocore_session=session)
