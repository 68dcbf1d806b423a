"""Is a GPU's time better spent on a search and a shorter training, or all of it on training the default settings?

usage: python tests/benchmarks/bench_night.py CONTENDER SECONDS TRAIN.bin VAL.bin RESULTS.jsonl
       [--study studies/overnight.toml] [--seed-repo PATH] [--device auto] [--set ...]
       python tests/benchmarks/bench_night.py show RESULTS.jsonl

Each contender has the same seconds on one device, from its start to the end of its last training, and is scored on the
same held-out windows. Contenders:

- search:  `autotune run` with those hours, whose full run takes what the search leaves;
- fitted:  the same with one trial and no finals: the default settings, fitted to the longer run;
- default: the default settings as they are, trained on as many tokens as fit by short trainings before;
- seed:    the seed's own trainer with its hand-tuned settings, as many steps as fit by some steps before.

The files hold token ids (uint16, GPT-2's vocabulary and end of text), such as `source_text.py` writes. The short
training before is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
import torch
from bench_recipe import MERGED, VOCABULARY, text_settings
from bench_training import seed_importable
from torch.utils.data import DataLoader, RandomSampler, Subset

from autotune.core.config_paths import with_paths
from autotune.store.study_record import read_study
from autotune.study.study_file import load
from model.config import TrainConfig
from model.data.corpus import load as load_corpus
from model.train import train

STUDIES = Path(__file__).parents[2] / "studies"
SEED_SETTINGS = {"muon_lr": 0.065, "gradient_accumulation_steps": 2, "dropout": 0.05}
"""The best of what its authors tried by hand."""
OWN_STEPS, SEED_STEPS = 200, 12
"""Steps of the short runs before, of ours and the seed's; an evaluation is not counted in the seed's."""
Result = dict[str, Any]


def by_autotune(args: argparse.Namespace, *changes: str) -> Result:
    """Run a whole study in the seconds that there are, and return what came of its full run."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [_inline(text_settings(args.train, args.val)), 'name="night"', "promote={automatic = true, tokens = 0}"]
        sets = [part for line in [*lines, *args.set, *changes] for part in ("--set", line)]
        hours = ["--hours", str(args.seconds / 3600), "--out", folder, "--device", args.device]
        command = [sys.executable, "-m", "autotune", "run", str(args.study), *hours, *sets]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{done.stdout}\n{done.stderr}")
        print(done.stdout, file=sys.stderr)

        record = read_study(Path(folder) / "night")
        full, plan = record.attributes.full_run, record.attributes.plan
        verdict = record.verdict
        return {
            "loss": full.val_loss,
            "tokens": full.end_tokens or full.tokens,
            "trials": sum(trial.status.teaches for trial in record.trials),
            "planned_s": plan.total_s,
            "verdict": str(verdict.word) if verdict else "",
            "changes": record.attributes.promotion.describe(),
        }


def _inline(settings: Mapping[str, Any]) -> str:
    values = ", ".join(f"{path.partition('.')[2]} = {json.dumps(value)}" for path, value in settings.items())
    return f"base.data={{{values}}}"


def of_the_default(args: argparse.Namespace) -> Result:
    """Train the default settings as they are for all of the time."""
    base = with_paths(load(args.study, args.set).spec.base, text_settings(args.train, args.val) | MERGED | {"seed": 1})
    config = TrainConfig.model_validate(with_paths(base, {"system.device": args.device}))

    def run(steps: int) -> float:
        losses: list[float] = []

        def report(point: Mapping[str, float]) -> bool:
            losses.append(point["val_loss"])
            return True

        train(config, steps * config.batch_tokens, report)
        return losses[-1]

    steps = fitting_steps(run, args.seconds, OWN_STEPS)
    args.began_s = time.perf_counter()
    return {"loss": run(steps), "tokens": steps * config.batch_tokens}


def fitting_steps(run: Callable[[int], object], seconds: float, few: int) -> int:
    """Return how many optimizer steps fit into some time, by two short runs after a first one that warms up.

    Args:
        run: Trains for so many steps and evaluates as often as a run of any other length.
        seconds: Of the whole run.
        few: Steps of the shorter runs.
    """
    took: list[float] = []
    for steps in (few, few, 4 * few):
        began_s = time.perf_counter()
        run(steps)
        took.append(time.perf_counter() - began_s)

    step_s = (took[2] - took[1]) / (3 * few)
    before_s = max(0.0, took[1] - few * step_s)
    return max(1, int((seconds - before_s) / step_s))


