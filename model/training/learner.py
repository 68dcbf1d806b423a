"""Model, fp32 weights, optimizers and loss scale together: passes add gradients, updates change weights.

Nothing here waits for the device.

Shape suffixes: B sequences of a pass, T seq_len, N tokens (B x T), D d_model, V vocabulary, L layers, E experts.
"""

from collections.abc import Callable, Mapping

import psutil
import torch
from torch import Tensor

from model.config import TrainConfig
from model.loss import count_losses, loss_and_gradients
from model.ops import graphs
from model.ops.precision import LossScale
from model.optim import MuonAdamW
from model.training.seeds import stream_seed
from model.transformer import Transformer
from model.weights import MasterWeights

_StateTensors = dict[str, Mapping[str, Tensor]]


class Learner:
    """A model and what trains it, on buffers that outlive a run: `start` begins a run of another configuration.

    Sums since the last report (`meters`) stay on the device until someone reads them. Where the device allows it, a
    pass, an update and an evaluation batch are captured once as CUDA graphs and replayed; learning rates, dropout,
    weight decay, router losses and seeds are tensors or state that a graph reads at every replay.

    Args:
        config: The whole configuration.
        vocab_size: Tokens of the tokenizer.
        device: Where to compute.
        dtype: Number format of forward and backward passes.
    """

    def __init__(self, config: TrainConfig, vocab_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        self.device = device
        before_bytes = _allocated_bytes(device)
        with device:
            self.model = Transformer(config.model, vocab_size, config.system.flash_attention)
        self.weights = MasterWeights(self.model, dtype)

        # Newton-Schulz takes half precision where the hardware is fast at it: fp16, whose digits it needs more
        # than bf16's range, since every matrix is normalised first.
        is_half = device.type == "cuda" and dtype != torch.float32
        muon_dtype = torch.float16 if is_half else torch.float32
        self.optimizer = MuonAdamW(self.weights.groups, config.optim, muon_dtype)
        self.loss_scale = LossScale(device, dynamic=dtype == torch.float16)

        self.grad_norm = torch.zeros((), device=device)
        self.grad_clip = torch.zeros((), device=device)
        self.num_accumulated = torch.zeros((), device=device)
        self.pending = 0.0
        self.loss_coefs = {name: torch.zeros((), device=device) for name in ("aux_loss", "z_loss")}
        self.meters = {
            "loss": torch.zeros((), device=device),
            "aux_loss": torch.zeros((), device=device),
            "load_LE": torch.zeros(config.model.num_layers, config.model.num_experts, device=device),
        }
        self._always = torch.ones((), device=device)
        self._static_bytes = _allocated_bytes(device) - before_bytes

        self._accumulate: Callable[[Tensor, Tensor], object] = self._pass
        self._update: Callable[[], object] = self._optimizer_step
        self._score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = self._evaluate
        self._recorded_bytes = 0
        if config.system.cuda_graphs and graphs.can_capture(device, dtype):
            self._recorded_bytes = self._capture()
        self.start(config)

    @staticmethod
    def key(config: TrainConfig, vocab_size: int, device: torch.device, dtype: torch.dtype) -> str:
        """Return a name for what is fixed when a learner is made; configurations of one key can share it by `start`.

        Args:
            config: The whole configuration.
            vocab_size: Tokens of the tokenizer.
            device: Where to compute.
            dtype: Number format of forward and backward passes.
        """
        free_optim = {"muon_lr", "adamw_lr", "muon_momentum", "weight_decay", "grad_clip", "grad_accum_steps"}
        free_optim |= {"schedule", "warmup_frac", "decay_frac", "final_lr_frac"}
        free_model = {"dropout", "aux_loss_coef", "z_loss_coef", "init_std"}
        parts = [
            config.model.model_dump_json(exclude=free_model),
            config.optim.model_dump_json(exclude=free_optim),
            config.system.model_dump_json(exclude={"micro_batch_size", "max_pass_sequences"}),
        ]
        # Whether there is any of these decides which operations are recorded.
        switches = (config.model.dropout > 0, config.optim.decay_for() > 0, config.optim.grad_clip > 0)
        return str((*parts, switches, config.pass_sequences, vocab_size, device, dtype))

    def start(self, config: TrainConfig) -> None:
        """Begin a run: new weights, no state, and this configuration's settings.

        It also seeds torch's global generator, from which dropout draws.

        Args:
            config: One of the same `key`.
        """
        self.config = config
        self.model.config = config.model
        self.model.train()
        self.model.drop.fill_(config.model.dropout)

        generator = torch.Generator(self.device).manual_seed(stream_seed(config.seed, "init"))
        self.model.init_weights(generator, self.weights.weights)
        self.weights.publish()
        self.weights.clear_gradients()

        self.optimizer.configure(config.optim)
        self.loss_scale.reset()
        self.loss_coefs["aux_loss"].fill_(config.model.aux_loss_coef)
        self.loss_coefs["z_loss"].fill_(config.model.z_loss_coef)
        self.grad_clip.fill_(config.optim.grad_clip)

        self.grad_norm.zero_()
        self.pending = 0.0
        self.clear_meters()
        torch.manual_seed(stream_seed(config.seed, "dropout"))

    def clear_meters(self) -> None:
        """Set the sums since the last report to zero."""
        for meter in self.meters.values():
            meter.zero_()

    def accumulate(self, tokens_BT: Tensor, targets_BT: Tensor) -> None:
        """Add one pass's gradients to those accumulated; each sequence counts the same.

        Args:
            tokens_BT: Inputs, integers; at most `pass_sequences` sequences.
            targets_BT: Next tokens, integers.
        """
        share = len(tokens_BT) / self.config.pass_sequences
        self.pending += share

        if share == 1:
            self._accumulate(tokens_BT, targets_BT)
        else:
            # The last pass of a run may be smaller than those that were captured.
            self._pass(tokens_BT, targets_BT, share)

    def leave_out(self, num_sequences: int) -> None:
        """Count a pass of this batch whose gradients another process adds before the update.

        Args:
            num_sequences: Sequences of the pass.
        """
        self.pending += num_sequences / self.config.pass_sequences

    def update(self, lr_factor: float) -> None:
        """Average, unscale and clip the gradients, update the weights and clear the gradients.

        Args:
            lr_factor: Factor on both peak learning rates, 0 to 1.

        Raises:
            ValueError: Nothing was accumulated.
        """
        if not self.pending:
            raise ValueError("nothing was accumulated since the last update; call accumulate first")

        optim = self.config.optim
        scalars = self.optimizer.scalars
        scalars["muon_lr"].fill_(optim.muon_lr * lr_factor)
        scalars["adamw_lr"].fill_(optim.adamw_lr * lr_factor)
        self.num_accumulated.fill_(self.pending)
        self._update()
        self.pending = 0.0

    def score(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy (nats) and the number of right predictions, two fp64 scalars.

        The caller has put the model into `eval` mode.

        Args:
            tokens_BT: Inputs, integers.
            targets_BT: Next tokens, integers.
        """
        if len(tokens_BT) == self.config.pass_sequences:
            return self._score(tokens_BT, targets_BT)
        return self._evaluate(tokens_BT, targets_BT)

    def _pass(self, tokens_BT: Tensor, targets_BT: Tensor, share: float = 1.0) -> None:
        """Run one forward and backward pass, weighted with its share of a whole pass."""
        model = self.model
        scale = self.loss_scale.scale * share
        head_VD = model.embed_tokens.weight
        head_grad_VD = self.weights.grads["embed_tokens.weight"]

        # The tied embedding's two gradients, as table and as head, go straight into its fp32 sum.
        embedded_BTD = torch.nn.functional.embedding(tokens_BT, head_VD.detach()).requires_grad_()
        x_BTD, stats = model.hidden(embedded_BTD)

        x_ND = x_BTD.detach().flatten(0, 1)
        loss, grad_ND = loss_and_gradients(x_ND, head_VD.detach(), targets_BT.flatten(), scale, head_grad_VD)

        coefs = [self.loss_coefs[name] * scale for name in ("aux_loss", "z_loss")]
        torch.autograd.backward((x_BTD, stats.aux_loss, stats.z_loss), (grad_ND.view_as(x_BTD), *coefs))
        graphs.beside.join()

        assert embedded_BTD.grad is not None
        head_grad_VD.index_add_(0, tokens_BT.flatten(), embedded_BTD.grad.flatten(0, 1).float())
        self.weights.collect()

        self.meters["loss"] += loss * share
        self.meters["aux_loss"] += stats.aux_loss.detach() * (share / len(model.layers))
        self.meters["load_LE"] += stats.load_LE

    def _optimizer_step(self) -> None:
        gradients = [group.grad for group in self.weights.groups.values()]
        factor = 1.0 / (self.loss_scale.scale * self.num_accumulated)
        self.grad_norm.copy_(torch.nn.utils.get_total_norm(gradients) * factor)
        if self.config.optim.grad_clip:
            factor = factor * (self.grad_clip / self.grad_norm).clamp(max=1.0)

        finite = self.loss_scale.finite(self.grad_norm)
        keep = self._always if finite is None else finite
        self.optimizer.update(factor, keep)
        self.loss_scale.update(finite)
        self.weights.clear_gradients()

    @torch.no_grad()
    def _evaluate(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        x_BTD, _ = self.model(tokens_BT)
        return count_losses(x_BTD.flatten(0, 1), self.model.embed_tokens.weight, targets_BT.flatten())

    def _capture(self) -> int:
        """Record pass, update and evaluation on random tokens; a later `start` undoes what that does to the weights.

        Returns:
            Bytes at the peak beyond what was allocated before. Replays use memory that the allocator counts only
            while it records.
        """
        shape = (self.config.pass_sequences, self.config.model.seq_len)
        vocabulary = len(self.model.embed_tokens.weight)
        example = torch.randint(vocabulary, shape, dtype=torch.int32, device=self.device)
        self.start(self.config)
        self.num_accumulated.fill_(1.0)

        torch.cuda.reset_peak_memory_stats(self.device)
        before_bytes = torch.cuda.memory_allocated(self.device)
        pool = torch.cuda.graph_pool_handle()  # one is enough, since no two of the graphs run at a time
        self._accumulate = graphs.capture(self._pass, example, example, pool=pool)
        self._update = graphs.capture(self._optimizer_step, pool=pool)

        self.model.eval()
        self._score = graphs.capture(self._evaluate, example, example, pool=pool)
        self.model.train()

        return torch.cuda.max_memory_allocated(self.device) - before_bytes

    @property
    def peak_bytes(self) -> int:
        """Peak memory of this learner; on a CPU, the memory of the process now."""
        if self._recorded_bytes:
            return self._static_bytes + self._recorded_bytes
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def state_tensors(self) -> _StateTensors:
        """Return every tensor that a resumed run needs, in named parts (not copies)."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "weight": self.weights.weights,
            "grad": self.weights.grads if self.pending else {},
            "optimizer": self.optimizer.state_tensors(),
            "loss_scale": self.loss_scale.state_tensors(),
            "meter": self.meters | {"grad_norm": self.grad_norm},
            "rng": rng,
        }

    @torch.no_grad()
    def load_state_tensors(self, parts: _StateTensors, pending: float) -> None:
        """Copy what `state_tensors` returned into this learner.

        Args:
            parts: Tensors of any device.
            pending: Passes that had been accumulated since the last update.
        """
        self.weights.clear_gradients()
        self.pending = pending

        targets = self.state_tensors()
        for part in ("weight", "grad", "loss_scale", "meter"):
            for name, tensor in targets[part].items():
                tensor.copy_(parts[part][name])
        self.weights.publish()

        self.optimizer.load_state_tensors(parts["optimizer"])
        torch.set_rng_state(parts["rng"]["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["rng"]["cuda"], self.device)


def _allocated_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
