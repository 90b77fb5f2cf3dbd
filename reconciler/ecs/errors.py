"""What an error of boto3 means for the protocol: one table, read from top to bottom.

Two questions decide: can the call have had an effect, and whose fault is it? Errors are told apart by code, because
ThrottlingException is not in botocore's model of ECS and has no class of its own. Messages are read only where AWS
wraps one error in another.
Sources: the operations' error lists in botocore's model of ECS,
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/CommonErrors.html and
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ParamValidationError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)

from reconciler.core.answer import Answer, Blocked, Existing, Invalid, NotStarted, Throttled, Unknown
from reconciler.core.errors import EcsThrottled, EcsUnavailable, NoSuchCluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["BOTO_ERRORS", "CallFailedError", "Meaning", "TooLateError", "Verdict", "classify", "clean", "not_started"]

BOTO_ERRORS: Final = (BotoCoreError, ClientError)

REASON_LIMIT: Final = 1000
"""Characters of AWS's text that are kept: it goes into rows and log lines."""


class Meaning(Enum):
    """What a failed call tells. CONFLICT is the core's Existing, the others are its answers of the same names."""

    UNKNOWN = auto()
    CONFLICT = auto()
    THROTTLED = auto()
    BLOCKED = auto()
    INVALID = auto()


class TooLateError(Exception):
    """RunTask was about to be sent after the time for which its token may be used. It was not sent."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of a failed call. `result` is its name in metrics, `reason` is for people."""

    meaning: Meaning
    result: str
    reason: str
    code: str = ""
    arns: tuple[str, ...] = ()

    def answer(self) -> Answer:
        """What it means for a launch."""
        match self.meaning:
            case Meaning.UNKNOWN:
                return Unknown(self.reason)
            case Meaning.CONFLICT:
                return Existing(self.arns)
            case Meaning.THROTTLED:
                return Throttled(self.reason)
            case Meaning.BLOCKED:
                return Blocked(self.reason, denied=self.code.startswith("AccessDenied"))
            case Meaning.INVALID:
                return Invalid(self.reason)

    def error(self) -> EcsThrottled | EcsUnavailable:
        """What it means for every other call."""
        if self._no_cluster:
            return NoSuchCluster(self.reason)
        return EcsThrottled(self.reason) if self.meaning is Meaning.THROTTLED else EcsUnavailable(self.reason)

    @property
    def task_is_gone(self) -> bool:
        """Whether StopTask was refused because ECS does not know the task, or its cluster, any more."""
        return self._no_cluster or (self.code in _WRAPPING and _GONE.search(self.reason) is not None)

    @property
    def _no_cluster(self) -> bool:
        return self.meaning is Meaning.BLOCKED and self.code == _NO_CLUSTER


