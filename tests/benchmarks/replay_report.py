"""The figures of a comparison over tables as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from peers import RANDOM, REFERENCE
from replay_figures import (
    REGRETS_AFTER,
    WITHIN_FRACS,
    bootstrap_interval,
    chosen_elsewhere,
    compare,
    geometric_mean,
)
from replay_run import Cells

from autotune.replay import arms
from autotune.replay.table import Table


def describe(name: str, table: Table) -> str:
    """Return what a table holds, in a line.

    Args:
        name: The table's.
        table: At least one of its rows finished.
    """
    finished = table.finished()
    best = finished[0].losses[-1]
    near = [sum(row.losses[-1] <= best * (1 + within) for row in finished) for within in WITHIN_FRACS]
    return (
        f"- {name}: {len(table.rows)} rows, {len(finished)} finished, {len(table.tokens)} evaluations each; best loss "
        f"{best:.4f}, median {finished[len(finished) // 2].losses[-1]:.4f}; rows within {_distances()} of the best: "
        f"{', '.join(map(str, near))}; a whole training takes {arms.trial_s(table):.3g} s of device time"
    )


def over_tables(cells: Cells) -> list[str]:
    """Return how every method compares with the reference, over all tables, for each distance from the best.

    Args:
        cells: Those of all tables, with the reference and random search among the methods.
    """
    lines = []
    for within in WITHIN_FRACS:
        lines += [
            f"Within {_percent_of(within)} of the best:",
            "",
            "| method | times as fast (95 % interval) | worst table | slower than random | found | trainings |",
            "|---|---|---|---|---|---|",
        ]
        for method in _methods(cells):
            compared = compare(*(_times(cells, name, within) for name in (method, REFERENCE.name, RANDOM.name)))
            low, high = compared.interval
            found = statistics.fmean(own[method].found_frac(within) for own in cells.values())
            medians = [statistics.median(own[method].times(within)) for own in cells.values()]
            row = (
                method,
                f"{compared.ratio:.2f} ({low:.2f}-{high:.2f})",
                f"{compared.worst_table} {compared.worst_ratio:.2f}",
                f"{compared.slower_than_random} of {len(cells)}",
                f"{found:.0%}",
                f"{geometric_mean(medians):.1f}",
            )
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return lines


def by_table(cells: Cells) -> list[str]:
    """Return times, regrets and seconds of thinking of every method on every table.

    Args:
        cells: Those of all tables.
    """
    to = " | ".join(f"to {_percent_of(within)}" for within in WITHIN_FRACS)
    after = " | ".join(f"after {trainings}" for trainings in REGRETS_AFTER)
    lines = [f"| table | method | {to} | {after} | thinking |", "|---" * (3 + len(WITHIN_FRACS + REGRETS_AFTER)) + "|"]
    for name, own in cells.items():
        for method, cell in own.items():
            times = [
                f"{statistics.median(cell.times(within)):.1f} ({cell.found_frac(within):.0%})"
                for within in WITHIN_FRACS
            ]
            regrets = [_percent(cell.regret(trainings)) for trainings in REGRETS_AFTER]
            lines.append(f"| {' | '.join([name, method, *times, *regrets, f'{cell.thinking_s:.3f} s'])} |")
    return [*lines, ""]


def leave_one_out(cells: Cells, variants: Sequence[str]) -> list[str]:
    """Return which variant is chosen for each table on all others, and how good that choice is there.

    Args:
        cells: Those of two tables or more, with the reference among the methods.
        variants: Names of methods to choose from, two or more.
    """
    lines = []
    for within in WITHIN_FRACS:
        times = {variant: _times(cells, variant, within) for variant in variants}
        reference = _times(cells, REFERENCE.name, within)
        chosen = chosen_elsewhere(times)
        ratios = {table: reference[table] / times[variant][table] for table, variant in chosen.items()}
        low, high = bootstrap_interval(list(ratios.values()))

        lines += [
            f"Chosen on the other tables, within {_percent_of(within)} of the best: "
            f"{geometric_mean(ratios.values()):.2f} times as fast (95 % interval {low:.2f}-{high:.2f}).",
            "",
            "| table | chosen on the others | times as fast | best on this table | times as fast |",
            "|---|---|---|---|---|",
        ]
        for table, variant in chosen.items():
            best = min(variants, key=lambda name: times[name][table])
            best_ratio = reference[table] / times[best][table]
            lines.append(f"| {table} | {variant} | {ratios[table]:.2f} | {best} | {best_ratio:.2f} |")
        lines.append("")
    return lines


def _methods(cells: Cells) -> list[str]:
    return list(next(iter(cells.values())))


def _times(cells: Cells, method: str, within: float) -> dict[str, float]:
    return {name: geometric_mean(own[method].times(within)) for name, own in cells.items()}


def _distances() -> str:
    return ", ".join(map(_percent_of, WITHIN_FRACS))


def _percent_of(frac: float) -> str:
    return f"{100 * frac:g} %"


def _percent(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "-"
