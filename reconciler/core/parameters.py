"""How two sets of RunTask parameters become one, and what ECS does not accept together.

Parameters: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["camel_case", "merge", "on_fargate", "over", "placed", "settled"]

_FARGATE_PROVIDERS: Final = frozenset({"FARGATE", "FARGATE_SPOT"})
_CAPACITY: Final = frozenset({"launchType", "capacityProviderStrategy"})
"""Two ways to say where a task is placed. RunTask refuses a request that has both."""


def merge(low: Any, high: Any) -> Any:
    """`high` over `low`: mappings member by member, everything else replaced whole."""
    if isinstance(low, Mapping) and isinstance(high, Mapping):
        both = {key: merge(low[key], high[key]) if key in low else high[key] for key in high}
        return {**low, **both}
    return high


def over(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`high` merged over `low`. Whoever chooses the capacity anew does not inherit the other way to choose it."""
    chosen = _CAPACITY & high.keys()
    kept = {name: value for name, value in low.items() if not (chosen and name in _CAPACITY - chosen)}
    merged: dict[str, Any] = merge(kept, high)
    return merged


def on_fargate(params: Mapping[str, Any]) -> bool | None:
    """Whether Fargate will run this request. None: the cluster's default strategy decides."""
    if strategy := params.get("capacityProviderStrategy"):
        return all(isinstance(s, Mapping) and s.get("capacityProvider") in _FARGATE_PROVIDERS for s in strategy)
    if launch_type := params.get("launchType"):
        return bool(launch_type == "FARGATE")
    return None


def settled(params: Mapping[str, Any]) -> dict[str, Any]:
    """The request as ECS accepts it: one task, and a platform version only where there are platform versions."""
    refused = {"platformVersion"} if on_fargate(params) is False else set()
    return {name: value for name, value in params.items() if name not in refused} | {"count": 1}


def camel_case(value: Any) -> Any:
    """Names of members as RunTask spells them, in mappings within mappings. Tags are the user's own words."""
    if not isinstance(value, Mapping):
        return value
    return {_camel(name): inner if str(name).lower() == "tags" else camel_case(inner) for name, inner in value.items()}


def _camel(name: Any) -> Any:
    if not isinstance(name, str):
        return name  # whoever validates says so
    joined = re.sub(r"_(.)", lambda found: found.group(1).upper(), name)
    return joined[:1].lower() + joined[1:]


def placed(params: Mapping[str, Any], cluster_strategy: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The same request once the cluster's default strategy is known, for one that does not choose its capacity.

    The default is written into it, or nobody could tell what counts against limits of Fargate. Without a default
    strategy ECS would take EC2; the official executor takes Fargate, and so do we.
    """
    if on_fargate(params) is not None:
        return params
    if not cluster_strategy:
        return {**params, "launchType": "FARGATE"}
    return settled({**params, "capacityProviderStrategy": [dict(item) for item in cluster_strategy]})
