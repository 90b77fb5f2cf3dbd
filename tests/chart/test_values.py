"""What each value of the chart does."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from reconciler.config import daemon_settings, variable
from reconciler.options import EcsExecutorOptions, ReconcilerOptions
from tests.chart.conftest import CHART, CI_VALUES, RefusedError

if TYPE_CHECKING:
    from tests.chart.conftest import Helm


def test_names_are_derived_from_airflows_release(helm: Helm) -> None:
    rendered = helm.render({"airflow": {"release": "af"}})
    env = rendered.env
    assert env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == {"secretKeyRef": {"name": "af-metadata", "key": "connection"}}
    assert env["AIRFLOW__API_AUTH__JWT_SECRET"] == {"secretKeyRef": {"name": "af-jwt-secret", "key": "jwt-secret"}}
    volumes = {volume["name"]: volume for volume in rendered.pod["spec"]["volumes"]}
    config = volumes["airflow-config"]["configMap"]
    assert config == {"name": "af-config", "items": [{"key": "airflow.cfg", "path": "airflow.cfg"}]}
    assert env["AIRFLOW_CONFIG"] == "/etc/airflow/airflow.cfg"


def test_each_name_may_be_given(helm: Helm) -> None:
    given = {
        "metadataSecret": {"name": "db", "key": "url"},
        "jwtSecret": {"name": "jwt", "key": "k"},
        "configMap": {"name": "cfg", "key": "c"},
        "executionApiUrl": "https://airflow.example.com/execution/",
    }
    rendered = helm.render({"airflow": given})
    assert rendered.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]["secretKeyRef"] == {"name": "db", "key": "url"}
    assert rendered.env["AIRFLOW__API_AUTH__JWT_SECRET"]["secretKeyRef"] == {"name": "jwt", "key": "k"}
    assert rendered.env["AIRFLOW__ECS_RECONCILER__EXECUTION_API_SERVER_URL"] == given["executionApiUrl"]
    (config,) = [volume["configMap"] for volume in rendered.pod["spec"]["volumes"] if "configMap" in volume]
    assert config == {"name": "cfg", "items": [{"key": "c", "path": "airflow.cfg"}]}


def test_without_airflows_config_the_api_servers_service_is_named(helm: Helm) -> None:
    rendered = helm.render({"airflow": {"release": "af", "configMap": {"enabled": False}}})
    assert rendered.env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://af-api-server.ns.svc:8080/execution/"
    assert "AIRFLOW_CONFIG" not in rendered.env


def test_options_are_written_as_airflow_reads_them(helm: Helm) -> None:
    ours = {"max_running_tasks": 1000000, "launch_rate": 9.5, "deployment": "prod"}
    theirs = {"assign_public_ip": False, "run_task_kwargs": {"tags": [{"key": "a", "value": "b"}]}}
    options = helm.render({"config": {"ecs_reconciler": ours, "aws_ecs_executor": theirs}}).options
    assert options == {
        "AIRFLOW__ECS_RECONCILER__MAX_RUNNING_TASKS": "1000000",
        "AIRFLOW__ECS_RECONCILER__LAUNCH_RATE": "9.5",
        "AIRFLOW__ECS_RECONCILER__DEPLOYMENT": "prod",
        "AIRFLOW__ECS_RECONCILER__LOG_FORMAT": "json",
        "AIRFLOW__AWS_ECS_EXECUTOR__ASSIGN_PUBLIC_IP": "false",
        "AIRFLOW__AWS_ECS_EXECUTOR__RUN_TASK_KWARGS": json.dumps(theirs["run_task_kwargs"], separators=(",", ":")),
    }
    known = {variable("ecs_reconciler", name) for name in ReconcilerOptions.model_fields}
    known |= {variable("aws_ecs_executor", name) for name in EcsExecutorOptions.model_fields}
    assert options.keys() <= known


OURS: dict[str, Any] = {
    "allowed_run_task_parameters": ["enableExecuteCommand", "taskDefinition=etl-*"],
    "backlog": 7,
    "conn_id_from_database": True,
    "cost_tags": False,
    "deployment": "prod",
    "events_queue_url": "https://sqs.eu-central-1.amazonaws.com/123456789012/ecs-events",
    "execution_api_server_url": "https://airflow.example.com/execution/",
    "launch_burst": 3,
    "launch_rate": 9.5,
    "lease_seconds": 30,
    "listing_interval": 90,
    "log_format": "console",
    "log_level": "DEBUG",
    "max_running_tasks": 1000000,
    "max_running_vcpus": 250.5,
    "orphan_grace": 900,
    "queues": {"gpu": {"task_definition": "train:4", "subnets": ["subnet-9"], "max_running_tasks": 40}},
    "retention": 1000000,
    "start_timeout": 1200,
    "status_page": False,
    "sweep_interval": 0.5,
    "traces": True,
    "unknown_queue": "fail",
}
THEIRS: dict[str, Any] = {
    "assign_public_ip": True,
    "capacity_provider_strategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}],
    "check_health_on_startup": False,
    "cluster": "airflow",
    "conn_id": "aws_prod",
    "container_name": "task",
    "max_run_task_attempts": 5,
    "platform_version": "1.4.0",
    "region_name": "eu-central-1",
    "run_task_kwargs": {"tags": [{"key": "a", "value": "b<c"}]},
    "security_groups": ["sg-1", "sg-2"],
    "subnets": ["subnet-1", "subnet-2"],
    "task_definition": "airflow:7",
}
INSTEAD_OF_A_STRATEGY = {"launch_type": "EC2"}


@pytest.mark.parametrize("as_text", [False, True], ids=["as-yaml", "lists-and-maps-as-text"])
def test_every_option_reaches_the_daemon_as_it_was_meant(helm: Helm, as_text: bool) -> None:
    """Each option that the schema knows, with a value that is not its default."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
    assert OURS.keys() == schema["ecs_reconciler"]["properties"].keys()
    assert THEIRS.keys() | INSTEAD_OF_A_STRATEGY.keys() == schema["aws_ecs_executor"]["properties"].keys()

    def text(value: Any) -> Any:
        if as_text and isinstance(value, list) and isinstance(value[0], str):
            return ", ".join(value)
        return json.dumps(value) if as_text and isinstance(value, list | dict) else value

    def received(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        given = {"ecs_reconciler": ours, "aws_ecs_executor": theirs}
        written = {section: {name: text(value) for name, value in part.items()} for section, part in given.items()}
        environment = helm.render({"config": written}).options | {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://"}
        settings = daemon_settings(lambda section, option: environment.get(variable(section, option)))
        return settings.options.model_dump(include=set(ours)), settings.ecs.model_dump(include=set(theirs))

    assert received(OURS, THEIRS) == (OURS, THEIRS)
    defaults = ReconcilerOptions.model_validate({"deployment": "x"}).model_dump() | {"log_format": "json"}
    assert not [name for name, value in OURS.items() if value == defaults[name]]
    other = {name: value for name, value in THEIRS.items() if name != "capacity_provider_strategy"}
    other |= INSTEAD_OF_A_STRATEGY
    assert received(OURS, other) == (OURS, other)


def test_an_empty_list_is_an_option_that_is_not_set(helm: Helm) -> None:
    options = helm.render({"config": {"ecs_reconciler": {}, "aws_ecs_executor": {"subnets": []}}}).options
    assert not options["AIRFLOW__AWS_ECS_EXECUTOR__SUBNETS"]


def test_a_changed_option_restarts_the_daemons(helm: Helm) -> None:
    def checksum(options: dict[str, Any]) -> str:
        annotations = helm.render({"config": {"ecs_reconciler": options}}).pod["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum({"backlog": 1}) != checksum({"backlog": 2})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 3}, "replicas"),
        ({"replicaCount": -1}, "replicaCount"),
        ({"config": {"ecs_reconciler": {"max_runing_tasks": 1}}}, "max_runing_tasks"),
        ({"config": {"ecs_reconciler": {"sql_alchemy_conn": "postgresql://"}}}, "sql_alchemy_conn"),
        ({"config": {"core": {"executor": "x"}}}, "core"),
        ({"metrics": {"runbookUrl": "https://wiki.example.com/runbooks"}}, "runbookUrl"),
        ({"config": {"ecs_reconciler": {"launch_rate": "fast"}}}, "launch_rate"),
        ({"config": {"ecs_reconciler": {"lease_seconds": 1}}}, "lease_seconds"),
        ({"config": {"ecs_reconciler": {"log_format": "xml"}}}, "log_format"),
        ({"config": {"aws_ecs_executor": {"assign_public_ip": "yes"}}}, "assign_public_ip"),
        ({"metrics": {"monitor": {"kind": "Monitor"}}}, "kind"),
        ({"aws": {"roleArn": "airflow-daemon"}}, "roleArn"),
        ({"airflow": {"executionApiUrl": "https://airflow.example.com"}}, "executionApiUrl"),
        ({"image": {"repository": "x", "digest": "0123"}}, "digest"),
        ({"http": {"host": "[::]"}}, "host"),
    ],
)
def test_a_wrong_value_is_refused_by_name(each_helm: Helm, values: dict[str, Any], named: str) -> None:
    with pytest.raises(RefusedError, match=named):
        each_helm.template(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"image": {}}, "image.repository is not set"),
        ({"aws": {"roleArn": "arn:aws:iam::123456789012:role/r", "podIdentity": True}}, "exclude one another"),
        (
            {"aws": {"roleArn": "arn:aws:iam::123456789012:role/r"}, "serviceAccount": {"create": False}},
            "serviceAccount.create",
        ),
        ({"database": {"grantTo": "x"}, "migrations": {"enabled": False}}, "migrations.enabled"),
    ],
)
def test_values_that_contradict_each_other_are_refused(helm: Helm, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RefusedError, match=sentence):
        helm.template(values)


