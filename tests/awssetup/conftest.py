"""AWS as moto has it, and stacks of the template in it."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from reconciler.awssetup import template

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "us-east-1"
UNKNOWN_TO_MOTO = 'Fn::GetAtt": [Database, MasterUserSecret.SecretArn]'
"""An attribute of RDS that moto's CloudFormation does not have. cfn-lint knows it."""

NONE_IN_A_LIST = re.compile(r'          - "Fn::If":\n              - HasQueueRoles\n(?:              .*\n)+')
"""A member of a list that is left out by a condition, for which moto puts a null there. cfn-lint knows it, too."""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.Session]:
    """A session in an account that is empty."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.Session(region_name=REGION)


def deploy(aws: boto3.Session, *settings: str, **lists: str) -> dict[str, str]:
    """Make the stack from the template's defaults alone, and `lists` for parameters that are lists. Its outputs."""
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for n, zone in enumerate("ab")
    ]
    text = template([f"VpcId={vpc}", f"SubnetIds={','.join(subnets)}", *settings])
    assert UNKNOWN_TO_MOTO in text
    text = text.replace(UNKNOWN_TO_MOTO, 'Ref": Database')
    assert NONE_IN_A_LIST.search(text)
    text = text if "QueueRoleArns" in lists else NONE_IN_A_LIST.sub("", text)
    cloudformation = aws.client("cloudformation")
    with warnings.catch_warnings():
        # What moto does not know it leaves out. cfn-lint checks these two.
        warnings.filterwarnings("ignore", "Tried to parse AWS::(EC2::SecurityGroupEgress|SQS::QueuePolicy)")
        cloudformation.create_stack(
            StackName="airflow",
            TemplateBody=text,
            # Not as a default: moto does not split those of lists.
            Parameters=[
                {"ParameterKey": name, "ParameterValue": value}
                for name, value in {"SubnetIds": ",".join(subnets), **lists}.items()
            ],
            Capabilities=["CAPABILITY_IAM"],
        )
    (stack,) = cloudformation.describe_stacks(StackName="airflow")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
