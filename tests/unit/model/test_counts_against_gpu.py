"""The cost model on shapes measured on a GPU: what `make bench BENCH=costs` recorded there."""

import json
from pathlib import Path

from bench_costs import EXPERTS, PASSES, errors

RECORDED = Path(__file__).parents[2] / "benchmarks" / "costs_h100.jsonl"


def test_five_probes_tell_seconds_within_a_tenth_and_bytes_within_a_twentieth() -> None:
    """A changed kernel or count needs a new recording; a wrong count fails here."""
    rows = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    shapes = {tuple(row["shape"]) for row in rows}
    assert shapes >= {(experts, *shape) for experts in EXPERTS for shape in PASSES}
    for shape, seconds, memory in errors(rows):
        assert abs(seconds) < 0.10, shape
        assert abs(memory) < 0.05, shape