def test_the_image_by_tag_by_digest_and_by_version(helm: Helm) -> None:
    digest = f"sha256:{'0' * 64}"
    assert helm.render().daemon["image"] == "example/airflow:0.1.0"
    assert helm.render({"image": {"repository": "a/b", "tag": "t"}}).daemon["image"] == "a/b:t"
    both = {"repository": "a/b", "tag": "t", "digest": digest}
    assert helm.render({"image": both}).daemon["image"] == f"a/b@{digest}"


def test_pods_are_admitted_by_the_restricted_standard(helm: Helm) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, for each pod there is."""
    pods = helm.render().pods
    assert len(pods) == 3
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]


def test_every_pod_may_run_where_the_daemon_may_and_pull_its_image(helm: Helm) -> None:
    (full,) = [path for path in CI_VALUES if path.name == "full-values.yaml"]
    values, rendered = yaml.safe_load(full.read_text()), helm.render(full)
    names = {container["name"] for pod in rendered.pods for container in pod["containers"]}
    assert names == {"daemon", "migrate", "test"}
    for pod in rendered.pods:
        for field in ("nodeSelector", "tolerations", "imagePullSecrets"):
            assert pod.get(field) == values[field], pod["containers"][0]["name"]


def test_one_replica_has_no_budget_that_would_block_a_drain(helm: Helm) -> None:
    assert not helm.render({"replicaCount": 1}).of("PodDisruptionBudget")
    assert helm.render().one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_only_a_rolling_update_has_its_parameters(helm: Helm) -> None:
    """The API server refuses them beside another type, and a value that is given does not remove the default ones."""

    def strategy(given: dict[str, Any]) -> Any:
        return helm.render({"updateStrategy": given}).one("Deployment")["spec"]["strategy"]

    assert strategy({"type": "Recreate"}) == {"type": "Recreate"}
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}
    assert strategy({"rollingUpdate": {"maxSurge": 2}}) == rolling


def test_selectors_find_the_daemons_and_nothing_else(helm: Helm) -> None:
    """The service, the budget, the monitor and the policy must not take the job or the test for a daemon."""
    rendered = helm.render({"metrics": {"monitor": {"enabled": True}}, "networkPolicy": {"enabled": True}})
    others = [rendered.one("Job")["spec"]["template"]["metadata"]["labels"], rendered.one("Pod")["metadata"]["labels"]]
    selectors = [
        rendered.one("Deployment")["spec"]["selector"]["matchLabels"],
        rendered.one("Service")["spec"]["selector"],
        rendered.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        rendered.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= rendered.pod["metadata"]["labels"].items()
        assert not any(selector.items() <= labels.items() for labels in others)
    service = rendered.one("Service")["metadata"]["labels"]
    assert rendered.one("ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= service.items()


def test_a_podmonitor_instead(helm: Helm) -> None:
    monitor = helm.render({"metrics": {"monitor": {"enabled": True, "kind": "PodMonitor"}}}).one("PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics"}]


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("ServiceMonitor", {"monitor": {"enabled": True}}),
        ("PodMonitor", {"monitor": {"enabled": True, "kind": "PodMonitor"}}),
        ("PrometheusRule", {"alerts": {"enabled": True}}),
    ],
)
def test_the_operators_objects_with_and_without_the_operator(
    each_helm: Helm, kind: str, metrics: dict[str, Any]
) -> None:
    """The three modes of `metrics.renderMode`: skipIfMissing, which is the default, alwaysRender and failIfMissing."""

    def made(mode: str | None, operator: bool) -> int:
        values = {"metrics": metrics | ({"renderMode": mode} if mode else {})}
        return len(each_helm.render(values, operator=operator).of(kind))

    assert [made(mode, True) for mode in (None, "skipIfMissing", "alwaysRender", "failIfMissing")] == [1, 1, 1, 1]
    assert [made(mode, False) for mode in (None, "skipIfMissing", "alwaysRender")] == [0, 0, 1]
    with pytest.raises(RefusedError, match="Prometheus Operator"):
        made("failIfMissing", False)


def test_nothing_fails_for_want_of_an_operator_that_is_not_used(helm: Helm) -> None:
    assert helm.render({"metrics": {"renderMode": "failIfMissing"}}, operator=False)


def test_spread_constraints_are_given_their_selector(helm: Helm) -> None:
    rendered = helm.render()
    labels = rendered.pod["metadata"]["labels"]
    for constraint in rendered.pod["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()
    own = [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]
    assert helm.render({"topologySpreadConstraints": own}).pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]


def test_migrations_as_a_hook_and_as_an_object(helm: Helm) -> None:
    hook = helm.render().one("Job")
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert not helm.render({"migrations": {"enabled": False}}).of("Job")

    def plain(tag: str) -> dict[str, Any]:
        values = {"migrations": {"useHelmHooks": False}, "image": {"repository": "x", "tag": tag}}
        return helm.render(values).one("Job")

    assert "annotations" not in plain("1")["metadata"]
    assert plain("1") == plain("1")
    assert plain("1")["metadata"]["name"] != plain("2")["metadata"]["name"]


def test_the_address_on_which_the_pod_listens(helm: Helm) -> None:
    """The kubelet asks the pod at its own address, which may be one of IPv6."""
    name = variable("ecs_reconciler", "http_host")
    assert helm.render().env[name] == "0.0.0.0"  # noqa: S104 - the pod's own network
    assert helm.render({"http": {"host": "::"}}).env[name] == "::"


def test_a_token_for_the_status_page(helm: Helm) -> None:
    name = variable("ecs_reconciler", "status_page_token")
    assert name not in helm.render().env
    env = helm.render({"http": {"statusPageToken": {"name": "page"}}}).env
    assert env[name] == {"secretKeyRef": {"name": "page", "key": "token"}}
    assert "status_page_token" in ReconcilerOptions.model_fields


def test_a_hook_needs_nothing_that_comes_after_it(helm: Helm) -> None:
    """The job runs before the chart's own objects are there."""
    rendered = helm.render()
    own = {o["metadata"]["name"] for o in rendered if "helm.sh/hook" not in o["metadata"].get("annotations", {})}
    pod = rendered.one("Job")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] not in own
    (container,) = pod["containers"]
    assert "envFrom" not in container
    assert not {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v} & own


