"""Where every benchmark's figures go: to the terminal and, if asked, to RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def publish(lines: Sequence[str], *, append: bool) -> None:
    """Print lines of Markdown.

    Args:
        lines: The first one is their heading.
        append: Whether to add them to RESULTS.md as well.
    """
    text = "\n".join(lines)
    print(text)

    if append:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")
