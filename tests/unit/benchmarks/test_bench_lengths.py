"""The runs whose lengths and batches are compared: what they are, what they read, and how well one ranks another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bench_lengths import END_OF_TEXT, all_runs, correlation, mixed


def test_each_setting_is_trained_short_and_long_and_short_at_the_long_batch() -> None:
    runs = {run["name"]: run for run in all_runs() if run["part"] == "rank"}
    assert len(runs) == 40 * 5
    short, long, at_its = (runs[f"3 {kind}"] for kind in ("short", "long16", "short16"))
    assert long["tokens"] == 16 * short["tokens"] == 16 * at_its["tokens"]
    batch, rate = "system.micro_batch_size", "optim.muon_lr"
    assert long["params"][batch] == round(short["params"][batch] * 16**0.55) == at_its["params"][batch]
    assert long["params"][rate] == short["params"][rate] * 16**0.2 == at_its["params"][rate]
    assert at_its["params"]["optim.warmup_frac"] == short["params"]["optim.warmup_frac"]


def test_documents_of_two_files_take_turns(tmp_path: Path) -> None:
    """Of three documents and of one: what begins sooner in its file, as a share of it, comes first."""
    end = END_OF_TEXT
    for name, ids in (("a", [1, end, 2, end, 3, end]), ("b", [7, 7, 7, end])):
        np.array(ids, "<u2").tofile(tmp_path / name)
    together = mixed([tmp_path / "a", tmp_path / "b"]).tolist()
    assert together == [1, end, 7, 7, 7, end, 2, end, 3, end]


def test_what_did_not_finish_ranks_nothing() -> None:
    short = np.arange(20.0)
    long = short + 1
    short[3] = long[5] = np.nan
    assert correlation(short, long) == "1.00 (1.00 to 1.00)"
