"""Ports for servers that will listen on them a while later."""

from __future__ import annotations

import errno
import secrets  # noqa: TID251 - by no seed: who looks at the same moment shall find other ports
import socket
from contextlib import ExitStack
from typing import Final

__all__ = ["RANGE", "free_ports"]

RANGE: Final = range(20000, 32768)
"""Below the ports from which Linux (32768 to 60999), macOS, and Windows take those of outgoing connections."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different. Raises OSError if there are not that many.

    The kernel's own choice (port 0) would not do: what it gave away and got back it gives to the next connection that
    is opened anywhere on the machine, and an Airflow takes ten seconds and more until it listens.
    """
    found: list[int] = []
    untried = secrets.SystemRandom().sample(RANGE, len(RANGE))
    with ExitStack() as held:
        while len(found) < count:
            if not untried:
                message = f"fewer than {count} ports from {RANGE[0]} to {RANGE[-1]} are free"
                raise OSError(errno.EADDRINUSE, message)
            port = untried.pop()
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                found.append(port)
    return found
