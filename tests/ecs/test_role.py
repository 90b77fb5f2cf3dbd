"""Acting in another account: the role is assumed when a request is signed, and a refusal heals by itself."""

from __future__ import annotations

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from moto import mock_aws

from reconciler.ecs.client import make_client
from reconciler.ecs.role import assumed

ROLE = "arn:aws:iam::210987654321:role/airflow"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    return boto3.Session()


def test_calls_are_made_in_the_other_account(session: boto3.Session) -> None:
    with mock_aws():
        theirs = assumed(session, ROLE, "eu-west-1")
        client = make_client("eu-west-1", threads=1, session=theirs)
        arn = client.create_cluster(clusterName="theirs")["cluster"]["clusterArn"]
        assert arn == "arn:aws:ecs:eu-west-1:210987654321:cluster/theirs"
        assert (
            theirs.client("sts", region_name="eu-west-1")
            .get_caller_identity()["Arn"]
            .endswith("assumed-role/airflow/ecs-reconciler")
        )


def test_what_is_refused_once_is_asked_again(session: boto3.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AssumeRole"), NoCredentialsError()]
    clients = session.client

    def client(*arguments: object, **options: object) -> object:
        if refusals:
            raise refusals.pop(0)
        return clients(*arguments, **options)  # type: ignore[call-overload] # as boto3 has it

    monkeypatch.setattr(session, "client", client)
    with mock_aws():
        ecs = make_client("eu-west-1", threads=1, session=assumed(session, ROLE, "eu-west-1"))
        with pytest.raises(ClientError, match="AccessDenied"):
            ecs.list_clusters()
        with pytest.raises(NoCredentialsError):
            ecs.list_clusters()
        assert ecs.list_clusters()["clusterArns"] == []
