"""The command line: the composition root, the only module that knows everyone.

`ecs-reconciler COMMAND` and `airflow ecs-reconciler COMMAND` are made from one table of commands. Each imports what it
needs when it runs: Airflow reads this module whenever anybody types `airflow`.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import reconciler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import boto3
    from sqlalchemy import Engine

    from reconciler.clock import SystemClock
    from reconciler.config import DaemonSettings, Read
    from reconciler.core.task import Workload
    from reconciler.seams import Delivery
    from reconciler.show import Story

__all__ = ["COMMANDS", "airflow_commands", "main"]

CONFIGURATION_ERROR = 2
"""Exit code for options that are missing or wrong."""


def _options() -> Read:
    """How to look up an option in Airflow's configuration. Airflow reads all of it when it is imported."""
    from reconciler.config import ConfigError

    try:
        from reconciler.airflow.options import read
    except ValueError as error:
        problem = (
            f"Airflow can not read its own configuration ({error}): look at [database] sql_alchemy_conn first, which "
            "looks like postgresql://user@host/database"
        )
        raise ConfigError([problem]) from error
    return read


def _settings() -> DaemonSettings:
    from reconciler.config import daemon_settings

    return daemon_settings(_options())


def _tables(settings: DaemonSettings) -> Engine:
    """The database, for a command that reads our tables. Raises StartError where they are not."""
    from reconciler.core.errors import StartError
    from reconciler.store.engine import make_engine
    from reconciler.store.migrate import NO_TABLES, at_head

    _quiet()
    engine = make_engine(settings.sql_alchemy_conn)
    if not at_head(engine):
        raise StartError(NO_TABLES)
    return engine


def _quiet() -> None:
    """Keep out of a command's answer what libraries would write beside it: what it is about is in the answer."""
    for name in ("alembic", "botocore", "boto3"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _aws(settings: DaemonSettings, clock: SystemClock) -> boto3.Session:
    """Whom we are to AWS: `[aws_ecs_executor] conn_id`, or boto3's own chain."""
    from reconciler.ecs.credentials import chain, make_session

    found = chain
    if conn_id := settings.ecs.conn_id:
        from reconciler.airflow.credentials import look_up

        in_database = settings.options.conn_id_from_database
        found = look_up(conn_id, settings.ecs.region_name, in_database=in_database, chain=chain)
    return make_session(found, clock)


def _delivery(settings: DaemonSettings) -> Delivery:
    """How workloads reach their containers. Raises ConfigError without the key that signs their tokens."""
    from reconciler.airflow.push import Push

    return Push(settings.longest_start_timeout)


def run(_: argparse.Namespace) -> int:
    """Reconcile the table against ECS until SIGTERM."""
    from concurrent.futures import ThreadPoolExecutor

    from reconciler.clock import SystemClock
    from reconciler.daemon import run_daemon
    from reconciler.ending import end_in_time
    from reconciler.log import configure

    settings = _settings()
    configure(settings.options.log_format, settings.options.log_level)
    clock = SystemClock()
    session = _aws(settings, clock)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: clock.stop())
    end_in_time(clock)
    # Python runs signal handlers in the main thread, and not while that waits inside a database driver.
    with ThreadPoolExecutor(1, thread_name_prefix="daemon") as beside:
        beside.submit(run_daemon, settings, _delivery(settings), clock, session).result()
    return 0


