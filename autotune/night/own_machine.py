"""What one process trains with: the profile of its machine, and what of it decides a loss."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.files import read_json, write_json
from autotune.core.setups import Setup
from autotune.engine.deadline import StopRequest
from autotune.machine.hardware import HardwareError, HardwareProfile
from autotune.machine.measurement import machine_name, profile, require_device
from autotune.machine.nvml import visible_devices
from autotune.night.night import Options
from autotune.night.probing import config_on
from autotune.store.run_directory import RunDirectory
from autotune.study.fingerprints import trainer_code
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study


def measured_hardware(spec: StudySpec, options: Options, run: RunDirectory, stop: StopRequest) -> HardwareProfile:
    """Return the profile that an earlier run has stored, or take one and store it.

    Of a shared study each machine has its own, as several may have one folder.

    Args:
        spec: The study.
        options: What the command line says.
        run: The run directory.
        stop: Whether the user wants the run to end.

    Raises:
        UserError: If there is no such device, or the study was begun on another kind of device: its trials would not
            be comparable. With exit code 130 if it was stopped.
    """

    def heed_stop() -> None:
        if stop.level:
            raise UserError("stopped while the hardware was measured; nothing is lost: run again", 130)

    path = run.hardware
    try:
        if spec.storage:
            path = run.hardware_of(machine_name(options.device, options.emulate))
        if path.exists():
            try:
                before = HardwareProfile.from_json(read_json(path))
            except HardwareError:
                options.say(f"{path} is damaged or of another version: it is measured and written anew")
            else:
                require_device(options.device)
                _require_same_device(spec, options, before)
                return before

        options.say("profiling the hardware ...")
        taken = profile(options.emulate, device=options.device, while_waiting=heed_stop)
    except HardwareError as error:
        raise UserError(str(error), 3) from None
    write_json(path, taken.to_json())
    return taken


def _require_same_device(spec: StudySpec, options: Options, before: HardwareProfile) -> None:
    now = "cpu" if options.device == "cpu" or not visible_devices() else "cuda"
    if (before.device, before.emulate) == (now, options.emulate):
        return
    raise UserError(
        f"{spec.name} was begun on {_device_words(before.device, before.emulate)} and this is "
        f"{_device_words(now, options.emulate)}: their results and times are not comparable; "
        'use the same device, or give the study another name (--set name="...")'
    )


def _device_words(device: str, emulate: str) -> str:
    return f"{device} emulating {emulate}" if emulate else device


def setup_of(study: Study, hardware: HardwareProfile, prepared: Mapping[str, Any]) -> Setup:
    """Return what this process trains with, as far as it decides a loss.

    Args:
        study: The study file and its trainer.
        hardware: The profile of its machine.
        prepared: What the trainer said of the data that it has prepared.
    """
    spec = study.spec
    config = flatten(config_on(study, hardware, {}))
    dtype = config.get(study.trainer.path_of("dtype") or "", "")
    card = f"{hardware.name} emulating {hardware.emulate}" if hardware.emulate else hardware.name

    return Setup(
        card=card,
        dtype=str(dtype),
        versions=_versions(["torch", "autotune-moe", spec.trainer.partition(":")[0].partition(".")[0]]),
        code=trainer_code(spec.trainer, spec.command),
        text=str(prepared.get("data_hash", "")),
    )


def _versions(packages: list[str]) -> dict[str, str]:
    """Return the versions of packages that are installed, without what tells builds of one version apart."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
    return versions
