"""Who may ask for what: every member of RunTask is ruled on, and hostile `executor_config` gets nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import policy, runtask
from reconciler.core.policy import RequestRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.model import Shape

PROFILE = runtask.Profile(cluster="airflow", container_name="main", run_task={"taskDefinition": "airflow-task:3"})


def plan(config: Any, *allowed: str) -> dict[str, Any]:
    profile = runtask.Profile(
        cluster="airflow", container_name="main", run_task=PROFILE.run_task, allowed=frozenset(allowed)
    )
    return runtask.plan(profile, "x", config)


def container(**members: Any) -> dict[str, Any]:
    return {"overrides": {"containerOverrides": [{"name": "main", **members}]}}


def variable(name: str, value: Any = "x") -> dict[str, Any]:
    return container(environment=[{"name": name, "value": value}])


def leaves(shape: Shape, path: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a shape as the tables name it, with its type."""
    if shape.type_name == "structure":
        for name, member in shape.members.items():  # type: ignore[attr-defined]  # botocore's stubs know no kinds
            yield from leaves(member, f"{path}.{name}".lstrip("."))
    elif shape.type_name == "list":
        yield from leaves(shape.member, f"{path}[]")  # type: ignore[attr-defined]  # the same
    else:
        yield path, shape.type_name


def run_task() -> dict[str, str]:
    shape = botocore.session.get_session().get_service_model("ecs").operation_model("RunTask").input_shape
    assert shape is not None
    return dict(leaves(shape))


def test_every_member_of_run_task_is_ruled_on_once() -> None:
    """A member that AWS adds fails here until somebody has decided who may set it."""
    ruled = [*policy.AUTHORS, *policy.RIGHTS, *policy.NEVER]
    assert sorted(ruled) == sorted(run_task())


def test_the_tables_have_the_types_of_the_service_model() -> None:
    kinds = {"string": "text", "integer": "a whole number", "boolean": "true or false"}
    ruled = {**policy.AUTHORS, **{path: kind for path, (_, kind) in policy.RIGHTS.items()}}
    types = run_task()
    assert {path: kind.value for path, kind in ruled.items()} == {path: kinds[types[path]] for path in ruled}


def nested(path: str, value: Any) -> Any:
    """The config in which only this path is set."""
    name, dot, rest = path.partition(".")
    inner = nested(rest, value) if dot else value
    if name.endswith("[]"):
        inner = [inner]
        if name == "containerOverrides[]" and not rest.startswith("name"):
            inner[0]["name"] = "main"
        if name == "environment[]":
            inner[0] |= {key: "x" for key in ("name", "value") if key not in inner[0]}
    return {name.removesuffix("[]"): inner}


EXAMPLES = {"text": "x", "a whole number": 1, "true or false": True}


@pytest.mark.parametrize("path", policy.AUTHORS)
def test_an_author_may_set_what_the_table_says(path: str) -> None:
    plan(nested(path, EXAMPLES[policy.AUTHORS[path]]))


@pytest.mark.parametrize("path", policy.RIGHTS)
def test_rights_are_granted_only_by_an_option_that_the_refusal_names(path: str) -> None:
    right, kind = policy.RIGHTS[path]
    config = nested(path, EXAMPLES[kind])
    with pytest.raises(RequestRefusedError, match=rf"grants rights: an operator may allow it .* = {right}$"):
        plan(config)
    plan(config, right)


@pytest.mark.parametrize("path", policy.NEVER)
def test_no_option_lets_an_author_set_what_is_nobodys(path: str) -> None:
    every_right = {name for name, _ in policy.RIGHTS.values()}
    config = nested(path, 5 if path == "count" else "x")
    with pytest.raises(RequestRefusedError, match=r"it sets .*, but .*: remove it"):
        plan(config, *every_right)


