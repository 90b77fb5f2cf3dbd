"""A daemon with a fault: it sends a new clientToken with each RunTask. Run by a test, which must find that out."""

from __future__ import annotations

import itertools
import sys

from reconciler import cli
from reconciler.core import identity

_numbers = itertools.count()


def _another(cluster: str, exec_id: str, attempt: int) -> str:
    return f"{exec_id}-{attempt}-{next(_numbers)}"


identity.client_token = _another

if __name__ == "__main__":
    sys.exit(cli.main(["run"]))
