"""Which batch is best at which length, and at which batch short trials tell most about long runs?

usage: python tests/benchmarks/bench_lengths.py train RUNS.jsonl --train A.bin B.bin --val C.bin D.bin [--gpus 1]
           [--parts once often rank]
       python tests/benchmarks/bench_lengths.py show RUNS.jsonl

`train` mixes the documents of files of token ids (uint16, GPT-2's end of text), trains what RUNS.jsonl lacks, and adds
it there; it can be stopped and gone on with. What it trains:

- once, often: batches and learning rates of one model, at a trial's length and at 16 times that, on text that is read
  once, and on so little of it that it is read six times;
- rank: 40 settings drawn from the space of the overnight study, with batches of 2 to 16 sequences: as short trials;
  moved to 8 and 16 times their length; and as short trials with the batch and the learning rates of those long runs;
- ranks: the same settings where a night has its own: runs of 24.6M tokens, and the trials of an eighth and of a
  sixteenth of their length that they would be moved from. They want 24.6M tokens of text and are only trained if asked
  for (--parts ranks).

`show` prints the losses of the first, and how well each kind of short trial ranks the long runs.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import queue
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc, spearmanr

from autotune.core.config_paths import with_paths

TRIAL_TOKENS = 983_040
END_OF_TEXT, VOCABULARY = 50_256, 50_304
LENGTHS = (8, 16)
LONG = 25
"""Length of the runs of "ranks", in lengths of the others' trials."""
PARTS = ("once", "often", "rank", "ranks")
SETTINGS = 40
READINGS = 6
BATCH_POWER, RATE_POWER = 0.55, 0.2
"""Powers of the length by which batch and learning rates are moved."""
LARGEST_PASS = 64
Run = dict[str, Any]
"""What is trained: part, name, tokens, params; and then its losses by tokens."""


def run_of(part: str, name: str, length: float, longer: int, batch: float, rate: float, **settings: float) -> Run:
    """Return a run of one setting.

    Args:
        part: What it belongs to.
        name: Its name there.
        length: Its length, of `TRIAL_TOKENS`.
        longer: How many times longer it is than the trial that the settings were drawn for.
        batch: Sequences of an optimizer step; rounded.
        rate: Multiple of the learning rates.
        settings: By their last name; those that are not given are usual ones.
    """
    chosen = {"muon_lr": 0.0103, "adamw_lr": 0.01, "warmup_frac": 0.05, "dropout": 0.0, "num_experts": 8, **settings}
    tokens = round(length * TRIAL_TOKENS)
    sequences = max(1, round(batch))
    warmup = float(chosen["warmup_frac"])
    params = {
        "model.num_experts": int(chosen["num_experts"]),
        "model.dropout": float(chosen["dropout"]),
        "optim.muon_lr": float(chosen["muon_lr"]) * rate,
        "optim.adamw_lr": float(chosen["adamw_lr"]) * rate,
        "optim.warmup_frac": max(warmup / longer, min(warmup, 0.01)),
        "system.micro_batch_size": sequences,
        "system.max_pass_sequences": min(sequences, LARGEST_PASS),
        "data.train_tokens": tokens // READINGS if part == "often" else 0,
    }
    return {"part": part, "name": name, "tokens": tokens, "params": params}


def drawn_settings() -> Iterator[dict[str, float]]:
    """Draw settings of the overnight study's space, with batches of 2 to 16 sequences, evenly spread."""
    for batch, muon, adamw, warmup, dropout, experts in qmc.Sobol(6, seed=7).random(64)[:SETTINGS]:
        yield {
            "batch": round(2 * 8**batch),
            "muon_lr": 0.003 * (100 / 3) ** muon,
            "adamw_lr": 0.0005 * 40**adamw,
            "warmup_frac": 0.01 + 0.19 * warmup,
            "dropout": 0.1 * dropout,
            "num_experts": (4, 8, 16)[int(3 * experts)],
        }


