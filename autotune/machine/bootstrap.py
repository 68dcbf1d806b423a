"""Sets up the virtual environment for `make`: standard library only, run by whatever Python there is.

usage: python3 autotune/machine/bootstrap.py VENV REQUIREMENT     (REQUIREMENT: "." or ".[dev]")
       VENV/bin/python autotune/machine/bootstrap.py --lock FILE
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
MIN_PYTHON = (3, 11)
# Older torch has no grouped matrix product, on which the experts rest; keep in step with pyproject.toml.
MIN_TORCH = (2, 10)
# Asks the machine's own torch for a product on the GPU: an import alone proves nothing about the driver.
TORCH_WORKS = """
import torch
x = torch.ones(8, 8, device="cuda")
assert float((x @ x).sum()) == 512.0
print(torch.__version__, torch.__path__[0], sep="\\n")
"""


def working_gpu_torch(python: str | Path = sys.executable) -> tuple[str, Path] | None:
    """Returns version and folder of the torch that this Python computes on the GPU with, or None."""
    try:
        found = subprocess.run(
            [str(python), "-c", TORCH_WORKS], capture_output=True, text=True, timeout=300, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None
    version, folder = found.stdout.strip().splitlines()[-2:]
    return version, Path(folder).resolve()


def is_recent(version: str) -> bool:
    """Whether a torch version has what the model needs."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= MIN_TORCH


def constraints(keep_torch: bool) -> str:
    """Returns the locked versions, less torch's where the machine's own is kept: pinning ours would replace it."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not (keep_torch and line.startswith("torch==")))


def share_packages(folder: Path, packages: Path) -> None:
    """Lets an environment import what lies in `packages`, after its own.

    A line in a .pth file does what `system_site_packages` does, also where torch itself lives in another
    virtual environment: that one is not the base Python's.

    Args:
        folder: Of the virtual environment.
        packages: The folder that holds torch.
    """
    own = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "machine_torch.pth").write_text(f"{packages}\n", encoding="utf-8")


def create(folder: Path, requirement: str) -> None:
    """Creates the environment if there is none, and installs the project with the locked versions.

    Args:
        folder: Of the virtual environment.
        requirement: "." or ".[dev]".
    """
    found = working_gpu_torch()
    if found and not is_recent(found[0]):
        needed = ".".join(map(str, MIN_TORCH))
        print(f"torch {found[0]} works here, but {needed} is needed; installing another beside it")
        found = None
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"creating {folder}" + (f" on top of the machine's torch {found[0]}" if found else ""), flush=True)
        venv.create(folder, with_pip=True)
        if found:
            share_packages(folder, found[1].parent)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write(constraints(keep_torch=bool(found)))
    print("installing the locked versions (a minute or two) ...", flush=True)
    try:
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "-c", file.name, "-e", requirement], cwd=ROOT, check=True
        )
    finally:
        os.unlink(file.name)
    if found and working_gpu_torch(python) != found:
        print(f"warning: {folder} does not use the machine's torch {found[0]}; ask {folder}/bin/autotune doctor")


def lock(path: Path) -> None:
    """Writes the exact versions installed in this environment.

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
    path.write_text(header + re.sub(r"\+\w+$", "", frozen.stdout, flags=re.MULTILINE), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Entry point."""
    if sys.version_info < MIN_PYTHON:
        needed, here = ".".join(map(str, MIN_PYTHON)), ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"Python {here} is too old: {needed} or newer is needed; try: make PYTHON=python{needed} tune")
    if arguments[:1] == ["--lock"]:
        lock(Path(arguments[1]))
    else:
        try:
            create(Path(arguments[0]), arguments[1])
        except subprocess.CalledProcessError as error:
            sys.exit(f"setting up failed: {' '.join(map(str, error.cmd))}")


if __name__ == "__main__":
    main(sys.argv[1:])
