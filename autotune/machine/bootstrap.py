"""Set up the virtual environment for `make`, with the standard library alone and whatever Python there is.

usage: python3 autotune/machine/bootstrap.py VENV REQUIREMENT     (REQUIREMENT: "." or ".[dev]")
       VENV/bin/python autotune/machine/bootstrap.py --lock FILE
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_CONSTRAINTS = _ROOT / "constraints.txt"
MIN_PYTHON = (3, 11)
# Older versions of torch lack the grouped matrix product that the experts need; pyproject.toml names this one too.
_MIN_TORCH = (2, 10)
# Asks the machine's own torch for a product on the GPU: an import alone proves nothing about the driver.
_TORCH_WORKS = """
import torch
x = torch.ones(8, 8, device="cuda")
assert float((x @ x).sum()) == 512.0
print(torch.__version__, torch.__path__[0], sep="\\n")
"""


def working_gpu_torch(python: str | Path = sys.executable) -> tuple[str, Path] | None:
    """Return version and folder of the torch that this Python computes on the GPU with, or None."""
    try:
        answer = subprocess.run(
            [str(python), "-c", _TORCH_WORKS], capture_output=True, text=True, timeout=300, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None

    version, folder = answer.stdout.strip().splitlines()[-2:]
    return version, Path(folder).resolve()


def is_recent(version: str) -> bool:
    """Return whether a torch version has what the model needs."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _MIN_TORCH


def constraints(keep_torch: bool) -> str:
    """Return the locked versions, less torch's where the machine's own is kept: pinning ours would replace it.

    Triton's neither, since a torch for GPUs brings the one that belongs to it.
    """
    lines = _CONSTRAINTS.read_text(encoding="utf-8").splitlines(keepends=True)
    if keep_torch:
        lines = [line for line in lines if not line.startswith(("torch==", "triton=="))]
    return "".join(lines)


def share_packages(folder: Path, packages: Path) -> None:
    """Let an environment import what lies in `packages`, after its own.

    A line in a .pth file does what `system_site_packages` does, also where torch itself lives in another
    virtual environment: that one is not the base Python's.

    Args:
        folder: The virtual environment.
        packages: The folder that holds torch.
    """
    own = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "machine_torch.pth").write_text(f"{packages}\n", encoding="utf-8")


def create(folder: Path, requirement: str) -> None:
    """Create the environment if there is none, and install the project with the locked versions.

    Args:
        folder: The virtual environment.
        requirement: "." or ".[dev]".
    """
    machine_torch = _usable_machine_torch()

    python = folder / "bin" / "python"
    if not python.exists():
        on_top = f" on top of the machine's torch {machine_torch[0]}" if machine_torch else ""
        print(f"creating {folder}{on_top}", flush=True)
        venv.create(folder, with_pip=_has_ensurepip())
        if machine_torch:
            share_packages(folder, machine_torch[1].parent)
    if not python.with_name("pip").exists():
        _install_pip(python)

    print("installing the locked versions (a minute or two) ...", flush=True)
    _install(python, requirement, constraints(keep_torch=machine_torch is not None))

    if machine_torch and working_gpu_torch(python) != machine_torch:
        version = machine_torch[0]
        print(f"warning: {folder} does not use the machine's torch {version}; {folder}/bin/autotune doctor says more")


def _usable_machine_torch() -> tuple[str, Path] | None:
    """Return version and folder of the machine's own torch if it computes on the GPU and is recent enough."""
    machine_torch = working_gpu_torch()
    if machine_torch is None:
        return None

    version = machine_torch[0]
    if not is_recent(version):
        needed = ".".join(map(str, _MIN_TORCH))
        print(f"torch {version} works here, but {needed} is needed; installing another beside it")
        return None
    return machine_torch


def _has_ensurepip() -> bool:
    """Return whether an environment gets a pip of its own; Debian, and so Colab, keep that in another package."""
    return importlib.util.find_spec("ensurepip") is not None


def _install_pip(python: Path) -> None:
    """Have this Python's pip install itself into an environment that has none."""
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "pip"], check=True)


def _install(python: Path, requirement: str, locked_versions: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write(locked_versions)

    try:
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "-c", file.name, "-e", requirement], cwd=_ROOT, check=True
        )
    finally:
        os.unlink(file.name)


def lock(path: Path) -> None:
    """Write the exact versions installed in this environment.

    Args:
        path: The constraints file.
    """
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True, check=True
    )
    header = (
        "# Exact versions that 'make tune' and 'make test' install; ranges are in pyproject.toml. Renew: make lock\n"
    )
    # A local part such as +cpu names one machine's build.
    versions = re.sub(r"\+\w+$", "", frozen.stdout, flags=re.MULTILINE)
    path.write_text(header + versions, encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Set up an environment, or lock its versions; the module's docstring shows the arguments."""
    if sys.version_info < MIN_PYTHON:
        needed = ".".join(map(str, MIN_PYTHON))
        here = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"Python {here} is too old: {needed} or newer is needed; try: make PYTHON=python{needed} tune")

    if arguments[:1] == ["--lock"]:
        lock(Path(arguments[1]))
        return

    try:
        create(Path(arguments[0]), arguments[1])
    except subprocess.CalledProcessError as error:
        sys.exit(f"setting up failed at this command: {' '.join(map(str, error.cmd))}")


if __name__ == "__main__":
    main(sys.argv[1:])