def of_the_seed(args: argparse.Namespace) -> Result:
    """Train by the seed's own function for all of the time."""
    base = load(args.study, args.set).spec.base
    config = TrainConfig.model_validate(with_paths(base, text_settings(args.train, args.val)))
    corpus, seq_len = load_corpus(config.data), config.model.seq_len
    starts, _ = corpus.eval_starts(config.data.eval_tokens, seq_len)
    on_cuda = torch.cuda.is_available()
    nothing = dict.fromkeys(("val_loss", "val_accuracy", "val_perplexity"), math.nan)

    with seed_importable(args.seed_repo), contextlib.redirect_stdout(io.StringIO()):
        trainer = importlib.import_module("training.trainer")
        seed_config = importlib.import_module("configs.moe_config").MoEModelConfig
        dataset = importlib.import_module("data.dataset").TextTokenDataset
        settings = {"vocab_size": VOCABULARY, "max_seq_len": seq_len, "use_amp": on_cuda, "log_milestones": ()}
        settings |= SEED_SETTINGS | args.seed_settings
        held_out = Subset(dataset(corpus.val_ids, seq_len), (starts // seq_len).tolist())

        texts = dataset(corpus.train_ids, seq_len)

        def run(steps: int, patched: Mapping[str, Any] = MappingProxyType({})) -> float:
            seed = seed_config(**settings, max_steps=steps, eval_every=steps + 1, eval_steps=len(held_out))
            drawn = RandomSampler(texts, replacement=True, num_samples=steps * seed.batch_size)
            loader = DataLoader(texts, batch_size=seed.batch_size, sampler=drawn, num_workers=2)
            scored = DataLoader(held_out, batch_size=seed.batch_size)
            patches = {"plt": mock.MagicMock()} | patched
            with mock.patch.multiple(trainer, **patches), contextlib.redirect_stderr(io.StringIO()):
                _, scores = trainer.train_moe_model(seed, loader, scored)
            return float(scores["val_loss"])

        steps = fitting_steps(
            functools.partial(run, patched={"evaluate_model": lambda *_: nothing}), args.seconds, SEED_STEPS
        )
        args.began_s = time.perf_counter()
        return {"loss": run(steps), "tokens": steps * seed_config(**settings).batch_size * seq_len}


def main() -> None:
    """Run one contender, or print all results as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="contender", required=True)
    kinds.add_parser("show").add_argument("results", type=Path)
    for name in ("search", "fitted", "default", "seed"):
        one = kinds.add_parser(name)
        one.add_argument("seconds", type=float)
        for path in ("train", "val", "results"):
            one.add_argument(path, type=Path)
        one.add_argument("--study", type=Path, default=STUDIES / "overnight.toml")
        one.add_argument("--seed-repo", type=Path)
        one.add_argument("--seed-settings", type=json.loads, default={})
        one.add_argument("--device", default="auto")
        one.add_argument("--set", nargs="*", default=[])
    args = parser.parse_args()

    if args.contender == "show":
        show([json.loads(line) for line in args.results.read_text().splitlines()])
        return

    args.began_s = time.perf_counter()
    match args.contender:
        case "search":
            result = by_autotune(args)
        case "fitted":
            result = by_autotune(args, "budget.trials=1", "finals.finalists=0")
        case "default":
            result = of_the_default(args)
        case "seed":
            result = of_the_seed(args)

    took_s = round(time.perf_counter() - args.began_s, 1)
    result = {"contender": args.contender, "seconds": args.seconds, "took_s": took_s, **result}
    with args.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result))


def show(results: list[Result]) -> None:
    """Print results, by seconds and loss, as a Markdown table."""
    print("| seconds | contender | took | trained | loss | trials, verdict |\n|---|---|---|---|---|---|")
    for one in sorted(results, key=lambda one: (one["seconds"], one["loss"] if one["loss"] else np.inf)):
        found = f"{one['trials']}, {one['verdict']}" if one.get("verdict") else ""
        tokens = f"{one['tokens'] / 1e6:,.1f}M"
        print(
            f"| {one['seconds']:g} | {one['contender']} | {one['took_s']} s | {tokens} | {one['loss']:.4f} | {found} |"
        )


if __name__ == "__main__":
    main()
