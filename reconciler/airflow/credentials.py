"""AWS credentials of an Airflow connection, for the daemon: `[aws_ecs_executor] conn_id`.

Airflow's own look-up asks the metadata database as well, which the daemon has no business in. Here a connection comes
from its environment variable or from the secrets backend, and from the database only by option. What it means for AWS
(keys, roles to assume, profiles) is the Amazon provider's hook's to know.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from airflow.configuration import get_custom_secret_backend
from airflow.sdk.definitions.connection import Connection
from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from reconciler.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AWS_DEFAULT", "ConnectionMissingError", "find_connection", "look_up"]

AWS_DEFAULT: Final = "aws_default"
"""What conn_id is where nobody has set it and the Amazon provider is installed. It need not exist."""


class ConnectionMissingError(LookupError):
    """The connection could not be found, or not be read. The message says where it was looked for, and no secret."""


def find_connection(conn_id: str, *, in_database: bool) -> Any:
    """The connection, or None. `in_database`: look there as well, last. Raises ConnectionMissingError."""
    backends = [EnvironmentVariablesBackend(), get_custom_secret_backend()]
    if in_database:
        # Reads table `connection` with [database] sql_alchemy_conn, and decrypts with [core] fernet_key.
        backends.append(importlib.import_module("airflow.secrets.metastore").MetastoreBackend())
    for backend in backends:
        try:
            found = _ask(backend, conn_id) if backend is not None else None
        except Exception as error:  # noqa: BLE001 - backends may raise anything
            # Its text is not shown: Airflow puts a connection that it can not read into its message, password and all.
            raise ConnectionMissingError(
                f"{type(backend).__name__} could not give Airflow's connection {conn_id!r}: {type(error).__name__}"
            ) from None
        if found is not None:
            return found
    return None


def _ask(backend: Any, conn_id: str) -> Any:
    try:
        value = backend.get_conn_value(conn_id)
    except NotImplementedError:
        # By Airflow's contract: such a backend has no text to show, and makes connections itself.
        return backend.get_connection(conn_id)
    if value is None:
        return None
    value = value.strip()
    return Connection.from_json(value, conn_id) if value.startswith("{") else Connection.from_uri(value, conn_id)


def look_up(conn_id: str, region: str, *, in_database: bool, chain: Callable[[], Any]) -> Callable[[], Any]:
    """Finds the credentials of a connection whenever called. `chain`: those that need none.

    Raises ConfigError if the provider is missing for a connection that there is. What is returned raises
    ConnectionMissingError, and whatever the hook raises.
    """
    try:
        base: Any = importlib.import_module("airflow.providers.amazon.aws.hooks.base_aws").AwsBaseHook
    except ImportError:
        if conn_id == AWS_DEFAULT and find_connection(conn_id, in_database=in_database) is None:
            return chain
        problem = (
            f"[aws_ecs_executor] conn_id is {conn_id!r}, and reading Airflow's AWS connections needs the Amazon "
            "provider: pip install 'airflow-ecs-reconciler[amazon]', or leave conn_id unset for boto3's own chain"
        )
        raise ConfigError([problem]) from None

    class Hook(base):  # type: ignore[misc]  # found at run time
        """The provider's hook on our way to connections."""

        @classmethod
        def get_connection(cls, conn_id: str) -> Any:
            return find_connection(conn_id, in_database=in_database)

    def found() -> Any:
        connection = find_connection(conn_id, in_database=in_database)
        if connection is None and conn_id == AWS_DEFAULT:
            return chain()
        if connection is None:
            where = "AIRFLOW_CONN_..., the secrets backend" + (" or the database" if in_database else "")
            raise ConnectionMissingError(
                f"[aws_ecs_executor] conn_id: there is no connection {conn_id!r} in {where}; create it there"
                + ("" if in_database else ", or set [ecs_reconciler] conn_id_from_database if it is in the database")
            )
        hook = Hook(aws_conn_id=conn_id, client_type="ecs", region_name=region)
        # A session of boto3; get_credentials may itself assume a role.
        return hook.get_session(region_name=region).get_credentials()

    return found
