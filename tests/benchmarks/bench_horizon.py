"""Do whole short trials tell which settings win longer runs, and do they tell more than the start of the long runs?

Compares the rows of two recorded tables that have the same settings: `autotune record STUDY`, and again with
`--rows TABLE --tokens N` (figures: RESULTS.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scipy.stats import spearmanr

from autotune.replay import table
from autotune.replay.table import Row


def settings(row: Row) -> tuple[tuple[str, object], ...]:
    """Returns what identifies a row."""
    return tuple(sorted(row.params.items()))


def compare(short: table.Table, long: table.Table) -> list[str]:
    """Returns the rank correlations with the long runs' final losses as lines of a Markdown table.

    Args:
        short: Whole short trials.
        long: Longer ones of some of the same settings.
    """
    rows = {settings(row): row for row in short.rows if row.losses}
    pairs = [(rows[settings(row)], row) for row in long.rows if row.losses and settings(row) in rows]
    final = [one.losses[-1] for _, one in pairs]

    def rank(losses: list[float]) -> str:
        return f"{spearmanr(losses, final).statistic:.2f}"

    count = min(len(one.losses) for _, one in pairs)
    lines = [f"{len(pairs)} settings", "", "| what ranks them | rank correlation with the long runs |", "|---|---|"]
    lines.append(f"| whole short trials | {rank([one.losses[-1] for one, _ in pairs])} |")
    for at in sorted({1, 2, 3, count // 4, count // 2, 3 * count // 4, count - 1}):
        lines.append(f"| the long runs after {at / count:.0%} | {rank([one.losses[at - 1] for _, one in pairs])} |")
    return lines


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("short", type=Path, help="table of whole short trials")
    parser.add_argument("long", type=Path, help="table of longer ones")
    arguments = parser.parse_args()
    print("\n".join(compare(table.read(arguments.short), table.read(arguments.long))))


if __name__ == "__main__":
    main()
