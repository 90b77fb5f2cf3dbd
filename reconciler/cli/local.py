"""Commands for one machine without AWS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

__all__ = ["demo", "local_ecs"]


def local_ecs(arguments: argparse.Namespace) -> int:
    """Serve an ECS for this machine: AWS's protocol in front, processes for containers."""
    from reconciler.localecs import run_local_ecs

    directory = Path(arguments.directory)
    directory.mkdir(parents=True, exist_ok=True)

    def say(ecs: Any) -> None:
        print(
            f"A local ECS with the cluster {arguments.cluster!r} listens. Use it with\n"
            f"  export AWS_ENDPOINT_URL_ECS={ecs.endpoint_url} AWS_ENDPOINT_URL_SQS={ecs.endpoint_url}\n"
            + (f"Events of its tasks are in {ecs.sqs.events_queue_url}\n" if arguments.events_queue else "")
            + f"Containers run as processes here; their output is in {directory}. Ctrl-C stops it and them.",
            flush=True,
        )

    try:
        run_local_ecs(
            arguments.host,
            arguments.port,
            directory,
            arguments.cluster,
            events_queue=arguments.events_queue,
            on_ready=say,
        )
    except OSError as error:
        raise ValueError(
            f"can not listen on {arguments.host}:{arguments.port}: {error.strerror}; choose another --port, or 0"
        ) from error
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run Airflow, a local ECS and the daemon on this machine, with a DAG that checks itself."""
    from reconciler.demo.run import demo as run_demo

    directory = Path(arguments.directory) if arguments.directory else None
    return run_demo(directory, kill_daemon=arguments.kill_daemon, keep=arguments.keep)
