"""Muon for the hidden matrices, batched by shape, and AdamW for the rest, behind one finite flag.

Every weight of this model is stored [..., out, in], stacked experts included, so "out" and "in" mean what
they say. AdamW takes the embedding (a table of rarely seen rows, and the head), the norms (vectors) and the
router (a classifier over a few experts: orthogonalising it would force all its logits to move equally).
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.config import OptimConfig

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_ITERATIONS = 5
ADAMW_EPS = 1e-8
"""Kingma and Ba 2015, arXiv 1412.6980, algorithm 1."""


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return each matrix with its singular values pushed to about 1 (between 0.68 and 1.14).

    Args:
        matrices: [batch, rows, columns], fp32, rows <= columns.
        dtype: Number format of the iteration.

    Returns:
        A tensor of the same shape in `dtype`.

    Source:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", quintic Newton-Schulz.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    # Normalised in fp32: small gradients would lose their digits, or vanish, in half precision.
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    x: Tensor = (matrices / norm.clamp_min(torch.finfo(torch.float32).tiny)).to(dtype)
    for _ in range(NEWTON_SCHULZ_ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def as_matrices(name: str, weight: Tensor) -> Tensor:
    """View a weight as [matrices, out, in]: stacked experts one by one, and gate and up apart."""
    if name.endswith("gate_up_proj"):
        return weight.view(-1, weight.shape[1] // 2, weight.shape[2])
    return weight if weight.ndim == 3 else weight.unsqueeze(0)


def is_muon_weight(name: str, weight: Tensor) -> bool:
    """Tell whether Muon trains this weight: every matrix but the embedding and the routers."""
    return weight.ndim >= 2 and "embed_tokens" not in name and not name.endswith("mlp.gate.weight")


class Muon:
    """Momentum orthogonalised by Newton-Schulz, one chain of batched products per matrix shape.

    The update of a matrix is scaled by sqrt(max(1, out / in)), by the meaning of its dimensions.

    Args:
        weights: fp32 weights by name; gradients are read from `.grad`.
        momentum: Nesterov momentum, 0 to 1.
        weight_decay: Decoupled decay, multiplied by the learning rate.
        dtype: Number format of the Newton-Schulz iteration.

    Source: Jordan et al. 2024, as for `orthogonalise`.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.momentum, self.weight_decay, self.dtype = momentum, weight_decay, dtype
        self.groups: dict[tuple[int, int], list[tuple[str, Tensor]]] = {}
        for name, weight in weights.items():
            rows, columns = sorted(as_matrices(name, weight).shape[1:])
            self.groups.setdefault((rows, columns), []).append((name, weight))
        self.momenta = {
            shape: torch.zeros_like(self._stack(group, [weight for _, weight in group]))
            for shape, group in self.groups.items()
        }

    @staticmethod
    def _stack(group: list[tuple[str, Tensor]], tensors: list[Tensor]) -> Tensor:
        """Stack matrices as [all, rows, columns] with rows <= columns; the tall ones are transposed."""
        views = [as_matrices(name, tensor) for (name, _), tensor in zip(group, tensors, strict=True)]
        return torch.cat([view.mT if view.shape[1] > view.shape[2] else view for view in views])

    @torch.no_grad()
    def step(self, lr: float | Tensor, finite: Tensor | None = None) -> None:
        """Update every weight from its gradient.

        Args:
            lr: Learning rate, a float or a scalar tensor.
            finite: 1.0 or 0.0 on the device; 0.0 leaves weights and momentum as they are. None means 1.
        """
        keep = 1.0 if finite is None else finite
        for shape, group in self.groups.items():
            gradient = self._stack(group, [_gradient(name, weight) for name, weight in group])
            if finite is not None:
                gradient = torch.where(finite > 0, gradient, 0.0)
            momentum = self.momenta[shape]
            momentum.lerp_(gradient, (1.0 - self.momentum) * keep)
            update = orthogonalise(gradient.lerp_(momentum, self.momentum), self.dtype)
            self._apply(group, update, lr * keep)

    def _apply(self, group: list[tuple[str, Tensor]], update: Tensor, lr: float | Tensor) -> None:
        start = 0
        for name, weight in group:
            matrices = as_matrices(name, weight)
            count, out_features, in_features = matrices.shape
            piece = update[start : start + count].to(weight.dtype)
            start += count
            scale = math.sqrt(max(1.0, out_features / in_features))
            if self.weight_decay:
                weight.mul_(1.0 - lr * self.weight_decay)
            matrices.sub_((piece.mT if out_features > in_features else piece) * (lr * scale))


class MuonAdamW:
    """Both optimizers over one set of fp32 weights.

    Args:
        named_weights: fp32 weights and their names; gradients are read from `.grad`.
        config: Momentum, betas and weight decay.
        dtype: Number format of Muon's iteration.
    """

    def __init__(
        self,
        named_weights: Iterable[tuple[str, Tensor]],
        config: OptimConfig,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        weights = dict(named_weights)
        muon = {name: weight for name, weight in weights.items() if is_muon_weight(name, weight)}
        self.muon = Muon(muon, config.muon_momentum, config.weight_decay, dtype)
        self.rest = {name: weight for name, weight in weights.items() if name not in muon}
        decayed = [weight for weight in self.rest.values() if weight.ndim >= 2]
        vectors = [weight for weight in self.rest.values() if weight.ndim < 2]
        self.adamw = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.adamw_lr,
            betas=(config.adamw_beta1, config.adamw_beta2),
            eps=ADAMW_EPS,
            fused=True,
        )

    def step(self, muon_lr: float | Tensor, adamw_lr: float | Tensor, finite: Tensor | None = None) -> None:
        """Update every weight; with `finite` 0.0 neither weights nor state change.

        Args:
            muon_lr: Muon's learning rate, a float or a scalar tensor.
            adamw_lr: AdamW's learning rate, a float or a scalar tensor.
            finite: 1.0 or 0.0 on the device, None for always.
        """
        self.muon.step(muon_lr, finite)
        for group in self.adamw.param_groups:
            group["lr"] = adamw_lr
        # The fused kernel's own contract for a skipped update, as torch.amp.GradScaler uses it.
        self.adamw.found_inf = None if finite is None else 1.0 - finite  # type: ignore[attr-defined]
        self.adamw.step()

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the optimizers' state as flat named tensors (not copies)."""
        state = {f"muon.{rows}x{columns}": momentum for (rows, columns), momentum in self.muon.momenta.items()}
        for name, weight in self.rest.items():
            for key, value in self.adamw.state[weight].items():
                state[f"adamw.{name}.{key}"] = value
        return state

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_tensors` returned."""
        for (rows, columns), momentum in self.muon.momenta.items():
            momentum.copy_(state[f"muon.{rows}x{columns}"])
        for name, weight in self.rest.items():
            prefix = f"adamw.{name}."
            self.adamw.state[weight] = {
                key.removeprefix(prefix): value.to(weight.device, copy=True)
                for key, value in state.items()
                if key.startswith(prefix)
            }


def _gradient(name: str, weight: Tensor) -> Tensor:
    if weight.grad is None:
        raise ValueError(f"weight {name} has no gradient; call backward before the optimizer's step")
    return weight.grad
