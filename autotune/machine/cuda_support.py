"""Which CUDA builds run on which driver, and which GPUs a build has code for."""

from __future__ import annotations

from collections.abc import Sequence

# CUDA major version -> oldest driver that runs any minor version of it. Source: NVIDIA, "CUDA Compatibility",
# minor version compatibility, table 1 (CUDA 13.x >= 580, 12.x >= 525, 11.x >= 450).
_MINIMUM_DRIVER = {13: 580, 12: 525, 11: 450}
# The CUDA version to look for among torch's builds; the one for 12.6 covers cards back to capability 5.0.
_TORCH_BUILD = {13: "13.0", 12: "12.6"}


def driver_major(driver_version: str) -> int:
    """Return the branch of a driver.

    Args:
        driver_version: Such as "535.183.01".

    Returns:
        Its first number, such as 535.

    Raises:
        ValueError: It does not start with a number.
    """
    return int(driver_version.partition(".")[0])


def minimum_driver(cuda_version: str) -> int:
    """Return the oldest driver branch that runs a CUDA version.

    Args:
        cuda_version: Such as "13.0".

    Returns:
        A driver branch such as 580; for a CUDA newer than the table, that of the newest one in it.
    """
    major = int(cuda_version.partition(".")[0])
    return _MINIMUM_DRIVER.get(major, max(_MINIMUM_DRIVER.values()))


def fitting_cuda(driver_version: str) -> str:
    """Return the CUDA version whose torch build runs on a driver.

    Args:
        driver_version: Such as "535.183.01".

    Returns:
        "13.0" or "12.6"; "" when the driver is too old for any current build.
    """
    installed = driver_major(driver_version)

    for cuda_major, build in _TORCH_BUILD.items():
        if installed >= _MINIMUM_DRIVER[cuda_major]:
            return build
    return ""


def has_code_for(capability: str, arch_list: Sequence[str]) -> bool:
    """Return whether a build with these architectures runs on a GPU.

    Machine code (`sm_`) runs on the same major version from its own minor version on; portable code
    (`compute_`) is compiled at load for any newer GPU; an "a" at the end (`sm_90a`) binds it to that one.

    Args:
        capability: The GPU's, such as "7.5".
        arch_list: Such as ["sm_75", "sm_80", "compute_90"].

    Returns:
        True when one of them fits.

    Source:
        NVIDIA, "CUDA C++ Programming Guide", binary compatibility and PTX compatibility.
    """
    major, minor = (int(part) for part in capability.split("."))

    return any(_fits(arch, major, minor) for arch in arch_list)


def _fits(arch: str, major: int, minor: int) -> bool:
    kind, _, digits = arch.partition("_")
    if digits.endswith("a"):
        return digits == f"{major}{minor}a"

    number = int(digits.rstrip("f"))  # f: the family of one major version
    arch_major, arch_minor = divmod(number, 10)

    if kind == "compute" and digits[-1].isdigit():
        return (arch_major, arch_minor) <= (major, minor)
    return arch_major == major and arch_minor <= minor