def all_runs() -> list[Run]:
    """Return everything that is trained."""
    runs = []
    for part, rates in (("once", (0.5, 1, 2)), ("often", (0.25, 0.5, 1, 2, 4))):
        for longer, batches in ((1, (2, 4, 8, 16, 32)), (16, (10, 20, 40, 80))):
            for batch in batches:
                runs += [run_of(part, f"{longer} {batch} {rate}", longer, longer, batch, rate) for rate in rates]

    for number, settings in enumerate(drawn_settings()):
        batch = settings.pop("batch")
        runs.append(run_of("rank", f"{number} short", 1, 1, batch, 1.0, **settings))
        for longer in LENGTHS:
            moved = batch * longer**BATCH_POWER, longer**RATE_POWER
            runs.append(run_of("rank", f"{number} long{longer}", longer, longer, *moved, **settings))
            runs.append(run_of("rank", f"{number} short{longer}", 1, 1, *moved, **settings))

        # One set of long runs for both: drawn for the shorter trials, and moved back for the longer ones.
        most = max(LENGTHS)
        for shorter in (1, *LENGTHS):
            moved = batch * (most / shorter) ** BATCH_POWER, (most / shorter) ** RATE_POWER
            runs.append(run_of("ranks", f"{number} {shorter}", LONG / shorter, most // shorter, *moved, **settings))
    return runs


def mixed(files: Sequence[Path]) -> np.ndarray:
    """Return the documents of several files of token ids in turn, so that each file lasts as long."""
    texts = [np.fromfile(file, "<u2") for file in files]
    documents = []
    for text in texts:
        ends = np.flatnonzero(text == END_OF_TEXT) + 1
        shares = np.concatenate([[0], ends]) / len(text)
        documents += [(share, piece) for share, piece in zip(shares, np.split(text, ends), strict=True) if len(piece)]
    return np.concatenate([piece for _, piece in sorted(documents, key=lambda each: each[0])])


def work(gpu: int, texts: Path, waiting: Any, ended: Any) -> None:
    """Train what is waiting, one run after the other, on one GPU."""
    os.environ.update(CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES=str(gpu))
    from model.config import TrainConfig
    from model.train import train

    data = {"source": "tokens", "path": str(texts / "train.bin"), "val_path": str(texts / "val.bin")}
    data |= {"vocab_size": VOCABULARY, "eos_id": END_OF_TEXT, "eval_tokens": 204_800, "num_evals": 4}
    while (run := waiting.get()) is not None:
        config = with_paths({"data": {**data, "cache_dir": str(texts / "cache")}}, {"seed": 1, **run["params"]})
        losses: dict[int, float] = {}

        def report(point: Any, losses: dict[int, float] = losses) -> bool:
            losses[int(point["tokens_seen"])] = float(point["val_loss"])
            return True

        began = time.perf_counter()
        try:
            train(TrainConfig.model_validate(config), run["tokens"], report)
        except RuntimeError as error:  # one that does not fit is left out, and the others go on
            ended.put({**run, "fault": f"{type(error).__name__}: {error}"[:200]})
            continue
        ended.put({**run, "losses": losses, "seconds": round(time.perf_counter() - began, 1)})


def train_missing(path: Path, parts: Sequence[str], texts: Path, gpus: int, workers: int, limit_s: float) -> None:
    """Train what a file of runs lacks, the longest first, and add it there.

    Args:
        path: The file.
        parts: Of these.
        texts: Folder with the mixed text.
        gpus: Devices.
        workers: Processes on each.
        limit_s: Seconds after which nothing more is waited for.
    """
    known = {(run["part"], run["name"]) for run in stored(path)}
    missing = [run for run in all_runs() if run["part"] in parts and (run["part"], run["name"]) not in known]
    missing.sort(key=lambda run: -run["tokens"])

    context = multiprocessing.get_context("spawn")
    waiting, ended = context.Queue(), context.Queue()
    for run in [*missing, *[None] * (gpus * workers)]:
        waiting.put(run)
    processes = [
        context.Process(target=work, args=(number % gpus, texts, waiting, ended), daemon=True)
        for number in range(gpus * workers)
    ]
    for process in processes:
        process.start()

    until = time.monotonic() + limit_s
    left = len(missing)
    while left and time.monotonic() < until and any(process.is_alive() for process in processes):
        try:
            run = ended.get(timeout=1)
        except queue.Empty:
            continue
        left -= 1
        print(run["part"], run["name"], run.get("fault") or list(run["losses"].values())[-1], flush=True)
        if "fault" not in run:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
    for process in processes:
        process.kill()
    print(f"{left} left")


def stored(path: Path) -> list[Run]:
    """Return the runs of a file; none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def final(run: Run) -> float:
    """Return the loss at the end of a run."""
    return float(run["losses"][max(run["losses"], key=int)])


def correlation(short: np.ndarray, long: np.ndarray) -> str:
    """Return the rank correlation with its interval by bootstrap over settings, as a cell of a table."""
    known = np.isfinite(short) & np.isfinite(long)
    short, long = short[known], long[known]
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(short), len(short)) for _ in range(2_000)]
    low, high = np.quantile([spearmanr(short[draw], long[draw]).statistic for draw in draws], [0.025, 0.975])
    return f"{spearmanr(short, long).statistic:.2f} ({low:.2f} to {high:.2f})"


def show(runs: Sequence[Run]) -> list[str]:
    """Return what was found, as lines of Markdown."""
    lines = []
    for part in ("once", "often"):
        for longer in (1, 16):
            losses = {
                tuple(run["name"].split()[1:]): final(run)
                for run in runs
                if run["part"] == part and run["name"].split()[0] == str(longer)
            }
            if not losses:
                continue
            batches = sorted({batch for batch, _ in losses}, key=int)
            rates = sorted({rate for _, rate in losses}, key=float)
            lines += [f"{part}, {longer} x {TRIAL_TOKENS:,} tokens:", ""]
            lines += ["| sequences a step | " + " | ".join(f"rate x {rate}" for rate in rates) + " |"]
            lines += ["|---" * (len(rates) + 1) + "|"]
            for batch in batches:
                cells = [f"{losses[batch, rate]:.3f}" if (batch, rate) in losses else "-" for rate in rates]
                lines.append(f"| {batch} | " + " | ".join(cells) + " |")
            lines.append("")

    by_name = {(run["part"], run["name"]): final(run) for run in runs}

    def column(kind: str, part: str = "rank") -> np.ndarray:
        return np.array([by_name.get((part, f"{number} {kind}"), math.nan) for number in range(SETTINGS)])

    if any(part == "ranks" for part, _ in by_name):
        ranks = [correlation(column(str(shorter), "ranks"), column("1", "ranks")) for shorter in LENGTHS]
        words = [f"of 1/{shorter} of their length {rank}" for shorter, rank in zip(LENGTHS, ranks, strict=True)]
        lines += [f"runs of {LONG * TRIAL_TOKENS:,} tokens, ranked by trials: {', '.join(words)}", ""]
    if all(part != "rank" for part, _ in by_name):
        return lines

    lines += ["| short trials | " + " | ".join(f"runs of {longer} times" for longer in LENGTHS) + " |"]
    lines += ["|---" * (len(LENGTHS) + 1) + "|"]
    moved = [correlation(column("short"), column(f"long{longer}")) for longer in LENGTHS]
    at_its = [correlation(column(f"short{longer}"), column(f"long{longer}")) for longer in LENGTHS]
    lines += ["| at their own batch, which the long run's is moved from | " + " | ".join(moved) + " |"]
    lines += ["| at the batch of the long run | " + " | ".join(at_its) + " |"]

    for longer in LENGTHS:
        long = column(f"long{longer}")
        for kind, words in (("short", "its own batch"), (f"short{longer}", "the long run's batch")):
            chosen = long[np.nanargmin(column(kind))]
            above, before = chosen - np.nanmin(long), int((long < chosen).sum())
            lines.append(
                f"the best trial at {words}: {above:.3f} above the best of {longer} times, {before} are better"
            )
    return lines


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "show"])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--train", nargs="+", type=Path, default=[])
    parser.add_argument("--val", nargs="+", type=Path, default=[])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:3])
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3, help="processes on each GPU")
    parser.add_argument("--limit-s", type=float, default=math.inf)
    args = parser.parse_args()
    if args.what == "show":
        print("\n".join(show(stored(args.runs))))
        return
    if not args.train or not args.val:
        parser.error("train needs --train and --val: files of token ids")

    with tempfile.TemporaryDirectory() as folder:
        for name, files in (("train", args.train), ("val", args.val)):
            mixed(files).tofile(Path(folder) / f"{name}.bin")
        train_missing(args.runs, args.parts, Path(folder), args.gpus, args.workers, args.limit_s)


if __name__ == "__main__":
    main()
