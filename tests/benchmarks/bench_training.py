"""Speed of the trainer beside a plain one, transformers' model, a dense bound and the seed's own, in one run.

usage: python tests/benchmarks/bench_training.py [--experts 8 16] [--seed-repo PATH] [--emulate t4] [--as-on 86]
       [--append]

Every contender is built, warmed up and timed on its own, with the memory of the one before given back. This
happens in several rounds, and each round begins with the next contender, so that none always meets the cool card.
A window is several optimizer steps between two device synchronisations; the first window of a round is the
warm-up and left out. "set-up" is the time to the end of the first round's warm-up beyond what that many tokens
take at the measured speed: building, compiling, starting loaders. Peak memory is torch's, on a CPU the process's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib
import importlib.util
import io
import itertools
import math
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
from references import Batch, DenseTrainer, PlainTrainer, TokenIds, TransformersTrainer, flops_per_token
from results import publish
from torch.utils.data import DataLoader

from autotune.machine.host import cpu_name
from model.config import TrainConfig
from model.train import train

CONTENDERS = ("ours", "merged", "plain", "transformers", "dense", "seed")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WINDOWS = 4
T4_BYTES = 15 * 2**30
CPU_SHAPE = {"num_layers": 2, "d_model": 64, "num_heads": 4, "num_kv_heads": 2, "d_ff": 128, "seq_len": 64}


@dataclasses.dataclass(frozen=True)
class Task:
    """What all contenders of one expert count train on, and how it is timed."""

    config: TrainConfig
    ids: TokenIds
    device: torch.device
    dtype: str
    window: int
    seed_repo: Path | None

    @property
    def micro_steps(self) -> int:
        """Micro-steps of a round, the warm-up window included."""
        return self.window * (WINDOWS + 1)

    @property
    def micro_step_tokens(self) -> int:
        """Tokens of a micro-step."""
        return self.config.batch_tokens // self.config.optim.grad_accum_steps


@dataclasses.dataclass
class Timing:
    """One contender's round, or all its rounds together."""

    speeds: list[float]
    warm_s: float
    peak_bytes: float
    flops_per_token: int
    dtype: str
    note: str = ""

    @property
    def tokens_per_s(self) -> float:
        """Median over the windows."""
        return statistics.median(self.speeds)


