"""Completion of commands and options in a shell, by argcomplete, which completes Airflow's own command line too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["completion", "offer"]


def completion(arguments: argparse.Namespace) -> int:
    """Print what makes a shell complete `ecs-reconciler`: eval "$(ecs-reconciler completion bash)"."""
    from argcomplete.shell_integration import shellcode

    script: str = shellcode(["ecs-reconciler"], shell=arguments.shell)
    if arguments.shell == "zsh":
        # Its functions need zsh's own completion, and a plain ~/.zshrc has not begun it.
        script = f"autoload -Uz compinit && compinit -C\n{script}"
    print(script)
    return 0


def offer(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and end, if it is the shell that asks."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
