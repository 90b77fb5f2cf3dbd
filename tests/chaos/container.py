"""What runs in a container of the chaos: it writes down that it ran, and asks Airflow as a supervisor does.

It stands in the container's PATH under the name `python`, so that the daemon's own command starts it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_SCRIPT: Final = """
import json, os, signal, socket, sys, time

given = json.loads(sys.argv[sys.argv.index("--json-string") + 1])["chaos"]
exec_id = os.environ["ECS_RECONCILER_EXEC_ID"]
# The runner names a container's output after its task.
arn = os.readlink("/proc/self/fd/1").rpartition("/")[2].removesuffix(".log")[:8]
lines = os.open(given["lines"], os.O_WRONLY | os.O_APPEND)


def write(kind, **facts):
    event = {"t": time.time(), "kind": kind, "arn": arn, "id": exec_id, "ti": given["ti"], **facts}
    os.write(lines, (json.dumps(event) + "\\n").encode())


def ask(what, **more):
    with socket.socket(socket.AF_UNIX) as api:
        api.connect(given["api"])
        api.sendall(json.dumps({"what": what, "arn": arn, "id": exec_id, "ti": given["ti"], **more}).encode())
        api.shutdown(socket.SHUT_WR)
        return api.recv(100).decode()


def leave(code, why):
    write("exit", code=code, why=why)
    sys.exit(code)


def stopped(*_):
    if working:
        write("user_end")
    leave(143, "stopped")


working = False
signal.signal(signal.SIGTERM, stopped)
write("container")
answer = ask("run")
if answer != "go":
    leave(1, answer)
working = True
until = time.monotonic() + given["seconds"]
while time.monotonic() < until and ask("heartbeat") == "go":
    time.sleep(0.1)
ask("report")
working = False
write("user_end")
time.sleep(given["uploads"])
leave(0, "done")
"""


def install(folder: Path) -> None:
    """Put it into `folder`, which becomes the PATH of containers."""
    folder.mkdir()
    script = folder / "python"
    # Neither site-packages nor the environment: it starts in a few milliseconds.
    script.write_text(f"#!{sys.executable} -SEI\n{_SCRIPT}")
    script.chmod(0o755)
