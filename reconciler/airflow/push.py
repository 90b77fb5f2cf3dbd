"""Push: the container's command holds its whole workload, with a token that is signed anew for each launch.

Nothing secret is stored. The token is a function of the intent alone, so that a request which is sent again is the same
request, to the byte. It can start this one task and nothing else: Airflow's API accepts its scope for that call only.
Sources: airflow/api_fastapi/auth/tokens.py (JWTGenerator) and airflow/executors/workloads/base.py (generate_token).
"""

from __future__ import annotations

import json
import uuid
from importlib import metadata
from typing import TYPE_CHECKING, Final

import jwt
from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args
from airflow.configuration import conf
from packaging.version import Version

from reconciler.config import ConfigError
from reconciler.core.task import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from reconciler.core.task import Workload

__all__ = ["Push"]

MARGIN: Final = 120
"""Seconds for which a token outlives `start_timeout`. A container that ECS calls RUNNING in the last second has yet to
import Airflow, and its supervisor tries for a while to reach the API server."""
SKEW: Final = 60
"""Seconds by which a token is older than its intent: the API server refuses one from the future, and the intent's time
is the database's, whose clock may be ahead."""

_MODULE: Final = ("python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string")

_CALLBACK: Final = (
    "import sys, structlog\n"
    "from airflow.executors.workloads.callback import ExecuteCallback, execute_callback_workload\n"
    "workload = ExecuteCallback.model_validate_json(sys.argv[1])\n"
    "done, error = execute_callback_workload(workload.callback, structlog.get_logger())\n"
    "sys.exit(0 if done else error)"
)
"""Airflow 3.2's module runs tasks only. Its own executors run a callback like this; the exit code is the outcome."""


class Push:
    """Implements `seams.Delivery`. Raises ConfigError when made without Airflow's signing key."""

    def __init__(self, start_timeout: timedelta) -> None:
        """`start_timeout`: how long after its intent a container may still become RUNNING."""
        self._valid_for = int(start_timeout.total_seconds()) + MARGIN
        self._airflow = _generator(self._valid_for)
        self._module_runs_callbacks = Version(metadata.version("apache-airflow-core")) >= Version("3.3")

    def command(self, workload: Workload) -> Sequence[str]:
        if workload.spec is None:
            raise ValueError(f"the workload {workload.exec_id} was read without its spec")
        text = json.dumps({**json.loads(workload.spec.workload), "token": self._token(workload)}, separators=(",", ":"))
        if workload.kind is Kind.CALLBACK and not self._module_runs_callbacks:
            return ["python", "-c", _CALLBACK, text]
        return [*_MODULE, text]

    def _token(self, workload: Workload) -> str:
        if workload.intent_at is None:
            raise ValueError(f"the workload {workload.exec_id} has no intent to sign a token for")
        at = int(workload.intent_at.timestamp())
        claims = {
            "sub": workload.ti_id,
            "scope": "workload",
            "jti": uuid.uuid5(uuid.NAMESPACE_OID, f"{workload.exec_id}/{workload.attempt}").hex,
            "iss": self._airflow.issuer,
            "aud": self._airflow.audience,
            "nbf": at - SKEW,
            "exp": at + self._valid_for,
            "iat": at - SKEW,
        }
        stated = {name: value for name, value in claims.items() if value}
        airflow = self._airflow
        return jwt.encode(stated, airflow.signing_arg, algorithm=airflow.algorithm, headers={"kid": airflow.kid})


def _generator(valid_for: int) -> JWTGenerator:
    """Airflow's own generator, as its executors make it: for the key, its id and its algorithm."""
    try:
        key = get_signing_args(make_secret_key_if_needed=False)
    except (OSError, ValueError) as error:
        problem = (
            "[api_auth] has neither jwt_secret nor a jwt_private_key_path that can be read: the daemon signs tasks' "
            f"tokens, so give it the same key as Airflow's API server, with AIRFLOW__API_AUTH__JWT_SECRET ({error})"
        )
        raise ConfigError([problem]) from error
    return JWTGenerator(
        valid_for=valid_for,
        audience=conf.get_mandatory_list_value("execution_api", "jwt_audience")[0],
        issuer=conf.get("api_auth", "jwt_issuer", fallback=None),
        **key,
    )