def test_a_role_of_the_daemons_own(helm: Helm) -> None:
    """The daemon does not know Airflow's URL; the job uses it, and grants."""
    rendered = helm.render({"database": {"existingSecret": "own", "grantTo": "daemon_role"}})
    url = {"secretKeyRef": {"name": "own", "key": "connection"}}
    assert rendered.env["AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN"] == url
    assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in rendered.env
    (job,) = rendered.one("Job")["spec"]["template"]["spec"]["containers"]
    assert job["args"] == ["migrate", "--wait=300", "--grant=daemon_role"]
    assert "airflow-metadata" in json.dumps(job["env"])


def egress(helm: Helm, **values: Any) -> dict[int, list[str] | None]:
    """Where the daemon may go: for each port the addresses, None for all."""
    policy = helm.render({"networkPolicy": {"enabled": True}, **values}).one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    return {
        port["port"]: [to["ipBlock"]["cidr"] for to in rule["to"]] if "to" in rule else None
        for rule in policy["egress"]
        for port in rule["ports"]
    }


def test_the_role_by_irsa_by_pod_identity_and_of_the_node(helm: Helm) -> None:
    """Each with the way to where boto3 fetches it: STS, the agent on the node, the instance's metadata."""
    arn = "arn:aws:iam::123456789012:role/airflow-daemon"
    account = helm.render({"aws": {"roleArn": arn}}).one("ServiceAccount")
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": arn}
    everywhere = {53: None, 5432: None, 6543: None, 443: None}
    assert egress(helm, aws={"roleArn": arn}) == everywhere
    assert egress(helm, aws={"podIdentity": True}) == everywhere | {80: ["169.254.170.23/32", "fd00:ec2::23/128"]}
    assert egress(helm) == everywhere | {80: ["169.254.169.254/32"]}
    assert "annotations" not in helm.render({"aws": {"podIdentity": True}}).one("ServiceAccount")["metadata"]


