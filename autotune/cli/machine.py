"""The commands that look at the machine: doctor profile."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.options import RUNS, DeviceOption, EmulateOption, JsonOption, RunsOption, load_study
from autotune.core.errors import UserError
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.machine.hardware import HardwareProfile


def doctor(out: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Checks that this machine is ready, and says what to fix.

    Each line is ok, warn or fail.
    """
    from autotune.machine import doctor as examination

    findings = examination.diagnose(out)
    if as_json:
        typer.echo(json.dumps(examination.to_json(findings), indent=2))
    else:
        typer.echo(examination.render(findings))
    raise typer.Exit(examination.exit_code(findings))


def profile(
    study: Annotated[
        str | None, typer.Option("--study", help="Also find the largest micro-batch that fits with this study's model.")
    ] = None,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    as_json: JsonOption = False,
) -> None:
    """Measures this machine: its speed, memory and limits."""
    taken = measured_hardware(device, emulate)
    measured = taken.to_json()
    if study:
        measured |= {"largest_micro_batch": _largest_micro_batch(study, taken)}

    if as_json:
        typer.echo(json.dumps(measured, indent=2))
        return

    for line in _hardware_lines(measured):
        say(line)


def measured_hardware(device: str, emulate: str, quick: bool = False) -> HardwareProfile:
    """Measure the machine and return its hardware profile.

    Raises:
        UserError: With exit code 3 and the reason, if it cannot be measured.
    """
    from autotune.machine.hardware import HardwareError
    from autotune.machine.measurement import profile

    try:
        return profile(emulate, quick=quick, device=device)
    except HardwareError as error:
        raise UserError(str(error), 3) from None


def _largest_micro_batch(study: str, taken: HardwareProfile) -> int:
    """Return the largest micro-batch of a study's baseline that fits, by a few short trainings; 0 if unknown."""
    from autotune.night import capacity, opening

    loaded = load_study(study, RUNS, None)
    slot = opening.slots_of(taken)[0]
    return capacity.largest_micro_batch(loaded, taken, slot)


def _hardware_lines(taken: dict[str, Any]) -> list[str]:
    """Return a hardware profile in a few lines for a person.

    Args:
        taken: `HardwareProfile.to_json()`.
    """
    speeds = ", ".join(f"{dtype} {flops / 1e12:.3g}" for dtype, flops in taken["matmul_flops"].items())
    lines = [
        f"device      {taken['name'] or taken['cpu_name']} ({taken['device']})",
        f"memory      {taken['memory_bytes'] / 2**30:.1f} GiB, {taken['cpu_count']} CPU cores",
        f"matmul      {speeds} TFLOP/s measured",
        f"copy        {taken['copy_bytes_per_s'] / 1e9:.0f} GB/s measured",
        f"trains in   {taken['dtype']}, flash attention {'on' if taken['flash_attention'] else 'off'}",
    ]

    if taken["device"] == "cuda":
        throttle = ", ".join(taken["throttle_reasons"]) or "none"
        lines.append(f"power       {taken['power_limit_w']:.0f} W limit; throttled by: {throttle}")

    if "largest_micro_batch" in taken:
        lines.append(f"micro-batch up to {taken['largest_micro_batch'] or 'unknown'}")
    return lines
