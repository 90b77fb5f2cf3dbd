"""What exists before any task does: clusters and task definitions."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reconciler.localecs import validate
from reconciler.localecs.errors import AwsError, client_error, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.localecs.settings import Settings

Tags = list[dict[str, str]]


@dataclass
class Cluster:
    """A cluster and what CreateCluster said about it."""

    name: str
    arn: str
    described: Mapping[str, Any]
    tags: Tags
    default_strategy: tuple[Mapping[str, Any], ...]


@dataclass
class Definition:
    """One revision of a task definition."""

    arn: str
    family: str
    revision: int
    described: dict[str, Any]
    tags: Tags = field(default_factory=list)

    @property
    def active(self) -> bool:
        return bool(self.described["status"] == "ACTIVE")


class Registry:
    """Clusters by name, task definitions by family and revision. Both are found by any of their names."""

    def __init__(self, settings: Settings) -> None:
        self._prefix = f"arn:aws:ecs:{settings.region}:{settings.account_id}"
        self._account = f"arn:aws:iam::{settings.account_id}:root"
        self._clusters: dict[str, Cluster] = {}
        self._definitions: dict[str, list[Definition]] = {}

    def arn(self, kind: str, name: str) -> str:
        """The ARN of something in this account and Region."""
        return f"{self._prefix}:{kind}/{name}"

    # -- clusters --------------------------------------------------------------------------------------------------

    def create_cluster(self, request: Mapping[str, Any]) -> Cluster:
        """A new cluster, or the one that has the name already (API reference, CreateCluster)."""
        name = request.get("clusterName", "default")
        validate.cluster_name(name)
        validate.tags(request.get("tags"))
        if name not in self._clusters:
            strategy = tuple(request.get("defaultCapacityProviderStrategy", ()))
            described = {
                "settings": request.get("settings", []),
                "capacityProviders": request.get("capacityProviders", []),
                "defaultCapacityProviderStrategy": list(strategy),
            }
            arn = self.arn("cluster", name)
            self._clusters[name] = Cluster(name, arn, described, _copied(request.get("tags")), strategy)
        return self._clusters[name]

    def find_cluster(self, reference: str | None) -> Cluster | None:
        """The cluster of a name or ARN; nothing given means "default"."""
        name = self.cluster_name(reference or "default")
        return self._clusters.get(name) if name else None

    def cluster(self, reference: str | None) -> Cluster:
        """The same, or ClusterNotFoundException."""
        found = self.find_cluster(reference)
        if found is None:
            raise AwsError("ClusterNotFoundException", "Cluster not found.")
        return found

    def cluster_name(self, reference: str) -> str | None:
        """The name in a name or ARN; None for an ARN of another account, Region or kind."""
        if not reference.startswith("arn:"):
            return reference
        prefix = self.arn("cluster", "")
        return reference.removeprefix(prefix) if reference.startswith(prefix) else None

    # -- task definitions ------------------------------------------------------------------------------------------

    def register(self, request: Mapping[str, Any], now: float) -> Definition:
        """The next revision of a family."""
        validate.register_task_definition(request)
        family = request["family"]
        revisions = self._definitions.setdefault(family, [])
        revision = len(revisions) + 1
        arn = self.arn("task-definition", f"{family}:{revision}")
        described = deepcopy({name: value for name, value in request.items() if name != "tags"})
        fargate = request.get("networkMode") == "awsvpc"
        described |= {
            "taskDefinitionArn": arn,
            "revision": revision,
            "status": "ACTIVE",
            "volumes": request.get("volumes", []),
            "placementConstraints": request.get("placementConstraints", []),
            "compatibilities": ["EC2", "FARGATE"] if fargate else ["EC2"],
            "containerDefinitions": [_container(container) for container in described["containerDefinitions"]],
            "registeredAt": now,
            "registeredBy": self._account,
        }
        definition = Definition(arn, family, revision, described, _copied(request.get("tags")))
        revisions.append(definition)
        return definition

    def deregister(self, reference: str, now: float) -> Definition:
        """Make a revision INACTIVE. It needs `family:revision` or an ARN."""
        definition = self.find_definition(reference)
        if ":" not in self._definition_name(reference):
            raise client_error("A revision must be specified.")
        if definition is None:
            raise client_error("The specified task definition does not exist.")
        definition.described |= {"status": "INACTIVE", "deregisteredAt": now}
        return definition

    def find_definition(self, reference: str) -> Definition | None:
        """The revision of `family:revision` or an ARN, or the latest ACTIVE one of a family."""
        family, _, revision = self._definition_name(reference).partition(":")
        revisions = self._definitions.get(family, [])
        if not revision:
            return next((definition for definition in reversed(revisions) if definition.active), None)
        if not revision.isdecimal() or not 1 <= int(revision) <= len(revisions):
            return None
        return revisions[int(revision) - 1]

    def runnable(self, reference: str) -> Definition:
        """The definition to run, or InvalidParameterException when it is unknown or INACTIVE."""
        definition = self.find_definition(reference)
        if definition is None:
            raise invalid("TaskDefinition not found.")
        if not definition.active:
            raise invalid("TaskDefinition is inactive")
        return definition

    def _definition_name(self, reference: str) -> str:
        return reference.removeprefix(self.arn("task-definition", ""))


def _container(given: Mapping[str, Any]) -> dict[str, Any]:
    """A container definition with the defaults that ECS fills in."""
    defaults: dict[str, Any] = {"cpu": 0, "essential": True}
    empty = ("portMappings", "environment", "mountPoints", "volumesFrom", "systemControls")
    return defaults | {name: [] for name in empty} | dict(given)


def _copied(tags: list[dict[str, str]] | None) -> Tags:
    return [dict(tag) for tag in tags or ()]