def test_the_network_policy_limits_each_way_out(helm: Helm) -> None:
    """The database, AWS (ECS, STS and SQS are all on 443), and what is used besides."""

    def block(cidr: str) -> list[dict[str, Any]]:
        return [{"ipBlock": {"cidr": cidr}}]

    limits = {"databaseTo": block("10.1.0.0/16"), "databasePorts": [5432], "awsTo": block("10.2.0.0/16")}
    further = {"extraEgress": [{"ports": [{"port": 4318}], "to": block("10.3.0.0/16")}]}
    role = {"roleArn": "arn:aws:iam::123456789012:role/r"}
    assert egress(helm, networkPolicy={"enabled": True, **limits, **further}, aws=role) == {
        53: None,
        5432: ["10.1.0.0/16"],
        443: ["10.2.0.0/16"],
        4318: ["10.3.0.0/16"],
    }


def test_the_network_policy_lets_in_who_is_named_and_the_test(helm: Helm) -> None:
    only: dict[str, Any] = {"enabled": True, "ingressFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]}
    rendered = helm.render({"networkPolicy": only})
    (rule,) = rendered.one("NetworkPolicy")["spec"]["ingress"]
    assert only["ingressFrom"][0] in rule["from"]
    test = rendered.one("Pod")["metadata"]["labels"]
    assert any(s["podSelector"]["matchLabels"].items() <= test.items() for s in rule["from"]), "`helm test` is kept out"


def test_extra_objects_as_maps_and_as_text(helm: Helm) -> None:
    as_map = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-a"}}
    as_text = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Name }}-b\n"
    rendered = helm.render({"extraObjects": [as_map, as_text]})
    assert [secret["metadata"]["name"] for secret in rendered.of("Secret")] == ["r-a", "r-b"]


