"""The template: clean for cfn-lint, deployable, and its parameters are checked before AWS sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from reconciler.awssetup import template
from reconciler.awssetup.fargate import check_size
from reconciler.cli import main
from reconciler.config import ConfigError
from tests.awssetup.conftest import REGION, deploy

if TYPE_CHECKING:
    import boto3

VPC, SUBNETS = "vpc-0123456789abcdef0", "subnet-0123456789abcdef0,subnet-0123456789abcdef1"
NETWORK = (f"VpcId={VPC}", f"SubnetIds={SUBNETS}")
OIDC = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/ABC"


def test_cfn_lint_is_content(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(template([*NETWORK, "Deployment=prod", "CreateDatabase=yes"]))
    original = resources.files("reconciler.awssetup").joinpath("template.yaml")
    lint: list[str] = [
        str(Path(sys.executable).with_name("cfn-lint")),
        "--include-checks",
        "W",
        "--regions",
        REGION,
        "eu-central-1",
        "--",
    ]
    done = subprocess.run([*lint, str(path), str(original)], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_deploys_and_its_output_is_a_configuration(aws: boto3.Session) -> None:
    found = deploy(aws, "Deployment=prod", "Image=example/airflow:1")
    ecs = aws.client("ecs")
    (cluster,) = ecs.describe_clusters(clusters=["prod"])["clusters"]
    assert cluster["status"] == "ACTIVE"
    definition = ecs.describe_task_definition(taskDefinition="prod")["taskDefinition"]
    (container,) = definition["containerDefinitions"]
    assert (container["name"], container["image"]) == ("airflow", "example/airflow:1")
    assert container["logConfiguration"]["options"]["awslogs-group"] == "/ecs/prod"
    options = found["AirflowCfg"]
    assert "deployment = prod\n" in options
    assert f"events_queue_url = {found['EventsQueueUrl']}" in options
    assert "cluster = prod\n" in options
    assert "DaemonRoleArn" not in found
    # The queue is the rule's target.
    (target,) = aws.client("events").list_targets_by_rule(Rule=rule_name(aws))["Targets"]
    sqs = aws.client("sqs")
    attributes = sqs.get_queue_attributes(QueueUrl=found["EventsQueueUrl"], AttributeNames=["All"])["Attributes"]
    assert target["Arn"] == attributes["QueueArn"]
    assert json.loads(attributes["RedrivePolicy"])["maxReceiveCount"] == 5


def test_the_queues_let_the_rule_in_and_nobody_else() -> None:
    made = yaml.safe_load(template([]))["Resources"]
    policy = made["EventsQueuePolicy"]["Properties"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Condition"]["ArnEquals"] == {"aws:SourceArn": {"Fn::GetAtt": ["EventsRule", "Arn"]}}
    (target,) = made["EventsRule"]["Properties"]["Targets"]
    assert statement["Resource"] == [target["Arn"], target["DeadLetterConfig"]["Arn"]]
    assert policy["Queues"] == [{"Ref": name["Fn::GetAtt"][0]} for name in statement["Resource"]]


def rule_name(aws: boto3.Session) -> str:
    (rule,) = aws.client("events").list_rules()["Rules"]
    pattern = json.loads(rule["EventPattern"])
    assert pattern["source"] == ["aws.ecs"]
    assert pattern["detail"]["startedBy"] == [{"prefix": "prod/"}]
    assert pattern["detail"]["clusterArn"] == [f"arn:aws:ecs:{REGION}:123456789012:cluster/prod"]
    return str(rule["Name"])


@pytest.mark.parametrize(
    ("settings", "principal", "condition"),
    [
        (
            ("DaemonIdentity=irsa", f"OidcProviderArn={OIDC}", "ServiceAccount=daemon"),
            {"Federated": OIDC},
            {
                "oidc.eks.eu-central-1.amazonaws.com/id/ABC:aud": "sts.amazonaws.com",
                "oidc.eks.eu-central-1.amazonaws.com/id/ABC:sub": "system:serviceaccount:airflow:daemon",
            },
        ),
        (
            ("DaemonIdentity=pod-identity",),
            {"Service": "pods.eks.amazonaws.com"},
            {
                "aws:RequestTag/kubernetes-namespace": "airflow",
                "aws:RequestTag/kubernetes-service-account": "ecs-reconciler",
            },
        ),
        (("DaemonIdentity=ec2",), {"Service": "ec2.amazonaws.com"}, None),
    ],
)
def test_who_may_take_the_daemons_role(
    aws: boto3.Session, settings: tuple[str, ...], principal: dict[str, str], condition: dict[str, str] | None
) -> None:
    found = deploy(aws, *settings)
    iam = aws.client("iam")
    role = iam.get_role(RoleName=found["DaemonRoleArn"].rsplit("/", 1)[-1])["Role"]
    document = role["AssumeRolePolicyDocument"]
    document = json.loads(document) if isinstance(document, str) else document
    (statement,) = document["Statement"]
    assert statement["Principal"] == principal
    assert statement.get("Condition", {}).get("StringEquals") == condition


def test_what_is_there_already_is_used(aws: boto3.Session) -> None:
    aws.client("ecs").create_cluster(clusterName="shared")
    role = "arn:aws:iam::123456789012:role/mine"
    found = deploy(
        aws, "ClusterName=shared", f"TaskRoleArn={role}", f"TaskExecutionRoleArn={role}", "CreateDatabase=yes"
    )
    definition = aws.client("ecs").describe_task_definition(taskDefinition="airflow")["taskDefinition"]
    arn, iam = found["DaemonPolicyArn"], aws.client("iam")
    policy = iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"]["Statement"]
    assert [statement["Resource"] for statement in policy if statement["Sid"] == "Roles"] == [[role, role]]
    assert "cluster = shared\n" in found["AirflowCfg"]
    assert definition["containerDefinitions"][0]["image"] == f"{found['RepositoryUri']}:latest"
    assert found["DatabaseEndpoint"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["VpcIdd=vpc-1"], "did you mean VpcId?"),
        (["VpcId"], "is not NAME=VALUE"),
        (["VpcId=1"], "the id of a VPC"),
        (["Cpu=300"], "one of 256"),
        (["ApiServerPort=0"], "a number from 1 to 65535"),
        (["SubnetIds=subnet-01234567, subnet-01234568"], "ids of subnets"),
        (["Deployment=prod"], "VpcId is not set"),
        (["QueueRoleArns=arn:aws:iam::210987654321:role/a,airflow"], "ARNs of roles, or empty"),
        ([*NETWORK, "DaemonIdentity=irsa"], "OidcProviderArn is not set"),
        ([*NETWORK, f"OidcProviderArn={OIDC}"], "DaemonIdentity=irsa only"),
        ([*NETWORK, "Cpu=256", "Memory=8192"], "with 256 CPU units Fargate runs 512, 1024, 2048"),
        ([f"VpcId={VPC}", "SubnetIds=subnet-01234567", "CreateDatabase=yes"], "two zones"),
    ],
)
def test_a_wrong_parameter_is_named(settings: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("?", r"\?")):
        template(settings)


def test_all_problems_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aws-setup", "Cpu=1", "Memory=x"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["Cpu", "Memory"]


def test_every_parameter_can_be_set() -> None:
    parameters = yaml.safe_load(template([]))["Parameters"]
    for name, parameter in parameters.items():
        values = parameter.get("AllowedValues", [parameter.get("Default", VPC)])
        value = SUBNETS if name == "SubnetIds" else str(values[-1])
        extra = [f"OidcProviderArn={OIDC}"] if value == "irsa" else []
        # 16 vCPU need more memory than the default: whoever sets one sets the other.
        extra += ["Memory=32768"] if name == "Cpu" else []
        text = template([*NETWORK, *extra, f"{name}={value}"])
        assert str(yaml.safe_load(text)["Parameters"][name]["Default"]) == value
        assert text.count("\n  Deployment:\n") == 1


def test_the_sizes_of_fargate_in_the_template() -> None:
    """Every CPU size that the template offers is one that Fargate runs, and the defaults are a pair."""
    parameters: dict[str, Any] = yaml.safe_load(template([]))["Parameters"]
    check_size(int(parameters["Cpu"]["Default"]), int(parameters["Memory"]["Default"]))
    for cpu in parameters["Cpu"]["AllowedValues"]:
        with pytest.raises(ValueError, match=f"with {cpu} CPU units"):
            check_size(int(cpu), 1)
