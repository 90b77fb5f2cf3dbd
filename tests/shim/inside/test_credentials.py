"""Credentials of an Airflow connection: where it is looked for, and what is said where it is not."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
from airflow.models import Connection
from airflow.secrets import BaseSecretsBackend
from airflow.utils.session import create_session

from reconciler.airflow import credentials
from reconciler.airflow.credentials import ConnectionMissingError, find_connection, look_up
from reconciler.config import ConfigError

try:
    PROVIDER = importlib.util.find_spec("airflow.providers.amazon") is not None
except ModuleNotFoundError:
    PROVIDER = False
KEYS = {"conn_type": "aws", "login": "KEY", "password": "hunter2"}
CHAIN = object()


class Backend(BaseSecretsBackend):
    """A secrets backend with one connection."""

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        return json.dumps({**KEYS, "login": "FROM_BACKEND"}) if conn_id == "kept" else None


def found(conn_id: str, *, in_database: bool = False) -> Any:
    return look_up(conn_id, "eu-central-1", in_database=in_database, chain=lambda: CHAIN)()


def test_the_default_connection_need_not_exist() -> None:
    assert found("aws_default") is CHAIN


@pytest.mark.skipif(PROVIDER, reason="the provider is installed here; the other Airflow of the suite is without")
@pytest.mark.parametrize("conn_id", ["mine", "aws_default"])
def test_without_the_provider_a_connection_is_a_sentence(conn_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(KEYS))
    with pytest.raises(ConfigError, match=r"airflow-ecs-reconciler\[amazon\]"):
        found(conn_id)


with_provider = pytest.mark.skipif(not PROVIDER, reason="the provider is not installed here; the other Airflow has it")


@with_provider
@pytest.mark.parametrize("value", [json.dumps(KEYS), "aws://KEY:hunter2@"])
def test_keys_come_from_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MINE", value)
    keys = found("mine").get_frozen_credentials()
    assert (keys.access_key, keys.secret_key) == ("KEY", "hunter2")


@with_provider
def test_keys_come_from_the_secrets_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "get_custom_secret_backend", Backend)
    assert found("kept").get_frozen_credentials().access_key == "FROM_BACKEND"


@with_provider
def test_a_changed_connection_is_seen_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    look = look_up("mine", "eu-central-1", in_database=False, chain=lambda: CHAIN)
    for key in ("OLD", "NEW"):
        monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps({**KEYS, "login": key}))
        assert look().get_frozen_credentials().access_key == key


@with_provider
def test_the_database_is_asked_only_by_option(monkeypatch: pytest.MonkeyPatch) -> None:
    with create_session() as session:
        session.add(Connection(conn_id="stored", conn_type="aws", login="STORED", password="hunter2"))
    with pytest.raises(ConnectionMissingError, match="conn_id_from_database"):
        found("stored")
    assert found("stored", in_database=True).get_frozen_credentials().access_key == "STORED"


@with_provider
def test_a_connection_that_is_nowhere_is_a_sentence() -> None:
    with pytest.raises(ConnectionMissingError, match="no connection 'nowhere' in AIRFLOW_CONN_"):
        found("nowhere")


def test_what_can_not_be_read_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", '{"password": "hunter2"')
    with pytest.raises(ConnectionMissingError, match="JSONDecodeError") as caught:
        find_connection("broken", in_database=False)
    assert "hunter2" not in str(caught.value)
