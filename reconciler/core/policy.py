"""What a DAG's author may ask of RunTask through `executor_config`, what an operator may permit, and what nobody may.

`executor_config` comes from DAG authors and the table is untrusted input: the daemon checks it here before the intent,
and a refusal fails that one task with a sentence that says what to do. What an operator configures is not checked.

The three tables below name every member that RunTask has, down to its leaves, as botocore's model of the API knows
them; what they do not name is refused. Source:
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Final

__all__ = ["AUTHORS", "NEVER", "OPTION", "RIGHTS", "RequestRefusedError", "check", "parse"]

OPTION: Final = "[ecs_reconciler] allowed_run_task_parameters"
"""The operator's permission: words `NAME` (any value) or `NAME=PATTERN` (values like `etl-*`)."""

MAX_BYTES: Final = 65536
"""RunTask takes 64 KiB of parameters in all."""


class RequestRefusedError(ValueError):
    """The request of one workload can never be sent. The message names what is wrong and the way out."""


class Kind(StrEnum):
    """The type of a leaf."""

    TEXT = "text"
    NUMBER = "a whole number"
    SWITCH = "true or false"


_CONTAINER: Final = "overrides.containerOverrides[]"
_AWSVPC: Final = "networkConfiguration.awsvpcConfiguration"
_GPU: Final = f"{_CONTAINER}.resourceRequirements[]"
_VOLUME: Final = "volumeConfigurations[].managedEBSVolume"

AUTHORS: Final[Mapping[str, Kind]] = {
    # What runs, and how large it is.
    "taskDefinition": Kind.TEXT,
    "overrides.cpu": Kind.TEXT,
    "overrides.memory": Kind.TEXT,
    "overrides.ephemeralStorage.sizeInGiB": Kind.NUMBER,
    f"{_CONTAINER}.name": Kind.TEXT,
    f"{_CONTAINER}.cpu": Kind.NUMBER,
    f"{_CONTAINER}.memory": Kind.NUMBER,
    f"{_CONTAINER}.memoryReservation": Kind.NUMBER,
    f"{_CONTAINER}.environment[].name": Kind.TEXT,
    f"{_CONTAINER}.environment[].value": Kind.TEXT,
    f"{_GPU}.type": Kind.TEXT,
    f"{_GPU}.value": Kind.TEXT,
    f"{_GPU}.sharingStrategy.nvidiaMps.memory": Kind.NUMBER,
    f"{_GPU}.sharingStrategy.nvidiaMps.maxComputePercent": Kind.NUMBER,
    # Where it runs.
    "launchType": Kind.TEXT,
    "platformVersion": Kind.TEXT,
    "capacityProviderStrategy[].capacityProvider": Kind.TEXT,
    "capacityProviderStrategy[].weight": Kind.NUMBER,
    "capacityProviderStrategy[].base": Kind.NUMBER,
    "placementConstraints[].type": Kind.TEXT,
    "placementConstraints[].expression": Kind.TEXT,
    "placementStrategy[].type": Kind.TEXT,
    "placementStrategy[].field": Kind.TEXT,
    f"{_AWSVPC}.subnets[]": Kind.TEXT,
    f"{_AWSVPC}.securityGroups[]": Kind.TEXT,
    f"{_AWSVPC}.assignPublicIp": Kind.TEXT,
    # What it is called.
    "group": Kind.TEXT,
    "tags[].key": Kind.TEXT,
    "tags[].value": Kind.TEXT,
    "propagateTags": Kind.TEXT,
    "enableECSManagedTags": Kind.SWITCH,
}
"""A DAG's author decides these, unless the operator permits certain values only (`taskDefinition=etl-*`)."""

RIGHTS: Final[Mapping[str, tuple[str, Kind]]] = {
    "overrides.taskRoleArn": ("taskRoleArn", Kind.TEXT),
    "overrides.executionRoleArn": ("executionRoleArn", Kind.TEXT),
    "enableExecuteCommand": ("enableExecuteCommand", Kind.SWITCH),
    # A volume needs a role, can be made from anybody's snapshot, and stays behind if so asked.
    "volumeConfigurations[].name": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.roleArn": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.snapshotId": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.kmsKeyId": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.encrypted": ("volumeConfigurations", Kind.SWITCH),
    f"{_VOLUME}.volumeType": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.sizeInGiB": ("volumeConfigurations", Kind.NUMBER),
    f"{_VOLUME}.iops": ("volumeConfigurations", Kind.NUMBER),
    f"{_VOLUME}.throughput": ("volumeConfigurations", Kind.NUMBER),
    f"{_VOLUME}.volumeInitializationRate": ("volumeConfigurations", Kind.NUMBER),
    f"{_VOLUME}.filesystemType": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.terminationPolicy.deleteOnTermination": ("volumeConfigurations", Kind.SWITCH),
    f"{_VOLUME}.tagSpecifications[].resourceType": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.tagSpecifications[].propagateTags": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.tagSpecifications[].tags[].key": ("volumeConfigurations", Kind.TEXT),
    f"{_VOLUME}.tagSpecifications[].tags[].value": ("volumeConfigurations", Kind.TEXT),
}
"""These grant rights. Refused unless the operator's option has the name beside them."""