class Clock:
    """Passes batches on and notes, with the device at rest, when each window of micro-steps begins and ends."""

    def __init__(self, task: Task, batches: Iterable[Batch]) -> None:
        self.task, self.batches = task, batches
        self.started_s = time.perf_counter()
        self.marks_s: list[float] = []

    def __iter__(self) -> Iterator[Batch]:
        for micro_step, batch in enumerate(self.batches):
            if micro_step % self.task.window == 0:
                synchronise(self.task.device)
                self.marks_s.append(time.perf_counter())
            if micro_step == self.task.micro_steps:
                return
            yield batch

    def timing(self, flops: int, dtype: str, note: str) -> Timing:
        """Return the windows' speeds; the clock was started before anything was built."""
        tokens = self.task.window * self.task.micro_step_tokens
        speeds = [tokens / (end - begin) for begin, end in itertools.pairwise(self.marks_s[1:])]
        return Timing(speeds, self.marks_s[1] - self.started_s, peak_memory(self.task.device), flops, dtype, note)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """Return bytes as the trainer itself reports them."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def time_ours(task: Task, merged: bool = False) -> Timing:
    """Time `train()`: one window is one interval between two points, whose evaluation is not in its speed.

    Args:
        task: What to train on.
        merged: Whether the micro-batches of an optimizer step run as one pass, as the planner has it where
            memory allows.
    """
    config = task.config
    if merged:
        system = config.system.model_copy(update={"max_pass_sequences": config.batch_sequences})
        config = config.model_copy(update={"system": system})
    points: list[Mapping[str, float]] = []
    warm_s = 0.0

    def report(point: Mapping[str, float]) -> bool:
        nonlocal warm_s
        warm_s = warm_s or time.perf_counter() - started_s - point["eval_s"]
        points.append(point)
        return True

    started_s = time.perf_counter()
    facts = train(config, task.micro_steps * task.micro_step_tokens, report)
    speeds = [point["tokens_per_s"] for point in points[1:]]
    peak_bytes = max(point["peak_memory_bytes"] for point in points)
    return Timing(speeds, warm_s, peak_bytes, int(str(facts["flops_per_token"])), task.dtype)


def time_reference(task: Task, kind: type[PlainTrainer | TransformersTrainer | DenseTrainer], **options: Any) -> Timing:
    """Time one of the references."""
    clock = Clock(task, ())
    trainer = kind(task.config, task.config.data.vocab_size, task.device, DTYPES[task.dtype], **options)
    if task.device.type == "cuda":  # what set-up tried out is not the memory of training
        torch.cuda.reset_peak_memory_stats(task.device)
    clock.batches = trainer.batches(task.ids)
    for tokens_BT, targets_BT in clock:
        trainer.micro_step(tokens_BT, targets_BT)
    return clock.timing(trainer.flops_per_token, task.dtype, trainer.note)


def time_transformers(task: Task) -> Timing:
    """Time transformers' model under autocast and, in bf16, with weights of bf16 as well; the faster one counts."""
    timings = [time_reference(task, TransformersTrainer)]
    if task.dtype == "bf16":
        free_memory(task.device, task.config.system.memory_bytes)
        timings.append(time_reference(task, TransformersTrainer, half_weights=True))
    return max(timings, key=lambda timing: timing.tokens_per_s)