class CallFailedError(Exception):
    """A call to ECS gave no answer to work with; `verdict` says what that means."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


_NO_CLUSTER: Final = "ClusterNotFoundException"

_CODES: Final[Mapping[str, tuple[Meaning, str]]] = {
    "ConflictException": (Meaning.CONFLICT, "client_error"),
    # Refused for the rate. The names differ by the part of AWS that refuses.
    **dict.fromkeys(
        (
            "ThrottlingException",
            "Throttling",
            "ThrottledException",
            "RequestThrottled",
            "RequestThrottledException",
            "TooManyRequestsException",
            "RequestLimitExceeded",
            "BandwidthLimitExceeded",
            "EC2ThrottledException",
            "SlowDown",
        ),
        (Meaning.THROTTLED, "throttled"),
    ),
    # Who we are, or what our clock says, is not accepted.
    **dict.fromkeys(
        (
            "AccessDenied",
            "AccessDeniedException",
            "ExpiredToken",
            "ExpiredTokenException",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "NotAuthorized",
            "OptInRequired",
            "RequestExpired",
            "SignatureDoesNotMatch",
            "UnauthorizedOperation",
            "UnrecognizedClientException",
        ),
        (Meaning.BLOCKED, "credentials"),
    ),
    # The account or the cluster, whatever the workload.
    **dict.fromkeys(
        ("BlockedException", _NO_CLUSTER, "UnknownOperationException"),
        (Meaning.BLOCKED, "client_error"),
    ),
    # What was asked.
    **dict.fromkeys(
        (
            "ClientException",
            "InvalidParameterException",
            "PlatformTaskDefinitionIncompatibilityException",
            "PlatformUnknownException",
            "RequestEntityTooLargeException",
            "SerializationException",
            "UnsupportedFeatureException",
            "ValidationError",
            "ValidationException",
        ),
        (Meaning.INVALID, "client_error"),
    ),
}
"""By error code. What is not here, and every HTTP 5xx, proves nothing."""

_WRAPPING: Final = frozenset({"ClientException", "InvalidParameterException"})
"""Codes under which ECS passes on what another part of AWS said."""

_MESSAGES: Final[Sequence[tuple[re.Pattern[str], Meaning, str]]] = (
    # EC2 throttled ECS, for instance when it looked up a security group.
    (
        re.compile(r"rate exceeded|request limit exceeded|ErrorCode: (Throttling|RequestLimitExceeded)", re.IGNORECASE),
        Meaning.THROTTLED,
        "throttled",
    ),
    # Too many launches are on their way. It passes as they arrive, like a rate. Not `NotStarted`: this refusal is not
    # remembered under the token, so it proves nothing about an earlier call.
    (
        re.compile(
            r"tasks in the PROVISIONING|provisioning capacity limit|reached the limit on the number of"
            r"|capacity is unavailable",
            re.IGNORECASE,
        ),
        Meaning.THROTTLED,
        "throttled",
    ),
    # A cluster of EC2 whose Auto Scaling group is empty, or replaces its last instance.
    (re.compile(r"no container instances were found", re.IGNORECASE), Meaning.BLOCKED, "client_error"),
    # A new account, whose role for ECS is being made.
    (re.compile(r"service.linked role", re.IGNORECASE), Meaning.BLOCKED, "credentials"),
)
"""Read for the wrapping codes only."""

_GONE: Final = re.compile(r"task was not found|task not found", re.IGNORECASE)

_ROOM: Final = re.compile(
    r"^(RESOURCE|AGENT)\b|capacity|limit|quota|unavailable|try again|no active instances", re.IGNORECASE
)
"""Reasons in `failures` that pass by themselves. The others (ATTRIBUTE, LOCATION, MISSING, placement constraints) do
not, until somebody changes the task definition or the cluster."""

_TOKEN: Final = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")


def classify(error: Exception, *, sent: bool) -> Verdict:
    """What a failed call means. `sent`: the request may have left this process."""
    reason = clean(str(error))
    if isinstance(error, TooLateError):
        # Nothing was sent by us, but somebody else may long have settled this launch: let the listing decide.
        return Verdict(Meaning.UNKNOWN, "timeout", reason)
    if isinstance(error, ParamValidationError):
        return Verdict(Meaning.INVALID, "client_error", reason)
    if not sent:
        # Before sending botocore only finds the endpoint and signs, which may fetch credentials from elsewhere.
        return Verdict(Meaning.BLOCKED, "credentials", f"the call could not be signed: {reason}")
    if isinstance(error, ClientError):
        return _refusal(error)
    if isinstance(error, ConnectTimeoutError | EndpointConnectionError | ProxyConnectionError) or _distrusted(error):
        # There was no connection, so nothing was sent: that is certain, and an outage must not make launches unknown.
        result = "timeout" if isinstance(error, ConnectTimeoutError) else "network"
        return Verdict(Meaning.BLOCKED, result, f"ECS can not be reached: {reason}")
    return Verdict(Meaning.UNKNOWN, "timeout" if isinstance(error, ReadTimeoutError) else "network", reason)


def not_started(failures: Sequence[Mapping[str, Any]]) -> NotStarted:
    """What `failures` of a RunTask answer without a task means."""
    first = failures[0]
    reason = first.get("reason") or "ECS gave no reason"
    text = f"{reason}: {first['detail']}" if first.get("detail") else reason
    return NotStarted(clean(text), capacity=_ROOM.search(reason) is not None)


def _refusal(error: ClientError) -> Verdict:
    """What ECS itself answered."""
    answer: Mapping[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    message = str(answer.get("Error", {}).get("Message", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
    reason = clean(f"{code}: {message}" if message else code)
    if status >= 500:
        # Whatever the code says: a server that failed may have acted first.
        return Verdict(Meaning.UNKNOWN, "server_error", reason, code)
    meaning, result = _CODES.get(code, (Meaning.UNKNOWN, "client_error"))
    if code in _WRAPPING:
        found = ((wrapped, name) for pattern, wrapped, name in _MESSAGES if pattern.search(message))
        meaning, result = next(found, (meaning, result))
    return Verdict(meaning, result, reason, code, tuple(answer.get("resourceIds", ())))


def _distrusted(error: Exception) -> bool:
    """Whether the far side's certificate was refused. That ends the handshake, before a request could be written."""
    cause: BaseException | None = error if isinstance(error, SSLError) else None
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def clean(text: str) -> str:
    """AWS's text as a database takes it: shortened, and without a workload's token should AWS repeat one."""
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    return _TOKEN.sub("[token]", text)[:REASON_LIMIT]