@pytest.mark.parametrize(
    ("hooks", "end"),
    [(True, "[a-z]-migrate"), (False, "[a-z]-migrate-[0-9a-f]{6}")],
    ids=["migrations-as-a-hook", "migrations-as-an-object"],
)
@pytest.mark.parametrize("release", ["a" * 53, f"{'a' * 47}-aaaaa"], ids=["longest", "cut-at-a-dash"])
def test_long_names_are_cut_where_kubernetes_needs_it(helm: Helm, release: str, hooks: bool, end: str) -> None:
    """A job's too, because it is a label of the job's pods."""
    rendered = helm.render({"migrations": {"useHelmHooks": hooks}}, release=release)
    assert not [document["metadata"]["name"] for document in rendered if len(document["metadata"]["name"]) > 63]
    assert re.search(f"{end}$", rendered.one("Job")["metadata"]["name"])


def test_notes_print_the_next_commands(helm: Helm) -> None:
    """`--dry-run=client` renders the notes and, from Helm 4 on, asks no cluster."""
    flags = ("--dry-run=client", "--set", "image.repository=x", "--namespace", "ns")
    notes = helm.run("install", "r", CHART, *flags).partition("NOTES:")[2]
    assert "helm test r --namespace ns" in notes
    assert "airflow.executionApiUrl is not set" in notes
    assert "Neither aws.roleArn" in notes
    url = "airflow.executionApiUrl=https://a.example.com/execution/"
    assert "executionApiUrl" not in helm.run("install", "r", CHART, *flags, "--set", url).partition("NOTES:")[2]