def migrate(arguments: argparse.Namespace) -> int:
    """Create or upgrade the tables."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    from reconciler.core.errors import StoreUnavailable
    from reconciler.store.engine import make_engine
    from reconciler.store.grant import grant
    from reconciler.store.migrate import migrate as to_head

    _quiet()
    read = _options()
    url = read("ecs_reconciler", "sql_alchemy_conn") or read("database", "sql_alchemy_conn") or ""
    engine = make_engine(url)
    patiently = Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        stop=stop_after_delay(arguments.wait),
        wait=wait_fixed(2),
        reraise=True,
    )
    patiently(to_head, engine)
    if arguments.grant:
        patiently(grant, engine, arguments.grant)
    engine.dispose()
    print("The tables of ecs-reconciler are as this release needs them.")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Show counts by phase, quota, leader, and how long the oldest workload has waited."""
    from rich.console import Console

    from reconciler import show
    from reconciler.store.components import announced
    from reconciler.store.daemon import SqlStore
    from reconciler.store.inspect import holders

    settings = _settings()
    deployment = settings.options.deployment
    engine = _tables(settings)
    counts = SqlStore(engine, deployment).counts()
    limit = settings.options.max_running_tasks
    found = show.status(deployment, counts, limit, holders(engine, deployment), settings.profiles)
    found["trouble"] = [c.trouble for c in announced(engine, deployment) if c.kind == "daemon" and c.trouble]
    engine.dispose()
    if arguments.json:
        print(show.as_json(found))
    else:
        show.show_status(Console(), found)
    return 0


def pause(arguments: argparse.Namespace) -> int:
    """Launch nothing more, of one queue or of all, until `resume`. What runs goes on."""
    return _hold(arguments, "paused")


def drain(arguments: argparse.Namespace) -> int:
    """Launch nothing more and give what waits back to Airflow: before an upgrade, a rollback or maintenance."""
    return _hold(arguments, "draining")


def _hold(arguments: argparse.Namespace, mode: str) -> int:
    from reconciler import control
    from reconciler.clock import SystemClock
    from reconciler.core.holds import Mode

    settings = _settings()
    engine, deployment = _tables(settings), settings.options.deployment
    queue = arguments.queue or ""
    print(control.hold(engine, deployment, queue, Mode(mode)), flush=True)
    if queue and queue not in (known := settings.profiles.queues()):
        print(f'The queue "{queue}" has no profile of its own; these have one: {", ".join(known)}.', flush=True)
    if getattr(arguments, "wait", False):
        for line in control.drain(engine, deployment, queue, SystemClock()):
            print(line, flush=True)
    engine.dispose()
    return 0


def resume(arguments: argparse.Namespace) -> int:
    """End `pause` or `drain`."""
    from reconciler import control

    settings = _settings()
    engine = _tables(settings)
    print(control.resume(engine, settings.options.deployment, arguments.queue or ""))
    engine.dispose()
    return 0


def describe(arguments: argparse.Namespace) -> int:
    """Show one task's workloads: what was asked, every attempt, the ECS task, why it waits or failed."""
    from rich.console import Console

    from reconciler import show
    from reconciler.store.inspect import workloads_of

    settings = _settings()
    engine = _tables(settings)
    unreadable: dict[str, str] = {}
    found = workloads_of(
        engine,
        settings.options.deployment,
        arguments.dag_id,
        arguments.task_id,
        arguments.run_id,
        arguments.map,
        arguments.try_number,
        on_unreadable=unreadable.__setitem__,
    )
    stories = [_story(engine, settings, w) for w in found]
    engine.dispose()
    if arguments.json:
        print(show.as_json([*stories, *({"exec_id": name, "unreadable": why} for name, why in unreadable.items())]))
        return 0 if stories or unreadable else 1
    console = Console()
    for exec_id, why in unreadable.items():
        console.print(
            f"The row {exec_id} of this task can not be read, and is left alone: {why}. If a newer release wrote it, "
            "upgrade this one; else mend or delete the row.",
            markup=False,
        )
    if not stories and not unreadable:
        console.print(
            f"No workload of {arguments.dag_id}.{arguments.task_id} is in the table of "
            f"{settings.options.deployment!r}: it has not been queued with this executor, or is older than "
            f"[ecs_reconciler] retention.",
            markup=False,
        )
    for number, story in enumerate(stories):
        if number:
            console.rule(style="dim")
        show.show_story(console, story)
    return 0 if stories or unreadable else 1