@pytest.mark.parametrize(
    ("words", "config", "good"),
    [
        (["taskRoleArn=arn:aws:iam::1:role/etl-*"], {"overrides": {"taskRoleArn": "arn:aws:iam::1:role/etl-x"}}, True),
        (["taskRoleArn=arn:aws:iam::1:role/etl-*"], {"overrides": {"taskRoleArn": "arn:aws:iam::1:role/admin"}}, False),
        (["taskDefinition=etl-*", "taskDefinition=ml:3"], {"taskDefinition": "ml:3"}, True),
        (["taskDefinition=etl-*", "taskDefinition=ml:3"], {"taskDefinition": "ml:4"}, False),
        (["subnets=subnet-a"], nested("networkConfiguration.awsvpcConfiguration.subnets[]", "subnet-a"), True),
        (["subnets=subnet-a"], nested("networkConfiguration.awsvpcConfiguration.subnets[]", "subnet-b"), False),
        (
            ["assignPublicIp=DISABLED"],
            nested("networkConfiguration.awsvpcConfiguration.assignPublicIp", "ENABLED"),
            False,
        ),
        (["volumeConfigurations"], nested("volumeConfigurations[].managedEBSVolume.roleArn", "anybody"), True),
        (
            ["volumeConfigurations", "roleArn=ebs"],
            nested("volumeConfigurations[].managedEBSVolume.roleArn", "anybody"),
            False,
        ),
        # A list replaces the operator's: without a permitted value it would take theirs away.
        (["securityGroups=sg-1"], {"networkConfiguration": {"awsvpcConfiguration": {"securityGroups": []}}}, False),
        (["subnets=subnet-a"], {"networkConfiguration": {"awsvpcConfiguration": {"securityGroups": []}}}, True),
        (["securityGroups"], {"networkConfiguration": {"awsvpcConfiguration": {"securityGroups": []}}}, True),
        (
            ["securityGroups=sg-1", "securityGroups"],
            {"networkConfiguration": {"awsvpcConfiguration": {"securityGroups": []}}},
            True,
        ),
        (["capacityProvider=FARGATE_SPOT"], {"capacityProviderStrategy": []}, False),
        (["capacityProvider=FARGATE_SPOT"], {"capacityProviderStrategy": [{}]}, False),
        (
            ["capacityProvider=FARGATE_SPOT"],
            nested("capacityProviderStrategy[].capacityProvider", "FARGATE_SPOT"),
            True,
        ),
        ([], {"capacityProviderStrategy": []}, True),
        (["expression=team-a"], {"placementConstraints": [{"type": "distinctInstance"}]}, False),
        (
            ["expression=team-a"],
            {"placementConstraints": [{"expression": "team-a"}, {"type": "distinctInstance"}]},
            True,
        ),
        (["expression=team-a"], {"placementStrategy": [{"type": "random"}]}, True),
        (["value=a"], {"overrides": {"containerOverrides": []}}, False),
        (["name=main"], {"overrides": {"containerOverrides": [{"cpu": 1}]}}, True),
        (["volumeConfigurations", "roleArn=ebs"], {"volumeConfigurations": []}, False),
        # A mapping is merged: what it does not name stays.
        (["securityGroups=sg-1"], {"networkConfiguration": {"awsvpcConfiguration": {}}}, True),
        (["securityGroups=sg-1"], {"networkConfiguration": {}}, True),
    ],
)
def test_values_can_be_permitted_one_by_one(words: list[str], config: Any, good: bool) -> None:
    if good:
        plan(config, *words)
    else:
        with pytest.raises(RequestRefusedError, match="the operator permits only"):
            plan(config, *words)


