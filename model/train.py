"""The one trainer, for short trials and for the full run: config and budget in, points of the loss curve out."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model import checkpoint
from model.batches import Batches
from model.config import TrainConfig
from model.corpus import Corpus, load
from model.evaluate import Evaluation, evaluate
from model.export import export
from model.generate import sample_text
from model.loss import cross_entropy
from model.optim import MuonAdamW
from model.precision import LossScale, MasterWeights, choose_device, choose_dtype
from model.schedule import lr_factor
from model.transformer import Transformer, flops_per_token, num_params

Report = Callable[[Mapping[str, float]], bool]


def train(config: TrainConfig, budget_tokens: int, report: Report) -> dict[str, object]:
    """Train one model on `budget_tokens` and report its loss at `num_evals` evenly spaced numbers of tokens.

    With `config.output.dir` set, checkpoints are kept there and a call with the same config and budget goes on from
    the newest one: points reported before are reported again first, so that the caller sees the whole curve.

    Args:
        config: The whole configuration.
        budget_tokens: Training tokens, at least 1; the schedule ends exactly there.
        report: Called with each point (plain floats); training stops when it returns False.

    Returns:
        Facts about the run, all JSON values.

    Raises:
        CorpusError: The data cannot be used.
        ValueError: The budget is below 1 or the device is not there.
    """
    if budget_tokens < 1:
        raise ValueError(f"budget_tokens = {budget_tokens}; give at least 1")
    device = choose_device(config.system)
    if device.type == "cuda":
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        cap_frac = min(1.0, config.system.memory_bytes / total_bytes) if config.system.memory_bytes else 1.0
        torch.cuda.set_per_process_memory_fraction(cap_frac, device)
        torch.cuda.reset_peak_memory_stats(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return _Run(config, budget_tokens, load(config.data), device).run(report)


class _Run:
    """One training run: its parts, its place in the budget, and what has been measured since the last point."""

    def __init__(self, config: TrainConfig, budget_tokens: int, corpus: Corpus, device: torch.device) -> None:
        self.started_s = time.perf_counter()
        self.config, self.budget_tokens, self.corpus, self.device = config, budget_tokens, corpus, device
        self.dtype = choose_dtype(config.system, device)
        self.eval_ids, notice = corpus.eval_ids(config.data.eval_tokens, config.model.seq_len)
        self.notices = [*corpus.notices, *([notice] if notice else [])]
        self.bytes_per_token = corpus.bytes_per_token(self.eval_ids)
        self.batches = Batches(
            corpus.train_ids, config.model.seq_len, config.system.micro_batch_size, _stream_seed(config.seed, "order")
        )
        self.model = self._new_model()
        self.weights = MasterWeights(self.model, self.dtype)
        # Newton-Schulz runs at the speed of half precision where the device has it.
        muon_dtype = self.dtype if device.type == "cuda" else torch.float32
        self.optimizer = MuonAdamW(self.weights.weights.items(), config.optim, muon_dtype)
        self.loss_scale = LossScale(device, dynamic=self.dtype == torch.float16)
        self.num_micro_steps = math.ceil(budget_tokens / config.micro_step_tokens)
        num_evals = config.data.num_evals
        grid = {budget_tokens * i // num_evals for i in range(1, num_evals + 1)} - {0}
        self.grid_tokens = sorted(grid)
        self.micro_step = self.optimizer_steps = 0
        self.points: list[dict[str, float]] = []
        self.muon_lr = self.interval_s = self.earlier_s = 0.0
        self.interval_micro_steps = 0
        self.meters = self._new_meters()
        self.clock_s = self.saved_s = time.perf_counter()
        self.saved_tokens = 0

    def _new_model(self) -> Transformer:
        config = self.config
        with self.device:
            model = Transformer(config.model, self.corpus.vocab_size, config.system.flash_attention)
        model.init_weights(torch.Generator(self.device).manual_seed(_stream_seed(config.seed, "init")))
        torch.manual_seed(_stream_seed(config.seed, "dropout"))
        return model

    def _new_meters(self) -> dict[str, Tensor]:
        """Return sums since the last point; they stay on the device until a point reads them."""
        loads = torch.zeros(self.config.model.num_layers, self.config.model.num_experts, device=self.device)
        names = ("loss", "aux_loss", "grad_norm")
        return {"load_LE": loads} | {name: torch.zeros((), device=self.device) for name in names}

    @property
    def tokens_seen(self) -> int:
        """Training tokens so far, at most the budget."""
        return min(self.micro_step * self.config.micro_step_tokens, self.budget_tokens)

    def run(self, report: Report) -> dict[str, object]:
        """Train to the end of the budget, or until `report` says stop."""
        self._resume()
        if not all(report(dict(point)) for point in self.points):
            return self._facts(stopped=True)
        self.model.train()
        self.clock_s = time.perf_counter()
        while self.micro_step < self.num_micro_steps:
            self._train_micro_step()
            if not self._report_due_points(report):
                self._save()
                return self._facts(stopped=True)
            if self._checkpoint_due():
                self._save()
        return self._facts(stopped=False) | self._write_outputs()

    def _train_micro_step(self) -> None:
        """Run forward and backward on one micro-batch, and the optimizer when its group is complete."""
        tokens_BT, targets_BT = self.batches.batch(self.micro_step, self.device)
        x_BTD, stats = self.model(tokens_BT)
        scale, shape = self.loss_scale.scale, self.config.model
        loss = cross_entropy(x_BTD.flatten(0, 1), self.model.embed_tokens.weight, targets_BT.flatten(), scale)
        objective = loss + shape.aux_loss_coef * stats.aux_loss + shape.z_loss_coef * stats.z_loss
        (objective * scale).backward()
        self.weights.collect()
        self.meters["loss"] += loss.detach()
        self.meters["aux_loss"] += stats.aux_loss.detach() / shape.num_layers
        self.meters["load_LE"] += stats.load_E
        self.interval_micro_steps += 1
        self.micro_step += 1
        accum = self.config.optim.grad_accum_steps
        if self.micro_step % accum == 0 or self.micro_step == self.num_micro_steps:
            self._train_optimizer_step((self.micro_step - 1) % accum + 1)

    def _train_optimizer_step(self, num_accumulated: int) -> None:
        """Average, unscale and clip the gradients and update the weights, all without waiting for the device."""
        optim = self.config.optim
        gradients = self.weights.gradients()
        factor = 1.0 / (self.loss_scale.scale * num_accumulated)
        grad_norm = torch.nn.utils.get_total_norm(gradients) * factor
        if optim.grad_clip:
            factor = factor * (optim.grad_clip / grad_norm).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)
        peak_frac = lr_factor(
            self.tokens_seen, self.budget_tokens, optim.schedule, optim.warmup_frac, optim.decay_frac,
            optim.final_lr_frac,
        )
        self.muon_lr = optim.muon_lr * peak_frac
        finite = self.loss_scale.finite(grad_norm)
        self.optimizer.step(self.muon_lr, optim.adamw_lr * peak_frac, finite)
        self.loss_scale.update(finite)
        self.weights.publish()
        self.weights.clear_gradients()
        self.meters["grad_norm"] = grad_norm
        self.optimizer_steps += 1

    def _report_due_points(self, report: Report) -> bool:
        """Evaluate once if grid points have been reached, and report each under its nominal number of tokens."""
        due = [tokens for tokens in self.grid_tokens[len(self.points) :] if tokens <= self.tokens_seen]
        if not due:
            return True
        self._pause_clock()
        metrics = self._metrics()
        going_on = True
        for tokens in due:
            point = {"tokens_seen": float(tokens)} | metrics
            self.points.append(point)
            going_on = report(dict(point)) and going_on
        self._start_interval()
        return going_on

    def _metrics(self) -> dict[str, float]:
        before_s = time.perf_counter()
        result: Evaluation = evaluate(
            self.model, self.eval_ids, self.config.model.seq_len, self.config.system.micro_batch_size, self.device
        )
        now_s = time.perf_counter()
        count = self.interval_micro_steps
        load_LE = self.meters["load_LE"]
        metrics = {
            "val_loss": result.val_loss,
            "val_accuracy": result.val_accuracy,
            "train_loss": self.meters["loss"].item() / count,
            "muon_lr": self.muon_lr,
            "grad_norm": self.meters["grad_norm"].item(),
            "aux_loss": self.meters["aux_loss"].item() / count,
            "load_imbalance": (load_LE.amax(1) / load_LE.mean(1)).mean().item(),
            "tokens_per_s": count * self.config.micro_step_tokens / self.interval_s,
            "eval_s": now_s - before_s,
            "elapsed_s": now_s - self.started_s + self.earlier_s,
            "skipped_steps": self.loss_scale.skipped_steps.item(),
            "peak_memory_bytes": float(self._memory_bytes()),
        }
        if self.bytes_per_token:
            metrics["val_bpb"] = result.bits_per_byte(self.bytes_per_token)
        return metrics

    def _memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def _pause_clock(self) -> None:
        """Add the training time so far to the interval, once the device has caught up."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.interval_s += time.perf_counter() - self.clock_s

    def _start_interval(self) -> None:
        grad_norm = self.meters["grad_norm"]
        self.meters = self._new_meters() | {"grad_norm": grad_norm}
        self.interval_micro_steps, self.interval_s = 0, 0.0
        self.clock_s = time.perf_counter()

    def _checkpoint_due(self) -> bool:
        output = self.config.output
        by_tokens = output.checkpoint_every_tokens
        tokens_due = bool(by_tokens) and self.tokens_seen // by_tokens > self.saved_tokens // by_tokens
        time_due = time.perf_counter() - self.saved_s >= output.checkpoint_every_s
        return bool(output.dir) and self.micro_step < self.num_micro_steps and (tokens_due or time_due)

    def _identity(self) -> str:
        """Return a name for what makes two runs the same run; outputs, caches and caps do not count."""
        fields = self.config.model_dump(mode="json", exclude={"output": True, "data": {"cache_dir"}})
        fields["system"] |= {"memory_bytes": 0, "device": self.device.type, "dtype": str(self.dtype)}
        text = json.dumps([fields, self.budget_tokens, self.corpus.data_hash], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _state_tensors(self) -> dict[str, Tensor]:
        """Return every tensor that training goes on from, by name (not copies)."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "weight": self.weights.weights,
            "grad": {name: weight.grad for name, weight in self.weights.weights.items() if weight.grad is not None},
            "optimizer": self.optimizer.state_tensors(),
            "loss_scale": self.loss_scale.state_tensors(),
            "meter": self.meters,
            "rng": {"cpu": torch.get_rng_state()},
        }
        if self.device.type == "cuda":
            parts["rng"] = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(self.device)}
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _save(self) -> None:
        if not self.config.output.dir:
            return
        self._pause_clock()
        state: dict[str, Any] = {
            "micro_step": self.micro_step, "optimizer_steps": self.optimizer_steps, "points": self.points,
            "muon_lr": self.muon_lr, "interval_s": self.interval_s, "interval_micro_steps": self.interval_micro_steps,
            "elapsed_s": time.perf_counter() - self.started_s + self.earlier_s,
        }
        checkpoint.save(
            self._checkpoint_dir(), self._identity(), self.micro_step, self._state_tensors(), state,
            self.config.output.keep_checkpoints,
        )
        self.saved_tokens, self.saved_s = self.tokens_seen, time.perf_counter()
        self.clock_s = self.saved_s

    def _checkpoint_dir(self) -> Path:
        return Path(self.config.output.dir) / "checkpoints"

    def _resume(self) -> None:
        if not self.config.output.dir:
            return
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
        self._restore_tensors(parts)
        state = found.state
        self.micro_step, self.optimizer_steps = state["micro_step"], state["optimizer_steps"]
        self.points, self.muon_lr = state["points"], state["muon_lr"]
        self.interval_s, self.interval_micro_steps = state["interval_s"], state["interval_micro_steps"]
        self.earlier_s, self.saved_tokens = state["elapsed_s"], self.tokens_seen

    @torch.no_grad()
    def _restore_tensors(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        gradients = parts.get("grad", {})
        for name, weight in self.weights.weights.items():
            weight.copy_(parts["weight"][name])
            weight.grad = gradients[name].to(self.device) if name in gradients else None
        self.weights.publish()
        self.optimizer.load_state_tensors(parts["optimizer"])
        for name, tensor in self.loss_scale.state_tensors().items():
            tensor.copy_(parts["loss_scale"][name])
        self.meters = {name: tensor.to(self.device) for name, tensor in parts["meter"].items()}
        torch.set_rng_state(parts["rng"]["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["rng"]["cuda"], self.device)

    def _facts(self, stopped: bool) -> dict[str, object]:
        total, active = num_params(self.model)
        seen_tokens = self.micro_step * self.config.micro_step_tokens
        return {
            "stopped": stopped,
            "data_hash": self.corpus.data_hash,
            "train_tokens": len(self.corpus.train_ids),
            "val_tokens": len(self.eval_ids) - 1,
            "epochs": seen_tokens / (self.batches.num_windows * self.config.model.seq_len),
            "num_params": total,
            "num_active_params": active,
            "flops_per_token": flops_per_token(self.model),
            "tokens_per_step": self.config.tokens_per_step,
            "optimizer_steps": self.optimizer_steps,
            "micro_steps": self.micro_step,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "vocab_size": self.corpus.vocab_size,
            "bytes_per_token": self.bytes_per_token,
            "notices": self.notices,
        }

    def _write_outputs(self) -> dict[str, object]:
        """Write the export folder and a sample; return their paths."""
        output, corpus = self.config.output, self.corpus
        if not output.dir:
            return {}
        folder = export(
            Path(output.dir) / "export", self.weights.weights, self.config.model, corpus.vocab_size, corpus.eos_id,
            corpus.tokenizer_path,
        )
        paths: dict[str, object] = {"weights_path": str(folder / "model.safetensors"), "export_path": str(folder)}
        if corpus.tokenizer_path is not None and corpus.eos_id is not None and output.sample_tokens:
            tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
            text = sample_text(
                self.model, tokenizer, output.prompt, output.sample_tokens, corpus.eos_id, self.config.seed
            )
            sample = Path(output.dir) / "sample.txt"
            sample.write_text(text + "\n", encoding="utf-8")
            paths["sample_path"] = str(sample)
        return paths


def _stream_seed(seed: int, stream: str) -> int:
    """Return independent seeds for initialisation, data order and dropout from one seed."""
    number = ("init", "order", "dropout").index(stream)
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))
