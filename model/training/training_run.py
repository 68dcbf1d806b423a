"""One training run from its first pass to its last: passes, updates, evaluations, checkpoints and the final facts.

Shape suffixes: L layers, E experts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from model.config import TrainConfig
from model.data.batches import Batches
from model.data.corpus import Corpus
from model.inference.outputs import write_outputs
from model.ops.precision import choose_dtype
from model.schedule import Schedule
from model.training import distributed, learner_cache
from model.training.distributed import Ranks
from model.training.evaluate import evaluate
from model.training.evaluation_grid import EvaluationGrid
from model.training.run_checkpoints import RunCheckpoints, convert_sums, run_identity
from model.training.run_clock import RunClock
from model.training.run_facts import run_facts
from model.training.seeds import stream_seed

Report = Callable[[Mapping[str, float]], bool | int]
_DIVERGENCE_FACTOR = 2.0
"""A loss of this many times the best before it is taken as divergence."""


class TrainingRun:
    """One run: its learner and data, its place in the budget, its clocks and its points.

    Args:
        config: The configuration as the caller gave it.
        budget_tokens: Training tokens, at least 1.
        corpus: What to train on and to evaluate on.
        device: Where to compute.
        ranks: This process among those that train together.
    """

    def __init__(
        self, config: TrainConfig, budget_tokens: int, corpus: Corpus, device: torch.device, ranks: Ranks
    ) -> None:
        self.clock = RunClock(device)

        self.asked = config
        self.config = config = distributed.shared(config, ranks)
        self.budget_tokens = budget_tokens
        self.corpus = corpus
        self.device = device
        self.ranks = ranks
        self.dtype = choose_dtype(config.system, device)
        identity = run_identity(self.asked, budget_tokens, corpus.data_hash, device, self.dtype)
        self.checkpoints = RunCheckpoints(config.output, identity)

        seq_len = config.model.seq_len
        self.eval_starts, notice = corpus.eval_starts(config.data.eval_tokens, seq_len)
        self.notices = list(corpus.notices)
        if notice:
            self.notices.append(notice)
        self.bytes_per_token = corpus.bytes_per_token(self.eval_starts, seq_len)

        order_seed = stream_seed(config.seed, "order")
        self.batches = Batches(corpus.train_ids, seq_len, order_seed, device, config.data.train_tokens)
        self.epoch_tokens = self.batches.num_windows * seq_len
        steps = math.ceil(budget_tokens / config.batch_tokens)
        decay = config.optim.decay_for(budget_tokens / self.epoch_tokens, steps)
        optim = config.optim.model_copy(update={"weight_decay": decay})
        self.config = config = config.model_copy(update={"optim": optim})

        self.learner = learner_cache.get_or_build(config, corpus.vocab_size, device, self.dtype)
        self.schedule = Schedule(config.optim, budget_tokens, budget_tokens)
        self.grid = EvaluationGrid(budget_tokens, config.data.num_evals, seq_len, self.asked.pass_sequences)

        self.sequences = 0
        self.optimizer_steps = 0
        self.points: list[dict[str, float]] = []
        self.lr_factor = 0.0
        self.interval_sequences = 0  # since the last evaluation
        self._seed_dropout()

    def _seed_dropout(self) -> None:
        """Give each process but the first its own stream of dropout."""
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

    def run(self, report: Report) -> dict[str, object]:
        """Train to the end of the budget, or until `report` says stop.

        Args:
            report: As `model.train.train` takes it.

        Returns:
            Facts about the run and, in the first process, the paths of what it wrote.
        """
        if self.checkpoints.enabled:
            self._resume()
        if not self._report_again(report):
            return self._facts(stopped=True)

        self.clock.go()
        while self.sequences < self.num_sequences:
            self._train_pass()
            going_on = self._report_due_points(report)
            if not going_on:
                self._sum_over_processes()  # a batch may be half done; its sums go into the first one's checkpoint

            if self._should_save(stopping=not going_on):
                self._save()
            if not going_on:
                return self._facts(stopped=True)

        facts = self._facts(stopped=False)
        if self.ranks.rank:
            return facts
        paths = write_outputs(self.asked, self.learner, self.corpus, self.schedule.end_tokens, facts, self.points[-1])
        return facts | paths

    # --- reports and their answers ---

    def _answer_to(self, report: Report, point: Mapping[str, float]) -> int:
        """Report a point in the first process, and return its answer in all of them."""
        answer = 0
        if self.ranks.rank == 0:
            answer = int(report(dict(point)))
        return self.ranks.first_says(answer, self.device)

    def _report_again(self, report: Report) -> bool:
        """Report the points of a checkpoint again and tell whether the run goes on."""
        answer = 1
        for point in self.points:
            answer = self._answer_to(report, point)
            if not answer:
                break

        # Only the last answer counts: the effect of the earlier ones is part of the checkpoint's schedule.
        return self._obey(answer)

    def _obey(self, answer: int) -> bool:
        """Shorten the schedule if the answer to the last point asks for it; tell whether the run goes on."""
        # True and False are 1 and 0 here: no run ends at its first token.
        if answer > 1 and self.sequences < self.num_sequences:
            # A point is named by the grid, and the pass nearest to it may have gone further than what is asked for.
            done_tokens = max(self.tokens_seen, int(self.points[-1]["tokens_seen"]))
            self.schedule = self.schedule.ending_at(max(answer, done_tokens + 1), self.tokens_seen)
        return answer > 0

    def _report_due_points(self, report: Report) -> bool:
        """Evaluate once if grid points were reached, report each under its nominal number of tokens.

        Returns:
            Whether the run goes on.
        """
        due = self.grid.due(self.sequences, self.schedule.end_tokens, len(self.points))
        if not due:
            return True

        self.clock.stop()
        metrics = self._metrics()

        going_on = True
        for tokens in due:
            if tokens > self.schedule.end_tokens:
                break  # the answer to the point before has moved the end
            self.points.append({"tokens_seen": float(tokens)} | metrics)
            going_on = self._obey(self._answer_to(report, self.points[-1])) and going_on
            self._require_no_divergence()

        self.learner.clear_meters()
        self.interval_sequences = 0
        self.clock.begin_interval()
        return going_on

    def _require_no_divergence(self) -> None:
        """End a run whose loss has risen far above its best: noise between evaluations is a few percent.

        Raises:
            FloatingPointError: With both losses.
        """
        *before, last = (point["val_loss"] for point in self.points)
        best = min(before, default=math.inf)
        if last > _DIVERGENCE_FACTOR * best:
            raise FloatingPointError(
                f"the loss rose to {last:.4g} at {self.points[-1]['tokens_seen']:,.0f} tokens after {best:.4g}; its "
                "learning rates are too high"
            )

    # --- training ---

    def _train_pass(self) -> None:
        """Accumulate one pass, and update the weights when the batch is complete or the budget ends."""
        count = min(self.config.pass_sequences, self.num_sequences - self.sequences)
        pass_number = self.sequences // self.config.pass_sequences
        if pass_number % self.ranks.count == self.ranks.rank:
            self.learner.accumulate(*self.batches.batch(self.sequences, count))
        else:
            self.learner.leave_out(count)

        self.sequences += count
        self.interval_sequences += count
        batch_is_complete = self.sequences % self.config.batch_sequences == 0
        if not batch_is_complete and self.sequences < self.num_sequences:
            return

        self.lr_factor = self.schedule.factor(self.tokens_seen)
        self._sum_over_processes()
        self.learner.update(self.lr_factor)
        self.optimizer_steps += 1

    def _sum_over_processes(self) -> None:
        """Sum what each process has accumulated: gradients in all of them, meters in the first, which keeps them."""
        self.ranks.sum_(group.grad for group in self.learner.weights.groups.values())
        self.ranks.sum_(self.learner.meters.values())
        if self.ranks.rank:
            self.learner.clear_meters()

    # --- measuring ---

    def _metrics(self) -> dict[str, float]:
        """Evaluate, and return a point's numbers under the names that the engine stores."""
        before_s = self.clock.elapsed_s
        learner = self.learner
        config = self.config
        seq_len = config.model.seq_len

        learner.model.eval()
        result = evaluate(
            learner.score, self.corpus.val_ids, self.eval_starts, seq_len, config.pass_sequences, self.device
        )
        learner.model.train()
        self.ranks.sum_(learner.meters.values())

        elapsed_s = self.clock.elapsed_s
        passes = self.interval_sequences / config.pass_sequences
        load_LE = learner.meters["load_LE"]
        metrics = {
            "val_loss": result.val_loss,
            "val_accuracy": result.val_accuracy,
            "train_loss": learner.meters["loss"].item() / passes,
            "muon_lr": config.optim.muon_lr * self.lr_factor,
            "grad_norm": learner.grad_norm.item(),
            "aux_loss": learner.meters["aux_loss"].item() / passes,
            "load_imbalance": (load_LE.amax(1) / load_LE.mean(1)).mean().item(),
            "tokens_per_s": self.interval_sequences * seq_len / self.clock.interval_s,
            "eval_s": elapsed_s - before_s,
            "elapsed_s": elapsed_s,
            "skipped_steps": learner.loss_scale.skipped_steps.item(),
            "peak_memory_bytes": float(learner.peak_bytes),
        }
        if self.bytes_per_token:
            metrics["val_bpb"] = result.bits_per_byte(self.bytes_per_token)
        return metrics

    def _facts(self, stopped: bool) -> dict[str, object]:
        """Return what is known of the run at its end, under the names that the engine stores."""
        config = self.config
        seq_len = config.model.seq_len
        progress = {
            "stopped": stopped,
            "end_tokens": self.schedule.end_tokens,
            "train_tokens": self.epoch_tokens if config.data.train_tokens else len(self.corpus.train_ids),
            "val_tokens": len(self.eval_starts) * seq_len,
            "epochs": self.sequences * seq_len / self.epoch_tokens,
            "weight_decay": config.optim.weight_decay,
            "optimizer_steps": self.optimizer_steps,
            "micro_steps": math.ceil(self.sequences / config.system.micro_batch_size),
            "bytes_per_token": self.bytes_per_token,
            "notices": self.notices,
        }
        return progress | run_facts(config, self.corpus, self.learner.model, self.device, self.dtype)

    # --- checkpoints ---

    def _should_save(self, stopping: bool) -> bool:
        if not self.checkpoints.enabled or self.ranks.rank:
            return False
        if stopping:
            return True

        # Several processes keep what is accumulated each by itself: they wait for the batch's end.
        sums_are_whole = self.ranks.count == 1 or self.sequences % self.config.batch_sequences == 0
        in_the_middle = self.sequences < self.num_sequences
        return sums_are_whole and in_the_middle and self.checkpoints.due(self.tokens_seen)

    def _save(self) -> None:
        self.clock.stop()
        state: dict[str, Any] = {
            "sequences": self.sequences,
            "optimizer_steps": self.optimizer_steps,
            "points": self.points,
            "lr_factor": self.lr_factor,
            "schedule": [self.schedule.end_tokens, self.schedule.down_from, self.schedule.down_factor],
            "pass_sequences": self.config.pass_sequences,
            "interval_s": self.clock.interval_s,
            "interval_sequences": self.interval_sequences,
            "elapsed_s": self.clock.elapsed_s,
            # For readers of the weights; the run itself does not need them.
            "config": self.config.model_dump(mode="json"),
            "budget_tokens": self.budget_tokens,
            "data_hash": self.corpus.data_hash,
            "device": self.device.type,
        }
        self.checkpoints.save(self.learner, self.sequences, self.tokens_seen, state)
        self.clock.go()

    def _resume(self) -> None:
        state, notices = self.checkpoints.load_newest(self.learner)
        for notice in notices:
            print(f"note: {notice}", flush=True)
        self.notices += notices
        if state is None:
            return

        # Checkpoints of earlier versions have neither "pass_sequences" nor "schedule".
        pass_sequences = state.get("pass_sequences", self.config.pass_sequences)
        convert_sums(self.learner, pass_sequences / self.config.pass_sequences, keep=self.ranks.rank == 0)
        if "schedule" in state:
            self.schedule = Schedule(self.config.optim, self.budget_tokens, *state["schedule"])
        self.sequences = state["sequences"]
        self.optimizer_steps = state["optimizer_steps"]
        self.points = state["points"]
        self.lr_factor = state["lr_factor"]
        self.interval_sequences = state["interval_sequences"]
        self.clock.resume(state["interval_s"], state["elapsed_s"])
        self.checkpoints.resumed_at(self.tokens_seen)
        self._seed_dropout()