@pytest.mark.parametrize("word", ["taskRole", "count", "cpu=1024 ", "taskRoleArn=", "=x", "enableExecuteCommand=true"])
def test_a_word_that_permits_nothing_is_an_error(word: str) -> None:
    if word == "cpu=1024 ":
        policy.parse(frozenset({word}))  # the task's cpu is text
        return
    with pytest.raises(ValueError, match="one of"):
        policy.parse(frozenset({word}))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "x"}, "sets name, which is not a parameter"),
        ({"command": ["x"]}, "sets command, which is not a parameter"),
        ({"networkMode": "host"}, "sets networkMode, which is not a parameter"),
        (container(networkMode="host"), r"sets overrides.containerOverrides\[\].networkMode"),
        (container(privileged=True), "privileged"),
        (container(command=["sh"]), "the command is what runs"),
        ({"count": 5}, "it sets count"),
        # A path of the tables as a name must not pass for what it names.
        ({"overrides.cpu": "1"}, "'overrides.cpu', which is not a parameter"),
        ({"tags[]": []}, "which is not a parameter"),
        ({"": 1}, "which is not a parameter"),
        ({7: 1}, "it has 7, which is not a parameter"),
        ({"со": 1}, "which is not a parameter"),  # Cyrillic letters that look like Latin ones
        ({"x" * 5000: 1}, r"sets x+\.\.\., which is not"),
        (["not", "a", "mapping"], "the whole must be a mapping, not list"),
        ({"overrides": "x"}, "overrides must be a mapping, not str"),
        ({"overrides": None}, "overrides must be a mapping, not nothing"),
        ({"tags": {"key": "a"}}, "tags must be a list, not dict"),
        ({"capacityProviderStrategy": None}, "capacityProviderStrategy must be a list, not nothing"),
        ({"networkConfiguration": {"awsvpcConfiguration": None}}, "awsvpcConfiguration must be a mapping, not nothing"),
        ({"overrides": {"cpu": 1024}}, "overrides.cpu must be text, not int"),
        (container(cpu="256"), r"containerOverrides\[\].cpu must be a whole number, not str"),
        (container(cpu=True), "must be a whole number, not bool"),
        (container(cpu=1.5), "must be a whole number, not float"),
        ({"enableECSManagedTags": "yes"}, "enableECSManagedTags must be true or false, not str"),
        ({"overrides": {"containerOverrides": {"name": "main"}}}, "containerOverrides must be a list"),
        ({"overrides": {"containerOverrides": ["main"]}}, r"containerOverrides\[\] must be a mapping"),
        ({"overrides": {"containerOverrides": [{"name": "main"}, {"cpu": 1}]}}, "have the same name"),
        ({"overrides": {"containerOverrides": [{"name": None}]}}, "name must be text, not nothing"),
        ({"overrides": {"containerOverrides": [{"name": "main"}, {"name": "main"}]}}, "have the same name"),
        (variable("A", 1), r"environment\[\].value must be text"),
        (container(environment=["A=1"]), r"environment\[\] must be a mapping"),
        (container(environment=None), "environment must be a list"),
        (container(environment=[{"name": "A"}]), "are given as {name, value}"),
        ({"group": "a\0b"}, "holds a NUL"),
        ({"group": "\ud800"}, "half a character"),
        ({"tags": [{"key": "aws:cloudformation:stack", "value": "x"}]}, "AWS keeps aws: for itself"),
        (variable("A", "x" * 70000), "bytes of JSON, and RunTask takes 65536"),
    ],
)
def test_what_is_hostile_or_mistaken_is_refused_in_words(config: Any, said: str) -> None:
    with pytest.raises(RequestRefusedError, match=said) as refused:
        plan(config)
    sentence = str(refused.value)
    assert sentence.startswith("executor_config: ")
    assert len(sentence) < 400
    sentence.encode()  # can be stored


@pytest.mark.parametrize(
    "name",
    [
        *("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_IS_EXECUTOR_CONTAINER", "ECS_RECONCILER_EXEC_ID"),
        *("AWS_ACCESS_KEY_ID", "aws_session_token", "LD_PRELOAD", "PATH", "Path", "PYTHONPATH"),
    ],
)
@pytest.mark.parametrize("whose", ["main", "sidecar"])
def test_reserved_variables_can_not_be_set(name: str, whose: str) -> None:
    config = {"overrides": {"containerOverrides": [{"name": whose, "environment": [{"name": name, "value": "x"}]}]}}
    with pytest.raises(RequestRefusedError, match=f"reserved environment variable '{name}': choose another name"):
        plan(config)


def test_the_region_is_no_secret() -> None:
    plan(variable("AWS_DEFAULT_REGION", "eu-west-1"))


def test_depth_is_no_weapon() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    for config in ({"tags": deep}, {"overrides": {"containerOverrides": deep}}, {"unknown": deep}):
        with pytest.raises(RequestRefusedError):
            plan(config)


names = st.sampled_from(sorted({part for path in run_task() for part in path.replace("[]", "").split(".")}))
texts = st.sampled_from(["main", "x", "\0", "host", "5", "AWS_PROFILE", "aws:x"]) | st.text(max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(names | st.text(max_size=5), json_values, max_size=4), st.booleans())
def test_whatever_an_author_writes_is_planned_or_refused_and_never_moves_the_task(config: Any, allowing: bool) -> None:
    words = {name for name, _ in policy.RIGHTS.values()} if allowing else set()
    try:
        request = plan(config, *words)
    except RequestRefusedError:
        return
    assert (request["cluster"], request["count"]) == ("airflow", 1)
    assert not {"clientToken", "startedBy", "referenceId"} & request.keys()
    ours, *others = request["overrides"]["containerOverrides"]
    assert ours["name"] == "main"
    assert all("command" not in each for each in (ours, *others))
    assert ours["environment"][-1] == {"name": "ECS_RECONCILER_EXEC_ID", "value": "x"}
    if not allowing:
        assert not {"enableExecuteCommand", "volumeConfigurations"} & request.keys()
        assert not {"taskRoleArn", "executionRoleArn"} & request["overrides"].keys()
