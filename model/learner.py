"""Model, fp32 weights, optimizers and loss scale together: gradients in, updated weights out, no waiting.

Shape suffixes: B micro-batch, T seq_len, D d_model, L layers, E experts.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from model.config import TrainConfig
from model.loss import cross_entropy
from model.optim import MuonAdamW
from model.precision import LossScale, MasterWeights
from model.transformer import Transformer

StateTensors = dict[str, Mapping[str, Tensor]]


class Learner:
    """What learns. Its sums since the last report (`meters`) stay on the device until someone reads them.

    Making one seeds torch's global generator, from which dropout draws.

    Args:
        config: The whole configuration.
        vocab_size: Tokens of the tokenizer.
        device: Where to compute.
        dtype: Number format of forward and backward passes.
    """

    def __init__(self, config: TrainConfig, vocab_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device = config, device
        with device:
            self.model = Transformer(config.model, vocab_size, config.system.flash_attention)
        self.model.init_weights(torch.Generator(device).manual_seed(stream_seed(config.seed, "init")))
        torch.manual_seed(stream_seed(config.seed, "dropout"))
        self.weights = MasterWeights(self.model, dtype)
        # Newton-Schulz takes half precision where the hardware is fast at it.
        muon_dtype = dtype if device.type == "cuda" else torch.float32
        self.optimizer = MuonAdamW(self.weights.weights.items(), config.optim, muon_dtype)
        self.loss_scale = LossScale(device, dynamic=dtype == torch.float16)
        self.grad_norm = torch.zeros((), device=device)
        self.meters = self._new_meters()

    def _new_meters(self) -> dict[str, Tensor]:
        shape = self.config.model
        return {
            "loss": torch.zeros((), device=self.device),
            "aux_loss": torch.zeros((), device=self.device),
            "load_LE": torch.zeros(shape.num_layers, shape.num_experts, device=self.device),
        }

    def clear_meters(self) -> None:
        """Start new sums."""
        self.meters = self._new_meters()

    def accumulate(self, tokens_BT: Tensor, targets_BT: Tensor) -> None:
        """Add one micro-batch's gradients to those accumulated.

        Args:
            tokens_BT: Inputs, int64.
            targets_BT: Next tokens, int64.
        """
        x_BTD, stats = self.model(tokens_BT)
        scale, shape = self.loss_scale.scale, self.config.model
        head_VD = self.model.embed_tokens.weight
        loss = cross_entropy(x_BTD.flatten(0, 1), head_VD, targets_BT.flatten(), scale)
        objective = loss + shape.aux_loss_coef * stats.aux_loss + shape.z_loss_coef * stats.z_loss
        (objective * scale).backward()
        self.weights.collect()
        self.meters["loss"] += loss.detach()
        self.meters["aux_loss"] += stats.aux_loss.detach() / shape.num_layers
        self.meters["load_LE"] += stats.load_E

    def update(self, num_accumulated: int, lr_factor: float) -> None:
        """Average, unscale and clip the gradients, update the weights and clear the gradients.

        Args:
            num_accumulated: Micro-batches accumulated since the last update.
            lr_factor: Factor on both peak learning rates, 0 to 1.
        """
        optim = self.config.optim
        gradients = self.weights.gradients()
        factor = 1.0 / (self.loss_scale.scale * num_accumulated)
        self.grad_norm = torch.nn.utils.get_total_norm(gradients) * factor
        if optim.grad_clip:
            factor = factor * (optim.grad_clip / self.grad_norm).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)
        finite = self.loss_scale.finite(self.grad_norm)
        self.optimizer.step(optim.muon_lr * lr_factor, optim.adamw_lr * lr_factor, finite)
        self.loss_scale.update(finite)
        self.weights.publish()
        self.weights.clear_gradients()

    def state_tensors(self) -> StateTensors:
        """Return every tensor that learning goes on from, in named parts (not copies)."""
        weights = self.weights.weights
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "weight": weights,
            "grad": {name: weight.grad for name, weight in weights.items() if weight.grad is not None},
            "optimizer": self.optimizer.state_tensors(),
            "loss_scale": self.loss_scale.state_tensors(),
            "meter": self.meters | {"grad_norm": self.grad_norm},
            "rng": rng,
        }

    @torch.no_grad()
    def load_state_tensors(self, parts: StateTensors) -> None:
        """Take over what `state_tensors` returned."""
        gradients = parts.get("grad", {})
        for name, weight in self.weights.weights.items():
            weight.copy_(parts["weight"][name])
            weight.grad = gradients[name].to(self.device) if name in gradients else None
        self.weights.publish()
        self.optimizer.load_state_tensors(parts["optimizer"])
        for name, tensor in self.loss_scale.state_tensors().items():
            tensor.copy_(parts["loss_scale"][name])
        self.meters = {name: tensor.to(self.device) for name, tensor in parts["meter"].items()}
        self.grad_norm = self.meters.pop("grad_norm")
        torch.set_rng_state(parts["rng"]["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["rng"]["cuda"], self.device)


def stream_seed(seed: int, stream: str) -> int:
    """Return independent seeds for "init", "order" and "dropout" from one seed."""
    number = ("init", "order", "dropout").index(stream)
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))