def _story(engine: Any, settings: DaemonSettings, w: Workload) -> Story:
    from reconciler.clock import SystemClock
    from reconciler.core.errors import ReconcilerError
    from reconciler.ecs.client import make_client
    from reconciler.ecs.gateway import Gateway
    from reconciler.ecs.ratelimit import Limiter
    from reconciler.ecs.role import assumed
    from reconciler.show import Story
    from reconciler.store.daemon import SqlStore
    from reconciler.store.inspect import attempts_of

    task, error = None, None
    if w.task_arn and not w.terminal:
        clock, store = SystemClock(), SqlStore(engine, settings.options.deployment)
        region = w.shard.partition("/")[0] or settings.ecs.region_name
        roles = {profile.shard: profile.role_arn for profile in settings.profiles.all()}
        role_arn, session = roles.get(w.shard), _aws(settings, clock)
        gateway = Gateway(
            make_client(region, threads=1, session=assumed(session, role_arn, region) if role_arn else session),
            Limiter(clock, launch_rate=1, launch_burst=1),
            clock,
            deployment=settings.options.deployment,
            now=store.now,
            resend_for=settings.policy.resend_for,
            on_call=lambda *_: None,
        )
        try:
            task = next(iter(gateway.describe(w.cluster or "", [w.task_arn]).tasks), None)
        except ReconcilerError as failed:
            error = str(failed)
        finally:
            gateway.close()
    return Story(w, attempts_of(engine, w.exec_id), task, error)


def doctor(arguments: argparse.Namespace) -> int:
    """Check configuration, database, AWS and Airflow's settings, and say what to mend. Exit code 1: errors."""
    import time

    from rich.console import Console

    from reconciler import show
    from reconciler.clock import SystemClock
    from reconciler.core.finding import Level
    from reconciler.doctor import Tools, examine

    _quiet()
    read, clock = _options(), SystemClock()
    tools = Tools(read, lambda settings: _aws(settings, clock), _delivery, clock, time.time)  # noqa: TID251 - a composition root
    found = examine(tools)
    if arguments.json:
        print(show.as_json(found))
    else:
        show.show_findings(Console(), found)
    return int(any(finding.level is Level.ERROR for finding in found))


def local_ecs(arguments: argparse.Namespace) -> int:
    """Serve an ECS for this machine: AWS's protocol in front, processes for containers."""
    from reconciler.localecs import run_local_ecs

    directory = Path(arguments.directory)
    directory.mkdir(parents=True, exist_ok=True)

    def say(ecs: Any) -> None:
        print(
            f"A local ECS with the cluster {arguments.cluster!r} listens. Use it with\n"
            f"  export AWS_ENDPOINT_URL_ECS={ecs.endpoint_url}\n"
            f"Containers run as processes here; their output is in {directory}. Ctrl-C stops it and them.",
            flush=True,
        )

    try:
        run_local_ecs(arguments.host, arguments.port, directory, arguments.cluster, on_ready=say)
    except OSError as error:
        raise ValueError(
            f"can not listen on {arguments.host}:{arguments.port}: {error.strerror}; choose another --port, or 0"
        ) from error
    return 0


def aws_setup(arguments: argparse.Namespace) -> int:
    """Print a CloudFormation template of what is needed in AWS, with these parameters checked and set."""
    from reconciler.awssetup import template

    print(template(arguments.setting), end="")
    return 0