_IDENTITY: Final = "it is how the reconciler knows its tasks"
_PLACE: Final = "only the operator's configuration decides it"

NEVER: Final[Mapping[str, str]] = {
    "cluster": _PLACE,
    "count": _IDENTITY,
    "clientToken": _IDENTITY,
    "startedBy": _IDENTITY,
    "referenceId": _IDENTITY,
    f"{_CONTAINER}.command[]": "the command is what runs Airflow's task",
    f"{_CONTAINER}.environmentFiles[].value": "the variables in a file can not be checked; use environment",
    f"{_CONTAINER}.environmentFiles[].type": "the variables in a file can not be checked; use environment",
    "overrides.inferenceAcceleratorOverrides[].deviceName": "AWS has withdrawn Elastic Inference",
    "overrides.inferenceAcceleratorOverrides[].deviceType": "AWS has withdrawn Elastic Inference",
}
"""Nobody's to ask for, and why."""


def _name(path: str) -> str:
    """The last name of a path: what the operator's option calls it."""
    return path.rpartition(".")[2].removesuffix("[]")


_KINDS: Final = {**AUTHORS, **{path: kind for path, (_, kind) in RIGHTS.items()}}
_TEXTS: Final = frozenset(
    path.rpartition(".")[2].removesuffix("[]") for path, kind in _KINDS.items() if kind == Kind.TEXT
)
_RIGHTS: Final = frozenset(name for name, _ in RIGHTS.values())

_RESERVED: Final = ("AIRFLOW__", "AIRFLOW_IS_EXECUTOR_CONTAINER", "ECS_RECONCILER_", "AWS_", "LD_")
_RESERVED_TOO: Final = frozenset({"PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"})
_NOT_RESERVED: Final = frozenset({"AWS_REGION", "AWS_DEFAULT_REGION"})


@cache
def parse(words: frozenset[str]) -> Mapping[str, frozenset[str]]:
    """The patterns by member name. Raises ValueError for a word that is none of the option's."""
    patterns: dict[str, set[str]] = {}
    for word in sorted(words):
        name, given, pattern = (part.strip() for part in word.partition("="))
        if given and (name not in _TEXTS or not pattern):
            raise ValueError(f"{word!r} should be NAME=PATTERN, where NAME is one of {', '.join(sorted(_TEXTS))}")
        if name not in _TEXTS | _RIGHTS:
            raise ValueError(f"{name!r} is not one of {', '.join(sorted(_RIGHTS))}, nor one that takes a pattern")
        patterns.setdefault(name, set()).add(pattern or "*")
    return {name: frozenset(some) for name, some in patterns.items()}


def check(config: object, allowed: frozenset[str], container_name: str) -> None:
    """Raise RequestRefusedError for what this author may not ask for. `allowed`: the words of the operator's option."""
    if not isinstance(config, Mapping):
        raise _refused(f"the whole must be a mapping, not {_what(config)}")
    _Check(parse(allowed)).node(config, "")
    _check_size(config)
    _check_containers(config, container_name)
    for tag in config.get("tags", []):
        if tag.get("key", "").lower().startswith("aws:"):
            raise _refused(f"tags has the key {_short(tag['key'])}, but AWS keeps aws: for itself: choose another key")


