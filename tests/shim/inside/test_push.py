"""The container's command, with a token that Airflow's API server accepts."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from airflow.api_fastapi.auth.tokens import (
    JWTGenerator,
    JWTValidator,
    generate_private_key,
    get_sig_validation_args,
    get_signing_args,
    key_to_pem,
)
from airflow.executors import workloads
from pydantic import TypeAdapter

from reconciler.airflow import push
from reconciler.airflow.push import Push
from reconciler.config import ConfigError
from tests.shim.inside.world import forget_everything

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.core.task import Workload
    from tests.shim.inside.world import World

TIMEOUT = timedelta(seconds=600)
ALGORITHMS = ["HS512", "RS256", "EdDSA"]


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Airflow signs with a shared secret or with a private key."""
    if request.param != "HS512":
        key = tmp_path / "key.pem"
        key.write_bytes(key_to_pem(generate_private_key({"RS256": "RSA", "EdDSA": "Ed25519"}[request.param])))
        monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_PRIVATE_KEY_PATH", str(key))
    name: str = request.param
    return name


def launching(world: World, attempt: int = 1, at: datetime | None = None) -> Workload:
    if not world.rows():
        world.queued()
    (w,) = world.rows()
    world.daemon(w.exec_id, phase="LAUNCHING", attempt=attempt, intent_at=at or datetime.now(UTC))
    return world.row(w.exec_id)


def parsed(command: Any) -> Any:
    return TypeAdapter[workloads.All](workloads.All).validate_json(command[-1])


def validated(token: str) -> dict[str, Any]:
    validator = JWTValidator(
        required_claims=frozenset(["aud", "exp", "iat"]),
        audience=["urn:airflow.apache.org:task"],
        **get_sig_validation_args(make_secret_key_if_needed=False),
    )
    claims: dict[str, Any] = validator.validated_claims(token)
    return claims


def test_airflow_accepts_the_token_for_this_task_and_for_its_start_only(world: World, algorithm: str) -> None:
    w = launching(world)

    token = parsed(Push(TIMEOUT).command(w)).token

    claims = validated(token)
    assert w.intent_at is not None
    assert (claims["sub"], claims["scope"]) == (w.ti_id, "workload")
    intent = int(w.intent_at.timestamp())
    assert claims["exp"] == intent + 600 + push.MARGIN
    assert claims["iat"] == claims["nbf"] == intent - push.SKEW
    assert jwt.get_unverified_header(token)["alg"] == algorithm


def test_the_token_is_made_as_airflow_makes_its_own(world: World, algorithm: str) -> None:
    generator = JWTGenerator(
        valid_for=600, audience="urn:airflow.apache.org:task", **get_signing_args(make_secret_key_if_needed=False)
    )
    theirs = generator.generate(extras={"sub": "x", "scope": "workload"})

    ours = parsed(Push(TIMEOUT).command(launching(world))).token

    assert jwt.get_unverified_header(ours) == jwt.get_unverified_header(theirs)
    assert set(_claims(ours)) == set(_claims(theirs))


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def test_configured_names_are_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_KID", "blue")
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_ISSUER", "https://airflow.internal")
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_ALGORITHM", "HS256")

    token = parsed(Push(TIMEOUT).command(launching(world))).token

    assert jwt.get_unverified_header(token) == {"alg": "HS256", "kid": "blue", "typ": "JWT"}
    assert validated(token)["iss"] == "https://airflow.internal"


@pytest.mark.usefixtures("algorithm")
def test_the_same_intent_is_the_same_command_to_the_byte_and_another_is_not(world: World) -> None:
    at = datetime.now(UTC)
    w = launching(world, at=at)

    assert Push(TIMEOUT).command(w) == Push(TIMEOUT).command(w)
    again = launching(world, attempt=2, at=at)
    later = launching(world, attempt=1, at=at + timedelta(seconds=1))
    assert len({tuple(Push(TIMEOUT).command(x)) for x in (w, again, later)}) == 3


def test_the_container_gets_the_workload_that_airflow_queued(world: World) -> None:
    command = Push(TIMEOUT).command(launching(world))

    assert list(command[:-1]) == ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string"]
    workload = parsed(command)
    (row,) = world.rows()
    assert (str(workload.ti.id), workload.ti.run_id) == (row.ti_id, row.key.run_id)
    assert workload.bundle_info.name == "dags-folder"


def test_a_callback_runs_and_its_exit_code_is_its_outcome(world: World) -> None:
    started = []
    for path in ("os.getcwd", "os.no_such_function"):
        w = world.queued_callback(path)
        world.daemon(w.exec_id, phase="LAUNCHING", attempt=1, intent_at=datetime.now(UTC))
        command = Push(TIMEOUT).command(world.row(w.exec_id))
        started.append(
            subprocess.Popen(
                [sys.executable, *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        forget_everything()

    (good, _), (said, _) = [process.communicate(timeout=300) for process in started]

    assert started[0].returncode == 0, good
    assert started[1].returncode == 1
    assert "no_such_function" in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("JWT_SECRET", ""), ("JWT_PRIVATE_KEY_PATH", "/no/such/key"), ("JWT_PRIVATE_KEY_PATH", __file__)],
)
def test_without_a_key_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, option: str, value: str) -> None:
    monkeypatch.setenv(f"AIRFLOW__API_AUTH__{option}", value)

    with pytest.raises(ConfigError, match=r"\[api_auth\] has neither .* give it the same key as Airflow") as error:
        Push(TIMEOUT)

    assert len(error.value.problems) == 1


def test_a_workload_without_an_intent_has_no_command(world: World) -> None:
    (w,) = world.queued()

    with pytest.raises(ValueError, match="no intent"):
        Push(TIMEOUT).command(w)


def test_the_daemon_loads_no_tables_of_airflows_and_the_executor_nothing_of_aws() -> None:
    code = (
        "import sys\n"
        "from datetime import timedelta\n"
        "import reconciler.airflow.options\n"
        "from reconciler.airflow.push import Push\n"
        "Push(timedelta(seconds=600))\n"
        "print([name for name in ('dagrun', 'taskinstance', 'callback') if f'airflow.models.{name}' in sys.modules])\n"
        "import reconciler.airflow.executor\n"
        "print([name for name in ('boto3', 'botocore', 'reconciler.ecs', 'reconciler.manager') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert ran.stdout.splitlines()[-2:] == ["[]", "[]"]