def render(arguments: argparse.Namespace) -> int:
    """Print a task definition for tasks' containers, as `aws ecs register-task-definition` takes it."""
    import json

    from reconciler.awssetup import task_definition

    request = task_definition(
        family=arguments.family,
        container_name=arguments.container_name,
        image=arguments.image,
        region=arguments.region,
        log_group=arguments.log_group,
        execution_role_arn=arguments.execution_role_arn,
        task_role_arn=arguments.task_role_arn,
        cpu=arguments.cpu,
        memory=arguments.memory,
        architecture=arguments.architecture,
    )
    print(json.dumps(request, indent=2))
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run Airflow, a local ECS and the daemon on this machine, with a DAG that checks itself."""
    from reconciler.demo import demo as run_demo

    directory = Path(arguments.directory) if arguments.directory else None
    return run_demo(directory, kill_daemon=arguments.kill_daemon, keep=arguments.keep)


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

COMMANDS = (
    Command("run", run),
    Command(
        "migrate",
        migrate,
        (
            _argument("--wait", type=float, default=0, help="Seconds to wait for the database (default: %(default)s)"),
            _argument("--grant", metavar="ROLE", help="Grant this PostgreSQL role what the daemon needs"),
        ),
    ),
    Command("status", status, (_JSON,)),
    Command("pause", pause, (_QUEUE,)),
    Command("resume", resume, (_QUEUE,)),
    Command(
        "drain",
        drain,
        (_QUEUE, _argument("--wait", action="store_true", help="Count down, and end when nothing is left")),
    ),
    Command(
        "describe",
        describe,
        (
            _argument("dag_id", help="The DAG's id"),
            _argument("task_id", help="The task's id"),
            _argument("--run", dest="run_id", help="Only of this DAG run"),
            _argument("--map", type=int, help="Only of this map index"),
            _argument("--try", dest="try_number", type=int, help="Only of this try"),
            _JSON,
        ),
    ),
    Command("doctor", doctor, (_JSON,)),
    Command(
        "aws-setup",
        aws_setup,
        (_argument("setting", nargs="*", metavar="NAME=VALUE", help="Defaults for the template's parameters"),),
    ),
    Command(
        "render",
        render,
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
        local_ecs,
        (
            _argument("--host", default="127.0.0.1", help="Address to listen on (default: %(default)s)"),
            _argument("--port", type=int, default=4569, help="Port to listen on, 0 for any (default: %(default)s)"),
            _argument("--directory", default="local-ecs", help="Where output is kept (default: %(default)s)"),
            _argument("--cluster", default="default", help="A cluster to begin with (default: %(default)s)"),
        ),
    ),
    Command(
        "demo",
        demo,
        (
            _argument("--directory", help="Where it all happens (default: a new temporary directory)"),
            _argument("--kill-daemon", action="store_true", help="Kill the daemon three times on the way"),
            _argument("--keep", action="store_true", help="Leave everything up at the end and print the addresses"),
        ),
    ),
)


def _guarded(command: Command) -> Callable[[argparse.Namespace], int]:
    """Turn errors that a user can mend into one sentence each and an exit code."""

    def guarded(arguments: argparse.Namespace) -> int:
        from reconciler.config import ConfigError
        from reconciler.core.errors import ReconcilerError, StartError

        try:
            return command.run(arguments)
        except ConfigError as error:
            for problem in error.problems:
                print(f"ecs-reconciler: {problem}", file=sys.stderr)
            return CONFIGURATION_ERROR
        except (StartError, ValueError) as error:
            print(f"ecs-reconciler: {error}", file=sys.stderr)
            return CONFIGURATION_ERROR
        except ReconcilerError as error:
            print(f"ecs-reconciler: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130

    return guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """`ecs-reconciler`. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ecs-reconciler", description=reconciler.__doc__, epilog="Options are read from Airflow's configuration."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {reconciler.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help)
        for argument in command.arguments:
            sub.add_argument(*argument.flags, **argument.settings)
        sub.set_defaults(guarded=_guarded(command))
    parsed = parser.parse_args(arguments)
    result: int = parsed.guarded(parsed)
    return result


def airflow_commands() -> list[Any]:
    """The same commands as a group of Airflow's command line."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    def action(command: Command) -> Any:
        guarded = _guarded(command)
        return ActionCommand(
            name=command.name,
            help=command.help,
            func=lambda arguments: sys.exit(guarded(arguments)),
            args=tuple(
                Arg(argument.flags, **argument.settings)  # type: ignore[no-untyped-call]  # Airflow's
                for argument in command.arguments
            ),
        )

    return [
        GroupCommand(
            name="ecs-reconciler",
            help="Run Airflow's tasks in Amazon ECS containers",
            subcommands=[action(command) for command in COMMANDS],
        )
    ]
