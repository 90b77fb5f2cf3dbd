"""The commands and their arguments, in one table for both command lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reconciler.cli import complete, local, look, prepare, work

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

__all__ = ["COMMANDS", "Command"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command, as argparse and Airflow's command line both understand it."""

    flags: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """One command. Its help is its function's docstring."""

    name: str
    run: Callable[[argparse.Namespace], int]
    arguments: tuple[Argument, ...] = ()

    @property
    def help(self) -> str:
        return (self.run.__doc__ or "").strip()


def _argument(*flags: str, **settings: Any) -> Argument:
    return Argument(flags, settings)


_QUEUE = _argument("--queue", help="Only this queue of Airflow's (default: all)")
_JSON = _argument("--json", action="store_true", help="Answer in JSON")
_WATCH = (
    _argument("--watch", action="store_true", help="Look again and again, until Ctrl-C"),
    _argument("--interval", type=float, default=2, help="Seconds between two looks (default: %(default)s)"),
)

COMMANDS = (
    Command("run", work.run),
    Command(
        "migrate",
        work.migrate,
        (
            _argument("--wait", type=float, default=0, help="Seconds to wait for the database (default: %(default)s)"),
            _argument("--grant", metavar="ROLE", help="Grant this PostgreSQL role what the daemon needs"),
        ),
    ),
    Command("status", look.status, (_JSON, *_WATCH)),
    Command(
        "events",
        look.events,
        (
            _argument("--dag", help="Only of this DAG"),
            _argument("--task", help="Only of this task"),
            _argument("--run", dest="run_id", help="Only of this DAG run"),
            _argument("--map", type=int, help="Only of this map index"),
            _QUEUE,
            _argument("--limit", type=int, default=50, help="How many, the last ones (default: %(default)s)"),
            _argument("--json", action="store_true", help="Answer in JSON, a line for each"),
            *_WATCH,
        ),
    ),
    Command("pause", work.pause, (_QUEUE,)),
    Command("resume", work.resume, (_QUEUE,)),
    Command(
        "drain",
        work.drain,
        (_QUEUE, _argument("--wait", action="store_true", help="Count down, and end when nothing is left")),
    ),
    Command(
        "describe",
        look.describe,
        (
            _argument("dag_id", help="The DAG's id"),
            _argument("task_id", help="The task's id"),
            _argument("--run", dest="run_id", help="Only of this DAG run"),
            _argument("--map", type=int, help="Only of this map index"),
            _argument("--try", dest="try_number", type=int, help="Only of this try"),
            _JSON,
        ),
    ),
    Command("doctor", look.doctor, (_JSON,)),
    Command(
        "completion",
        complete.completion,
        (_argument("shell", choices=("bash", "zsh", "fish"), help="Whose"),),
    ),
    Command(
        "aws-setup",
        prepare.aws_setup,
        (_argument("setting", nargs="*", metavar="NAME=VALUE", help="Defaults for the template's parameters"),),
    ),
    Command(
        "render",
        prepare.render,
        (
            _argument("what", choices=("task-definition",), help="What to print"),
            _argument("--image", required=True, help="The image with Airflow and the DAGs"),
            _argument("--region", required=True, help="AWS region of the log group"),
            _argument("--execution-role-arn", required=True, help="Role that pulls images and writes logs"),
            _argument("--task-role-arn", help="Role that tasks have (default: none)"),
            _argument("--family", default="airflow", help="Name of the task definition (default: %(default)s)"),
            _argument("--container-name", default="airflow", help="Name of the container (default: %(default)s)"),
            _argument("--log-group", default="/ecs/airflow", help="Log group in CloudWatch (default: %(default)s)"),
            _argument("--cpu", type=int, default=1024, help="CPU units of a task (default: %(default)s)"),
            _argument("--memory", type=int, default=2048, help="MiB of memory of a task (default: %(default)s)"),
            _argument("--architecture", choices=("X86_64", "ARM64"), default="X86_64", help="(default: %(default)s)"),
        ),
    ),
    Command(
        "local-ecs",
        local.local_ecs,
        (
            _argument("--host", default="127.0.0.1", help="Address to listen on (default: %(default)s)"),
            _argument("--port", type=int, default=4569, help="Port to listen on, 0 for any (default: %(default)s)"),
            _argument("--directory", default="local-ecs", help="Where output is kept (default: %(default)s)"),
            _argument("--cluster", default="default", help="A cluster to begin with (default: %(default)s)"),
            _argument("--events-queue", metavar="NAME", help="A queue of SQS that gets tasks' events (default: none)"),
        ),
    ),
    Command(
        "demo",
        local.demo,
        (
            _argument("--directory", help="Where it all happens (default: a new temporary directory)"),
            _argument("--kill-daemon", action="store_true", help="Kill the daemon three times on the way"),
            _argument("--keep", action="store_true", help="Leave everything up at the end and print the addresses"),
        ),
    ),
)
