"""Muon for the hidden matrices, batched by shape, and AdamW for the rest, behind one finite flag.

Every weight of this model is stored [..., out, in], stacked experts included, so "out" and "in" mean what they say.
`model.weights.group_of` says which weights each optimizer takes. Learning rates, momentum and weight decay are scalars
on the device, which a captured update reads at every replay.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from model.config import OptimConfig
from model.ops import fused
from model.weights import WeightGroup

_NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_ITERATIONS = 5
_LEAST_NORM = 1e-14
"""Smaller matrices are not scaled up to 1. The momentum of an expert that gets no tokens shrinks at every step, until
the squares of its elements vanish in fp32 (under 1.1e-19), and with them its norm: divided by that it would grow
without bound. Matrices of less than 1e10 elements vanish under this norm."""
ADAMW_EPS = 1e-8
"""Keeps AdamW from dividing by zero. Source: Kingma and Ba 2015, arXiv 1412.6980, algorithm 1."""


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return each matrix with its singular values pushed to about 1 (between 0.68 and 1.14).

    Args:
        matrices: [batch, rows, columns], fp32 or bf16.
        dtype: Number format of the iteration.

    Returns:
        A tensor of the same shape in `dtype`.

    Source:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", quintic Newton-Schulz.
    """
    a, b, c = _NEWTON_SCHULZ_COEFFICIENTS
    x = _normalised(matrices, dtype)

    # The iteration multiplies by the smaller of the two products of x with itself.
    is_tall = x.shape[-2] > x.shape[-1]
    for _ in range(_NEWTON_SCHULZ_ITERATIONS):
        gram = x.mT @ x if is_tall else x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        x = x @ polynomial if is_tall else polynomial @ x

    return x


