"""The command line: the composition root, the only package that knows everyone.

`ecs-reconciler COMMAND` and `airflow ecs-reconciler COMMAND` are made from one table of commands. Each imports what it
needs when it runs: Airflow reads this package whenever anybody types `airflow`.

| module | what it is |
| --- | --- |
| table | the commands and their arguments |
| work, look, local, prepare | the commands: those that do, look, need no AWS, print what AWS is given |
| common, watch | what several of them begin with; looking again and again |
| complete | completion in a shell |
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import reconciler
from reconciler.cli.complete import offer
from reconciler.cli.table import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reconciler.cli.table import Command

__all__ = ["COMMANDS", "airflow_commands", "main"]

CONFIGURATION_ERROR = 2
"""Exit code for options that are missing or wrong."""


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
    offer(parser)
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
