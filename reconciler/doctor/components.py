"""Who runs, in which version, and whether all are set to the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import reconciler
from reconciler.core.finding import Finding, error, fine, warning
from reconciler.store.components import announced
from reconciler.store.inspect import holders

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Engine

    from reconciler.config import DaemonSettings
    from reconciler.store.components import Component

__all__ = ["check_components", "settings_of_shims"]


def settings_of_shims(engine: Engine, deployment: str) -> Mapping[str, Any]:
    """Airflow's settings as a scheduler has them. Empty if none runs: then our own reading has to do."""
    shims = [c for c in announced(engine, deployment) if c.kind == "shim"]
    settings: Mapping[str, Any] = shims[-1].settings.get("airflow", {}) if shims else {}
    return settings


def check_components(engine: Engine, settings: DaemonSettings) -> Iterator[Finding]:
    """Raises StoreUnavailable."""
    deployment = settings.options.deployment
    found = announced(engine, deployment)
    shims, daemons = ([c for c in found if c.kind == kind] for kind in ("shim", "daemon"))
    if not shims:
        what = f"none has told of itself for {deployment!r} within five minutes"
        yield warning("schedulers", what, "start one with this executor and the same [ecs_reconciler] deployment")
    if any(holder.valid for holder in holders(engine, deployment)):
        yield fine("daemon", "one leads")
    else:
        yield error(
            "daemon", f"none leads for {deployment!r}", "nothing is launched until one runs: ecs-reconciler run"
        )
    for daemon in daemons:
        if daemon.trouble:
            yield error(f"daemon {daemon.instance}", daemon.trouble, "its log has more")
    for component in found:
        if component.version != reconciler.__version__:
            what = f"it is version {component.version}, and this is {reconciler.__version__}"
            yield warning(f"{component.kind} {component.instance}", what, "run the same version everywhere, in time")
    for shim in shims:
        for daemon in daemons:
            yield from _differences(shim, daemon)


def _differences(shim: Component, daemon: Component) -> Iterator[Finding]:
    theirs, ours = shim.settings.get("options", {}), daemon.settings.get("options", {})
    different = [name for name in sorted(theirs.keys() & ours.keys()) if theirs[name] != ours[name]]
    for name in different:
        what = f"{theirs[name]!r} in {shim.instance}, {ours[name]!r} in the daemon {daemon.instance}"
        yield error(name, what, "give both the same configuration, and restart what was changed")
    if not different:
        yield fine(shim.instance, f"is set to the same as the daemon {daemon.instance}")
