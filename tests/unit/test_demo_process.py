"""The demo's child processes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PARENT = """
import sys
from pathlib import Path
from reconciler.demo.process import Process
child = Process("child", ["sleep", "600"], {"PATH": "/usr/bin:/bin"}, Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_what_the_demo_has_started_ends_when_the_demo_is_killed(tmp_path: Path) -> None:
    command: Sequence[str] = [sys.executable, "-c", _PARENT, str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            # A pidfd becomes readable when its process has ended.
            ended, _, _ = select.select([child], [], [], 60)
        finally:
            os.close(child)
    assert ended
