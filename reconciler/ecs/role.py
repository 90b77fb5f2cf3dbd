"""Credentials of another account: a role that ours may assume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import boto3
import botocore.session
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, DeferredRefreshableCredentials

from reconciler.ecs.client import credentials_config

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["assumed"]

SESSION_NAME: Final = "ecs-reconciler"
"""Names these calls in the other account's CloudTrail."""


def assumed(session: boto3.Session, role_arn: str, region: str) -> boto3.Session:
    """A session that signs as this role, whose credentials are fetched with `session` when the first request is signed,
    and again before they run out. https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
    """

    def fetch() -> dict[str, str]:
        # Signing raises what this raises: a refusal here blocks launches as expired credentials do, and fails no task.
        client = session.client("sts", region_name=region, config=credentials_config())
        found = client.assume_role(RoleArn=role_arn, RoleSessionName=SESSION_NAME)["Credentials"]
        return {
            "access_key": found["AccessKeyId"],
            "secret_key": found["SecretAccessKey"],
            "token": found["SessionToken"],
            "expiry_time": found["Expiration"].isoformat(),
        }

    own = botocore.session.Session()
    own.register_component("credential_provider", CredentialResolver([_Provider(fetch)]))
    return boto3.Session(botocore_session=own)


class _Provider(CredentialProvider):
    METHOD = "assume-role"

    def __init__(self, fetch: Callable[[], dict[str, str]]) -> None:
        super().__init__()
        self._fetch = fetch

    def load(self) -> Credentials:
        return DeferredRefreshableCredentials(refresh_using=self._fetch, method=self.METHOD)
