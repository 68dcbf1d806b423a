"""The one trainer, for trials and for the full run: config and budget in, points of the loss curve out."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model import checkpoint, distributed, learner_cache
from model.config import TrainConfig
from model.config import length_rules as length_rules  # part of the trainer's interface
from model.config import setting_roles as setting_roles  # part of the trainer's interface
from model.config import untrained_settings as untrained_settings  # part of the trainer's interface
from model.counts import counts as counts  # part of the trainer's interface
from model.data.batches import Batches
from model.data.corpus import Corpus, load
from model.distributed import Ranks
from model.evaluate import evaluate
from model.inference import card
from model.inference.evaluate_text import evaluate_weights as evaluate_weights  # part of the trainer's interface
from model.inference.export import export
from model.inference.generate import generate_text as generate_text  # part of the trainer's interface
from model.inference.generate import sample_text
from model.learner import stream_seed
from model.loss import chunk_rows
from model.ops import cpu
from model.ops.precision import choose_device, choose_dtype
from model.schedule import Schedule
from model.transformer import flops_per_token, num_params

Report = Callable[[Mapping[str, float]], bool | int]


def train(config: TrainConfig, budget_tokens: int, report: Report) -> dict[str, object]:
    """Train one model on `budget_tokens`, reporting its loss at `num_evals` evenly spaced numbers of tokens.

    With `config.output.dir` set, checkpoints are kept there and a call with the same config and budget goes
    on from the newest one: points reported before are reported again first, so that the caller sees the whole
    curve.

    Args:
        config: The whole configuration.
        budget_tokens: Training tokens, at least 1; the schedule ends exactly there.
        report: Called with each point (plain floats). False stops the training; a number of tokens, more than those of
            the point and less than the budget, asks that the run end there, its schedule brought down to the floor.

    Returns:
        Facts about the run, all JSON values.

    Raises:
        CorpusError: The data cannot be used.
        ValueError: The budget is below 1 or the device is not there.
    """
    if budget_tokens < 1:
        raise ValueError(f"budget_tokens = {budget_tokens}; give at least 1")
    with distributed.joined(config.system) as ranks:
        return _train(config, budget_tokens, report, ranks)


def _train(config: TrainConfig, budget_tokens: int, report: Report, ranks: Ranks) -> dict[str, object]:
    device = choose_device(config.system)
    if device.type == "cuda":
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        cap_frac = min(1.0, config.system.memory_bytes / total_bytes) if config.system.memory_bytes else 1.0
        torch.cuda.set_per_process_memory_fraction(cap_frac, device)
        torch.cuda.reset_peak_memory_stats(device)
    with cpu.fast_products(device), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            return _Run(config, budget_tokens, load(config.data), device, ranks).run(report)
        except torch.OutOfMemoryError:
            learner_cache.clear()
            raise


class _Run:
    """One training run: its learner and data, its place in the budget, its clocks and its points."""

    def __init__(
        self, config: TrainConfig, budget_tokens: int, corpus: Corpus, device: torch.device, ranks: Ranks
    ) -> None:
        self.started_s = self.clock_s = self.saved_s = time.perf_counter()
        self.asked, self.ranks, config = config, ranks, distributed.shared(config, ranks)
        self.config, self.budget_tokens, self.corpus, self.device = config, budget_tokens, corpus, device
        seq_len = config.model.seq_len
        self.eval_starts, notice = corpus.eval_starts(config.data.eval_tokens, seq_len)
        self.notices = [*corpus.notices, *([notice] if notice else [])]
        self.bytes_per_token = corpus.bytes_per_token(self.eval_starts, seq_len)
        order_seed = stream_seed(config.seed, "order")
        self.batches = Batches(corpus.train_ids, seq_len, order_seed, device, config.data.train_tokens)
        self.dtype = choose_dtype(config.system, device)
        self.learner = learner_cache.learner_for(config, corpus.vocab_size, device, self.dtype)
        self.schedule = Schedule(config.optim, budget_tokens, budget_tokens)
        num_evals = config.data.num_evals
        grid = {budget_tokens * i // num_evals for i in range(1, num_evals + 1)}
        self.grid_tokens = sorted(grid - {0})
        self.sequences = self.optimizer_steps = self.interval_sequences = self.saved_tokens = 0
        self.points: list[dict[str, float]] = []
        self.lr_factor = self.interval_s = self.earlier_s = 0.0
        self._seed_dropout()

    def _seed_dropout(self) -> None:
        """Give each further process its own stream."""
        if self.ranks.rank:
            torch.manual_seed(stream_seed(self.config.seed, "dropout") + self.ranks.rank + self.sequences)

    @property
    def num_sequences(self) -> int:
        """Sequences of the whole run."""
        return math.ceil(self.schedule.end_tokens / self.config.model.seq_len)

    @property
    def tokens_seen(self) -> int:
        """Training tokens so far, at most those of the whole run."""
        return min(self.sequences * self.config.model.seq_len, self.schedule.end_tokens)

    def _told(self, report: Report, point: Mapping[str, float]) -> int:
        """Report a point and return the answer, in all processes the one that the first is given."""
        return self.ranks.first_says(int(report(dict(point))) if self.ranks.rank == 0 else 0, self.device)

    def _goes_on(self, answer: int) -> bool:
        """Take the answer to the last point: go on, stop, or end at so many tokens."""
        # True and False are 1 and 0 here: no run ends at its first token.
        if answer > 1 and self.sequences < self.num_sequences:
            # A point is named by the grid, and the pass nearest to it may have gone further than what is asked for.
            done_tokens = max(self.tokens_seen, int(self.points[-1]["tokens_seen"]))
            self.schedule = self.schedule.ending_at(max(answer, done_tokens + 1), self.tokens_seen)
        return answer > 0

    def run(self, report: Report) -> dict[str, object]:
        """Train to the end of the budget, or until `report` says stop."""
        if self.config.output.dir:
            self._resume()
        answer = 1
        for point in self.points:  # what was answered to all but the last is part of the checkpoint's schedule
            answer = self._told(report, point)
            if not answer:
                break
        if not self._goes_on(answer):
            return self._facts(stopped=True)
        self.clock_s = time.perf_counter()
        while self.sequences < self.num_sequences:
            self._train_pass()
            going_on = self._report_due_points(report)
            if not going_on:
                self._bring_together()  # of a batch in its midst, so that the first process can keep it
            if self.config.output.dir and self.ranks.rank == 0 and (not going_on or self._checkpoint_due()):
                self._save()
            if not going_on:
                return self._facts(stopped=True)
        facts = self._facts(stopped=False)
        return facts | (self._write_outputs(facts) if self.ranks.rank == 0 else {})

    def _train_pass(self) -> None:
        """Accumulate one pass, and update the weights when the batch is complete or the budget ends."""
        count = min(self.config.pass_sequences, self.num_sequences - self.sequences)
        if self.sequences // self.config.pass_sequences % self.ranks.count == self.ranks.rank:
            self.learner.accumulate(*self.batches.batch(self.sequences, count))
        else:
            self.learner.leave_out(count)
        self.sequences += count
        self.interval_sequences += count
        if self.sequences % self.config.batch_sequences and self.sequences < self.num_sequences:
            return
        self.lr_factor = self.schedule.factor(self.tokens_seen)
        self._bring_together()
        self.learner.update(self.lr_factor)
        self.optimizer_steps += 1

    def _bring_together(self) -> None:
        """Sum what each process has accumulated: gradients in all of them, meters in the first, which keeps them."""
        self.ranks.sum_(group.grad for group in self.learner.weights.groups.values())
        self.ranks.sum_(self.learner.meters.values())
        if self.ranks.rank:
            self.learner.clear_meters()

    def _report_due_points(self, report: Report) -> bool:
        """Evaluate once if grid points were reached, and report each under its nominal number of tokens."""
        # At the end of the pass nearest to a grid point: of passes of any size, none is ahead on average. Several
        # processes, whose passes are parts of one process's, evaluate where that one would.
        pass_sequences = self.asked.pass_sequences
        reached = self.tokens_seen + pass_sequences * self.config.model.seq_len / 2
        end = self.schedule.end_tokens
        if self.sequences < self.num_sequences:
            reached = min(reached, end - 1) if self.sequences % pass_sequences == 0 else 0
        grid = [*(tokens for tokens in self.grid_tokens if tokens < end), end]
        due = [tokens for tokens in grid[len(self.points) :] if tokens <= reached]
        if not due:
            return True
        self._stop_clock()
        metrics = self._metrics()
        going_on = True
        for tokens in due:
            if tokens > self.schedule.end_tokens:
                break  # the answer to the one before has moved the end
            self.points.append({"tokens_seen": float(tokens)} | metrics)
            going_on = self._goes_on(self._told(report, self.points[-1])) and going_on
        self.learner.clear_meters()
        self.interval_sequences, self.interval_s = 0, 0.0
        self.clock_s = time.perf_counter()
        return going_on

    def _metrics(self) -> dict[str, float]:
        before_s = time.perf_counter()
        learner, seq_len = self.learner, self.config.model.seq_len
        at_a_time = self.config.pass_sequences
        learner.model.eval()
        result = evaluate(learner.score, self.corpus.val_ids, self.eval_starts, seq_len, at_a_time, self.device)
        learner.model.train()
        self.ranks.sum_(learner.meters.values())
        now_s = time.perf_counter()
        passes = self.interval_sequences / self.config.pass_sequences
        load_LE = learner.meters["load_LE"]
        metrics = {
            "val_loss": result.val_loss,
            "val_accuracy": result.val_accuracy,
            "train_loss": learner.meters["loss"].item() / passes,
            "muon_lr": self.config.optim.muon_lr * self.lr_factor,
            "grad_norm": learner.grad_norm.item(),
            "aux_loss": learner.meters["aux_loss"].item() / passes,
            "load_imbalance": (load_LE.amax(1) / load_LE.mean(1)).mean().item(),
            "tokens_per_s": self.interval_sequences * seq_len / self.interval_s,
            "eval_s": now_s - before_s,
            "elapsed_s": now_s - self.started_s + self.earlier_s,
            "skipped_steps": learner.loss_scale.skipped_steps.item(),
            "peak_memory_bytes": float(learner.peak_bytes),
        }
        if self.bytes_per_token:
            metrics["val_bpb"] = result.bits_per_byte(self.bytes_per_token)
        return metrics

    def _stop_clock(self) -> None:
        """Add the training time so far to the interval, once the device has caught up."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.interval_s += time.perf_counter() - self.clock_s

    def _checkpoint_due(self) -> bool:
        output = self.config.output
        by_tokens = output.checkpoint_every_tokens
        tokens_due = bool(by_tokens) and self.tokens_seen // by_tokens > self.saved_tokens // by_tokens
        time_due = time.perf_counter() - self.saved_s >= output.checkpoint_every_s
        # Several processes keep what is accumulated each by itself: they wait for the batch's end.
        is_whole = self.ranks.count == 1 or self.sequences % self.config.batch_sequences == 0
        return is_whole and self.sequences < self.num_sequences and (tokens_due or time_due)

    def _identity(self) -> str:
        """Return a name for what makes two runs the same run; outputs, caches and caps do not count."""
        fields = self.asked.model_dump(mode="json", exclude={"output": True, "data": {"cache_dir"}})
        fields["system"] |= {"memory_bytes": 0, "device": self.device.type, "dtype": str(self.dtype)}
        text = json.dumps([fields, self.budget_tokens, self.corpus.data_hash], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _checkpoint_dir(self) -> Path:
        return Path(self.config.output.dir) / "checkpoints"

    def _save(self) -> None:
        self._stop_clock()
        parts = self.learner.state_tensors()
        tensors = {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}
        state: dict[str, Any] = {
            "sequences": self.sequences,
            "optimizer_steps": self.optimizer_steps,
            "points": self.points,
            "lr_factor": self.lr_factor,
            "schedule": [self.schedule.end_tokens, self.schedule.down_from, self.schedule.down_factor],
            "pending": self.learner.pending,
            "pass_sequences": self.config.pass_sequences,
            "interval_s": self.interval_s,
            "interval_sequences": self.interval_sequences,
            "elapsed_s": time.perf_counter() - self.started_s + self.earlier_s,
            # Read by whoever uses the weights of this moment; the run itself knows them.
            "config": self.config.model_dump(mode="json"),
            "budget_tokens": self.budget_tokens,
            "data_hash": self.corpus.data_hash,
            "device": self.device.type,
        }
        keep = self.config.output.keep_checkpoints
        checkpoint.save(self._checkpoint_dir(), self._identity(), self.sequences, tensors, state, keep)
        self.saved_tokens = self.tokens_seen
        self.saved_s = self.clock_s = time.perf_counter()

    def _resume(self) -> None:
        found, notices = checkpoint.load_newest(self._checkpoint_dir(), self._identity())
        for notice in notices:
            print(f"note: {notice}", flush=True)
        self.notices += notices
        if found is None:
            return
        parts: dict[str, dict[str, Tensor]] = {}
        for path, tensor in found.tensors.items():
            part, name = path.split("/", 1)
            parts.setdefault(part, {})[name] = tensor
        state = found.state
        self.learner.load_state_tensors({**parts}, state["pending"])
        self._take_over_sums(state.get("pass_sequences", self.config.pass_sequences))
        self.sequences, self.optimizer_steps = state["sequences"], state["optimizer_steps"]
        self.points, self.lr_factor = state["points"], state["lr_factor"]
        if "schedule" in state:
            self.schedule = Schedule(self.config.optim, self.budget_tokens, *state["schedule"])
        self.interval_s, self.interval_sequences = state["interval_s"], state["interval_sequences"]
        self.earlier_s, self.saved_tokens = state["elapsed_s"], self.tokens_seen
        self._seed_dropout()

    def _take_over_sums(self, pass_sequences: int) -> None:
        """Count what was summed over passes of another size in passes of this run's, once among all processes."""
        learner, ratio = self.learner, pass_sequences / self.config.pass_sequences
        learner.pending *= ratio
        if self.ranks.rank:
            learner.weights.clear_gradients()
            learner.clear_meters()
        gradients = [group.grad for group in learner.weights.groups.values()]
        for total in (*gradients, learner.meters["loss"], learner.meters["aux_loss"]):  # the load counts tokens
            total.mul_(ratio)

    def _facts(self, stopped: bool) -> dict[str, object]:
        config, corpus, model = self.config, self.corpus, self.learner.model
        total, active = num_params(model)
        epoch_tokens = self.batches.num_windows * config.model.seq_len
        on_cuda = self.device.type == "cuda"
        return {
            "stopped": stopped,
            "end_tokens": self.schedule.end_tokens,
            "data_hash": corpus.data_hash,
            "train_tokens": epoch_tokens if config.data.train_tokens else len(corpus.train_ids),
            "val_tokens": len(self.eval_starts) * config.model.seq_len,
            "epochs": self.sequences * config.model.seq_len / epoch_tokens,
            "num_params": total,
            "num_active_params": active,
            "flops_per_token": flops_per_token(model),
            "tokens_per_step": config.tokens_per_step,
            "optimizer_steps": self.optimizer_steps,
            "micro_steps": math.ceil(self.sequences / config.system.micro_batch_size),
            "pass_sequences": config.pass_sequences,
            "device": torch.cuda.get_device_name(self.device) if on_cuda else "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "vocab_size": corpus.vocab_size,
            "chunk_rows": chunk_rows(corpus.vocab_size, self.device),
            "bytes_per_token": self.bytes_per_token,
            "notices": self.notices,
        }

    def _write_outputs(self, facts: Mapping[str, object]) -> dict[str, object]:
        """Write the export folder with its card, and a sample; return their paths."""
        output, corpus = self.config.output, self.corpus
        if not output.dir:
            return {}
        folder = export(
            Path(output.dir) / "export",
            self.learner.weights.weights,
            self.config.model,
            corpus.vocab_size,
            corpus.eos_id,
            corpus.tokenizer_path,
        )
        card.write(folder, self.asked, self.schedule.end_tokens, facts, self.points[-1])
        paths = {"weights_path": str(folder / "model.safetensors"), "export_path": str(folder)}
        if corpus.tokenizer_path is not None and corpus.eos_id is not None and output.sample_tokens:
            tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
            seed = self.config.seed
            model = self.learner.model
            text = sample_text(model, tokenizer, output.prompt, output.sample_tokens, corpus.eos_id, seed)
            sample = Path(output.dir) / "sample.txt"
            sample.write_text(text + "\n", encoding="utf-8")
            paths["sample_path"] = str(sample)
        return {**paths}