class _Rotary(torch.nn.Module):
    """Stands in for torchtune.modules.RotaryPositionalEmbeddings where torchtune is missing: neighbours turn."""

    def __init__(self, dim: int, max_seq_len: int, base: int) -> None:
        super().__init__()
        angle = torch.outer(torch.arange(max_seq_len), base ** (-torch.arange(0, dim, 2).float() / dim))
        self.register_buffer("turn", torch.stack((angle.cos(), angle.sin()), -1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = x.float().unflatten(-1, (-1, 2))
        cos, sin = self.turn[: x.shape[1]].unsqueeze(1).unbind(-1)
        turned = (pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin)
        return torch.stack(turned, -1).flatten(-2).type_as(x)


@contextlib.contextmanager
def seed_importable(repo: Path) -> Iterator[list[str]]:
    """Let the seed's packages be imported, and forget them afterwards; yields the packages stood in for."""
    stand_ins = {
        "torchtune.modules": {"RotaryPositionalEmbeddings": _Rotary},
        "xformers.ops": {"memory_efficient_attention": None, "LowerTriangularMask": None},  # off in its config
        "matplotlib.pyplot": {},
    }
    missing = [name for name in stand_ins if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name in missing:
        package, module = ModuleType(name.partition(".")[0]), ModuleType(name)
        module.__dict__.update(stand_ins[name])
        sys.modules.update({package.__name__: package, name: module})
    packages = [name.partition(".")[0] for name in missing]
    sys.path.insert(0, str(repo))
    try:
        yield packages
    finally:
        sys.path.remove(str(repo))
        forgotten = {"configs", "data", "models", "optimizers", "training", "utils", *packages}
        for name in [name for name in sys.modules if name.partition(".")[0] in forgotten]:
            del sys.modules[name]


def time_seed(task: Task) -> Timing:
    """Time the seed's own training function, unchanged; only its evaluation and its printing are left out."""
    if task.seed_repo is None:
        raise ValueError("give --seed-repo PATH")
    shape, on_cuda = task.config.model, task.device.type == "cuda"
    settings = {"d_model": shape.d_model, "n_heads": shape.num_heads, "kv_heads": shape.num_kv_heads}
    settings |= {"n_layers": shape.num_layers, "d_ff": shape.d_ff, "max_seq_len": shape.seq_len}
    settings |= {"num_experts": shape.num_experts, "expert_top_k": shape.top_k, "max_steps": task.micro_steps}
    settings |= {"batch_size": task.config.system.micro_batch_size, "vocab_size": task.config.data.vocab_size}
    settings |= {"gradient_accumulation_steps": task.config.optim.grad_accum_steps, "log_milestones": ()}
    settings |= {"use_amp": on_cuda and task.dtype != "fp32", "eval_every": task.micro_steps + 1}
    nothing = dict.fromkeys(("val_loss", "val_accuracy", "val_perplexity"), math.nan)
    flags = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    clock = Clock(task, ())
    with (
        seed_importable(task.seed_repo) as stand_ins,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        trainer = importlib.import_module("training.trainer")
        config = importlib.import_module("configs.moe_config").MoEModelConfig(**settings)
        dataset = importlib.import_module("data.dataset").TextTokenDataset(task.ids.tolist(), shape.seq_len)
        loader = DataLoader(dataset, batch_size=config.batch_size, shuffle=True, num_workers=2)
        clock.batches = itertools.chain.from_iterable(itertools.repeat(loader))
        with mock.patch.multiple(trainer, evaluate_model=lambda *_: nothing, plt=mock.MagicMock()):
            model, _ = trainer.train_moe_model(config, clock, None)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags
    note = "stand-in for torchtune" if "torchtune" in stand_ins else ""  # the only one that computes
    flops = flops_per_token(model.named_parameters(), shape)
    return clock.timing(flops, "fp16" if config.use_amp else "fp32", note)


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations per second of a large matrix product, the median of several after a warm-up."""
    width, repeats = (8192, 20) if device.type == "cuda" else (1024, 5)
    left, right = torch.randn(2, width, width, device=device).to(dtype).unbind()
    seconds = []
    for _ in range(2 * repeats):
        started_s = time.perf_counter()
        left @ right
        synchronise(device)
        seconds.append(time.perf_counter() - started_s)
    return 2 * width**3 / statistics.median(seconds[repeats:])


def free_memory(device: torch.device, cap_bytes: int) -> None:
    """Give back what the last contender held; set the cap anew, because `train()` sets its own."""
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_bytes / total_bytes) if cap_bytes else 1.0, device)


def run_rounds(task: Task, names: list[str], rounds: int) -> tuple[dict[str, Timing | str], float]:
    """Time every contender in each round; return timings or, for those that failed, why, and the matmul peak."""
    results: dict[str, Timing | str] = {}
    peaks = []
    dense_options: dict[str, str] = {}
    timers: dict[str, Callable[[], Timing]] = {
        "ours": lambda: time_ours(task),
        "merged": lambda: time_ours(task, merged=True),
        "plain": lambda: time_reference(task, PlainTrainer),
        "transformers": lambda: time_transformers(task),
        "dense": lambda: time_reference(task, DenseTrainer, **dense_options),
        "seed": lambda: time_seed(task),
    }
    for number in range(rounds):
        free_memory(task.device, 0)
        peaks.append(matmul_flops(task.device, DTYPES[task.dtype]))
        first = number % len(names)
        for name in names[first:] + names[:first]:
            before = results.get(name)
            if isinstance(before, str):
                continue
            free_memory(task.device, task.config.system.memory_bytes)
            try:
                timing = timers[name]()
            except Exception as error:  # noqa: BLE001 (whatever a contender dies of is its result)
                results[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                continue
            print(f"round {number + 1}, {name}: {timing.tokens_per_s:,.0f} tokens/s {timing.note}", flush=True)
            if name == "dense":
                dense_options["variant"] = timing.note
            if before is not None:
                timing.speeds = before.speeds + timing.speeds
                timing.warm_s, timing.peak_bytes = before.warm_s, max(before.peak_bytes, timing.peak_bytes)
            results[name] = timing
    return results, max(peaks)


def table(task: Task, results: Mapping[str, Timing | str], peak_flops: float) -> list[str]:
    """Return the Markdown rows of one expert count."""
    speeds = {name: result.tokens_per_s for name, result in results.items() if isinstance(result, Timing)}
    rows = []
    for name in (name for name in CONTENDERS if name in results):
        result, experts = results[name], task.config.model.num_experts
        if isinstance(result, str):
            rows.append(f"| {experts} | {name} | failed: {result.replace('|', '/')} | | | | | | | | |")
            continue
        speed = speeds[name]
        ratios = [f"{speed / speeds[other]:.2f}" if other in speeds else "" for other in CONTENDERS[2:]]
        warm_tokens = task.window * task.micro_step_tokens
        cells = [str(experts), name + (f" ({result.note})" if result.note else ""), result.dtype]
        cells += [f"{speed:,.0f} ({min(result.speeds):,.0f}-{max(result.speeds):,.0f})", *ratios]
        cells += [f"{result.peak_bytes / 2**30:.2f} GiB", f"{speed * result.flops_per_token / peak_flops:.1%}"]
        rows.append(f"| {' | '.join([*cells, f'{max(0.0, result.warm_s - warm_tokens / speed):.1f} s'])} |")
    return rows


def machine(device: torch.device) -> str:
    """Return card, power limit and driver, or the CPU, and versions."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    if device.type == "cpu":
        return f"{cpu_name()}, {torch.get_num_threads()} threads, {versions}"
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = ["nvidia-smi", "-i", uuid, "--query-gpu=name,power.limit,driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError):
        told = subprocess.run(query, capture_output=True, text=True, check=False)
        if told.returncode == 0:
            name, power, driver = told.stdout.strip().split(", ")
            return f"{name} ({power} limit, driver {driver}), {versions}"
    return f"{torch.cuda.get_device_name(device)} (power limit and driver unknown), {versions}"


def make_task(args: SimpleNamespace, num_experts: int, device: torch.device, folder: Path) -> Task:
    """Write the tokens that every contender trains on, and the configuration they share."""
    on_cuda, t4 = device.type == "cuda", args.emulate == "t4"
    window = math.ceil(args.micro_steps / WINDOWS / args.accumulation) * args.accumulation
    model: dict[str, Any] = {"num_experts": num_experts} | ({} if on_cuda else CPU_SHAPE)
    model |= {"d_ff": args.d_ff} if args.d_ff else {}
    vocab_size, micro_batch_size = 50_304 if on_cuda or args.data else 2048, 24 if on_cuda else 8
    data = {"source": "tokens", "path": str(folder / "train.bin"), "val_path": str(folder / "val.bin")}
    config = TrainConfig.model_validate(
        {
            "model": model,
            "optim": {"grad_accum_steps": args.accumulation},
            "data": data | {"vocab_size": vocab_size, "num_evals": WINDOWS + 1, "cache_dir": str(folder)},
            "system": {"device": device.type, "dtype": args.dtype, "micro_batch_size": micro_batch_size}
            | ({"memory_bytes": T4_BYTES, "flash_attention": False} if t4 else {}),
        }
    )
    micro_step_tokens = config.batch_tokens // config.optim.grad_accum_steps
    num_tokens = window * (WINDOWS + 1) * micro_step_tokens + 1
    val_tokens = micro_step_tokens  # evaluations are not timed, so they are short
    if args.data:
        train_ids, val_ids = (np.memmap(path, np.uint16, mode="r") for path in args.data)
        if len(train_ids) < num_tokens:
            raise SystemExit(
                f"{args.data[0]} has {len(train_ids)} tokens; {num_tokens} are needed, or fewer --micro-steps"
            )
    else:
        # Zipf's law: a rank's share falls as 1 / rank, so that the rows of the embedding are met as in text.
        weights = 1.0 / np.arange(1, vocab_size + 1)
        drawn = np.random.default_rng(0).choice(vocab_size, num_tokens + val_tokens + 1, p=weights / weights.sum())
        train_ids, val_ids = np.split(drawn.astype(np.uint16), [num_tokens])
    train_ids[:num_tokens].tofile(folder / "train.bin")
    val_ids[: val_tokens + 1].tofile(folder / "val.bin")
    config = config.model_copy(update={"data": config.data.model_copy(update={"eval_tokens": val_tokens})})
    ids = np.fromfile(folder / "train.bin", np.uint16)
    return Task(config, ids, device, args.dtype, window, args.seed_repo)


def parse() -> SimpleNamespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    parser.add_argument("--seed-repo", type=Path, help="a clone of the seed's repository; without it: no seed")
    parser.add_argument("--data", type=Path, nargs=2, metavar=("TRAIN.bin", "VAL.bin"), help="uint16 token ids")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto")
    parser.add_argument("--emulate", choices=["t4"], help="15 GiB, fp16, no flash attention")
    parser.add_argument("--as-on", type=int, metavar="86", help="kernels as on another compute capability")
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--d-ff", type=int, help="width of one expert (default: the trainer's)")
    parser.add_argument("--micro-steps", type=int, default=64, help="timed in each round, per contender")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    args = SimpleNamespace(**vars(parser.parse_args()))
    args.names = [name for name in args.only.split(",") if name != "seed" or args.seed_repo]
    if unknown := set(args.names) - set(CONTENDERS):
        parser.error(f"--only: {', '.join(sorted(unknown))} unknown; choose from {', '.join(CONTENDERS)}")
    return args


def main() -> None:
    """Entry point."""
    args = parse()
    if args.as_on:
        from other_card import pretend

        pretend(args.as_on)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if args.emulate == "t4":
        if device.type == "cpu":
            raise SystemExit("--emulate t4 needs a CUDA device")
        args.dtype = "fp16"
        torch.backends.cuda.enable_flash_sdp(False)  # for the references and the seed
        torch.backends.cuda.enable_cudnn_sdp(False)
    elif args.dtype == "auto":
        modern = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        args.dtype = "bf16" if modern else ("fp16" if device.type == "cuda" else "fp32")
    rows, peaks = [], []
    for num_experts in args.experts:
        with tempfile.TemporaryDirectory() as folder:
            task = make_task(args, num_experts, device, Path(folder))
            results, peak_flops = run_rounds(task, args.names, args.rounds)
        rows += table(task, results, peak_flops)
        peaks.append(peak_flops)
    shape = task.config.model
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]  # folders say nothing to others
    command = shlex.join(["python", "tests/benchmarks/bench_training.py", *words])
    beside = " | ".join(f"/ {name}" for name in CONTENDERS[2:])
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: training beside other trainers and a dense bound",
        "",
        f"{machine(device)}; `{command}`. {shape.num_layers} layers, {shape.d_model} wide, experts {shape.d_ff} wide, "
        f"top {shape.top_k}, {task.config.system.micro_batch_size} x {shape.seq_len} tokens per micro-step, "
        f"{task.config.optim.grad_accum_steps} per optimizer step, vocabulary {task.config.data.vocab_size:,}. "
        "MFU: 6 FLOPs per active weight and those of causal attention over this run's own "
        f"{args.dtype} matrix product, {' and '.join(f'{peak / 1e12:.3g}' for peak in peaks)} TFLOP/s.",
        f"Median and range of {args.rounds} rounds x {WINDOWS} windows of {task.window} micro-steps; each round warms "
        "up for one more window and begins with the next contender. The seed's experts have two matrices, not three.",
        "",
        f"| experts | trainer | dtype | tokens/s | {beside} | peak memory | MFU | set-up |",
        "|---" * (7 + len(CONTENDERS[2:])) + "|",
        *rows,
    ]
    publish(lines, append=args.append)


if __name__ == "__main__":
    main()