class _Check:
    """Walks the config beside the tables. What is not in them ends the walk, so its depth is theirs."""

    def __init__(self, permitted: Mapping[str, frozenset[str]]) -> None:
        self._permitted = permitted
        self._restricted = {name: patterns for name, patterns in permitted.items() if "*" not in patterns}

    def node(self, value: object, path: str) -> None:
        if kind := _KINDS.get(path):
            self._leaf(value, path, kind)
        elif f"{path}[]" in _PARENTS or f"{path}[]" in _KINDS:
            if not isinstance(value, list):
                raise _refused(f"{path} must be a list, not {_what(value)}")
            for item in value:
                self.node(item, f"{path}[]")
            self._list(value, path)
        else:
            if not isinstance(value, Mapping):
                raise _refused(f"{path} must be a mapping, not {_what(value)}")
            for name, item in value.items():
                # Or a name such as "overrides.cpu" would be taken for a path of the tables.
                if not isinstance(name, str) or not name.isidentifier():
                    raise _refused(f"it has {_short(name)}, which is not a parameter of RunTask: remove it")
                self._member(item, f"{path}.{name}" if path else name)

    def _member(self, value: object, path: str) -> None:
        if path not in _AUTHORS:
            if why := next((why for never, why in NEVER.items() if _within(never, path)), None):
                raise _refused(f"it sets {path}, but {why}: remove it")
            right = next((name for member, (name, _) in RIGHTS.items() if _within(member, path)), None)
            if right is None:
                raise _refused(f"it sets {_cut(path)}, which is not a parameter that a DAG may set: remove it")
            if right not in self._permitted:
                raise _refused(f"it sets {path}, which grants rights: an operator may allow it with {OPTION} = {right}")
        self.node(value, path)

    def _list(self, value: list[Any], path: str) -> None:
        # It replaces the operator's list whole: without a permitted value it would take theirs away, and with it the
        # restriction. A container without a name is the task's own.
        for leaf in _KINDS:
            name = _name(leaf)
            if name not in self._restricted or not _within(leaf, f"{path}[]") or leaf == f"{_CONTAINER}.name":
                continue
            if not value or (leaf == f"{path}[].{name}" and not any(name in item for item in value)):
                raise _refused(
                    f"{path} has no {name}, and the operator permits only {', '.join(sorted(self._restricted[name]))}: "
                    f"choose one of these, or leave {path} out"
                )

    def _leaf(self, value: object, path: str, kind: Kind) -> None:
        if not _fits(value, kind):
            raise _refused(f"{path} must be {kind}, not {_what(value)}")
        if not isinstance(value, str):
            return
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise _refused(f"{path} holds a NUL or half a character: remove it")
        name = _name(path)
        patterns = self._restricted.get(name)
        if patterns and not any(fnmatchcase(value, pattern) for pattern in patterns):
            raise _refused(
                f"{path} is {_short(value)}, and the operator permits only {', '.join(sorted(patterns))}: choose one "
                f"of these, or have an operator add {name}=... to {OPTION}"
            )


def _check_containers(config: Mapping[str, Any], container_name: str) -> None:
    containers = config.get("overrides", {}).get("containerOverrides", [])
    names = [container.get("name", container_name) for container in containers]
    if len(names) > len(set(names)):
        raise _refused("two of overrides.containerOverrides have the same name: make them one")
    for container in containers:
        for variable in container.get("environment", []):
            name = variable.get("name")
            if name is None or variable.get("value") is None:
                raise _refused("environment variables are given as {name, value}, both text")
            upper = name.upper()
            if (upper.startswith(_RESERVED) or upper in _RESERVED_TOO) and upper not in _NOT_RESERVED:
                raise _refused(f"it sets the reserved environment variable {_short(name)}: choose another name")


def _check_size(config: Mapping[str, Any]) -> None:
    size = len(json.dumps(config))
    if size > MAX_BYTES:
        raise _refused(f"it has {size} bytes of JSON, and RunTask takes {MAX_BYTES} in all: make it smaller")


def _refused(what: str) -> RequestRefusedError:
    return RequestRefusedError(f"executor_config: {what}")


def _within(member: str, path: str) -> bool:
    """Whether `member` is `path`, or a part of it."""
    return member == path or member.startswith((f"{path}.", f"{path}[]"))


def _ancestors(path: str) -> set[str]:
    """Every mapping and list that a leaf is in: `a[].b` is in `a`, and `a[]`."""
    parts = path.replace("[]", ".[]").split(".")[:-1]
    return {".".join(parts[: end + 1]).replace(".[]", "[]") for end in range(len(parts))}


_PARENTS: Final = frozenset().union(*(_ancestors(path) for path in _KINDS))
_AUTHORS: Final = frozenset(AUTHORS).union(*(_ancestors(path) for path in AUTHORS))


def _fits(value: object, kind: Kind) -> bool:
    match kind:
        case Kind.TEXT:
            return isinstance(value, str)
        case Kind.NUMBER:
            return isinstance(value, int) and not isinstance(value, bool)
        case Kind.SWITCH:
            return isinstance(value, bool)


def _what(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _short(text: object) -> str:
    """For a message: untrusted text, quoted, and not longer than a line."""
    return _cut(repr(text))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:76]}..."
