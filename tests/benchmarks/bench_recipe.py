"""What the default settings are worth beside the first ones, on fresh pairs of trainings at equal tokens.

usage: python tests/benchmarks/bench_recipe.py --train A.bin B.bin --val C.bin D.bin [--tokens 6144000] [--seeds 5]
       [--first-seed 21] [--study studies/overnight.toml] [--gpus 1] [--set 'optim.muon_momentum = 0.95' ...]

The files hold token ids (uint16, GPT-2's vocabulary and end of text); each text is trained on by itself. A pair is the
study's default and another recipe with the same seed. The others are the first default settings and, with `--set`, the
study's with those lines changed. Printed are losses, differences with 95 % intervals by Student's t, and tokens per
second of the last training of each, between its first and its last evaluation.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from autotune.core.config_paths import flatten, with_paths
from autotune.study.study_file import load

END_OF_TEXT, VOCABULARY = 50_256, 50_304
DEFAULT, FIRST, CHANGED = "default", "first default", "with --set"
FIRST_SETTINGS = {
    "model.num_heads": 8,
    "model.num_kv_heads": 4,
    "model.init_std": 0.02,
    "optim.muon_lr": 0.02,
    "optim.adamw_lr": 0.003,
    "optim.muon_momentum": 0.95,
    "optim.weight_decay": 0.0,
    "optim.grad_accum_steps": 1,
    "system.micro_batch_size": 24,
}
EVALUATIONS = 4
MERGED = {"system.max_pass_sequences": 96}
"""Micro-batches are merged into passes, as the planner has it on a card with memory for that."""


def text_settings(train: Path, val: Path) -> dict[str, Any]:
    """Return the settings of a text by their dotted paths."""
    return {
        "data.source": "tokens",
        "data.name": "",
        "data.subset": "",
        "data.tokenizer": "",
        "data.max_tokens": 0,
        "data.path": str(train.resolve()),
        "data.val_path": str(val.resolve()),
        "data.vocab_size": VOCABULARY,
        "data.eos_id": END_OF_TEXT,
        "data.num_evals": EVALUATIONS,
    }


def train_one(job: tuple[dict[str, Any], int, int]) -> tuple[float, float]:
    """Return the last held-out loss of a training, and its tokens per second after the first evaluation.

    Args:
        job: The nested config, its training tokens, and how many GPUs there are.
    """
    nested, tokens, gpus = job
    if gpus:
        worker = multiprocessing.current_process()._identity[0]  # type: ignore[attr-defined]
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str((worker - 1) % gpus))

    from model.config import TrainConfig
    from model.train import train

    points: list[tuple[float, float, float]] = []

    def report(point: Mapping[str, float]) -> bool:
        points.append((point["tokens_seen"], point["val_loss"], time.perf_counter()))
        return True

    train(TrainConfig.model_validate(nested), tokens, report)
    (first, _, began_s), (last, loss, ended_s) = points[0], points[-1]
    return loss, (last - first) / (ended_s - began_s)


def interval(differences: np.ndarray) -> str:
    """Return the mean of differences and its 95 % interval."""
    half = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return f"{differences.mean():+.4f} ± {half:.4f}"


def main() -> None:
    """Print the comparison as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--val", type=Path, nargs="+", required=True)
    parser.add_argument("--tokens", type=int, default=6_144_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=21)
    parser.add_argument("--study", type=Path, default=Path(__file__).parents[2] / "studies" / "overnight.toml")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], dest="lines")
    args = parser.parse_args()

    changes = {path: value for line in args.lines for path, value in flatten(tomllib.loads(line)).items()}
    recipes: dict[str, dict[str, Any]] = {DEFAULT: {}, FIRST: FIRST_SETTINGS} | ({CHANGED: changes} if changes else {})
    base = load(args.study).spec.base
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    texts = {train.stem: text_settings(train, val) for train, val in zip(args.train, args.val, strict=True)}
    names = list(itertools.product(texts, seeds, recipes))
    jobs = [
        (with_paths(base, texts[text] | MERGED | recipes[recipe] | {"seed": seed}), args.tokens, args.gpus)
        for text, seed, recipe in names
    ]

    with multiprocessing.get_context("spawn").Pool(max(1, args.gpus)) as pool:
        results = dict(zip(names, pool.imap(train_one, jobs), strict=True))

    print("| text | recipe | losses | above the default | tokens/s |\n|---|---|---|---|---|")
    for text in texts:
        for recipe in recipes:
            losses, default = (np.array([results[text, seed, name][0] for seed in seeds]) for name in (recipe, DEFAULT))
            shown = ", ".join(f"{loss:.4f}" for loss in losses)
            apart = "" if recipe == DEFAULT else interval(losses - default)
            print(f"| {text} | {recipe} | {shown} | {apart} | {results[text, seeds[-1], recipe][1]:,.0f} |")


if __name__ == "__main__":
    main()