def _normalised(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each matrix divided by its Frobenius norm, in `dtype`; tiny ones stay below 1."""
    # In fp32: small gradients would lose their digits, or vanish, in half precision.
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    scale = 1.0 / norm.clamp_min(_LEAST_NORM)
    if fused.available(matrices):
        return fused.scale_matrices(matrices, scale, dtype)
    return (matrices * scale).to(dtype)


class Muon:
    """Momentum orthogonalised by Newton-Schulz, one chain of batched products per matrix shape.

    The update of a matrix is scaled by sqrt(max(1, out / in)).

    Args:
        groups: Weights of one shape each.
        dtype: Number format of the Newton-Schulz iteration.

    Source: Jordan et al. 2024, as for `orthogonalise`.
    """

    def __init__(self, groups: Iterable[WeightGroup], dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.groups = list(groups)
        self.momenta = {group.name: torch.zeros_like(group.weight) for group in self.groups}

    @torch.no_grad()
    def update(self, lr: Tensor, beta: Tensor, weight_decay: Tensor, factor: Tensor, keep: Tensor) -> None:
        """Update every weight from its gradient, and its half-precision copy with it.

        Args:
            lr: Learning rate.
            beta: Momentum, 0 to 1, in Nesterov's form.
            weight_decay: Decoupled decay, multiplied by the learning rate.
            factor: What to multiply gradients by: averaging, unscaling and clipping in one.
            keep: 1.0, or 0.0 to leave weights and momentum as they are.
        """
        step_size = lr * keep
        shrink = 1.0 - lr * weight_decay * keep

        for group in self.groups:
            update = self._look_ahead(group, beta, factor, keep)
            update = orthogonalise(update, self.dtype)
            _, out_features, in_features = group.weight.shape
            scale = math.sqrt(max(1.0, out_features / in_features))

            if fused.available(update):
                fused.apply_update(group.weight, group.copy, update, step_size, shrink, scale)
                continue

            group.weight.mul_(shrink).sub_(update.float() * (step_size * scale))
            if group.copy is not None:
                group.copy.copy_(group.weight)

    def _look_ahead(self, group: WeightGroup, beta: Tensor, factor: Tensor, keep: Tensor) -> Tensor:
        """Average the gradient into the momentum and return Nesterov's look-ahead."""
        momentum = self.momenta[group.name]
        if fused.available(momentum):
            # bf16 has fp32's range: nothing vanishes before `orthogonalise` normalises.
            dtype = torch.float32 if self.dtype == torch.float32 else torch.bfloat16
            return fused.nesterov(group.grad, momentum, factor, keep, beta, dtype)

        # `where`, since an overflow's infinity times 0 would be NaN.
        gradient = torch.where(keep > 0, group.grad * factor, 0.0)
        momentum.lerp_(gradient, (1.0 - beta) * keep)
        return gradient.lerp_(momentum, beta)


class MuonAdamW:
    """Both optimizers over one set of fp32 weights.

    Args:
        groups: The weights; gradients are read from the groups.
        config: AdamW's betas, fixed from here on; `configure` sets the other settings.
        dtype: Number format of Muon's iteration.
    """

    def __init__(
        self, groups: Mapping[str, WeightGroup], config: OptimConfig, dtype: torch.dtype = torch.float32
    ) -> None:
        self.muon = Muon((group for group in groups.values() if group.is_muon), dtype)
        self.rest = [group for group in groups.values() if not group.is_muon]

        device = self.rest[0].weight.device
        names = ("muon_lr", "adamw_lr", "muon_momentum", "weight_decay")
        self.scalars = {name: torch.zeros((), device=device) for name in names}
        self.betas = config.adamw_beta1, config.adamw_beta2

        self.step_counts = [torch.zeros((), device=device) for _ in self.rest]
        self.means = [torch.zeros_like(group.weight) for group in self.rest]
        self.squares = [torch.zeros_like(group.weight) for group in self.rest]
        self.configure(config)

    def configure(self, config: OptimConfig) -> None:
        """Set momentum and weight decay, and clear all state."""
        self.scalars["muon_momentum"].fill_(config.muon_momentum)
        weight_decay = config.decay_for()
        self.scalars["weight_decay"].fill_(weight_decay)
        self.decays = weight_decay > 0
        for tensor in self.state_tensors().values():
            tensor.zero_()

    @torch.no_grad()
    def update(self, factor: Tensor, keep: Tensor) -> None:
        """Update every weight at the learning rates in `scalars`.

        Args:
            factor: What to multiply gradients by.
            keep: 1.0, or 0.0 to change neither weights nor state.
        """
        scalars = self.scalars
        self.muon.update(scalars["muon_lr"], scalars["muon_momentum"], scalars["weight_decay"], factor, keep)
        if self.decays:
            self._decay(keep)
        self._update_rest(factor, keep)

        for group in self.rest:
            if group.copy is not None:
                group.copy.copy_(group.weight)

    def _decay(self, keep: Tensor) -> None:
        """Shrink AdamW's weights as fast as Muon's; the norms' gains do not decay."""
        shrink = 1.0 - self.scalars["muon_lr"] * self.scalars["weight_decay"] * keep
        for group in self.rest:
            if group.name != "vector":
                group.weight.mul_(shrink)

    def _update_rest(self, factor: Tensor, keep: Tensor) -> None:
        """Update AdamW's weights."""
        # The function and not the class, which imports torch's compiler at its first update: more than a second.
        adamw(
            [group.weight for group in self.rest],
            [group.grad for group in self.rest],
            self.means,
            self.squares,
            [],
            self.step_counts,
            fused=True,
            capturable=self.step_counts[0].is_cuda,
            # As torch.amp.GradScaler uses the fused kernel: it divides gradients by the first of these two, and skips
            # the update where the second is 1.
            grad_scale=1.0 / factor,
            found_inf=1.0 - keep,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.scalars["adamw_lr"],
            weight_decay=0.0,  # a captured update would keep this float for ever; `_decay` reads a tensor instead
            eps=ADAMW_EPS,
            maximize=False,
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the optimizers' state as flat named tensors (not copies)."""
        state = {f"muon.{name}": momentum for name, momentum in self.muon.momenta.items()}
        for group, count, mean, square in zip(self.rest, self.step_counts, self.means, self.squares, strict=True):
            state[f"adamw.{group.name}.step"] = count
            state[f"adamw.{group.name}.exp_avg"] = mean
            state[f"adamw.{group.name}.exp_avg_sq"] = square
        return state

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Copy what `state_tensors` returned into this state."""
        for name, tensor in self.state_tensors().items():
            tensor.copy_(state[name])
