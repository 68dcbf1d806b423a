"""The commands that look at the machine: doctor profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.options import RUNS, DeviceOption, EmulateOption, JsonOption, RunsOption, load_study
from autotune.cli.output import answer
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
        from autotune.cli.answers.machine import Doctor

        answer(Doctor(**examination.to_json(findings)))
    else:
        typer.echo(examination.render(findings))
    raise typer.Exit(examination.exit_code(findings))


def profile(
    study: Annotated[
        str | None, typer.Option("--study", help="Also find the largest micro-batch that fits with this study's model.")
    ] = None,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    share: Annotated[
        bool,
        typer.Option("--share", help="Print it as a block for an issue; with --study also the speed of its training."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measures this machine: its speed, memory and limits."""
    taken = measured_hardware(device, emulate)
    block = _block_to_share(taken, study) if share else None
    if block and not as_json:
        typer.echo(block)
        return

    measured = taken.to_json()
    if study and not share:
        measured |= {"largest_micro_batch": _largest_micro_batch(study, taken)}

    if as_json:
        from autotune.cli.answers.machine import Profile

        answer(Profile(**measured, block=block))
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


def _block_to_share(taken: HardwareProfile, study: str | None) -> str:
    """Return what was measured of a machine as a Markdown table, without anything that tells whose it is.

    Args:
        taken: The profile.
        study: A study whose training is measured as well; None for none.
    """
    speeds = [f"{dtype} {flops / 1e12:.3g}" for dtype, flops in taken.matmul_flops.items()]
    if taken.matmul_flops_warm:
        speeds.append(f"{taken.dtype} after 10 s of load {taken.matmul_flops_warm / 1e12:.3g}")
    versions = {"driver": taken.driver_version, "CUDA": taken.cuda_version, "torch": taken.torch_version}
    rows = {
        "device": f"{taken.name or taken.cpu_name}, {_in_gib(taken.memory_bytes)}",
        "compute capability": taken.capability,
        "power limit": f"{taken.power_limit_w:.0f} of {taken.power_default_w:.0f} W" if taken.power_limit_w else "",
        "host": f"{taken.cpu_name}, {taken.cpu_count} cores, {_in_gib(taken.ram_bytes)}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "matrix products": f"{', '.join(speeds)} TFLOP/s",
        "copies": f"{taken.copy_bytes_per_s / 1e9:.0f} GB/s",
        "trains in": taken.dtype,
    }
    if study:
        rows |= _speed_of(study, taken)
    return "\n".join(
        ["| autotune profile | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)]
    )


def _in_gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _speed_of(study: str, taken: HardwareProfile) -> dict[str, str]:
    """Return how fast a study's default trains here, and what is reasoned of the card from its published figures."""
    from autotune.engine.deadline import Deadline
    from autotune.machine.cards import card_of
    from autotune.night import absent_card, opening, planner
    from autotune.night.preparation import prepare_study

    loaded = load_study(study, RUNS, None)
    prepared = prepare_study(loaded, lambda _: None, lambda _: None)
    plan = planner.survey(loaded, taken, opening.slots_of(taken), Deadline()).plan
    passes = f" in passes of {plan.max_pass_sequences} sequences" if plan.max_pass_sequences else ""
    rows = {f"{loaded.spec.name}, measured": f"{plan.tokens_per_s:,.0f} tokens/s{passes}"}

    if (card := card_of(taken)) is not None:
        reasoned = absent_card.survey_of(loaded, card.profile(), prepared, Deadline()).plan
        rows[f"{loaded.spec.name}, reasoned"] = f"{reasoned.tokens_per_s:,.0f} tokens/s"
    return rows


def _hardware_lines(taken: dict[str, Any]) -> list[str]:
    """Return a hardware profile in a few lines for a person.

    Args:
        taken: `HardwareProfile.to_json()`.
    """
    speeds = ", ".join(f"{dtype} {flops / 1e12:.3g}" for dtype, flops in taken["matmul_flops"].items())
    lines = [
        f"device      {taken['name'] or taken['cpu_name']} ({taken['device']})",
        f"memory      {_in_gib(taken['memory_bytes'])}, {taken['cpu_count']} CPU cores",
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
